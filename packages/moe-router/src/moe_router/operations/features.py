"""What a step looks like, as the numbers of hashed features.

One regular expression cuts out words and signs. A run of mathematics becomes one token that says of what kind it is (equations, letters,
inequalities, length), so that a step is told by its words and by what its mathematics does, not by how much of it there is. Runs of one
to three tokens are hashed wherever they stand, once more near the beginning of the step and once more at its end; so are beginnings of
words, for forms of one word share them, and the first words as a whole. Inside mathematics, runs of two to four signs are hashed with
every letter alike and every number of more than one digit alike. A batch is hashed at once in numpy.

Shapes: N steps, T tokens in all, R runs in all, F features in all.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import chain
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

SIZE = 1 << 16
"""Hashed features are numbers below this."""
FIRST, LAST = 120, 60
"""Of a longer step, so many tokens from its beginning and its end are read."""
EARLY = 10
"""So many tokens are its beginning."""
STEM, HEAD = 5, 4
"""So many letters of a word are its beginning; of a word in a pair."""
_TOKEN = re.compile(r"\\[a-z]+|[a-z]+(?:['’][a-z]+)?|\d+(?:[.,]\d+)*|[^\s\w\\]|\\.")
_LEAD = re.compile(r"^\W*(?:step\s*\d+\s*[:.)]*|\(?\d{1,2}[).:](?=\s))[\s*#:]*", re.IGNORECASE)
_TEXT_SIGNS = frozenset(".?!:;,\"'’“”#…`&@_")
_OPERATORS = frozenset(["+", "-", "*", "/", "×", "÷", "\\times", "\\cdot", "\\frac", "\\dfrac", "%", "\\sqrt", "\\div"])
_ORDERS = frozenset(["<", ">", "≤", "≥", "\\leq", "\\geq", "\\le", "\\ge", "\\lt", "\\gt", "\\neq"])
_MIX = np.uint64(0x9E3779B97F4A7C15)
_SHIFT = np.uint64(65 - SIZE.bit_length())
# What a token is, as bits.
_MATH, _NUMBER, _LETTER, _EQUALS, _ORDER, _OPERATOR, _SIGN, _END = (1 << bit for bit in range(8))


class Features(NamedTuple):
    """The features of a batch of steps."""

    ids_F: NDArray[np.int64]
    starts_N: NDArray[np.int64]
    """Where in `ids_F` every step begins; none is empty."""


class _Tokens(NamedTuple):
    """What is known of every token of a batch, or of every run."""

    ids_T: NDArray[np.uint64]
    kinds_T: NDArray[np.int64]
    stems_T: NDArray[np.uint64]
    """The hash of the first letters; 0 where a word is short."""
    heads_T: NDArray[np.uint64]
    """The hash of fewer first letters still; of a number, whether it is one digit."""
    owner_T: NDArray[np.int64]
    """The step of each."""


def features(steps: Sequence[str]) -> Features:
    """The hashed features of every step."""
    texts = [_tokens(step) for step in steps]
    number = len(texts)
    lengths_N = np.fromiter((len(t) for t in texts), np.int64, number)
    places_T = np.fromiter(map(_known.__getitem__, chain.from_iterable(texts)), np.int64, int(lengths_N.sum()))
    known = _known.columns()
    kinds_T = (known[0, places_T] & np.uint64(0xFF)).astype(np.int64)
    tokens = _Tokens(
        known[0, places_T], kinds_T, known[1, places_T], known[2, places_T], np.repeat(np.arange(number), lengths_N)
    )
    runs = _runs(tokens)
    runs_N = np.bincount(runs.owner_T, minlength=number)
    first_N = np.cumsum(runs_N) - runs_N
    hashed = _Hashed([], [])
    signs_T = (kinds_T & _SIGN) > 0
    hashed.add(tokens.ids_T[signs_T], tokens.owner_T[signs_T], 7)
    _grams(runs, first_N, runs_N, hashed)
    _stems(runs, hashed)
    _mathematics(tokens, hashed)
    _outline(runs, first_N, runs_N, hashed)
    every = np.arange(number)
    for salt, counts_N in enumerate(_counts(kinds_T, tokens.owner_T, runs_N), start=64):
        bins_N = np.minimum(counts_N, 1 + np.ceil(np.log2(np.maximum(counts_N, 1)))).astype(np.uint64)
        hashed.add(bins_N * np.uint64(977), every, salt)
    # Each feature counts once in a step.
    key_F = np.concatenate(hashed.owners) * SIZE + (np.concatenate(hashed.hashes) >> _SHIFT).astype(np.int64)
    key_F = np.sort(key_F.astype(np.int32) if number * SIZE < 1 << 31 else key_F)
    key_F = key_F[np.append(True, key_F[1:] != key_F[:-1])]
    return Features((key_F % SIZE).astype(np.int64), np.searchsorted(key_F, every.astype(key_F.dtype) * SIZE))


class _Hashed(NamedTuple):
    """The features found so far, and the step of each."""

    hashes: list[NDArray[np.uint64]]
    owners: list[NDArray[np.int64]]

    def add(self, values: NDArray[np.uint64], owners: NDArray[np.int64], salt: int) -> None:
        self.hashes.append(_mixed(values + np.uint64(salt)))
        self.owners.append(owners)


def _grams(runs: _Tokens, first_N: NDArray[np.int64], runs_N: NDArray[np.int64], hashed: _Hashed) -> None:
    """Runs of one to three: anywhere, at the beginning, at the end."""
    ids_R, owner_R = runs.ids_T, runs.owner_T
    place_R = np.arange(len(ids_R)) - first_N[owner_R]
    last_R = (runs_N - 1)[owner_R]
    gram_R = np.zeros(len(ids_R), np.uint64)
    for length in (1, 2, 3):
        gram_R = _mixed(gram_R[: len(ids_R) - length + 1] * np.uint64(31) + ids_R[length - 1 :])
        upto = len(gram_R)
        whole = owner_R[:upto] == owner_R[length - 1 :]
        early = whole & (place_R[:upto] < (EARLY if length < 3 else 2))
        ending = whole & (place_R[:upto] + length >= last_R[:upto])
        for salt, chosen in ((length, whole), (16 + length, early), (32 + length, ending)):
            hashed.add(gram_R[chosen], owner_R[:upto][chosen], salt)


def _stems(runs: _Tokens, hashed: _Hashed) -> None:
    """The beginning of every longer word, and of two neighbours."""
    long_R = runs.stems_T > 0
    hashed.add(runs.stems_T[long_R], runs.owner_T[long_R], 101)
    pair_R = _mixed(runs.heads_T[:-1] * np.uint64(31) + runs.heads_T[1:])
    whole = runs.owner_T[:-1] == runs.owner_T[1:]
    hashed.add(pair_R[whole], runs.owner_T[:-1][whole], 102)


def _mathematics(tokens: _Tokens, hashed: _Hashed) -> None:
    """Runs of two to four signs of mathematics and of ends of sentences, at most one word among them."""
    kinds_T, owner_T = tokens.kinds_T, tokens.owner_T
    class_T = np.select(
        ((kinds_T & _NUMBER) > 0, (kinds_T & _LETTER) > 0, (kinds_T & (_MATH | _END)) > 0),
        (tokens.heads_T, np.uint64(2), tokens.ids_T),
        np.uint64(3),
    )
    words_T = np.concatenate(([0], np.cumsum(class_T == 3)))
    gram_T = _mixed(class_T)
    for length in (2, 3, 4):
        gram_T = _mixed(gram_T[: len(class_T) - length + 1] * np.uint64(31) + class_T[length - 1 :])
        chosen = owner_T[: len(gram_T)] == owner_T[length - 1 :]
        chosen &= words_T[length:] - words_T[:-length] <= 1
        hashed.add(gram_T[chosen], owner_T[: len(gram_T)][chosen], 110 + length)


def _outline(runs: _Tokens, first_N: NDArray[np.int64], runs_N: NDArray[np.int64], hashed: _Hashed) -> None:
    """The first words as one, the first and the last mathematics, the length."""
    every, ids_R = np.arange(len(runs_N)), runs.ids_T
    begun_N = np.zeros(len(runs_N), np.uint64)
    for length in (1, 2, 3, 4):
        begun_N = _mixed(begun_N * np.uint64(31) + ids_R[first_N + np.minimum(length, runs_N - 1)])
        hashed.add(begun_N, every, 120 + length)
        if length == 1:
            word_N = begun_N
    math_R = np.flatnonzero((runs.kinds_T & _MATH) > 0)
    owners = runs.owner_T[math_R]
    opening_N, closing_N = np.zeros(len(runs_N), np.uint64), np.zeros(len(runs_N), np.uint64)
    opening_N[owners[::-1]] = ids_R[math_R[::-1]]
    closing_N[owners] = ids_R[math_R]
    hashed.add(opening_N, every, 130)
    hashed.add(closing_N, every, 131)
    hashed.add(_mixed(word_N + closing_N), every, 132)
    hashed.add(np.minimum(runs_N, 40).astype(np.uint64), every, 133)


def _runs(tokens: _Tokens) -> _Tokens:
    """Tokens with every run of mathematics made one."""
    ids_T, kinds_T, owner_T = tokens.ids_T, tokens.kinds_T, tokens.owner_T
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
    collapsed_R = _mixed(kind_R.astype(np.uint64) + np.uint64(1 << 20))
    math_R = math_T[starts_R]
    return _Tokens(
        np.where(math_R, collapsed_R, ids_T[starts_R]),
        kinds_T[starts_R],
        tokens.stems_T[starts_R],
        np.where(math_R, collapsed_R, tokens.heads_T[starts_R]),
        owner_T[starts_R],
    )


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
    """The number of every token seen so far, and what is known of it."""

    def __init__(self) -> None:
        self._columns = np.zeros((3, 1 << 12), np.uint64)

    def __missing__(self, token: str) -> int:
        number = len(self)
        if number == self._columns.shape[1]:
            self._columns = np.concatenate((self._columns, np.zeros_like(self._columns)), axis=1)
        plain = token.replace("’", "'")
        word = len(plain) > 1 and plain[0].isalpha()
        self._columns[:, number] = (
            _fnv(plain) & ~0xFF | _kind(token),
            _fnv(plain[:STEM]) if word and len(plain) >= STEM else 0,
            _fnv(plain[:HEAD]) if not plain[0].isdigit() else 1 if len(plain) == 1 else 4,
        )
        self[token] = number
        return number

    def columns(self) -> NDArray[np.uint64]:
        """(3, tokens): hash with the kind in its lowest byte, hash of the stem, hash of the head."""
        found = self._columns
        if len(self) > 200_000:
            self.clear()
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
