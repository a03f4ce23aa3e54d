"""A hundred kills at random moments: no answer is lost, doubled or torn, in one process and in parts of two."""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from moe_bench import Item, run_items
from moe_bench.log import append_samples, collect_parts, key_of, open_run, part_of, read_samples
from moe_bench.models import Sampling
from moe_bench.prompting import Prompting
from moe_bench.ranks import Ranks
from scripted import Answer

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs fork and SIGKILL")

ITEMS = [Item(prompt=f"What is {n} + 1?", target=str(n + 1), task="t") for n in range(120)]
PROMPTING = Prompting(samples=2)
# Long enough that a kill falls into the middle of a write now and then.
LONG = "x" * 40_000


class Slow:
    """Answers one at a time, with long texts."""

    settings = {"decoding": "sampled", **{k: v for k, v in Sampling().settings.items() if k != "decoding"}}  # noqa: RUF012

    def answer(self, requests, watch=None):
        for i, request in enumerate(requests):
            time.sleep(0.0005)
            number = int(request.prompt.split()[2])
            yield [Answer(i, f"{LONG}\n#### {number + 1 if request.sample else 0}", 5, True)]


def killed_after(seconds: float, work) -> bool:
    """Whether the work was killed, and did not end before."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            work()
            status = 0
        finally:
            os._exit(status)
    time.sleep(seconds)
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
    return os.WIFSIGNALED(status)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_hundred_kills(tmp_path: Path) -> None:
    """Runs are begun anew when they are complete, until there were a hundred kills."""
    draw, kills, runs, resumed = random.Random(5), 0, 0, 0
    while kills < 100:
        runs += 1
        out = tmp_path / f"run{runs}"

        def work(out: Path = out) -> None:
            run_items(Slow(), ITEMS, out, suite="s", model_name="m", prompting=PROMPTING)

        while killed_after(draw.uniform(0.0, 0.12), work):
            kills += 1
            path = out / "samples.jsonl"
            resumed += path.exists() and path.stat().st_size > 0
        summary = run_items(Slow(), ITEMS, out, suite="s", model_name="m", prompting=PROMPTING)
        assert (summary.answers, summary.answered_before, summary.correct) == (240, 240, 120)
        keys = Counter(key_of(sample) for sample in read_samples(out))
        assert keys == Counter({(item.id, n): 1 for item in ITEMS for n in range(2)})
        assert all(len(s["output"]) > len(LONG) for s in read_samples(out))
        assert (out / "samples.jsonl").read_bytes().count(b"\n") == 240
    assert resumed >= 30, "most kills must fall into the middle of a run"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_kills_while_parts_are_put_together(tmp_path: Path) -> None:
    """The parts of two processes end up in samples.jsonl once, wherever putting them there was stopped."""
    run_items(Slow(), ITEMS[:40], tmp_path / "whole", suite="s", model_name="m")
    lines = read_samples(tmp_path / "whole")
    order = {key_of(line): n for n, line in enumerate(lines)}
    draw, kills = random.Random(1), 0
    for attempt in range(60):
        out = tmp_path / f"run{attempt}"
        out.mkdir()
        append_samples(out, lines[:5])
        for rank in range(2):
            append_samples(
                out, [lines[n] for n in reversed(Ranks(rank=rank, world=2).share(40))], part=part_of(rank, 2)
            )

        def work(out: Path = out) -> None:
            collect_parts(out, order)

        kills += killed_after(draw.uniform(0.0, 0.02), work)
        (out / "run.json").write_bytes((tmp_path / "whole" / "run.json").read_bytes())
        open_run(out, json.loads((out / "run.json").read_text()))  # drops a line that is torn
        collect_parts(out, order)
        assert read_samples(out) == lines
        assert not (out / "parts").exists()
    assert kills >= 10
