"""The checker of calculations."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from fractions import Fraction

from moe_bench.checkers.arithmetic.claims import Claim, claims
from moe_bench.checkers.arithmetic.comparison import shown
from moe_bench.checkers.arithmetic.measures import claims_of_measure
from moe_bench.checkers.arithmetic.parser import UnreadableError, readings
from moe_bench.checkers.arithmetic.phrases import claims_in_words
from moe_bench.checkers.arithmetic.tokens import tokenise
from moe_bench.checkers.base import Finding, Status

_PLAIN = re.compile(r"^[\s\d+\-−*/×÷().^]+=?\s*\??\s*$")
_NAMED = re.compile(
    r"(?:^|\bwhere\s+|\bcalculate\s+|\band\s+|,\s*|\blet\s+|:\s*)([A-Z])\s*=\s*([^=,;]*?)(?=\s*(?:=|,|;|\band\b|\.\s|\.?$))"
)
_QUOTED = re.compile(r"[\"“]([A-Z()\s+\-*/\d]+)[\"”]")


class ArithmeticChecker:
    """Verifies every equation and comparison of numbers in a step, exactly.

    Where the problem itself is a calculation (`((2 + 3) * 4) =`), letters that the solution gives to its parts are followed: what a letter
    stands for is what the solution says, so that an error counts where it is made and not where it is carried on.
    """

    name = "arithmetic"
    version = 3

    def check(self, problem: str, steps: Sequence[str]) -> Iterator[Finding]:
        """Findings on the calculations in the steps."""
        letters = _Letters(problem)
        for number, step in enumerate(steps):
            yield from letters.findings(number, step, self.name)
            for claim in claims(step, letters.values):
                yield _finding(number, claim, self.name)
            for claim in (*claims_of_measure(problem, step), *claims_in_words(step)):
                yield _finding(number, claim, self.name)
            letters.learn(step)


def _finding(step: int, claim: Claim, name: str) -> Finding:
    return Finding(step=step, status=claim.status, checker=name, reason=claim.reason, span=(claim.begin, claim.end))


class _Letters:
    """Letters for parts of a problem that is itself one calculation."""

    def __init__(self, problem: str) -> None:
        self.target = value_of(problem.replace("=", "").replace("?", "")) if _PLAIN.match(problem.strip()) else None
        self.values: dict[str, Fraction] = {}

    def findings(self, number: int, step: str, name: str) -> Iterator[Finding]:
        """On definitions: a letter that is defined anew as something else, and a division of the problem that changes its value."""
        if self.target is None:
            return
        defined = dict(self._definitions(step))
        for letter, (value, span) in defined.items():
            before = self.values.get(letter)
            if before is not None and before != value and not self._computed(step):
                yield Finding(
                    step=number, status=Status.INVALID, checker=name, span=span,
                    reason=f"{letter} stood for {shown(before)}, and here for {shown(value)}",
                )  # fmt: skip
        whole = _QUOTED.search(step)
        if whole is not None and defined:
            made = value_of(whole[1], {letter: v for letter, (v, _) in defined.items()})
            if made is not None:
                same = made == self.target
                # A division that names a part inside of another is no statement about the whole.
                yield Finding(
                    step=number, status=Status.VALID if same else Status.UNCHECKED, checker=name, span=whole.span(1),
                    reason="the parts make the problem" if same else f"the parts make {shown(made)}, the problem {shown(self.target)}",
                )  # fmt: skip

    def _computed(self, step: str) -> bool:
        """Whether the step divides the problem, rather than works out a part."""
        return bool(_QUOTED.search(step))

    def _definitions(self, step: str) -> Iterator[tuple[str, tuple[Fraction, tuple[int, int]]]]:
        for match in _NAMED.finditer(step):
            value = value_of(match[2], self.values)
            if value is not None:
                yield match[1], (value, match.span())

    def learn(self, step: str) -> None:
        """Take over what the step says that its letters come to: the last number of a chain of equations."""
        if self.target is None:
            return
        for letter, (value, _) in self._definitions(step):
            self.values[letter] = value
        if self._computed(step):
            return
        for match in re.finditer(r"\bcalculate\s+([A-Z])\s*=([^,;]*?)(?=\.\s|\.?$)", step):
            last = value_of(match[2].split("=")[-1].rstrip(". "), self.values)
            if last is not None:
                self.values[match[1]] = last


def value_of(text: str, letters: dict[str, Fraction] | None = None) -> Fraction | None:
    """The value of a text that is one expression; None where it is not."""
    tokens = [token for token in tokenise(text) if token.kind != "break"]
    try:
        return readings(tokens, letters or {})[0].value if tokens else None
    except UnreadableError:
        return None
