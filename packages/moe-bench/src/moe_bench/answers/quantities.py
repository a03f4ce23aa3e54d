"""Exact numbers with their units: integers, decimals, fractions, mixed numbers, percentages, powers of ten, money."""

from __future__ import annotations

import re
from fractions import Fraction
from typing import NamedTuple

from moe_bench.answers.notation import normalise, tidy

_DIGITS = r"(?:\d{1,3}(?:,\s?\d{3})+(?!\d)|\d+)"
_DECIMAL = rf"(?:{_DIGITS}(?:\.\d+)?|\.\d+)\.?(?!\d)"
_CUT_AFTER = 6
"""Decimal places from which on a decimal is taken for the rounding, or the cutting off, of what no decimal can write."""
_QUANTITY = re.compile(
    rf"""
    (?P<sign>[-+]?)\s*(?P<currency>[$€£¥])?\s*(?P<sign2>[-+]?)\s*
    (?:(?P<whole>{_DIGITS})\s*(?:\s|\\|(?<=\d)\s*and\s)\s*)?
    (?:\\?frac\{{\s*(?P<a>[-+]?{_DECIMAL})\s*\}}\{{\s*(?P<b>{_DECIMAL})\s*\}}
       |(?P<c>{_DECIMAL})\s?/\s?(?P<d>{_DECIMAL})
       |(?P<e>{_DECIMAL})(?:\s*\*\s*10\s*\^\s*\{{?(?P<power>[-+]?\d{{1,3}})\}}?|[eE](?P<power2>[-+]?\d{{1,3}})(?!\w))?)
    (?P<rest>.*)
    """,
    re.VERBOSE | re.DOTALL,
)
_SCALES = {"hundred": 10**2, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
_PERCENT = re.compile(r"\s*(?:%|per\s?cent(?:age)?|pct)(?![a-z])\s*(?P<rest>.*)", re.IGNORECASE | re.DOTALL)
_UNIT = re.compile(
    r"\s*(?P<unit>[A-Za-z°][A-Za-z°.'-]*(?:[\s/]+[A-Za-z°][A-Za-z°.'-]*){0,4})\s*(?P<power>(?:\^\s*\{?[23]\}?|[²³])?)\s*$"
)
# Words that would make something else than a unit of what follows a number.
_NOT_UNITS = frozenset(
    {"and", "or", "not", "than", "less", "more", "if", "when", "x", "y", "z", "n", "i", "e"}
    | {"sqrt", "sin", "cos", "tan", "log", "ln", "exp", "pi", "mod", "frac"}
)


class Quantity(NamedTuple):
    """A number and what it counts."""

    value: Fraction
    """Exact; of a percentage, the number of percent divided by 100."""
    unit: str
    """In lower case, singular, "" for none; "m", "cm^2", "dollar", "apple"."""
    percent: bool
    places: int = 0
    """Decimal places that were written; 0 for what is no decimal."""

    def same_as(self, other: Quantity) -> bool:
        """Whether both are the same quantity.

        A unit that stands on one side only does not matter, nor does a percent sign there: "12%" and "12" state the same
        answer to "how many percent", "12%" and "0.12" the same to "what share". Units of one dimension are converted
        ("1.5 km", "1500 m"); units that are different words are different quantities, whatever their numbers. Values are compared
        exactly, but for a decimal of six places or more, which may be the rounding of the other ("0.333333", "1/3").
        """
        if self.percent != other.percent:
            # 12% is 0.12, and is "12" where percent are asked for.
            plain, marked = (other, self) if self.percent else (self, other)
            return marked.value in (plain.value, plain.value / 100)
        value = self.in_unit_of(other)
        return value is not None and (value == other.value or self._rounds(other) or other._rounds(self))

    def in_unit_of(self, other: Quantity) -> Fraction | None:
        """The value in the other's unit, as it is where a unit stands on one side only; None for another dimension or thing."""
        if not self.unit or not other.unit or self.unit == other.unit:
            return self.value
        here, there = _UNITS.get(self.unit), _UNITS.get(other.unit)
        if here is not None and there is not None:
            return self.value * here[1] / there[1] if here[0] == there[0] else None
        mine, theirs = set(self.unit.split()), set(other.unit.split())
        alike = here is None and there is None and (mine <= theirs or theirs <= mine)  # "red apples", "apples"
        return self.value if alike else None

    def _rounds(self, other: Quantity) -> bool:
        """Whether this is the other, rounded or cut off at six places or more; the other is written with fewer."""
        if not self.places >= _CUT_AFTER > other.places or (self.unit and other.unit and self.unit != other.unit):
            return False
        error, last = abs(self.value - other.value), Fraction(1, 10**self.places)
        return error <= last / 2 or (error < last and abs(self.value) < abs(other.value))


def _units() -> dict[str, tuple[str, Fraction]]:
    # SI and customary units by definition (BIPM SI brochure; NIST Handbook 44, appendix C). A month and a year are not fixed.
    metric = {"k": Fraction(1000), "": Fraction(1), "c": Fraction(1, 100), "m": Fraction(1, 1000)}
    table: dict[str, tuple[str, Fraction]] = {}

    def add(dimension: str, factor: Fraction | int, *names: str) -> None:
        table.update({name: (dimension, Fraction(factor)) for name in names})

    for prefix, factor in metric.items():
        long = {"k": "kilo", "": "", "c": "centi", "m": "milli"}[prefix]
        add("length", factor, prefix + "m", long + "meter", long + "metre")
        if prefix != "c":
            add("mass", factor, prefix + "g", long + "gram")
        if prefix != "k":
            add("volume", factor, prefix + "l", long + "liter", long + "litre")
        add("area", factor**2, f"{prefix}m^2", f"square {long}meter", f"square {long}metre", f"sq {prefix}m")
        add("volume", factor**3 * 1000, f"{prefix}m^3", f"cubic {long}meter", f"cubic {long}metre")
    for factor, names in (
        (Fraction(254, 10000), ("in", "inch", "inche")),
        (Fraction(3048, 10000), ("ft", "foot", "feet")),
        (Fraction(9144, 10000), ("yd", "yard")),
        (Fraction(1609344, 1000), ("mi", "mile")),
    ):
        add("length", factor, *names)
        add(
            "area", factor**2, *(f"square {name}" for name in names), *(f"{name}^2" for name in names), f"sq {names[0]}"
        )
        add("volume", factor**3 * 1000, *(f"cubic {name}" for name in names), *(f"{name}^3" for name in names))
    add("mass", Fraction(45359237, 100000), "lb", "pound")
    add("mass", Fraction(45359237, 1600000), "oz", "ounce")
    add("mass", 1_000_000, "tonne")
    add("time", 1, "s", "sec", "second")
    add("time", 60, "min", "minute")
    add("time", 3600, "h", "hr", "hour")
    add("time", 86400, "d", "day")
    add("time", 604800, "week", "wk")
    add("money", 1, "dollar", "usd")
    add("money", Fraction(1, 100), "cent", "penny", "pennie")
    add("euro", 1, "euro", "eur")
    add("yen", 1, "yen", "jpy")
    add("angle", 1, "degree", "°", "deg")
    return table


_UNITS = _units()
_FIRST_NAMES = {measure: name for name, measure in reversed(_UNITS.items())}
_CURRENCIES = {"$": "dollar", "€": "euro", "£": "pound", "¥": "yen"}


def as_quantity(answer: str) -> Quantity | None:
    """The number and unit that an answer is, and nothing else; None for anything else.

    Reads integers with thousands separators, decimals, fractions (`3/4`, LaTeX), mixed numbers (`1 1/2`), powers of ten
    (`1.5*10^3`, `2e-4`), "2 million", percentages, money, and words or symbols of a unit after the number.
    """
    text = tidy(answer)
    match = _QUANTITY.fullmatch(text)
    if match is None:
        return None
    value = _value(match)
    if value is None:
        return None
    rest = match["rest"]
    for word, factor in _SCALES.items():
        if (scaled := re.match(rf"\s*{word}s?(?![a-z])", rest, re.IGNORECASE)) is not None:
            value, rest = value * factor, rest[scaled.end() :]
    percent = _PERCENT.fullmatch(rest)
    if percent is not None:
        value, rest = value / 100, percent["rest"]
    unit = _unit(rest)
    if unit is None:
        return None
    currency = _CURRENCIES.get(match["currency"] or "", "")
    if currency and unit and unit.split()[0] not in (currency, "usd", "pound"):
        unit = ""  # "$5 per hour": the currency says what it is
    _, point, decimals = (match["e"] or "").rstrip(".").partition(".")
    written = len(decimals) if point and not match["power"] and not match["power2"] else 0
    return Quantity(value, currency or unit, percent is not None, written)


def _value(match: re.Match[str]) -> Fraction | None:
    negative = "-" in (match["sign"], match["sign2"])
    if match["sign"] and match["sign2"]:
        return None
    above, below = (match["a"], match["b"]) if match["a"] else (match["c"], match["d"])
    if above:
        if _fraction(below) == 0:
            return None
        value = _fraction(above) / _fraction(below)
        if match["whole"]:
            if above[0] in "+-" or not 0 < value < 1:
                return None
            value += _fraction(match["whole"])
    else:
        if match["whole"]:
            return None  # two numbers beside each other are a list, or nonsense
        value = _fraction(match["e"]) * Fraction(10) ** int(match["power"] or match["power2"] or 0)
    return -value if negative else value


def _fraction(digits: str) -> Fraction:
    return Fraction(re.sub(r"[,\s]", "", digits).rstrip("."))


def _unit(rest: str) -> str | None:
    """The unit that the rest of a text is: "" for no rest, None where it is something else."""
    if not rest.strip():
        return ""
    match = _UNIT.fullmatch(rest)
    if match is None:
        return None
    words = [w.strip(".'").casefold() for w in re.split(r"[\s/]+", match["unit"]) if w.strip(".'")]
    if not words or _NOT_UNITS & set(words):
        return None
    if len(words) == 1 and len(words[0]) == 1 and (words[0] not in _UNITS or not rest[0].isspace()):
        return None  # "5m" may be five times m, "5x" is no quantity
    if words in (["mph"], ["kph"], ["kmh"]):
        words = ["mile" if words == ["mph"] else "km", "h"]
    words = [_canonical(word) for word in words if word != "per" or len(words) == 1]
    power = {"": "", "²": "^2", "³": "^3"}.get(match["power"], "^" + match["power"].strip("^{} "))
    return " ".join(words) + power


def _canonical(word: str) -> str:
    """A unit's first name in the table, another word in the singular."""
    if word not in _UNITS and len(word) > 2 and word.endswith("s") and not word.endswith("ss"):
        word = word[:-1]
    return _FIRST_NAMES.get(_UNITS[word], word) if word in _UNITS else word


def as_number(answer: str) -> Fraction | None:
    """The exact number that an answer is: an integer, decimal, fraction, mixed number or percentage; None for anything else.

    A currency sign does not matter. Anything behind the number but a percent sign makes it no number: see `as_quantity`.
    """
    quantity = as_quantity(answer)
    if quantity is None or (quantity.unit and quantity.unit not in _CURRENCIES.values()):
        return None
    if re.search(r"[a-z]", re.sub(r"\\frac|e[-+]?\d|per\s?cent(?:age)?|pct", "", normalise(tidy(answer)))):
        return None
    return quantity.value
