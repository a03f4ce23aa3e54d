"""What a step says of measures: how many of one unit make another, days of a month, dozens, and how often something is a year.

Said to be wrong is only what no use of the words allows: a month may have 28 to 31 days or 4 weeks, and where the problem itself says
what a unit comes to ("1 cup is 10 ounces"), nothing is known better.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from fractions import Fraction

from moe_bench.checkers.arithmetic.claims import Claim
from moe_bench.checkers.arithmetic.comparison import shown
from moe_bench.checkers.arithmetic.parser import UnreadableError, readings
from moe_bench.checkers.arithmetic.tokens import Token, segments, tokenise
from moe_bench.checkers.arithmetic.words import COUNTS
from moe_bench.checkers.base import Status

_MINUTE, _DAY = 60, 86400
_UNITS: Mapping[str, tuple[str, Fraction]] = {
    name: (dimension, Fraction(size))
    for dimension, sizes in {
        "time": {"second": 1, "minute": _MINUTE, "hour": 60 * _MINUTE, "day": _DAY, "week": 7 * _DAY, "fortnight": 14 * _DAY},
        "years": {"month": 1, "year": 12, "decade": 120, "century": 1200},
        "length": {"inch": 1, "foot": 12, "yard": 36, "mile": 63360},
        "metric length": {"millimeter": 1, "centimeter": 10, "meter": 1000, "kilometer": 10**6},
        "mass": {"ounce": 1, "pound": 16},
        "metric mass": {"milligram": 1, "gram": 1000, "kilogram": 10**6},
        "volume": {"pint": 1, "quart": 2, "gallon": 8},
        "metric volume": {"milliliter": 1, "liter": 1000},
        "money": {"cent": 1, "penny": 1, "nickel": 5, "dime": 10, "dollar": 100},
        "number": {"dozen": 12},
    }.items()
    for name, size in sizes.items()
}  # fmt: skip
"""Units that make one another up exactly; ounces of weight and of volume are one word, and so are no volume here."""
_PLURALS = {"feet": "foot", "inches": "inch", "pennies": "penny", "centuries": "century"}
_LOOSE: Mapping[tuple[str, str], tuple[Fraction, Fraction]] = {
    ("day", "month"): (Fraction(20), Fraction(31)),
    ("day", "year"): (Fraction(250), Fraction(366)),
    ("week", "month"): (Fraction(4), Fraction(5)),
    ("week", "year"): (Fraction(48), Fraction(53)),
    ("day", "week"): (Fraction(5), Fraction(7)),
    ("hour", "day"): (Fraction(6), Fraction(24)),
}
"""Where days of work are meant as well, what a unit may be said to have."""
_MONTHS = {
    "january": 31, "february": 28, "march": 31, "april": 30, "may": 31, "june": 30, "july": 31, "august": 31, "september": 30,
    "october": 31, "november": 30, "december": 31,
}  # fmt: skip
_TIMES_A_YEAR = {"quarterly": 4, "monthly": 12, "annually": 1, "semiannually": 2, "semi-annually": 2}
_COUNT = rf"(?:\d{{1,3}}(?:,\d{{3}})+|\d+(?:\.\d+)?|{'|'.join(COUNTS)})"
_UNIT = r"[a-z]+"
_IN_A = re.compile(
    rf"\bthere\s+are\s+(?P<count>{_COUNT})\s+(?P<part>{_UNIT})\s+(?:in|to|per)\s+(?:a|an|one|1|each|every)\s+(?P<whole>{_UNIT})\b(?!\s+[a-z]*ing\b)",
    re.I,
)
_OF_MONTH = re.compile(
    rf"\bthere\s+are\s+(?P<count>{_COUNT})\s+days\s+in\s+(?:the\s+month\s+of\s+)?(?P<month>{'|'.join(_MONTHS)})\b|"
    rf"\b(?P<month2>{'|'.join(m for m in _MONTHS if m not in ('may', 'march'))})\s+has\s+(?P<count2>{_COUNT})\s+days\b",
    re.I,
)
_EQUAL = re.compile(
    rf"(?<![\w.*/×÷+\-−^(]\s)(?<![\w.*/×÷+\-−^(])(?P<count>\d+(?:\.\d+)?)\s+(?P<part>{_UNIT})\s*(?:=|equals|is\s+equal\s+to|is\s+the\s+same\s+as)\s*"
    rf"(?P<count2>\d+(?:\.\d+)?)\s+(?P<whole>{_UNIT})\b(?!\s*[*/×÷+\-−^=(])",
    re.I,
)
_DOZEN = re.compile(
    rf"(?<![\d*/×÷+\-−]\s)(?<!than\s)(?<![\d.*/×÷+\-−])\b(?:(?P<half>half\s+(?:of\s+)?a\s+dozen|a\s+half[\s-]dozen)|(?P<count>{_COUNT}|a)\s+dozen)(?:\s+[a-z]+){{0,2}}\s*(?:=|equals|is\s+equal\s+to|means|is|are)\s+"
    r"(?P<said>[\d\s*/×÷x+.=()\-]*\d)(?![\d.,]*\d)\s*(?P<unit>[%$]|[a-z]+)?",
    re.I,
)
_OFTEN = re.compile(
    rf"\b(?P<word>{'|'.join(_TIMES_A_YEAR)})\b[\s,(]*(?:which\s+)?(?:means|is|i\.e\.|that\s+is|or)[\s,]+(?P<count>{_COUNT})\s+times\s+(?:in|per|a|each|every)(?:\s+a)?\s+year\b",
    re.I,
)
_OTHER_WORDS = frozenset(
    {"each", "per", "dollar", "dollars", "cent", "cents", "more", "less", "fewer", "percent", "times"}
)


def claims_of_measure(problem: str, step: str) -> Iterator[Claim]:
    """What a step says of measures, right or wrong, in the order of the kinds above."""
    given = problem.lower()
    for match in _IN_A.finditer(step):
        part, whole, count = _unit(match["part"]), _unit(match["whole"]), _count(match["count"])
        if part and whole and part != whole and not _is_given(given, part, whole, count):
            yield from _made_up(match, part, whole, count)
    for match in _OF_MONTH.finditer(step):
        month, count = (match["month"] or match["month2"]).lower(), _count(match["count"] or match["count2"])
        right = {_MONTHS[month], 29} if month == "february" else {_MONTHS[month]}
        yield _claim(
            match, count in right, f"{month.capitalize()} has {_MONTHS[month]} days, the text says {shown(count)}"
        )
    for match in _EQUAL.finditer(step):
        one, other = _unit(match["part"]), _unit(match["whole"])
        if one and other and one != other and not _is_given(given, one, other, None):
            yield from _equal(match, one, other)
    for match in _DOZEN.finditer(step):
        said = _value(match["said"].split("=")[-1])
        number = (
            Fraction(1, 2)
            if match["half"]
            else Fraction(1)
            if match["count"].lower() == "a"
            else _count(match["count"])
        )
        if said is not None and (match["unit"] or "").lower() not in _OTHER_WORDS | {"%", "$"}:
            yield _claim(
                match,
                said == number * 12,
                f"{shown(number)} dozen are {shown(number * 12)}, the text says {shown(said)}",
            )
    for match in _OFTEN.finditer(step):
        right_count, count = _TIMES_A_YEAR[match["word"].lower()], _count(match["count"])
        yield _claim(
            match,
            count == right_count,
            f"{match['word'].lower()} is {right_count} times a year, the text says {shown(count)}",
        )


def _made_up(match: re.Match[str], part: str, whole: str, count: Fraction) -> Iterator[Claim]:
    """N of one unit in another."""
    loose = _LOOSE.get((part, whole))
    if loose is not None:
        yield _claim(match, loose[0] <= count <= loose[1], f"a {whole} has no {shown(count)} {part}s")
    elif _UNITS[part][0] == _UNITS[whole][0]:
        right = _UNITS[whole][1] / _UNITS[part][1]
        yield _claim(match, count == right, f"a {whole} has {shown(right)} {part}s, the text says {shown(count)}")


def _equal(match: re.Match[str], one: str, other: str) -> Iterator[Claim]:
    """N of one unit = M of another."""
    if _UNITS[one][0] != _UNITS[other][0]:
        return
    exact = Fraction(match["count"]) * _UNITS[one][1] / _UNITS[other][1]
    said, decimals = Fraction(match["count2"]), len(match["count2"].partition(".")[2])
    near = abs(exact - said) <= Fraction(1, 10**decimals)
    if exact == said or not near:
        yield _claim(
            match,
            exact == said,
            f"{match['count']} {match['part']} are {shown(exact)} {match['whole']}, the text says {shown(said)}",
        )


def _is_given(problem: str, part: str, whole: str, count: Fraction | None) -> bool:
    """Whether the problem has its own say on the two units, or has the very number."""
    named = any(_names(sentence, part) and _names(sentence, whole) and re.search(r"\bis\b|\bare\b|=|equal|contain|has|have|per", sentence)
                for sentence in re.split(r"(?<=[.?!])\s", problem))  # fmt: skip
    return named or (
        count is not None and re.search(rf"(?<![\d.]){re.escape(shown(count))}(?![\d.])", problem) is not None
    )


def _names(sentence: str, unit: str) -> bool:
    return any(_unit(word) == unit for word in re.findall(r"[a-z]+", sentence))


def _unit(word: str) -> str | None:
    """The unit that a word names, in the singular; None for another word."""
    plain = word.lower()
    plain = _PLURALS.get(plain, plain.removesuffix("s") if plain not in _UNITS else plain)
    return plain if plain in _UNITS else None


def _count(written: str) -> Fraction:
    plain = written.lower().replace(",", "")
    return COUNTS[plain] if plain in COUNTS else Fraction(plain)


def _value(written: str) -> Fraction | None:
    tokens: list[Token] = [token for part in segments(tokenise(written)) for token in part]
    try:
        return readings(tokens, {})[0].value if tokens else None
    except UnreadableError:
        return None


def _claim(match: re.Match[str], holds: bool, wrong: str) -> Claim:
    reason = " ".join(match[0].split()) if holds else wrong
    return Claim(match.start(), match.end(), Status.VALID if holds else Status.INVALID, reason)
