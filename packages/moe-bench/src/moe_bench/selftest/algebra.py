"""Equations with letters: false alarms on right solutions, wrong steps that people marked, and how many steps it can say something on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from moe_bench.checkers.algebra import AlgebraChecker
from moe_bench.checkers.base import Status, assess
from moe_bench.selftest.row import Row
from moe_bench.selftest.solutions import gsm8k_gold, processbench, read_lines


def selftest_algebra(data: Path) -> list[Row]:
    """Rows on GSM8K's own solutions, ProcessBench's and MR-GSM8K's labelled ones, of those that are there."""
    checkers = [AlgebraChecker()]
    rows = [*gsm8k_gold(data / "gsm8k", checkers, "algebra"), *processbench(data, checkers, "algebra")]
    return [*rows, *_marked(data / "mr_gsm8k" / "subset.jsonl")]


def _marked(path: Path) -> Iterator[Row]:
    """Of the steps called wrong in MR-GSM8K's wrong solutions, before or at the first that people marked: those that they marked."""
    if not path.is_file():
        return
    hits = flagged = 0
    listed = []
    for number, row in enumerate(read_lines(path)):
        label = int(row["model_output_solution_first_error_step"]) - 1
        steps = assess(row["question"], row["model_output_steps"][: label + 1], [AlgebraChecker()]).steps
        for place, step in enumerate(steps):
            if step.status is Status.INVALID:
                flagged, hits = flagged + 1, hits + (place == label)
                if place != label:
                    listed.append(f"{number}, step {place + 1}: {step.reason}")
    if flagged:
        yield Row.share(
            hits=hits, n=flagged, checker="algebra", data="MR-GSM8K wrong solutions, no reference", metric="precision of flagged steps",
            disagreements=tuple(listed),
        )  # fmt: skip
