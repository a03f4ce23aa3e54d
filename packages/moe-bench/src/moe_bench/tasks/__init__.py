"""Generated reasoning problems: families, suites, and splits that cannot overlap.

An item's split follows from its content hash, so no seed, count or order of generation can ever put the same problem
into both training and test.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from random import Random
from types import MappingProxyType

from moe_bench.errors import BenchError
from moe_bench.item import Item
from moe_bench.tasks import arithmetic, logic, quantities
from moe_bench.tasks.family import Family, Problem

FAMILIES: Mapping[str, Family] = MappingProxyType(
    {family.name: family for module in (arithmetic, quantities, logic) for family in module.FAMILIES}
)
"""Every family by name."""

NEW_TO_EMBEDDED = ("change", "equation_two_step", "sort_descending", "unit_comparison")
"""Families that moe-train's embedded model has never seen: each composes or turns around skills it has."""

SUITES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "composition": NEW_TO_EMBEDDED,
        "foundation": tuple(name for name in FAMILIES if name not in NEW_TO_EMBEDDED),
        "all": tuple(FAMILIES),
    }
)
"""Named lists of families."""

SPLITS = ("train", "validation", "test")
_ATTEMPTS_PER_ITEM = 400


def split_of(item_id: str) -> str:
    """The split an item belongs to: a tenth each to test and validation, by the hash in its id."""
    bucket = int(item_id[:8], 16) % 10
    return {0: "test", 1: "validation"}.get(bucket, "train")


def make_items(families: Iterable[str], *, count_per_family: int, seed: int, split: str = "train") -> list[Item]:
    """Distinct items of one split, `count_per_family` of each family, in the families' order.

    Args:
        families: names from `FAMILIES`.
        count_per_family: how many distinct items of each.
        seed: the same seed, families and count give the same items.
        split: "train", "validation" or "test".

    Raises:
        BenchError: an unknown family or split, or a family that cannot yield so many distinct items.
    """
    if split not in SPLITS:
        raise BenchError(f"split: {split!r} is not one of {', '.join(SPLITS)}")
    items: list[Item] = []
    for name in families:
        if name not in FAMILIES:
            raise BenchError(f"task family: {name!r} is unknown; known are {', '.join(FAMILIES)}")
        items += _distinct(FAMILIES[name], count=count_per_family, rng=Random(f"{seed}/{name}/{split}"), split=split)
    return items


def _distinct(family: Family, *, count: int, rng: Random, split: str) -> list[Item]:
    found: dict[str, Item] = {}
    for _ in range(count * _ATTEMPTS_PER_ITEM):
        if len(found) == count:
            break
        problem = family.generate(rng)
        item = Item(
            prompt=problem.prompt,
            target=problem.answer,
            task=family.name,
            operation=family.operation,
            solution=problem.solution,
        )
        if split_of(item.id) == split:
            found.setdefault(item.id, item)
    if len(found) < count:
        raise BenchError(
            f"task family {family.name!r}: only {len(found)} distinct {split} items were found, {count} asked; ask for fewer"
        )
    return list(found.values())


__all__ = ["FAMILIES", "NEW_TO_EMBEDDED", "SPLITS", "SUITES", "Family", "Problem", "make_items", "split_of"]
