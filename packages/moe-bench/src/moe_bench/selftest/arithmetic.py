"""Calculations: false alarms on right solutions, errors found where people found them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from moe_bench.answers import extract_answer
from moe_bench.checkers.arithmetic import ArithmeticChecker
from moe_bench.checkers.base import assess
from moe_bench.checkers.reference import locate
from moe_bench.selftest.row import Row
from moe_bench.selftest.solutions import gsm8k_gold, located, processbench, read_lines

_NOTE = "most wrong steps of such solutions calculate rightly what should not be calculated"


def selftest_arithmetic(data: Path) -> list[Row]:
    """Rows on GSM8K's own solutions, BIG-Bench-Mistake's calculations and ProcessBench's labelled steps, of those that are there."""
    rows = [
        *gsm8k_gold(data / "gsm8k", _checkers(), "arithmetic", equations=0.001, solutions=0.005),
        *multistep(data / "big_bench_mistake"),
    ]
    unaided = processbench(data, _checkers(), "arithmetic", bars={"gsm8k": 0.25}, precision={"gsm8k": 0.9}, note=_NOTE)
    return [*rows, *unaided, *aided(data), *mr_gsm8k(data / "mr_gsm8k")]


def multistep(folder: Path) -> Iterator[Row]:
    """The first mistake in a written calculation, or none, exactly as people marked it (Tyen et al. 2023)."""
    path = folder / "multistep_arithmetic.jsonl"
    if not path.is_file():
        return
    rows, missed = list(read_lines(path)), list[str]()
    for number, row in enumerate(rows):
        found = assess(row["input"], row["steps"], _checkers()).first_invalid
        if found != row["mistake_index"]:
            missed.append(f"item {number}: found {found}, label {row['mistake_index']}")
    yield Row.share(
        hits=len(rows) - len(missed), n=len(rows), checker="arithmetic", data="BIG-Bench-Mistake multistep arithmetic",
        metric="first mistake, exact", bar=0.95, disagreements=tuple(missed),
    )  # fmt: skip


def aided(data: Path) -> Iterator[Row]:
    """With GSM8K's answer and worked solution at hand."""
    path, gold = data / "processbench" / "gsm8k.jsonl", data / "gsm8k" / "test.jsonl"
    if not path.is_file() or not gold.is_file():
        return
    known = {" ".join(row["question"].split()): row["answer"] for row in read_lines(gold)}
    labels, found = [], []
    for row in read_lines(path):
        solution = known.get(" ".join(row["problem"].split()))
        if solution is not None:
            answer = extract_answer(solution, "number").answer or ""
            first = locate(row["problem"], row["steps"], answer=answer, solution=solution, kind="number").first_error
            labels.append(row["label"])
            found.append(-1 if first is None else first)
    if labels:
        name = "ProcessBench gsm8k, with the worked solution"
        yield from located("reference", name, labels, found, bar=0.7, accepted=0.98, published=0.479)


def mr_gsm8k(folder: Path) -> Iterator[Row]:
    """The first wrong step of solutions to GSM8K's own problems, by people's marks, without and with the worked solution at hand."""
    path = folder / "subset.jsonl"
    if not path.is_file():
        return
    rows = [row for row in read_lines(path) if row["question_type"] == "original"]
    hits = alone = 0
    for row in rows:
        steps, solution = row["model_output_steps"], row["ground_truth_solution"]
        answer = str(row["ground_truth_answer"])
        first = locate(row["question"], steps, answer=answer, solution=solution, kind="number").first_error
        label = int(row["model_output_solution_first_error_step"]) - 1
        hits += first == (None if label < 0 else label)
        alone += assess(row["question"], steps, _checkers()).first_invalid == label
    yield Row.share(
        hits=alone, n=len(rows), checker="arithmetic", data="MR-GSM8K wrong solutions, no reference", metric="wrong steps found",
    )  # fmt: skip
    yield Row.share(
        hits=hits, n=len(rows), checker="reference", data="MR-GSM8K wrong solutions, with the worked solution", metric="wrong steps found",
    )  # fmt: skip


def _checkers() -> list[ArithmeticChecker]:
    return [ArithmeticChecker()]
