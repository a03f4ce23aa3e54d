"""Every checker of steps, by the name of its group."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module

from moe_bench.checkers.base import Checker
from moe_bench.errors import BenchError

GROUPS = ("arithmetic", "rules", "deduction", "consistency")
"""Calculations; simulated tasks (tracking, sorting, brackets, ...); facts and rules; contradictions."""


def make_checkers(groups: Sequence[str] = GROUPS, *, nli: str | None = None) -> tuple[Checker, ...]:
    """The checkers of these groups.

    Args:
        groups: of `GROUPS`.
        nli: name of an installed model of natural-language inference that the consistency checker asks too.

    Raises:
        BenchError: an unknown group; a model that is not installed or broken.
    """
    for group in groups:
        if group not in GROUPS:
            raise BenchError(f"checker {group!r} is not known; there are {', '.join(GROUPS)}")
    made: list[Checker] = []
    if "arithmetic" in groups:
        made.append(import_module("moe_bench.checkers.arithmetic").ArithmeticChecker())
    if "rules" in groups:
        made += import_module("moe_bench.checkers.rules").RULE_CHECKERS
    if "deduction" in groups:
        made.append(import_module("moe_bench.checkers.deduction").DeductionChecker())
    if "consistency" in groups:
        from moe_bench.checkers.consistency import ConsistencyChecker, make_entailment

        made.append(ConsistencyChecker(make_entailment(nli) if nli else None))
    elif nli:
        raise BenchError(
            "an NLI model is asked by the checker consistency, which is left out; add it, or leave the model out"
        )
    return tuple(made)
