"""What a step says of numbers in words: that one is so much more than another, or another one over again."""

from __future__ import annotations

import re
from collections.abc import Iterator
from fractions import Fraction

from moe_bench.checkers.arithmetic.claims import Claim
from moe_bench.checkers.arithmetic.comparison import shown
from moe_bench.checkers.arithmetic.words import COUNTS
from moe_bench.checkers.base import Status

_NUMBER = r"\$?(?P<{0}>\d{{1,3}}(?:,\d{{3}})+(?:\.\d+)?|\d+(?:\.\d+)?)(?![\d/]|\s*[*/×÷+−^=:-]|%|\s*\()"
_UNIT = r"(?:\s+(?P<{0}>[a-z]+))?"
_MORE = re.compile(
    r"(?<![.,$*/×÷+\-−^=:]\s)(?<![\w.,*/×÷+\-−^=:$])"
    + _NUMBER.format("a") + _UNIT.format("u")
    + rf"\s+(?:is|are)\s+\$?(?P<b>\d+(?:\.\d+)?|half\s+an?|{'|'.join(COUNTS)})(?!\s*%)" + _UNIT.format("v")
    + r"\s+(?P<word>more|greater|higher|less|fewer|lower)\s+than\s+"
    + _NUMBER.format("c") + _UNIT.format("w") + r"\s*(?=[.,;)]|$|\b(?:so|then|and|which)\b)",
    re.I,
)  # fmt: skip
_OVER_AGAIN = re.compile(
    r"(?<![\w.,*/×÷+\-−^$])\$?(?P<a>\d+(?:\.\d+)?)\s*(?P<unit>[a-z]+(?:/[a-z]+)?)\s*"
    r"\(\s*or\s+\$?(?P<b>\d+(?:\.\d+)?)\s*(?P=unit)\s*\)",
    re.I,
)


def claims_in_words(step: str) -> Iterator[Claim]:
    """Comparisons by a difference ("9 is 2 more than 7") and a number that is said twice ("0.5 km (or 5 km)")."""
    for match in _MORE.finditer(step):
        units = {(match[name] or "").lower().rstrip("s") for name in "uvw"} - {""}
        if len(units) > 1:
            continue
        a, b, c = (_value(match[name]) for name in "abc")
        said = c + b if match["word"].lower() in ("more", "greater", "higher") else c - b
        holds = a == said
        reason = f"{shown(b)} {match['word'].lower()} than {shown(c)} is {shown(said)}"
        reason += "" if holds else f", the text says {shown(a)}"
        yield Claim(match.start(), match.end(), Status.VALID if holds else Status.INVALID, reason, a, said)
    for match in _OVER_AGAIN.finditer(step):
        a, b = Fraction(match["a"]), Fraction(match["b"])
        if a != b:
            yield Claim(
                match.start(),
                match.end(),
                Status.INVALID,
                f"{shown(a)} {match['unit']} are not {shown(b)} {match['unit']}",
                a,
                b,
            )


def _value(written: str) -> Fraction:
    plain = " ".join(written.lower().replace(",", "").split())
    if plain.startswith("half"):
        return Fraction(1, 2)
    return COUNTS[plain] if plain in COUNTS else Fraction(plain)
