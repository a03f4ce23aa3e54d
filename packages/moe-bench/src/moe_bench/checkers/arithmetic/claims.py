"""The equations and comparisons that a step states in numbers."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction

from moe_bench.checkers.arithmetic.comparison import compared, shown
from moe_bench.checkers.arithmetic.parser import Parser, UnreadableError, Value, is_unit, readings
from moe_bench.checkers.arithmetic.tokens import Token, marks, segments, tokenise
from moe_bench.checkers.arithmetic.words import JOINS, NOT_AFTER_IS, STOP, UNITS
from moe_bench.checkers.base import Status

_BEGIN = {"number", "open", "fraction", "root"}
_SIGN = {"equals", "about", "is"}
_DASHES = frozenset("-−–")
_WORD = re.compile(r"[A-Z]?[a-z]+(?:'[a-z]+)?")
"""A word of a sentence; OP and h_a are parts of a formula."""


@dataclass(frozen=True)
class Claim:
    """One equation or comparison of numbers."""

    begin: int
    end: int
    status: Status
    reason: str
    left: Fraction | None = None
    right: Fraction | None = None
    """The values of its sides, where they were read."""


def claims(text: str, variables: Mapping[str, Fraction] | None = None) -> list[Claim]:
    """What a text states in numbers, in the order of the text."""
    known = variables or {}
    found: list[Claim] = []
    for part in segments(tokenise(text)):
        found += _equations(text, part, known)
        found += _relations(part, known)
    for inside, offset in marks(text):
        for part in segments(tokenise(inside, offset=offset)):
            found += _equations(text, part, known)
    return sorted(found, key=lambda claim: claim.begin)


def _equations(text: str, part: list[Token], known: Mapping[str, Fraction]) -> list[Claim]:
    signs = [place for place, token in enumerate(part) if token.kind in _SIGN]
    found = []
    for number, place in enumerate(signs):
        before = signs[number - 1] + 1 if number else 0
        after = signs[number + 1] if number + 1 < len(signs) else len(part)
        claim = _equation(text, part, before, place, after, known)
        if claim is not None:
            found.append(claim)
    return found


def _equation(
    text: str, part: list[Token], before: int, place: int, after: int, known: Mapping[str, Fraction]
) -> Claim | None:
    sign = part[place]
    left = _tail(part, before, place, known)
    right = _head(part, place + 1, after, known)
    if left is None or right is None:
        return _unread(part, before, after) if sign.kind != "is" else None
    (begin, left_values), (end, right_values) = left, right
    if not left_values[0].operations and not right_values[0].operations:
        return None
    if _names_something(part, before, begin, sign, left_values[0], known):
        return None
    if sign.kind == "is" and not _says_so(part, place, end, left_values[0], right_values[0]):
        return None
    near = (
        text[max(0, part[begin].begin - 40) : part[begin].begin]
        + " "
        + text[part[end - 1].end : part[end - 1].end + 60]
    ).lower()
    about = sign.kind == "about" or any(word in near for word in ("approx", "roughly", "estimate", "≈"))
    rounded = any(word in near for word in ("round", "nearest", "about"))
    status, reason = compared(left_values, right_values, about=about, rounded=rounded)
    if status is Status.INVALID:
        shorter = _without_a_label(part, begin, place, known)
        if shorter is not None and shorter in {value.value for value in right_values}:
            status, reason = Status.UNCHECKED, f"{shown(shorter)} without what stands before it"
    if status is Status.INVALID and (
        doubt := _doubt(text, part[begin:place], part[place + 1 : end], left_values[0], right_values[0])
    ):
        status, reason = (
            Status.UNCHECKED,
            f"{shown(left_values[0].value)} against {shown(right_values[0].value)}: {doubt}",
        )
    span = part[begin].begin, part[end - 1].end
    return Claim(*span, status, reason, left_values[0].value, right_values[0].value)


def _doubt(text: str, left_tokens: list[Token], right_tokens: list[Token], left: Value, right: Value) -> str:
    """Why two sides that differ may still be meant to be equal; empty where nothing speaks for it."""
    if any(token.text.lower() == "of" for token in right_tokens):
        return "a share of something stands on the right"
    units = {
        token.text.lower().rstrip("s") for token in left_tokens if token.kind == "word" and token.text.lower() in UNITS
    }
    if len(units) > 1 and any(token.text in "+-" for token in left_tokens if token.kind == "operator"):
        return "units of several sizes are added"
    near, ratio = text.lower(), right.value / left.value if left.value else Fraction(0)
    if ratio in (1000, 10**6, 100, 10**9) and any(
        word in near for word in ("thousand", "million", "hundred", "billion")
    ):
        return "numbers may be in thousands"
    if ("percent" in near or "%" in near) and abs(ratio - 100) < Fraction(1, 10):
        return "it may be a percentage"
    if ratio in (100, Fraction(1, 100)) and ("$" in text or re.search(r"\bcents?\b|\bdollars?\b", near)):
        return "one side may be in cents"
    return ""


def _names_something(
    part: list[Token], low: int, begin: int, sign: Token, left: Value, known: Mapping[str, Fraction]
) -> bool:
    """Whether the left side is a quantity that is spoken of and no calculation: "the price of 3 pens = 2 * 4", "1/4 is equal to $15"."""
    if any(token.text in known for token in part[begin : begin + 1]):
        return False
    fraction = (
        left.operations == 1
        and [t.kind for t in part[begin : begin + 3]] == ["number", "operator", "number"]
        and part[begin + 1].text == "/"
    )
    bare = left.operations == 0 or fraction or (part[begin].kind == "fraction" and left.operations == 1)
    spoken = begin > low or bool(left.words) or left.percent or sign.text[0].isalpha()
    return bare and spoken


def _says_so(part: list[Token], place: int, end: int, left: Value, right: Value) -> bool:
    """Whether "is" states a result: an operation before it, a number after it, and no "less than" behind."""
    following = part[end] if end < len(part) else None
    word = following is not None and (
        following.kind != "word" or following.text.lower() in NOT_AFTER_IS | STOP or following.text.endswith("ed")
    )
    return (
        left.operations > 0
        and right.operations == 0
        and not word
        and part[place].text.lower() in ("is", "makes", "gives")
    )


def _tail(part: list[Token], low: int, high: int, known: Mapping[str, Fraction]) -> tuple[int, list[Value]] | None:
    """The longest expression that ends where the sign stands: its first token and its readings."""
    for begin in range(low, high):
        token, earlier = part[begin], part[begin - 1] if begin > low else None
        starts = token.kind in _BEGIN or (token.kind == "operator" and token.text == "-") or token.text in known
        if not starts or not (earlier is None or earlier.kind == "relation" or _ends_a_phrase(earlier, token, known)):
            continue
        if earlier is not None and earlier.kind == "word" and token.kind == "operator":
            continue  # "apples - 3": what is taken away from is not known
        try:
            return begin, readings(part[begin:high], known)
        except UnreadableError:
            continue
    return None


def _head(part: list[Token], low: int, high: int, known: Mapping[str, Fraction]) -> tuple[int, list[Value]] | None:
    """The longest expression that begins behind the sign: where it ends, and its readings."""
    for end in range(high, low, -1):
        following = part[end] if end < high else None
        if following is not None and not _begins_a_phrase(part, end, known):
            continue
        try:
            return end, readings(part[low:end], known)
        except UnreadableError:
            continue
    return None


def _ends_a_phrase(word: Token, number: Token, known: Mapping[str, Fraction]) -> bool:
    """Whether an expression can begin behind a word: not behind a function, a letter, or a word that joins numbers."""
    plain = word.kind == "word" and word.text not in known and is_unit(word) and word.text.lower() not in JOINS
    return plain and not (number.glued and number.kind == "open")


def _begins_a_phrase(part: list[Token], place: int, known: Mapping[str, Fraction]) -> bool:
    """Whether an expression can end before this token."""
    token, following = part[place], part[place + 1] if place + 1 < len(part) else None
    after = part[place + 2] if place + 2 < len(part) else None
    multiplied = token.kind == "word" and following is not None and following.text in {"/", "*"}
    if multiplied and after is not None and after.kind == "word" and len(after.text) == 1:
        return False  # "459 blinks / x minutes" goes on
    if token.kind == "word":
        return (
            token.text not in known
            and (is_unit(token) or token.text.lower() in STOP)
            and not (
                token.glued and (token.text[0] == "\\" or (following is not None and following.kind == "operator"))
            )
        )
    if token.kind == "open" or token.text in _DASHES:  # "= 12 (since there are ...", "= 12 - so"
        return following is not None and following.kind == "word" and _WORD.fullmatch(following.text) is not None
    return token.kind in ("close", "is", "relation")


def _without_a_label(part: list[Token], begin: int, place: int, known: Mapping[str, Fraction]) -> Fraction | None:
    """What remains of "Step 2 - 5 * 3 = 15" where the number and the dash are no part of the calculation."""
    if not begin or part[begin - 1].kind != "word" or part[begin].kind != "number" or part[begin + 1].text not in "+-":
        return None
    try:
        return Parser(part[begin + 2 : place], known, "hundredth").read().value
    except UnreadableError:
        return None


def _unread(part: list[Token], before: int, after: int) -> Claim | None:
    """An equation with an operation between numbers that was not understood: said to be unchecked; any other is no claim at all."""
    around = part[before:after]
    numbers = sum(token.kind == "number" for token in around)
    if numbers < 2 or not any(token.kind == "operator" for token in around):
        return None
    reason = "not read: words or letters stand where numbers would have to"
    return Claim(around[0].begin, around[-1].end, Status.UNCHECKED, reason)


_RELATIONS = {
    "<": "<", ">": ">", "<=": "<=", ">=": ">=", "≤": "<=", "≥": ">=", "\\leq": "<=", "\\le": "<=", "\\geq": ">=", "\\ge": ">=",
    "\\lt": "<", "\\gt": ">",
}  # fmt: skip


def _relations(part: list[Token], known: Mapping[str, Fraction]) -> list[Claim]:
    found = []
    for place, token in enumerate(part):
        if token.kind != "relation" or token.text not in _RELATIONS:
            continue
        left, right = _tail(part, 0, place, known), _head(part, place + 1, len(part), known)
        if left is None or right is None or len(left[1]) > 1 or len(right[1]) > 1:
            continue
        a, b, sign = left[1][0].value, right[1][0].value, _RELATIONS[token.text]
        holds = {"<": a < b, ">": a > b, "<=": a <= b, ">=": a >= b}[sign]
        status = Status.VALID if holds else Status.INVALID
        reason = f"{shown(a)} {sign} {shown(b)}" + ("" if holds else " does not hold")
        found.append(Claim(part[left[0]].begin, part[right[0] - 1].end, status, reason, a, b))
    return found
