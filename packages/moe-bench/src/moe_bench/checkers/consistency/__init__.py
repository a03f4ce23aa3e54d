"""Contradictions between the steps of a solution, and between its steps and the problem.

What is looked for: equations and inequalities that cannot hold together (`values`), a named quantity with two values
(`quantities`), an answer that no step came to (`conclusion`), orders that close into a ring (`orderings`), claims in words that
exclude each other (`claims`), and what a model of natural-language inference calls a contradiction, where one is plugged in
(`entailment`). That nothing is found says nothing: no step is called valid for it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from moe_bench.checkers.base import Finding
from moe_bench.checkers.consistency.claims import contradictions_of_claims
from moe_bench.checkers.consistency.conclusion import contradictions_of_conclusion
from moe_bench.checkers.consistency.entailment import Entailment, contradictions_by_model, make_entailment
from moe_bench.checkers.consistency.orderings import contradictions_of_order
from moe_bench.checkers.consistency.quantities import contradictions_of_quantities
from moe_bench.checkers.consistency.values import contradictions_of_values

DETECTORS = {
    "values": contradictions_of_values,
    "quantities": contradictions_of_quantities,
    "conclusion": contradictions_of_conclusion,
    "order": contradictions_of_order,
    "claims": contradictions_of_claims,
}
"""The kinds of contradiction, each with what finds it."""


class ConsistencyChecker:
    """Contradictions between steps; see the module."""

    name = "consistency"
    version = 2

    def __init__(self, entailment: Entailment | None = None, *, threshold: float = 0.9) -> None:
        self.entailment = entailment
        """A model that is asked too; None for none."""
        self.threshold = threshold
        """Score from which on the model is believed."""

    def check(self, problem: str, steps: Sequence[str]) -> Iterator[Finding]:
        """Every contradiction, with the earlier step it is to; see `Checker`.

        Raises:
            BenchError: the model fails.
        """
        for find in DETECTORS.values():
            yield from find(problem, steps)
        if self.entailment is not None:
            yield from contradictions_by_model(self.entailment, self.threshold, problem, steps)


__all__ = ["DETECTORS", "ConsistencyChecker", "Entailment", "make_entailment"]
