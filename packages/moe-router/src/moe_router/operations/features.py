"""What a step looks like, as the numbers of hashed features.

One regular expression cuts out words and signs. A run of mathematics becomes one token that says of what kind it is (equations, letters,
inequalities, length), so that a step is told by its words and by what its mathematics does, not by how much of it there is. Runs of one
to three tokens are hashed wherever they stand, once more near the beginning of the step and once more at its end; signs of mathematics
count once each. A batch is hashed at once in numpy.

Shapes: N steps, T tokens in all, R runs in all, F features in all.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import chain
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

SIZE = 1 << 15
"""Hashed features are numbers below this."""
FIRST, LAST = 120, 60
"""Of a longer step, so many tokens from its beginning and its end are read."""
EARLY = 10
"""So many tokens are its beginning."""
_TOKEN = re.compile(r"\\[a-z]+|[a-z]+(?:['’][a-z]+)?|\d+(?:[.,]\d+)*|[^\s\w\\]|\\.")
_LEAD = re.compile(r"^\W*(?:step\s*\d+\s*[:.)]*|\(?\d{1,2}[).:](?=\s))[\s*#:]*", re.IGNORECASE)
_TEXT_SIGNS = frozenset(".?!:;,\"'’“”#…`&@_")
_OPERATORS = frozenset(["+", "-", "*", "/", "×", "÷", "\\times", "\\cdot", "\\frac", "\\dfrac", "%", "\\sqrt", "\\div"])
_ORDERS = frozenset(["<", ">", "≤", "≥", "\\leq", "\\geq", "\\le", "\\ge", "\\lt", "\\gt", "\\neq"])
_MIX = np.uint64(0x9E3779B97F4A7C15)
# What a token is, as bits.
_MATH, _NUMBER, _LETTER, _EQUALS, _ORDER, _OPERATOR, _SIGN, _END = (1 << bit for bit in range(8))


class Features(NamedTuple):
    """The features of a batch of steps."""

    ids_F: NDArray[np.int64]
    starts_N: NDArray[np.int64]
    """Where in `ids_F` every step begins; none is empty."""


def features(steps: Sequence[str]) -> Features:
    """The hashed features of every step."""
    tokens = [_tokens(step) for step in steps]
    lengths_N = np.fromiter((len(t) for t in tokens), np.int64, len(tokens))
    ids_T = np.fromiter(map(_known.__getitem__, chain.from_iterable(tokens)), np.uint64, int(lengths_N.sum()))
    kinds_T = (ids_T & np.uint64(0xFF)).astype(np.int64)
    owner_T = np.repeat(np.arange(len(tokens)), lengths_N)
    ids_R, owner_R = _runs(ids_T, kinds_T, owner_T)
    runs_N = np.bincount(owner_R, minlength=len(tokens))
    place_R = np.arange(len(ids_R)) - (np.cumsum(runs_N) - runs_N)[owner_R]
    signs_T = (kinds_T & _SIGN) > 0
    hashes, owners = [_mixed(ids_T[signs_T] + np.uint64(7))], [owner_T[signs_T]]
    gram_R = np.zeros(len(ids_R), np.uint64)
    for length in (1, 2, 3):
        gram_R = _mixed(gram_R[: len(ids_R) - length + 1] * np.uint64(31) + ids_R[length - 1 :])
        whole = owner_R[: len(gram_R)] == owner_R[length - 1 :]
        early = whole & (place_R[: len(gram_R)] < (EARLY if length < 3 else 2))
        ending = whole & (place_R[: len(gram_R)] + length >= (runs_N - 1)[owner_R[: len(gram_R)]])
        for salt, chosen in ((length, whole), (16 + length, early), (32 + length, ending)):
            hashes.append(_mixed(gram_R[chosen] + np.uint64(salt)))
            owners.append(owner_R[: len(gram_R)][chosen])
    for salt, counts_N in enumerate(_counts(kinds_T, owner_T, runs_N), start=64):
        bins_N = np.minimum(counts_N, 1 + np.ceil(np.log2(np.maximum(counts_N, 1)))).astype(np.uint64)
        hashes.append(_mixed(bins_N * np.uint64(977) + np.uint64(salt)))
        owners.append(np.arange(len(tokens)))
    # Each feature counts once in a step.
    key_F = np.sort(np.concatenate(owners) * SIZE + (np.concatenate(hashes) >> np.uint64(49)).astype(np.int64))
    key_F = key_F[np.append(True, key_F[1:] != key_F[:-1])]
    return Features(key_F % SIZE, np.searchsorted(key_F, np.arange(len(tokens)) * SIZE))


def _runs(
    ids_T: NDArray[np.uint64], kinds_T: NDArray[np.int64], owner_T: NDArray[np.int64]
) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """Tokens with every run of mathematics made one, and the step of each."""
    math_T = (kinds_T & _MATH) > 0
    begins_T = np.ones(len(ids_T), bool)
    begins_T[1:] = ~(math_T[1:] & math_T[:-1] & (owner_T[1:] == owner_T[:-1]))
    starts_R = np.flatnonzero(begins_T)

    def count(bit: int) -> NDArray[np.int64]:
        return np.add.reduceat(((kinds_T & bit) > 0).astype(np.int64), starts_R)

    lengths_R = np.diff(np.append(starts_R, len(ids_T)))
    kind_R = np.minimum(count(_EQUALS), 2)
    kind_R = kind_R * 2 + (count(_LETTER) > 0)
    kind_R = kind_R * 2 + (count(_ORDER) > 0)
    kind_R = kind_R * 2 + (count(_OPERATOR) > 0)
    kind_R = kind_R * 2 + (count(_NUMBER) > 0)
    kind_R = kind_R * 4 + np.minimum(np.log2(lengths_R).astype(np.int64) // 2, 3)
    math_R = math_T[starts_R]
    return np.where(math_R, _mixed(kind_R.astype(np.uint64) + np.uint64(1 << 20)), ids_T[starts_R]), owner_T[starts_R]


def _tokens(step: str) -> list[str]:
    """The words and signs of a step between marks of its beginning and its end, its number left out."""
    found = _TOKEN.findall(_LEAD.sub("", step[:6000]).lower())
    if len(found) > FIRST + LAST:
        found = [*found[:FIRST], "…", *found[-LAST:]]
    return ["<s>", *found, "</s>"]


def _fnv(text: str) -> int:
    """FNV-1a of the text, 64 bits, the same on every machine and in every process."""
    value = 0xCBF29CE484222325
    for byte in text.encode():
        value = (value ^ byte) * 0x100000001B3 & 0xFFFFFFFFFFFFFFFF
    return value


class _Known(dict[str, int]):
    """The hash of every token seen so far, its kind in the lowest byte."""

    def __missing__(self, token: str) -> int:
        if len(self) > 200_000:
            self.clear()
        self[token] = found = _fnv(token.replace("’", "'")) & ~0xFF | _kind(token)
        return found


_known = _Known()


def _kind(token: str) -> int:
    if token[0].isdigit():
        return _MATH | _NUMBER
    if token == "=":
        return _MATH | _EQUALS
    if token in _OPERATORS:
        return _MATH | _OPERATOR | (_SIGN if token[0] == "\\" else 0)
    if token in _ORDERS:
        return _MATH | _ORDER | _SIGN
    if token in (".", "?", "!", ":", ";"):
        return _END
    if len(token) == 1 and token.isalpha() and token not in "ai":
        return _MATH | _LETTER
    if token in _TEXT_SIGNS or token[0].isalpha() or token in ("<s>", "</s>"):
        return 0
    return _MATH | _SIGN  # commands of LaTeX, brackets, other signs


def _mixed(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Bits well mixed (the finaliser of splitmix64)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return (values ^ (values >> np.uint64(31))) + _MIX


def _counts(
    kinds_T: NDArray[np.int64], owner_T: NDArray[np.int64], runs_N: NDArray[np.int64]
) -> list[NDArray[np.float64]]:
    """Of every step: runs, equations, letters, orders, sentences, sums of numbers, results, and whether letters and sums meet."""

    def count(chosen_T: NDArray[np.bool_]) -> NDArray[np.float64]:
        return np.asarray(np.bincount(owner_T[: len(chosen_T)], chosen_T, len(runs_N)), np.float64)

    number_T, letter_T, equals_T, order_T, operator_T, end_T = (
        (kinds_T & bit) > 0 for bit in (_NUMBER, _LETTER, _EQUALS, _ORDER, _OPERATOR, _END)
    )
    sums_N = count(number_T[:-2] & operator_T[1:-1] & number_T[2:])
    results_N = count(equals_T[:-1] & number_T[1:])
    letters_N, equals_N = count(letter_T), count(equals_T)
    meeting_N = (letters_N > 0) * 4.0 + (sums_N > 0) * 2 + (results_N > 0)
    return [runs_N.astype(np.float64), equals_N, letters_N, count(order_T), count(end_T), sums_N, results_N, meeting_N]
