"""Checkers that simulate: each recognises its kind of problem, computes every state, and compares what the steps state."""

from __future__ import annotations

from moe_bench.checkers.rules.boolean import BooleanChecker
from moe_bench.checkers.rules.brackets import BracketChecker
from moe_bench.checkers.rules.navigation import NavigationChecker
from moe_bench.checkers.rules.rows import RowChecker
from moe_bench.checkers.rules.sorting import SortingChecker
from moe_bench.checkers.rules.tracking import TrackingChecker
from moe_bench.checkers.rules.truthfulness import TruthChecker

RULE_CHECKERS = (
    TrackingChecker(),
    SortingChecker(),
    BracketChecker(),
    NavigationChecker(),
    BooleanChecker(),
    TruthChecker(),
    RowChecker(),
)
"""One of each kind; they keep nothing between solutions."""


def solve(problem: str) -> str | None:
    """The final answer of a problem that one of the checkers recognises and settles; None where none does."""
    return next((answer for checker in RULE_CHECKERS if (answer := checker.solve(problem)) is not None), None)


__all__ = ["RULE_CHECKERS", "solve"]
