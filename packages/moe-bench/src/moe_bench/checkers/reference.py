"""Where a solution goes wrong, judged with the right answer and its worked solution at hand.

This is a heuristic and reported apart: it compares numbers, not arguments. A step that miscalculates counts first. Else a solution
whose final answer is right is taken for right; of any other, the first step that comes to a number that the worked solution does not
come to (nor a sum of some of what it adds up, nor one from which the solution goes on to a number of the worked solution), or that
brings in a number that neither the problem nor the worked solution has. Where there is none, it is the step that works out the
wrong answer.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import combinations

from moe_bench.checkers.algebra import AlgebraChecker
from moe_bench.checkers.arithmetic import ArithmeticChecker
from moe_bench.checkers.arithmetic.claims import Claim, claims
from moe_bench.checkers.arithmetic.comparison import shown
from moe_bench.checkers.arithmetic.tokens import tokenise
from moe_bench.checkers.arithmetic.words import COUNTS
from moe_bench.checkers.base import Status, assess

_HEADING = re.compile(r"^\W*step\s+\d+\b", re.IGNORECASE)
_COMMON = {Fraction(n) for n in (1, 2, 4, 7, 10, 12, 24, 30, 52, 60, 100, 365, 1000)}
"""Numbers that need no source: of units, weeks, and percentages."""
_ADDENDS = re.compile(r"\d[\d,]*\.?\d*(?:\s*\+\s*\$?\d[\d,]*\.?\d*)+")
_MOST_ADDENDS = 8


@dataclass(frozen=True, kw_only=True)
class Located:
    """The verdict on a solution with the right one at hand."""

    first_error: int | None
    """0-based index of the step where it goes wrong; None for a solution whose answer is right."""
    reason: str


def locate(problem: str, steps: Sequence[str], *, answer: str, solution: str, kind: str | None = None) -> Located:
    """Where a solution goes wrong.

    Args:
        problem: as it was put.
        steps: of the solution that is judged.
        answer: the right one.
        solution: a right worked solution.
        kind: of the answer (`moe_bench.answers.KINDS`).
    """
    from moe_bench.answers import extract_answer, infer_kind, judge

    kind = kind or infer_kind(answer)
    wrong = assess(problem, steps, [ArithmeticChecker(), AlgebraChecker()])
    certain = wrong.first_invalid
    if certain is not None:
        return Located(first_error=certain, reason=wrong.steps[certain].reason)
    given = extract_answer("\n\n".join(steps), kind).answer
    if given is not None and judge(given, answer, kind).correct:
        return Located(first_error=None, reason="its answer is right")
    right = numbers(solution)
    reached = {c.right for line in solution.splitlines() for c in claims(line) if c.right is not None}
    reached |= _partial_sums(solution) | numbers(answer)
    sources = numbers(problem) | right | reached | _COMMON
    sources |= {part for value in sources for part in (value / 100, 1 - value / 100)}
    stated = [[c for c in claims(step) if c.status is not Status.UNCHECKED] for step in steps]
    detours = _detours(steps, stated, reached - numbers(problem))
    for number, step in enumerate(steps):
        for claim in stated[number]:
            if claim.right is not None and not _among(claim.right, reached | detours):
                return Located(
                    first_error=number, reason=f"{shown(claim.right)}, to which the worked solution does not come"
                )
        for value in sorted(numbers(_HEADING.sub("", step))):
            if value > 0 and not _among(value, sources | detours):
                return Located(first_error=number, reason=f"{shown(value)}, which comes from nowhere")
    return _last(stated, given)


def _detours(steps: Sequence[str], stated: Sequence[Sequence[Claim]], wanted: set[Fraction]) -> set[Fraction]:
    """Results that the worked solution does not have, and from which the solution goes on to one that it has, for the first time."""
    found, made, come_to = set[Fraction](), set[Fraction](), set[Fraction]()
    for step, claimed in zip(steps, stated, strict=True):
        for claim in claimed:
            if claim.right is None:
                continue
            if _among(claim.right, wanted - come_to):
                found |= made & numbers(step[claim.begin : claim.end]) - {claim.right}
                come_to.add(claim.right)
            elif not _among(claim.right, wanted):
                made.add(claim.right)
    return found


def _last(stated: Sequence[Sequence[Claim]], given: str | None) -> Located:
    """The step that works out the wrong answer, where no number before it is wrong: the last, and not where it is said once more."""
    results = [(number, claim.right) for number, made in enumerate(stated) for claim in made if claim.right is not None]
    first = None
    for number, value in reversed(results):
        if given is not None and _is_given(value, given):
            first = number
        elif first is not None:
            break
    if first is None:
        return Located(first_error=len(stated) - 1, reason="its answer is wrong, and no number before it")
    return Located(
        first_error=first, reason=f"it comes to {given}, which is not the answer; no number before it is wrong"
    )


def _is_given(value: Fraction, given: str) -> bool:
    from moe_bench.answers import judge

    return judge(shown(value), given, "number").correct


def numbers(text: str) -> set[Fraction]:
    """The numbers in a text, those written as words up to twelve included."""
    found = {token.value for token in tokenise(text) if token.kind == "number"}
    return found | {COUNTS[word] for word in re.findall(r"[a-z]+", text.lower()) if word in COUNTS}


def _partial_sums(solution: str) -> set[Fraction]:
    """What two or three of the numbers come to that a worked solution adds up: it may be done in another order."""
    found: set[Fraction] = set()
    for match in _ADDENDS.finditer(re.sub(r"<<[^<>]*>>", "", solution).replace("$", "")):
        addends = [Fraction(n.replace(",", "").rstrip(".")) for n in re.findall(r"\d[\d,]*\.?\d*", match[0])][
            :_MOST_ADDENDS
        ]
        for size in (2, 3):
            found |= {sum(some, Fraction(0)) for some in combinations(addends, size)}
    return found


def _among(value: Fraction, known: set[Fraction]) -> bool:
    """Whether a number is one of these, but for rounding."""
    return any(abs(value - k) <= abs(k) / 200 + Fraction(1, 1000) for k in known)
