"""Running a model over items, resumably."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from moe_bench.answers import equivalent, extract_answer
from moe_bench.errors import BenchError
from moe_bench.item import Item
from moe_bench.log import append_samples, make_header, open_run, read_samples


class Answering(Protocol):
    """Something that answers prompts: `HFModel`, or anything of this form."""

    @property
    def settings(self) -> dict[str, Any]:
        """What the answers depend on."""
        ...

    def answer(self, prompts: Sequence[str]) -> Iterator[list[Any]]:
        """Batches of answers with index, text, tokens and ended."""
        ...


@dataclass(frozen=True, kw_only=True)
class RunSummary:
    """What a run came to."""

    folder: Path
    items: int
    correct: int
    seconds: float
    """Of this session; a resumed run's earlier ones are not in it."""
    answered_before: int
    """Items an earlier session had answered."""

    @property
    def accuracy(self) -> float:
        """Share of right answers."""
        return self.correct / self.items


def run_items(
    model: Answering,
    items: Sequence[Item],
    out: Path,
    *,
    suite: str,
    model_name: str,
    progress: Callable[[int, int], None] | None = None,
) -> RunSummary:
    """Answer and score every item that the run in `out` has not answered yet.

    Args:
        model: answers the prompts.
        items: distinct by content.
        out: the run's folder: run.json and samples.jsonl.
        suite: name of the set of items, for the header.
        model_name: name of the model, for the header.
        progress: called with (items done, items in all) after every batch.

    Raises:
        BenchError: for no items, one that stands twice, or a folder with another run in it.
    """
    ids = {item.id for item in items}
    if not items or len(ids) != len(items):
        raise BenchError(f"items: {len(items)} given, {len(ids)} distinct; a run needs at least one and none twice")
    header = make_header(suite=suite, model=model_name, items=items, settings=model.settings)
    done = open_run(out, header)
    left = [item for item in items if item.id not in done]
    started = time.perf_counter()
    last = started
    answered = len(done)
    if progress is not None:
        progress(answered, len(items))
    for batch in model.answer([item.prompt for item in left]) if left else ():
        now = time.perf_counter()
        append_samples(out, [_score(left[a.position], a, seconds=(now - last) / len(batch)) for a in batch])
        last = now
        answered += len(batch)
        if progress is not None:
            progress(answered, len(items))
    samples = read_samples(out)
    return RunSummary(
        folder=out,
        items=len(samples),
        correct=sum(s["correct"] for s in samples),
        seconds=time.perf_counter() - started,
        answered_before=len(done),
    )


def _score(item: Item, answer: Any, *, seconds: float) -> dict[str, Any]:
    extraction = extract_answer(answer.text)
    return {
        "id": item.id,
        "task": item.task,
        "operation": item.operation,
        "prompt": item.prompt,
        "target": item.target,
        "output": answer.text,
        "answer": extraction.answer,
        "strategy": extraction.strategy,
        "correct": extraction.answer is not None and equivalent(extraction.answer, item.target),
        "tokens": answer.tokens,
        "ended": answer.ended,
        "seconds": round(seconds, 4),
    }
