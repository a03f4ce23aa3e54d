"""The answer a solution states, against the answers and results its steps came to."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction

from moe_bench.checkers.base import Finding, Status

_DECIMAL = r"(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|\.\d+"
_VALUE = rf"-?\s*(?:\\[dt]?frac\s*\{{\s*-?(?:{_DECIMAL})\s*\}}\s*\{{\s*(?:{_DECIMAL})\s*\}}|(?:{_DECIMAL})\s*/\s*(?:{_DECIMAL})|{_DECIMAL})"
_NUMBER = re.compile(
    rf"(?P<sign>-?)\s*(?:\\[dt]?frac\s*\{{\s*(?P<minus>-?)(?P<a>{_DECIMAL})\s*\}}\s*\{{\s*(?P<b>{_DECIMAL})\s*\}}"
    rf"|(?P<c>{_DECIMAL})\s*/\s*(?P<d>{_DECIMAL})|(?P<e>{_DECIMAL}))"
)
_STATED = (
    re.compile(rf"\\boxed\s*\{{\s*\\?\$?\s*(?P<value>{_VALUE})\s*(?:\\?%|\\text\s*\{{[^{{}}]*\}})?\s*\}}"),
    re.compile(rf"####\s*\$?(?P<value>{_VALUE})\s*(?:[%.]|[a-z ]*)\s*$", re.M),
    re.compile(rf"#\s*answer\s*:?\s*(?:\\n|\s)*\$?(?P<value>{_VALUE})\s*\.?\$?\s*$", re.I),
    re.compile(
        rf"\b(?:final\s+)?answer\s+is\s*:?\s*[\\$( ]*(?P<value>{_VALUE})(?![\d^/*+x=(\\_-])(?:\s+[a-z]+)?[\\$) ]*(?:\.|$)",
        re.I | re.M,
    ),
)
_BARE = re.compile(
    r"^\W*(?:(?:so|thus|therefore|hence|then|and|finally)\W+)?(?:(?:the|my|our)\s+)?(?:final\s+)?(?:answer\b)?\W*(?:is|:|=)?[^a-z]*"
    r"(?:boxed)?[^a-z]*$",
    re.I,
)
_SPACED = re.compile(r"(?<!\d)\d{1,3}(?: \d{3}){1,5}(?!\d)")
"""Thousands set apart by spaces, as some write them."""
_LONGEST = 200
"""Characters of a number; nobody states a longer one."""
_FORMULA = re.compile(r"[=+*/^<>≈&-]\s*[\\$({]*\s*$|\\(?:approx|cdot|times|le|ge|leq|geq|implies|Rightarrow)\s*$")
_WORDS = dict(
    zip(
        re.findall(
            r"\w+",
            "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen"
            " eighteen nineteen twenty",
        ),
        range(21),
        strict=True,
    ),
    none=0,
    no=0,
    nothing=0,
    once=1,
    single=1,
    only=1,
    twice=2,
    half=2,
    both=2,
    dozen=12,
    thirty=30,
    forty=40,
    fifty=50,
    hundred=100,
)


@dataclass(frozen=True, kw_only=True)
class _Stated:
    value: Fraction
    step: int
    span: tuple[int, int]
    text: str
    bare: bool
    """Whether nothing is said but that this is the answer, so that it is not computed in words here."""
    computed: bool
    """Whether it stands at the end of a formula, so that it is a result itself: "= \\boxed{5}"."""


def contradictions_of_conclusion(problem: str, steps: Sequence[str]) -> Iterator[Finding]:
    """A finding where the stated answer differs from an answer stated before, or no step comes to it.

    A number that stands nowhere but in the statement of the answer was not computed; the reason names the result that was. Answers
    that are not numbers are not judged.
    """
    texts = _with_heading(steps)
    stated = [s for i, text in enumerate(texts) for s in _stated(text, i, len(text) - len(steps[i]))]
    if not stated:
        return
    final = stated[-1]
    others = [s for s in stated[:-1] if s.step != final.step and not _same(s.value, final.value)]
    if others:
        other = others[-1]
        yield _finding(
            final, f"the answer is said to be {final.text}, in step {other.step + 1} it is {other.text}", other.step
        )
        return
    if final.computed or not final.bare or any("\\begin{array" in s or " | " in s for s in steps):
        return
    reached: list[tuple[Fraction, int, str]] = []
    for i, step in enumerate(steps[: final.step + 1]):
        own = [s.span for s in stated if s.step == i]
        reached += [(v, i, t) for v, t, place in _numbers(step) if not any(a <= place < b for a, b in own)]
    reached_in_problem = [v for v, _, _ in _numbers(problem)]
    words = {_WORDS[w] for w in re.findall(r"[a-z]+", " ".join([problem, *steps]).lower()) if w in _WORDS}
    if (
        not reached
        or any(_same(v, final.value) for v in [*(r[0] for r in reached), *reached_in_problem])
        or final.value in words
    ):
        return
    results = [(v, i, t) for v, i, t in reached if _is_result(steps[i], t)]
    if not results:
        return
    _, last, shown = results[-1]
    if final.step - last > 1:
        return
    reason = f"no step comes to the answer {final.text}; the last result is {shown} in step {last + 1}"
    yield _finding(final, reason, last)


def _with_heading(steps: Sequence[str]) -> list[str]:
    """The steps, each with the heading "# Answer" before it where that is a step of its own."""
    headed = list(steps)
    for i in range(1, len(steps)):
        if re.fullmatch(r"\s*#+\s*answer\s*:?\s*", steps[i - 1], re.I):
            headed[i] = f"# Answer\n{steps[i]}"
    return headed


def _stated(text: str, step: int, heading: int) -> Iterator[_Stated]:
    found = [m for pattern in _STATED for m in pattern.finditer(text)]
    for match in sorted(found, key=lambda m: m.start("value")):
        value = _read(_NUMBER.match(match["value"].strip()))
        if value is not None:
            begin, end = match.span("value")
            yield _Stated(
                value=value,
                step=step,
                span=(max(0, begin - heading), end - heading),
                text=match["value"].strip(),
                bare=_BARE.search(re.split(r"(?<=[.!?])\s+|\n", text[: match.start("value")])[-1]) is not None,
                computed=_FORMULA.search(text[: match.start()]) is not None,
            )


def _numbers(text: str) -> Iterator[tuple[Fraction, str, int]]:
    for spaced in _SPACED.finditer(text):
        yield Fraction(spaced.group().replace(" ", "")), spaced.group(), spaced.start()
    for match in _NUMBER.finditer(text):
        value = _read(match)
        if value is not None:
            yield value, match.group().strip(), match.end() - len(match.group().strip())
        if match["a"] or match["c"]:
            for part in ("a", "b", "c", "d"):
                if match[part] and len(match[part]) <= _LONGEST:
                    yield Fraction(match[part].replace(",", "")), match[part], match.start(part)


def _read(match: re.Match[str] | None) -> Fraction | None:
    if match is None or match.end() - match.start() > _LONGEST:
        return None
    groups = {k: v.replace(",", "") for k, v in match.groupdict().items() if v is not None}
    above, below = groups.get("a") or groups.get("c") or groups["e"], groups.get("b") or groups.get("d") or "1"
    if not Fraction(below):
        return None
    sign = -1 if (groups["sign"] == "-") != (groups.get("minus") == "-") else 1
    return sign * Fraction(above) / Fraction(below)


def _same(a: Fraction, b: Fraction) -> bool:
    """The same up to sign, percent and rounding: what is said of an answer's form is not decided here."""
    a, b = abs(a), abs(b)
    pairs = [(a, b), (a * 100, b), (a, b * 100)]
    return (
        any(
            x == y or (x and y and abs(x - y) <= max(x, y) / 100 and 1 not in (x.denominator, y.denominator))
            for x, y in pairs
        )
        or (a.denominator != 1 and b in {Fraction(int(a)), Fraction(int(a) + 1)})
        or (b.denominator != 1 and a in {Fraction(int(b)), Fraction(int(b) + 1)})
    )


def _is_result(step: str, number: str) -> bool:
    """Whether a number is what a calculation with numbers alone comes to."""
    return (
        re.search(
            rf"[\d)}}][ \\a-z$(){{}}]*[+*/×÷·-][\d+*/×÷·$(){{}}., \\a-z-]*=\s*[\\$ (]*{re.escape(number)}(?![\d^/*+(\\-])",
            step,
        )
        is not None
    )


def _finding(final: _Stated, reason: str, against: int) -> Finding:
    return Finding(
        step=final.step,
        status=Status.INVALID,
        checker="consistency",
        reason=reason,
        span=final.span,
        against=against if against < final.step else None,
    )
