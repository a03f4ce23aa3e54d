"""What the terminal says of a run."""

from __future__ import annotations

import random

import pytest
from rich.console import Console

from moe_bench.report import _interval, render_run, render_sample
from moe_bench.stats import wilson_interval


def rows(shares: list[list[bool]]) -> list[dict[str, object]]:
    return [
        {"id": f"i{n}", "sample": k, "correct": right, "task": "t", "tokens": None, "ended": True}
        for n, answers in enumerate(shares)
        for k, right in enumerate(answers)
    ]


def test_one_answer_each_is_wilson() -> None:
    found = _interval(rows([[n < 7] for n in range(20)]))
    assert found == pytest.approx(tuple(wilson_interval(7, 20)))


def test_several_answers_to_an_item_count_for_what_they_tell() -> None:
    alike = _interval(rows([[n < 7] * 8 for n in range(20)]))
    # The sample variance over items has n - 1 in it, so that they count for 19 of 20 at least and never for fewer than the items.
    assert alike == pytest.approx(tuple(wilson_interval(7, 20)), abs=1e-9)
    nothing = _interval(rows([[False] * 8 for _ in range(20)]))
    assert nothing == pytest.approx(tuple(wilson_interval(0, 20)))
    draw = random.Random(0)
    unlike = _interval(rows([[draw.random() < 0.5 for _ in range(8)] for _ in range(200)]))
    assert unlike[1] - unlike[0] == pytest.approx(2 * 1.96 * (0.25 / 1600) ** 0.5, rel=0.15)


def test_the_interval_covers() -> None:
    """Items of very different difficulty, four answers to each: the mean of their chances is inside about 95 % of the time."""
    draw, inside, trials = random.Random(3), 0, 400
    for _ in range(trials):
        chances = [draw.betavariate(0.5, 0.5) for _ in range(60)]
        low, high = _interval(rows([[draw.random() < c for _ in range(4)] for c in chances]))
        inside += low <= 0.5 <= high
    assert 0.92 <= inside / trials <= 0.99


def test_a_sample_is_shown_whole() -> None:
    console = Console(record=True, width=100)
    sample = {
        "id": "abc", "sample": 2, "task": "t", "prompt": "P?", "output": "so\n#### 5", "answer": "5", "strategy": "hashes",
        "method": "number", "correct": False, "target": "6", "ended": False, "timed_out": True, "reference": "3+3=6",
        "partial": {"measure": "numeric distance", "credit": 0.5},
    }  # fmt: skip
    render_sample(console, sample)
    text = console.export_text()
    for said in ("t abc answer 2 · wrong", "3+3=6", "found as hashes, compared as number; the comparison took too long",
                 "partial credit 0.50 by numeric distance", "cut off at the token limit"):  # fmt: skip
        assert said in text
    old = {k: sample[k] for k in ("id", "task", "prompt", "output", "strategy", "target")}
    render_sample(console, {**old, "answer": None, "correct": True, "ended": True})  # as runs of schema @1 have it
    assert "none found" in console.export_text()


def test_a_run_of_the_older_schema_is_shown() -> None:
    console = Console(record=True, width=80)
    lines = [{"id": f"{n}", "task": "t", "correct": n > 2, "ended": True, "tokens": 5} for n in range(4)]
    render_run(console, {"model": "m", "suite": "s"}, lines)
    assert "25%" in console.export_text()
