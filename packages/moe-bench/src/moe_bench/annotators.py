"""Which reasoning operation an item exercises, told by another package.

An annotator comes through the entry point group `moe_bench.annotators`: a function of the prompts and the worked solutions of items (empty
where there are none), which returns a name of an operation for each, or an empty text where it cannot tell. Without one, results are
shown by task.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from importlib.metadata import entry_points

from moe_bench.errors import BenchError
from moe_bench.item import Item

GROUP = "moe_bench.annotators"


def annotators() -> list[str]:
    """The names of those that are installed."""
    return sorted({point.name for point in entry_points(group=GROUP)})


def annotated(items: Sequence[Item], name: str) -> list[Item]:
    """The items, each with the operation that an annotator tells; where it tells none, with the one it had.

    Raises:
        BenchError: for one that is not installed, cannot be loaded, or does not answer for every item.
    """
    points = [point for point in entry_points(group=GROUP) if point.name == name]
    if not points:
        raise BenchError(f"annotator {name!r} is not installed; there are {', '.join(annotators()) or 'none'}")
    try:
        found = list(points[0].load()([item.prompt for item in items], [item.solution for item in items]))
    except Exception as error:  # a plug-in may fail in any way
        raise BenchError(f"annotator {name}: {type(error).__name__}: {' '.join(str(error).split())[:200]}") from error
    if len(found) != len(items) or not all(isinstance(operation, str) for operation in found):
        raise BenchError(f"annotator {name}: answered for {len(found)} of {len(items)} items, or not with texts")
    return [replace(item, operation=operation or item.operation) for item, operation in zip(items, found, strict=True)]
