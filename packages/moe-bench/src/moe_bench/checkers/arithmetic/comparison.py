"""Whether two sides of an equation agree, and as what."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

from moe_bench.checkers.arithmetic.parser import Value
from moe_bench.checkers.arithmetic.words import UNITS
from moe_bench.checkers.base import Status

_ABOUT = Fraction(1, 50)
"""What "about" may be off by, at the most that is called right: 2 %."""
_CLEARLY = Fraction(1, 10)
"""From here on even "about" is wrong."""
_CONVERSIONS = {
    Fraction(n)
    for n in (7, 12, 16, 24, 30, 36, 52, 60, 144, 365, 1440, 3600, 5280, 2000, 10, 100, 1000, 10**6, 3, 4, 8)
}
"""Ratios of units that are told from one another by words alone."""


def compared(
    left: Sequence[Value], right: Sequence[Value], *, about: bool, rounded: bool = False
) -> tuple[Status, str]:
    """The verdict on left = right, each in all its readings, and why.

    Args:
        left: readings of the left side.
        right: readings of the right side.
        about: whether the text says that they are about the same.
        rounded: whether the text says that it rounds.
    """
    verdicts = [_of(a, b, about=about, rounded=rounded) for a in left for b in right]
    for status in (Status.VALID, Status.UNCHECKED, Status.INVALID):
        for found, reason in verdicts:
            if found is status:
                return status, reason
    raise AssertionError("no reading")


def _of(a: Value, b: Value, *, about: bool, rounded: bool) -> tuple[Status, str]:
    if a.value == b.value:
        return Status.VALID, f"{shown(a.value)} on both sides"
    if (a.percent or b.percent) and a.percent != b.percent and (a.value == 100 * b.value or b.value == 100 * a.value):
        return Status.VALID, "equal as a percentage"
    difference, size = abs(a.value - b.value), max(abs(a.value), abs(b.value))
    if _rounded(a.value, b.value, b.decimals) and (b.decimals or about or rounded):
        return Status.VALID, f"{shown(a.value)}, rounded to {shown(b.value)}"
    if (a.percent or b.percent) and b.decimals == 0 and any(_rounded(a.value * f, b.value, 0) for f in (1, 100)):
        return Status.UNCHECKED, f"{shown(a.value)}, which a percentage may have been rounded to"
    if about:
        if difference <= _ABOUT * size:
            return Status.VALID, f"{shown(a.value)} is about {shown(b.value)}"
        if difference <= _CLEARLY * size:
            return (
                Status.UNCHECKED,
                f"{shown(a.value)} and {shown(b.value)}: whether that is about the same is a matter of taste",
            )
        return Status.INVALID, f"{shown(a.value)}, the text says about {shown(b.value)}"
    if b.decimals == 0 and b.value.denominator == 1 and difference < 1 and a.value.denominator != 1:
        return (
            Status.UNCHECKED,
            f"{shown(a.value)} against {shown(b.value)}: rounded to whole numbers without saying so",
        )
    if a.products and a.decimals >= 2 and difference <= size / 100:
        return Status.UNCHECKED, f"{shown(a.value)} against {shown(b.value)}: within the rounding of the numbers before"
    units = (set(a.words) ^ set(b.words)) & UNITS
    if units and b.value and abs(a.value / b.value) in _conversions():
        return Status.UNCHECKED, f"{shown(a.value)} against {shown(b.value)}: the units may be others"
    if a.words and b.words and not set(a.words) & set(b.words) and not (set(a.words) | set(b.words)) & UNITS:
        return Status.UNCHECKED, f"{shown(a.value)} against {shown(b.value)}: of other things on the two sides"
    if b.operations and b.leading == a.value:
        return Status.UNCHECKED, f"{shown(a.value)}, and the next calculation goes on from it"
    return Status.INVALID, f"{shown(a.value)}, the text says {shown(b.value)}"


def _conversions() -> set[Fraction]:
    return _CONVERSIONS | {1 / ratio for ratio in _CONVERSIONS}


def _rounded(exact: Fraction, said: Fraction, decimals: int) -> bool:
    """Whether a number is another to so many decimals, rounded or cut off."""
    unit = Fraction(1, 10**decimals)
    nearest = abs(exact - said) <= unit / 2
    cut = abs(exact) >= abs(said) and abs(exact) - abs(said) < unit and (exact >= 0) == (said >= 0)
    return nearest or cut


def shown(value: Fraction) -> str:
    """A number for a reader: whole, decimal where it ends, else with five digits."""
    if value.denominator == 1:
        return str(value.numerator)
    decimal = f"{float(value):.10g}"
    if Fraction(decimal) == value if "e" not in decimal else False:
        return decimal
    return f"{float(value):.5g}"
