"""The same named quantity with two values: "the total cost is $30" and, two steps on, "the total cost is $45"."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction

from moe_bench.checkers.algebra.statements import SUPPOSES, split_sentences, word_set
from moe_bench.checkers.base import Finding, Status

_NUMBER = r"-?(?:\d{1,3}(?:,\d{3}){1,20}|\d{1,60})(?:\.\d{1,60})?"
_IS = re.compile(
    rf"(?:^|[,;:]|\b(?:so|thus|therefore|then|hence|and|that|because|since|find|get))\s*the\s+"
    rf"(?P<name>(?:[a-z][a-z'’-]*\s+){{1,8}}?)(?:is|are|was|were|equals|=|is equal to)\s+"
    rf"(?:[\d\s+*/×÷x$().,%\\-]*=\s*)*(?P<value>[\\$ (]*{_NUMBER})(?P<unit>(?:\s+(?:[a-z]+)){{0,2}})"
    rf"\s*\\?\)?\$?\s*(?=[.;]?\s*$|[.;,]\s)",
    re.I,
)
_TEXT = re.compile(
    r"(?:^|[\[\n(]|[.:]\s)\s*(?:\\text\s*\{\s*)?(?P<name>[A-Z][A-Za-z'’]*(?:\s+[A-Za-z'’]+){1,7})\s*\}?\s*=\s*(?P<chain>[^\n=]*(?:=[^\n=]*)*)$"
)
_LAST = re.compile(
    rf"(?:^|=)\s*[\\$ (]*(?P<value>{_NUMBER})\s*(?P<unit>(?:\\text\s*\{{)?[ a-z]*\}}?)\s*[\\\])$.]*$", re.I
)
_CHANGES = re.compile(
    r"\b(?:now|then|new|remaining|remainder|left|rest|after|before|next|current\w*|initial\w*|original\w*|previous\w*|updated?|"
    r"first|second|third|fourth|fifth|last|other|another|each|every|per|day|week|month|year|monday|tuesday|wednesday|thursday|"
    r"friday|saturday|sunday|morning|evening|result|answer|step|following|"
    r"apiece|increased|decreased|still|so far|once|again|instead|if|units?|tens|ones|digit|final|numerator|denominator|term|exponent)\b",
    re.I,
)
"""Words of a quantity that may change, or whose name does not tell which it is."""
_PERSON = re.compile(r"\b(?:he|she|it|they|we|i|you)\b", re.I)
_CIRCUMSTANCE = re.compile(_CHANGES.pattern + r"|\b(?:in|at|on|by|during|from|within|with|for|under|as)\b", re.I)
"""What stands before a quantity and tells when or where it has its value."""
_EMPTY = word_set(
    "number sum difference product quotient value amount total cost price length area units"
    " time taken minutes hours seconds speed rate distance width height weight age volume perimeter size sold spent earned needed used"
)
"""Words that do not tell of what, and so make no name alone."""
_ARTICLES = word_set("a an the of for in to and by that this his her their its so thus therefore hence")


@dataclass(frozen=True, kw_only=True)
class _Named:
    name: str
    unit: str
    value: Fraction
    step: int
    span: tuple[int, int]
    text: str


def contradictions_of_quantities(problem: str, steps: Sequence[str]) -> Iterator[Finding]:
    """A finding for every quantity that is said to have another value than an earlier step of the same scope said."""
    given = {q.name: q for _, sentence, at in split_sentences(problem, -1) for q in _named(sentence, -1, at)}
    scope = dict(given)
    for number, step in enumerate(steps):
        for _, sentence, at in split_sentences(step, number):
            if SUPPOSES.search(sentence):
                scope = dict(given)
                continue
            for quantity in _named(sentence, number, at):
                earlier = scope.get(quantity.name)
                if earlier is None:
                    scope[quantity.name] = quantity
                elif (
                    earlier.step != number
                    and not _about(earlier.value, quantity.value)
                    and (not earlier.unit or not quantity.unit or earlier.unit == quantity.unit)
                ):
                    where = "the problem" if earlier.step < 0 else f"step {earlier.step + 1}"
                    yield Finding(
                        step=number,
                        status=Status.INVALID,
                        checker="consistency",
                        reason=f"“{quantity.text}” where {where} says “{earlier.text}”",
                        span=quantity.span,
                        against=earlier.step if earlier.step >= 0 else None,
                    )


def _named(sentence: str, step: int, offset: int) -> Iterator[_Named]:
    for found in [*_IS.finditer(sentence), *_TEXT.finditer(sentence.rstrip())]:
        name = found["name"]
        if "chain" in found.groupdict():
            last = _LAST.search(found["chain"].strip())
            if last is None or _is_rule(found["chain"]):
                continue
            value, unit = last["value"], last["unit"]
        else:
            value, unit = re.sub(r"[\\$ (]", "", found["value"]), found["unit"]
        words = [w for w in re.findall(r"[a-z]+", name.lower()) if w not in _ARTICLES]
        if (
            _CHANGES.search(name + " " + unit)
            or _PERSON.search(name)
            or _CIRCUMSTANCE.search(sentence[: found.start("name")])
            or not set(words) - _EMPTY
        ):
            continue
        units = re.sub(r"\\text|[^a-z ]", "", unit.lower()).split()
        yield _Named(
            name=" ".join(words),
            unit=" ".join(units),
            value=Fraction(value.replace(",", "")),
            step=step,
            span=(offset + found.start("name"), offset + len(sentence[: found.end()].rstrip())),
            text=" ".join(sentence[found.start("name") : found.end()].split()),
        )


def _is_rule(chain: str) -> bool:
    """Whether a name is first explained in words, "Final value = Initial value * Rate = ...": that may be used of one thing and another."""
    first, _, rest = chain.partition("=")
    return bool(rest) and len(re.findall(r"[A-Za-z]{3,}", first.replace("\\text", ""))) > 1


def _about(a: Fraction, b: Fraction) -> bool:
    """Equal, or one the rounding of the other."""
    return (
        a == b
        or (1 not in (a.denominator, b.denominator) and abs(a - b) <= max(abs(a), abs(b)) / 50)
        or round(a) == b
        or round(b) == a
    )
