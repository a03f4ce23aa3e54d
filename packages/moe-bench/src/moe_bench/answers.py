"""Finding the final answer in a model's text, and telling whether it is the right one."""

from __future__ import annotations

import re
from fractions import Fraction
from typing import NamedTuple

SCORER_VERSION = 1
"""Raised whenever an extraction or equivalence changes; runs of different scorers are not compared."""

_NUMBER = re.compile(r"[-+]?\$?\s?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?:\s?/\s?\d+)?|[-+]?\.\d+")
_STATED = re.compile(r"(?:the\s+)?(?:final\s+)?answer\s*(?:is|:|=)\s*:?\s*(.+?)\s*(?:[.!](?=\s|$)|\n|$)", re.IGNORECASE)
_HASHES = re.compile(r"####\s*(.+?)\s*$", re.MULTILINE)
_CURRENCY = re.compile(r"[$€£]")
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?:\D|$))")


class Extraction(NamedTuple):
    """The final answer of a text."""

    answer: str | None
    """None where the text states none."""
    strategy: str
    """How it was found: hashes, boxed, stated, last number; none."""


def extract_answer(text: str) -> Extraction:
    r"""The final answer, by the most explicit mark there is.

    In this order: after `####` (GSM8K), in the last `\boxed{}`, after the last "the answer is", the last number.
    """
    marked = _HASHES.findall(text)
    if marked:
        return Extraction(marked[-1], "hashes")
    boxed = _last_boxed(text)
    if boxed is not None:
        return Extraction(boxed, "boxed")
    stated = _STATED.findall(text)
    if stated:
        return Extraction(stated[-1].strip().strip("*\"'"), "stated")
    numbers = _NUMBER.findall(text)
    if numbers:
        return Extraction(numbers[-1].strip(), "last number")
    return Extraction(None, "none")


def _last_boxed(text: str) -> str | None:
    start = text.rfind(r"\boxed{")
    if start < 0:
        return None
    depth, begin = 0, start + len(r"\boxed{")
    for position in range(begin - 1, len(text)):
        depth += {"{": 1, "}": -1}.get(text[position], 0)
        if depth == 0:
            return text[begin:position].strip()
    return None


def normalise(answer: str) -> str:
    """The answer without what does not matter: case, outer white space and punctuation, currency, thousands separators."""
    text = answer.strip().strip("*\"'`").rstrip(".!").strip().casefold()
    text = _CURRENCY.sub("", text)
    text = _THOUSANDS.sub("", text)
    return re.sub(r"\s+", " ", text).strip()


def as_number(answer: str) -> Fraction | None:
    """The exact number that an answer is: an integer, decimal, fraction or percentage; None for anything else."""
    text = normalise(answer)
    percent = text.endswith("%")
    text = text.rstrip("%").replace(" ", "")
    if not re.fullmatch(r"[-+]?(?:\d+(?:\.\d*)?|\.\d+)(?:/\d+)?", text):
        return None
    numerator, _, denominator = text.partition("/")
    if denominator and int(denominator) == 0:
        return None
    value = Fraction(numerator) / (int(denominator) if denominator else 1)
    return value / 100 if percent else value


def equivalent(answer: str, target: str) -> bool:
    """Whether two answers are the same: as exact numbers, as lists of such, or as words.

    A percentage equals its number of percent when the other side has no sign, since "12%" and "12" state the same answer to
    "how many percent". A unit after the answer's number does not matter when the target has none.
    """
    a, b = normalise(answer), normalise(target)
    if a == b:
        return True
    x, y = as_number(a), as_number(b)
    if x is None and y is not None:
        words = a.split()
        if len(words) > 1 and not any(ch.isdigit() for ch in " ".join(words[1:])):
            x = as_number(words[0])  # "18 dollars" where 18 is asked
    if x is not None and y is not None:
        return x == y or (("%" in a) != ("%" in b) and (x * 100 == y or x == y * 100))
    parts_a, parts_b = (re.split(r"\s*[,;]\s*", side) for side in (a, b))
    if len(parts_b) > 1 and len(parts_a) == len(parts_b):
        return all(equivalent(p, q) for p, q in zip(parts_a, parts_b, strict=True))
    return False
