"""Generated reasoning problems: families, suites, levels, and splits that cannot overlap.

An item's split follows from its content hash, so no seed, count, level or order of generation can ever put the same problem
into both training and test.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from random import Random
from types import MappingProxyType

from moe_bench.errors import BenchError
from moe_bench.item import Item
from moe_bench.tasks import arithmetic, logic, quantities
from moe_bench.tasks.family import Family, LevelledFamily, Problem
from moe_bench.tasks.levelled import LEVELLED

FAMILIES: Mapping[str, Family] = MappingProxyType(
    {family.name: family for module in (arithmetic, quantities, logic) for family in module.FAMILIES}
)
"""Every family without levels, by name. Those with levels stand in `LEVELLED`."""

NEW_TO_EMBEDDED = ("change", "equation_two_step", "sort_descending", "unit_comparison")
"""Families that moe-train's embedded model has never seen: each composes or turns around skills it has."""

LADDER = (
    "nested_expression", "ledger_story", "linear_equation", "relative_amounts", "largest_fraction", "three_valued_rules", "hat_grid",
    "object_swaps", "grid_walk", "rank_from_clues", "speed_distance", "set_expression", "cheapest_route",
)  # fmt: skip
"""Families of every operation whose first level is easy to a small model and whose last is not to a larger one."""


def _by_operation() -> dict[str, tuple[str, ...]]:
    operations = dict.fromkeys(family.operation for family in LEVELLED.values())
    return {o: tuple(name for name, family in LEVELLED.items() if family.operation == o) for o in operations}


SUITES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "composition": NEW_TO_EMBEDDED,
        "foundation": tuple(name for name in FAMILIES if name not in NEW_TO_EMBEDDED),
        "all": tuple(FAMILIES),
        **_by_operation(),
        "reasoning": tuple(LEVELLED),
        "ladder": LADDER,
    }
)
"""Named lists of families. "all" is those without levels, "reasoning" all those with levels, which also have a suite for each
operation; "ladder" is some of every operation, to see at which level a model is."""

SPLITS = ("train", "validation", "test")
_ATTEMPTS_PER_ITEM = 400


def split_of(item_id: str) -> str:
    """The split an item belongs to: a tenth each to test and validation, by the hash in its id."""
    bucket = int(item_id[:8], 16) % 10
    return {0: "test", 1: "validation"}.get(bucket, "train")


def make_items(
    families: Iterable[str], *, count_per_family: int, seed: int, split: str = "train", level: int | None = None
) -> list[Item]:
    """Distinct items of one split, `count_per_family` of each family, in the families' order.

    Args:
        families: names from `FAMILIES` and `LEVELLED`.
        count_per_family: how many distinct items of each.
        seed: the same seed, families, level and count give the same items.
        split: "train", "validation" or "test".
        level: only items of this level, from 1; None spreads a levelled family's items evenly over its levels, in turn.

    Raises:
        BenchError: an unknown family or split, a level that a family does not have, or a family that cannot yield so many
            distinct items.
    """
    if split not in SPLITS:
        raise BenchError(f"split: {split!r} is not one of {', '.join(SPLITS)}")
    items: list[Item] = []
    for name in families:
        if name in LEVELLED:
            items += _levelled(LEVELLED[name], count=count_per_family, seed=seed, split=split, level=level)
            continue
        if name not in FAMILIES:
            raise BenchError(f"task family: {name!r} is unknown; known are {', '.join((*FAMILIES, *LEVELLED))}")
        if level is not None:
            raise BenchError(f"task family {name!r}: has no levels; leave the level out, or ask for a levelled family")
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


def _levelled(family: LevelledFamily, *, count: int, seed: int, split: str, level: int | None) -> list[Item]:
    """Items of one level, or of all of them in turn: an item of level 1, one of level 2, and so on."""
    levels = range(1, len(family.levels) + 1) if level is None else [level]
    if level is not None and not 1 <= level <= len(family.levels):
        raise BenchError(f"task family {family.name!r}: has levels 1 to {len(family.levels)}, not {level}")
    share, more = divmod(count, len(levels))
    found: dict[str, Item] = {}
    columns = []
    for place, each in enumerate(levels):
        wanted = share + (place < more)
        rng = Random(f"{seed}/{family.name}/{split}/{each}")
        column = list[Item]()
        for _ in range(wanted * _ATTEMPTS_PER_ITEM):
            if len(column) == wanted:
                break
            item = levelled_item(family, family.generate(rng, each), each)
            if split_of(item.id) == split and item.id not in found:
                found[item.id] = item
                column.append(item)
        if len(column) < wanted:
            raise BenchError(
                f"task family {family.name!r}, level {each}: only {len(column)} distinct {split} items were found, {wanted} asked; "
                "ask for fewer"
            )
        columns.append(column)
    return [column[row] for row in range(share + 1) for column in columns if row < len(column)]


def levelled_item(family: LevelledFamily, problem: Problem, level: int) -> Item:
    """The item of a problem, with its level, kind of answer, number of steps and of distractors, and choices as metadata."""
    metadata = {
        "level": level,
        "answer_kind": family.answer_kind,
        "steps": problem.solution.count("\n") + 1,
        "distractors": problem.distractors,
    }
    return Item(
        prompt=problem.prompt,
        target=problem.answer,
        task=family.name,
        operation=family.operation,
        solution=problem.solution,
        metadata=metadata | ({"choices": list(problem.choices)} if problem.choices else {}),
    )


__all__ = [
    "FAMILIES", "LADDER", "LEVELLED", "NEW_TO_EMBEDDED", "SPLITS", "SUITES", "Family", "LevelledFamily", "Problem", "levelled_item",
    "make_items", "split_of",
]  # fmt: skip
