"""Calculations: false alarms on right solutions, errors found where people found them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from moe_bench.answers import extract_answer
from moe_bench.checkers.arithmetic import ArithmeticChecker
from moe_bench.checkers.base import Status, assess
from moe_bench.checkers.reference import locate
from moe_bench.selftest.row import Row

_PROCESSBENCH = "ProcessBench (arXiv:2412.06559), table 3: process reward models, without a reference"
_SHOWN = 40


def selftest_arithmetic(data: Path) -> list[Row]:
    """Rows on GSM8K's own solutions, BIG-Bench-Mistake's calculations and ProcessBench's labelled steps, of those that are there."""
    rows = [*gsm8k_gold(data / "gsm8k"), *multistep(data / "big_bench_mistake"), *processbench(data)]
    return [*rows, *aided(data), *mr_gsm8k(data / "mr_gsm8k")]


def gsm8k_gold(folder: Path) -> Iterator[Row]:
    """False alarms on the worked solutions that GSM8K comes with (a few of them do miscalculate)."""
    paths = [folder / name for name in ("train.jsonl", "test.jsonl") if (folder / name).is_file()]
    equations = alarms = solutions = hit = 0
    listed: list[str] = []
    for path in paths:
        for number, row in enumerate(_lines(path)):
            steps = [line for line in row["answer"].split("\n") if line.strip()]
            findings = [f for step in assess(row["question"], steps, _checkers()).steps for f in step.findings]
            wrong = [f for f in findings if f.status is Status.INVALID]
            equations, alarms, solutions, hit = (
                equations + len(findings),
                alarms + len(wrong),
                solutions + 1,
                hit + bool(wrong),
            )
            listed += [f"{path.stem} {number}, line {f.step}: {f.reason}" for f in wrong]
    if solutions:
        shared: dict[str, Any] = {"checker": "arithmetic", "metric": "false alarms", "at_most": True}
        note = "some of these solutions do miscalculate: the list names each"
        yield Row.share(
            hits=alarms,
            n=equations,
            data="GSM8K gold, equations",
            bar=0.001,
            note=note,
            disagreements=tuple(listed[:_SHOWN]),
            **shared,
        )
        yield Row.share(hits=hit, n=solutions, data="GSM8K gold, solutions", bar=0.005, **shared)


def multistep(folder: Path) -> Iterator[Row]:
    """The first mistake in a written calculation, or none, exactly as people marked it (Tyen et al. 2023)."""
    path = folder / "multistep_arithmetic.jsonl"
    if not path.is_file():
        return
    rows, missed = list(_lines(path)), list[str]()
    for number, row in enumerate(rows):
        found = assess(row["input"], row["steps"], _checkers()).first_invalid
        if found != row["mistake_index"]:
            missed.append(f"item {number}: found {found}, label {row['mistake_index']}")
    yield Row.share(
        hits=len(rows) - len(missed), n=len(rows), checker="arithmetic", data="BIG-Bench-Mistake multistep arithmetic",
        metric="first mistake, exact", bar=0.95, disagreements=tuple(missed),
    )  # fmt: skip


def processbench(data: Path) -> Iterator[Row]:
    """Without a reference: what calculation alone can say of solutions whose first wrong step people marked."""
    for subset, bar in (("gsm8k", 0.25), ("math", None)):
        path = data / "processbench" / f"{subset}.jsonl"
        if not path.is_file():
            continue
        labels, found = [], []
        for row in _lines(path):
            first = assess(row["problem"], row["steps"], _checkers()).first_invalid
            labels.append(row["label"])
            found.append(-1 if first is None else first)
        name = f"ProcessBench {subset}, no reference"
        yield from _located("arithmetic", name, labels, found, bar=bar, precision=0.9 if subset == "gsm8k" else None)


def aided(data: Path) -> Iterator[Row]:
    """With GSM8K's answer and worked solution at hand."""
    path, gold = data / "processbench" / "gsm8k.jsonl", data / "gsm8k" / "test.jsonl"
    if not path.is_file() or not gold.is_file():
        return
    known = {" ".join(row["question"].split()): row["answer"] for row in _lines(gold)}
    labels, found = [], []
    for row in _lines(path):
        solution = known.get(" ".join(row["problem"].split()))
        if solution is not None:
            answer = extract_answer(solution, "number").answer or ""
            first = locate(row["problem"], row["steps"], answer=answer, solution=solution, kind="number").first_error
            labels.append(row["label"])
            found.append(-1 if first is None else first)
    if labels:
        name = "ProcessBench gsm8k, with the worked solution"
        yield from _located("reference", name, labels, found, bar=0.7, accepted=0.98, published=0.479)


def mr_gsm8k(folder: Path) -> Iterator[Row]:
    """The first wrong step of solutions to GSM8K's own problems, by people's marks, with the worked solution at hand."""
    path = folder / "subset.jsonl"
    if not path.is_file():
        return
    rows = [row for row in _lines(path) if row["question_type"] == "original"]
    hits = 0
    for row in rows:
        steps, solution = row["model_output_steps"], row["ground_truth_solution"]
        answer = str(row["ground_truth_answer"])
        first = locate(row["question"], steps, answer=answer, solution=solution, kind="number").first_error
        label = int(row["model_output_solution_first_error_step"]) - 1
        hits += first == (None if label < 0 else label)
    yield Row.share(
        hits=hits, n=len(rows), checker="reference", data="MR-GSM8K wrong solutions, with the worked solution", metric="wrong steps found",
    )  # fmt: skip


def _located(
    checker: str, name: str, labels: Sequence[int], found: Sequence[int], *, bar: float | None, precision: float | None = None,
    accepted: float | None = None, published: float | None = None,
) -> Iterator[Row]:  # fmt: skip
    """ProcessBench's F1, the harmonic mean of the accuracies on wrong and on right solutions, and what it is made of."""
    pairs = list(zip(labels, found, strict=True))
    wrong, right = [p for p in pairs if p[0] >= 0], [p for p in pairs if p[0] < 0]
    hit, kept = sum(a == b for a, b in wrong), sum(b < 0 for _, b in right)
    of_wrong, of_right = hit / len(wrong), kept / len(right)
    f1 = 2 * of_wrong * of_right / (of_wrong + of_right) if of_wrong + of_right else 0.0
    shared: dict[str, Any] = {"checker": checker, "data": name}
    yield Row(
        metric="F1", value=f1, n=len(pairs), bar=bar, published=published, source="" if published is None else _PROCESSBENCH,
        note="" if published is None else "PRMs that see no reference reach 47.9 to 87.3", **shared,
    )  # fmt: skip
    note = (
        "most wrong steps of such solutions calculate rightly what should not be calculated"
        if checker == "arithmetic"
        else ""
    )
    yield Row.share(hits=hit, n=len(wrong), metric="wrong steps found", note=note, **shared)
    yield Row.share(hits=kept, n=len(right), metric="right solutions accepted", bar=accepted, **shared)
    flagged = [p for p in pairs if p[1] >= 0]
    if precision is not None and flagged:
        yield Row.share(
            hits=sum(a == b for a, b in flagged),
            n=len(flagged),
            metric="precision of flagged steps",
            bar=precision,
            **shared,
        )


def _checkers() -> list[ArithmeticChecker]:
    return [ArithmeticChecker()]


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.strip():
            yield json.loads(line)
