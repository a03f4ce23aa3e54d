"""Running a model over items, resumably."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moe_bench.errors import BenchError
from moe_bench.header import make_header, text_hash
from moe_bench.item import Item
from moe_bench.log import Key, append_samples, collect_parts, key_of, locked, open_run, part_of, read_samples
from moe_bench.models.base import Answer, Answering, Request
from moe_bench.observed import join, keep
from moe_bench.observers import NOBODY, Plugins, Watch
from moe_bench.prompting import Prompting
from moe_bench.ranks import Ranks
from moe_bench.scoring import score


@dataclass(frozen=True, kw_only=True)
class RunSummary:
    """What a run came to."""

    folder: Path
    items: int
    answers: int
    """Items times answers to each."""
    correct: int
    """Of the answers."""
    seconds: float
    """Of this session; a resumed run's earlier ones are not in it."""
    answered_before: int
    """Answers that an earlier session had."""

    @property
    def accuracy(self) -> float:
        """Share of right answers."""
        return self.correct / self.answers


def run_items(
    model: Answering,
    items: Sequence[Item],
    out: Path,
    *,
    suite: str,
    model_name: str,
    progress: Callable[[int, int], None] | None = None,
    prompting: Prompting | None = None,
    watch: Watch = NOBODY,
    plugins: Plugins | None = None,
    ranks: Ranks | None = None,
) -> RunSummary:
    """Answer and score every item that the run in `out` has not answered yet.

    Args:
        model: answers the prompts.
        items: distinct by content.
        out: the run's folder: run.json and samples.jsonl.
        suite: name of the set of items, for the header.
        model_name: name of the model, for the header.
        progress: called with (answers of this process that are done, those in all) after every batch.
        prompting: worked examples, system message, answers to each item; by default the bare prompt and one answer.
        watch: observers, started already where they are to see the loading; what they find is written to `observed/`.
        plugins: those that are installed, for the header.
        ranks: which of several processes this is; they all call this with the same items.

    Raises:
        BenchError: for no items, one that stands twice, several greedy answers to one item, a folder with another run in it or
            at which another command is at work, and what the model and the observers refuse.
    """
    prompting, ranks = prompting or Prompting(), ranks or Ranks()
    ids = {item.id for item in items}
    if not items or len(ids) != len(items):
        raise BenchError(f"items: {len(items)} given, {len(ids)} distinct; a run needs at least one and none twice")
    settings = model.settings
    if prompting.samples < 1 or (prompting.samples > 1 and settings.get("decoding") == "greedy"):
        raise BenchError(
            f"samples: {prompting.samples} greedy answers to one item would all be the same; set a temperature, or ask for 1"
        )
    requests = prompting.requests(items)
    header = make_header(
        suite=suite,
        model=model_name,
        items=items,
        settings=settings | prompting.settings,
        observers={name: (plugins.sources[name] if plugins else "") for name in watch.observers},
        broken=plugins.broken if plugins else None,
        processes=ranks.world,
    )
    work = _Work(model, {item.id: item for item in items}, requests, out, watch, ranks, progress)
    if not ranks.first:
        return work.do(header)
    with locked(out):
        return work.do(header)


@dataclass(frozen=True)
class _Work:
    """One process's share of a run."""

    model: Answering
    items: dict[str, Item]
    requests: list[Request]
    out: Path
    watch: Watch
    ranks: Ranks
    progress: Callable[[int, int], None] | None

    def do(self, header: dict[str, Any]) -> RunSummary:
        started = time.perf_counter()
        order = {Key(r.item, r.sample): n for n, r in enumerate(self.requests)}
        if self.ranks.first:
            open_run(self.out, header)
            collect_parts(self.out, order)
        self.ranks.wait()
        # The shares do not depend on what is done: nobody writes to samples.jsonl now, but others may to their parts.
        done = {key_of(sample) for sample in read_samples(self.out)}
        self._answer(done)
        self.ranks.wait()
        if self.ranks.first:
            collect_parts(self.out, order)
            if self.watch:
                join(self.out, self.watch, answers=len(read_samples(self.out)))
        self.ranks.wait()
        samples = read_samples(self.out)
        return RunSummary(
            folder=self.out,
            items=len({s["id"] for s in samples}),
            answers=len(samples),
            correct=sum(s["correct"] for s in samples),
            seconds=time.perf_counter() - started,
            answered_before=len(done),
        )

    def _answer(self, done: set[Key]) -> None:
        mine = [self.requests[n] for n in self.ranks.share(len(self.requests))]
        left = [r for r in mine if Key(r.item, r.sample) not in done]
        finished = len(mine) - len(left)
        if self.progress is not None:
            self.progress(finished, len(mine))
        if not left:
            return
        part = part_of(self.ranks.rank, self.ranks.world) if self.ranks.world > 1 else ""
        last = time.perf_counter()
        self.watch.attach(getattr(self.model, "model", None))
        try:
            for batch in self.model.answer(left, self.watch):
                now = time.perf_counter()
                lines = [self._line(left[a.position], a, (now - last) / len(batch)) for a in batch]
                append_samples(self.out, lines, part=part)
                last = now
                finished += len(batch)
                if self.progress is not None:
                    self.progress(finished, len(mine))
        finally:
            self.watch.stop()
        if self.watch:
            keep(self.out, self.watch, answers=len(left), rank=self.ranks.rank)

    def _line(self, request: Request, answer: Answer, seconds: float) -> dict[str, Any]:
        item = self.items[request.item]
        values = {
            "id": item.id,
            "sample": request.sample,
            "prompt_hash": request.hash,
            "target_hash": text_hash(item.target),
            "task": item.task,
            "operation": item.operation,
            "prompt": item.prompt,
            "target": item.target,
            "output": answer.text,
            **score(item, answer.text),
            "tokens": answer.tokens,
            "ended": answer.ended,
            "finish": getattr(answer, "finish", ""),
            "seconds": round(seconds, 4),
        }
        if item.solution:
            values["reference"] = item.solution
        if item.metadata:
            values["metadata"] = dict(item.metadata)
        return values
