"""From an item to what is asked: worked examples, a system message, the seed of each answer."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

from moe_bench.errors import BenchError
from moe_bench.item import Item
from moe_bench.models.base import Request, Turn


@dataclass(frozen=True, kw_only=True)
class Prompting:
    """How items are put to a model."""

    system: str = ""
    """A system message; empty for none."""
    examples: Mapping[str, tuple[Item, ...]] = field(default_factory=dict)
    """Worked examples by the task of the items they stand before."""
    samples: int = 1
    """Answers to every item."""
    seed: int = 0
    """Of the answers that are drawn. Each has a seed of its own, made of this one, the item and the number of the answer."""

    @property
    def settings(self) -> dict[str, Any]:
        """For the run's header."""
        values: dict[str, Any] = {"samples": self.samples, "seed": self.seed}
        if self.system:
            values["system"] = self.system
        if self.examples:
            values["few_shot"] = {task: [item.id for item in items] for task, items in sorted(self.examples.items())}
        return values

    def requests(self, items: Iterable[Item]) -> list[Request]:
        """One request for every answer to every item, in order.

        Raises:
            BenchError: where an item stands among its own worked examples.
        """
        return [self._request(item, sample) for item in items for sample in range(self.samples)]

    def _request(self, item: Item, sample: int) -> Request:
        examples = self.examples.get(item.task, ())
        if any(_plain(example) == _plain(item) for example in examples):
            raise BenchError(
                f"item {item.id}: stands among its own worked examples; choose them with judged={item.task!r} items left out"
            )
        turns = [Turn("system", self.system)] if self.system else []
        for example in examples:
            turns += [Turn("user", example.prompt), Turn("assistant", worked(example))]
        return Request(
            turns=(*turns, Turn("user", item.prompt)),
            seed=answer_seed(self.seed, item.id, sample),
            group=item.operation or item.task,
            item=item.id,
            sample=sample,
        )


def answer_seed(seed: int, item_id: str, sample: int) -> int:
    """A number of 63 bits that follows from these three alone."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{item_id}/{sample}".encode()).digest()[:8]) >> 1


def worked(item: Item) -> str:
    """An item's solution with its answer marked, as an example to follow."""
    if "####" in item.solution or "\\boxed" in item.solution:
        return item.solution
    return f"{item.solution}\n#### {item.target}".lstrip("\n")


def choose_examples(
    pool: Sequence[Item], *, judged: Sequence[Item], count: int, seed: int
) -> dict[str, tuple[Item, ...]]:
    """Worked examples for every task of the judged items, drawn from the pool's items of that task, or from all of them where it
    has none of it.

    Args:
        pool: what to draw from; items with the prompt of a judged one are left out.
        judged: the items that are going to be asked.
        count: examples for each task; the same stand before all of its items.
        seed: of the draw.

    Raises:
        BenchError: when the pool does not have so many.
    """
    taken = {_plain(item) for item in judged}
    free = [item for item in pool if _plain(item) not in taken]
    chosen = {}
    for task in dict.fromkeys(item.task for item in judged):
        candidates = [item for item in free if item.task == task] or free
        if len(candidates) < count:
            raise BenchError(
                f"few-shot: {count} worked examples are asked for {task}, {len(candidates)} are there that are not judged themselves"
            )
        chosen[task] = tuple(Random(f"{seed}/few-shot/{task}").sample(candidates, count))
    return chosen


def _plain(item: Item) -> str:
    return " ".join(item.prompt.split()).casefold()
