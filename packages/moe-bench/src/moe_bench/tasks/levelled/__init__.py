"""Families of problems in levels of difficulty, one module for each reasoning operation."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from moe_bench.tasks.family import LevelledFamily
from moe_bench.tasks.levelled import (
    algebra,
    arithmetic,
    cases,
    comparison,
    deduction,
    ordering,
    planning,
    sets,
    tracking,
    units,
)

_MODULES = (arithmetic, algebra, comparison, deduction, cases, tracking, ordering, units, sets, planning)

LEVELLED: Mapping[str, LevelledFamily] = MappingProxyType(
    {family.name: family for module in _MODULES for family in module.FAMILIES}
)
"""Every levelled family by name."""

__all__ = ["LEVELLED"]
