"""How a solution is written, apart from whether it is right: are operations stated, earlier results used, is nothing said twice.

Each pattern is a share of the steps it applies to, and None where it applies to none. It says nothing of validity and goes into no verdict.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction
from typing import Any

from moe_bench.checkers.arithmetic.claims import claims
from moe_bench.checkers.reference import numbers

_OPERATION = re.compile(
    r"\b(?:add|adds|adding|sum|total|subtract|subtracting|difference|left|remain\w*|multipl\w+|times|product|twice|double|half|divid\w+|each|per|"
    r"share\w*|percent|average|because|therefore|so|since|if|then|hence|thus|implies|either|compare\w*|more|less|fewer|larger|smaller|before|after)\b",
    re.I,
)
_WORD = re.compile(r"\w+")
_SAME = 0.8
"""From this Jaccard index of their words on, two steps with the same numbers say the same."""


@dataclass(frozen=True, kw_only=True)
class Quality:
    """Shares of a solution's steps."""

    states_operation: float | None
    """Of the steps that come to a number: those that write the calculation, or name what is done."""
    uses_earlier: float | None
    """Of the steps after the first that calculate: those with an operand that an earlier step came to, or that the problem gives."""
    not_redundant: float | None
    """Of the steps after the first: those that do not say again, in much the same words and the same numbers, what was said."""

    @property
    def score(self) -> float | None:
        """The mean of those that apply; None where none does."""
        known = [v for v in (self.states_operation, self.uses_earlier, self.not_redundant) if v is not None]
        return sum(known) / len(known) if known else None

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {**asdict(self), "score": self.score}


def quality(problem: str, steps: Sequence[str]) -> Quality:
    """The patterns of a solution.

    Args:
        problem: as it was put: its numbers may be used at any time.
        steps: of the solution.
    """
    stated, used, fresh = list[bool](), list[bool](), list[bool]()
    known, said = numbers(problem), list[tuple[set[str], set[Fraction]]]()
    for place, step in enumerate(steps):
        found = [claim for claim in claims(step) if claim.left is not None and claim.right is not None]
        values = numbers(step)
        if values - known:
            stated.append(bool(found) or bool(_OPERATION.search(step)))
        if place and found:
            operands = {n for claim in found for n in numbers(step[claim.begin : claim.end]) if n != claim.right}
            used.append(bool(operands & known))
        words = {word.lower() for word in _WORD.findall(step)}
        if place:
            again = any(values == earlier and _overlap(words, others) >= _SAME for others, earlier in said)
            fresh.append(not again)
        said.append((words, values))
        known |= values
    return Quality(states_operation=_share(stated), uses_earlier=_share(used), not_redundant=_share(fresh))


def _overlap(a: set[str], b: set[str]) -> float:
    return len(a & b) / len(a | b) if a or b else 1.0


def _share(found: Sequence[bool]) -> float | None:
    return sum(found) / len(found) if found else None
