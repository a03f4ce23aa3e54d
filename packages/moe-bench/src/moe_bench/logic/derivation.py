"""From what was derived to the numbered lines of a proof; proofs by refutation."""

from __future__ import annotations

from moe_bench.logic.ground import Known, Propagation, Reason
from moe_bench.logic.proof import Line, Step
from moe_bench.logic.terms import Literal

SUPPOSITIONS = 2_000
"""As many suppositions as a search for a refutation makes before it gives up."""


class Scribe:
    """Writes the lines that lead to a literal, each once."""

    def __init__(self) -> None:
        self.lines: list[Line] = []
        self.depth = 0
        self._at: dict[Literal, int] = {}

    def mark(self) -> tuple[int, int, dict[Literal, int]]:
        """Where it is now, for `restore`."""
        return len(self.lines), self.depth, dict(self._at)

    def restore(self, mark: tuple[int, int, dict[Literal, int]]) -> None:
        """Strike out what was written since the mark."""
        del self.lines[mark[0] :]
        self.depth, self._at = mark[1], dict(mark[2])

    def suppose(self, literal: Literal) -> int:
        """Write a supposition; returns its line."""
        self.depth += 1
        return self._write(Line(literal=literal, step=Step.SUPPOSE, depth=self.depth))

    def absurd(self, supposition: int, one: int, other: int) -> int:
        """Close the last supposition; its lines are not used again."""
        begun = self.lines[supposition].literal
        self.depth -= 1
        self._at = {literal: at for literal, at in self._at.items() if at < supposition}
        return self._write(
            Line(literal=begun.negated, step=Step.ABSURD, uses=(supposition, one, other), depth=self.depth)
        )

    def derive(self, literal: Literal, reasons: dict[Literal, Reason]) -> int:
        """Write what a literal rests on, then the literal; returns its line. Absences stand for themselves."""
        pending = [literal]
        while pending:
            goal = pending[-1]
            if goal in self._at:
                pending.pop()
                continue
            if goal not in reasons and not goal.positive:
                self._write(Line(literal=goal, step=Step.ABSENT, depth=self.depth))
                continue
            instance = reasons[goal].instance
            if instance is None:
                raise KeyError(f"{goal} is supposed, and no line supposes it")
            needed = [x.negated for x in instance.clause if x != goal]
            missing = [x for x in needed if x not in self._at]
            if missing:
                pending += missing[::-1]
                continue
            uses = tuple(self._at[x] for x in needed)
            self._write(
                Line(
                    literal=goal,
                    step=Step.RULE,
                    premise=instance.premise,
                    binding=instance.binding,
                    uses=uses,
                    depth=self.depth,
                )
            )
        return self._at[literal]

    def _write(self, line: Line) -> int:
        self.lines.append(line)
        self._at.setdefault(line.literal, len(self.lines) - 1)
        return len(self.lines) - 1


def derivation(literal: Literal, known: Known) -> tuple[Line, ...]:
    """The lines that lead to a literal that is known."""
    scribe = Scribe()
    scribe.derive(literal, known.reasons)
    return tuple(scribe.lines)


class Refutation:
    """Looks for a contradiction under suppositions: the procedure of Davis, Logemann and Loveland (1962), written out as a proof."""

    def __init__(self, propagation: Propagation) -> None:
        self._propagation = propagation
        self._left = SUPPOSITIONS

    @property
    def exhausted(self) -> bool:
        """Whether the last search gave up."""
        return self._left <= 0

    def prove(self, literal: Literal, known: Known) -> tuple[Line, ...] | None:
        """The lines that lead to a literal by refuting its complement; None where that has no contradiction, or none was found in time."""
        scribe = Scribe()
        self._left = SUPPOSITIONS
        if not self._refute(literal.negated, known, scribe):
            return None
        return tuple(scribe.lines)

    def _refute(self, supposed: Literal, known: Known, scribe: Scribe) -> bool:
        """Write a refutation of a supposition, in place; leaves the scribe as it was where there is none."""
        if self._left <= 0:
            return False
        self._left -= 1
        before = scribe.mark()
        more = self._propagation.suppose(known, supposed)
        begun = scribe.suppose(supposed)
        while more.conflict is None:
            tried = self._open(more)
            # A literal that can stand leaves everything standing: no contradiction here, or none found in time.
            if tried is None or not self._refute(tried, more, scribe):
                scribe.restore(before)
                return False
            more = self._propagation.suppose(more, tried.negated)
        one = scribe.derive(more.conflict, more.reasons)
        other = scribe.derive(more.conflict.negated, more.reasons)
        scribe.absurd(begun, one, other)
        return True

    def _open(self, known: Known) -> Literal | None:
        """A literal of a clause that nothing satisfies yet; None where all are satisfied."""
        for instance in self._propagation.instances:
            if not any(x in known.reasons for x in instance.clause):
                return next(x for x in instance.clause if x.negated not in known.reasons)
        return None
