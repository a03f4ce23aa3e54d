"""What a checker of reasoning steps is, and how the findings of several come to one verdict for each step.

A checker reports only what it can decide. What no checker decided is *unchecked*: never counted as right, never as wrong.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol


class Status(StrEnum):
    """What is known of a claim or a step."""

    VALID = "valid"
    INVALID = "invalid"
    UNCHECKED = "unchecked"


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One claim that a checker looked at."""

    step: int
    """0-based index of the step that makes the claim."""
    status: Status
    checker: str
    """Name of the checker."""
    reason: str
    """What was decided and why, for a reader: "3 * 4 = 12, the text says 14"; for unchecked, what stood in the way."""
    span: tuple[int, int] | None = None
    """Begin and end of the claim in the step's text, in characters."""
    against: int | None = None
    """0-based index of the earlier step this one contradicts, where that is the reason."""


class Checker(Protocol):
    """Something that judges the steps of a solution.

    Steps are judged in order: a claim in a step may rest on the problem and on the steps before it, not on later ones.
    """

    @property
    def name(self) -> str:
        """Unique; stands in the findings."""
        ...

    @property
    def version(self) -> int:
        """Raised whenever a verdict may change; stands in a run's header."""
        ...

    def check(self, problem: str, steps: Sequence[str]) -> Iterable[Finding]:
        """Findings on the claims in the steps; none at all for steps it has nothing to say on.

        Args:
            problem: the question as it was put.
            steps: the solution, divided into steps (see `moe_bench.steps`).
        """
        ...


@dataclass(frozen=True, kw_only=True)
class StepVerdict:
    """What the findings on one step come to."""

    status: Status
    findings: tuple[Finding, ...]

    @property
    def reason(self) -> str:
        """The reason of the finding that decided, or that nothing was found to check."""
        deciding = [f.reason for f in self.findings if f.status is self.status]
        return deciding[0] if deciding else "nothing in it that a checker can decide"


@dataclass(frozen=True, kw_only=True)
class Assessment:
    """A solution, step by step."""

    steps: tuple[StepVerdict, ...]

    @property
    def first_invalid(self) -> int | None:
        """0-based index of the first invalid step; None where no step is known to be invalid."""
        return next((i for i, step in enumerate(self.steps) if step.status is Status.INVALID), None)

    @property
    def coverage(self) -> float:
        """Share of the steps that were decided, valid or invalid; 0 for no steps."""
        decided = sum(step.status is not Status.UNCHECKED for step in self.steps)
        return decided / len(self.steps) if self.steps else 0.0

    @property
    def valid_before_error(self) -> int:
        """Steps known to be valid before the first invalid one, or in all where there is none."""
        end = len(self.steps) if self.first_invalid is None else self.first_invalid
        return sum(step.status is Status.VALID for step in self.steps[:end])


def assess(problem: str, steps: Sequence[str], checkers: Iterable[Checker]) -> Assessment:
    """Every step's verdict: invalid where one finding is, else valid where one finding is, else unchecked.

    Raises:
        IndexError: a checker reported on a step that does not exist.
    """
    found: list[list[Finding]] = [[] for _ in steps]
    for checker in checkers:
        for finding in checker.check(problem, steps):
            if not 0 <= finding.step < len(steps):
                raise IndexError(f"checker {checker.name}: a finding on step {finding.step} of {len(steps)}")
            found[finding.step].append(finding)
    return Assessment(steps=tuple(StepVerdict(status=_status(fs), findings=tuple(fs)) for fs in found))


def _status(findings: Sequence[Finding]) -> Status:
    for status in (Status.INVALID, Status.VALID):
        if any(f.status is status for f in findings):
            return status
    return Status.UNCHECKED
