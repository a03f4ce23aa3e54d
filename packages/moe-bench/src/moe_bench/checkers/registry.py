"""Every checker of steps, by the name of its group."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec

from moe_bench.checkers.base import Checker
from moe_bench.errors import BenchError

_MODULES = {
    "arithmetic": "moe_bench.checkers.arithmetic",
    "algebra": "moe_bench.checkers.algebra",
    "rules": "moe_bench.checkers.rules",
    "deduction": "moe_bench.checkers.deduction",
    "consistency": "moe_bench.checkers.consistency",
}
GROUPS = tuple(group for group, module in _MODULES.items() if find_spec(module) is not None)
"""Calculations; equations with letters; simulated tasks (tracking, sorting, brackets, ...); facts and rules; contradictions."""


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
    if nli and "consistency" not in groups:
        raise BenchError(
            "an NLI model is asked by the checker consistency, which is left out; add it, or leave the model out"
        )
    made: list[Checker] = []
    for group in groups:
        module = import_module(_MODULES[group])
        if group == "rules":
            made += module.RULE_CHECKERS
        elif group == "consistency":
            made.append(module.ConsistencyChecker(module.make_entailment(nli) if nli else None))
        else:
            made.append(getattr(module, f"{group.capitalize()}Checker")())
    return tuple(made)
