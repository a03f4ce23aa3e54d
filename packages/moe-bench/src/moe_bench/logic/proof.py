"""A proof as numbered lines, each of which can be checked by itself."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from moe_bench.logic.terms import Literal, Rule, World


class Step(StrEnum):
    """Why a line holds."""

    RULE = "rule"
    """One premise, the rest of whose clause is refuted by earlier lines. A fact is the case without any rest."""
    SUPPOSE = "suppose"
    """Supposed, to be refuted."""
    ABSURD = "absurd"
    """The complement of a supposition under which two lines contradict each other."""
    ABSENT = "absent"
    """Not in the model that the proof carries; in a closed world only."""


@dataclass(frozen=True, kw_only=True)
class Line:
    """One line of a proof."""

    literal: Literal
    """What it says."""
    step: Step
    premise: int | None = None
    """Index of the premise, for a rule."""
    binding: tuple[tuple[str, str], ...] = ()
    """What stands in the places of the premise's variables."""
    uses: tuple[int, ...] = ()
    """Lines it rests on: for a rule those that meet its conditions or refute its alternatives, in the order of its clause; for an absurdity
    the supposition and the two lines that contradict each other."""
    depth: int = 0
    """How many suppositions it stands under; a supposition counts itself."""


@dataclass(frozen=True, kw_only=True)
class Proof:
    """That a literal follows from premises."""

    premises: tuple[Rule, ...]
    world: World
    lines: tuple[Line, ...]
    """The last line is what is proved."""
    model: frozenset[Literal] = frozenset()
    """Closed world: all positive literals that hold; else empty."""

    @property
    def conclusion(self) -> Literal:
        """What is proved."""
        return self.lines[-1].literal

    @property
    def premises_used(self) -> tuple[int, ...]:
        """Indices of the premises the lines name, in order, without repetition."""
        return tuple(dict.fromkeys(line.premise for line in self.lines if line.premise is not None))

    def __str__(self) -> str:
        return "\n".join(
            f"{i + 1}. {'| ' * line.depth}{line.literal}  [{self._why(line)}]" for i, line in enumerate(self.lines)
        )

    def _why(self, line: Line) -> str:
        uses = ", ".join(str(u + 1) for u in line.uses)
        if line.step is Step.RULE and line.premise is not None:
            text = self.premises[line.premise].text or str(self.premises[line.premise])
            return f"{text} with {uses}" if uses else text
        if line.step is Step.ABSURD:
            return f"supposing the contrary is absurd: {uses}"
        return "supposed" if line.step is Step.SUPPOSE else "nothing makes it true"
