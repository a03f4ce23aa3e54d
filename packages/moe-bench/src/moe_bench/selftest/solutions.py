"""Solutions with people's labels, by any checkers: GSM8K's own, which are right, and ProcessBench's, whose first wrong step is marked."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from moe_bench.checkers.base import Checker, Status, assess
from moe_bench.selftest.row import Row

_PROCESSBENCH = "ProcessBench (arXiv:2412.06559), table 3: process reward models, without a reference"
_SHOWN = 40


def gsm8k_gold(
    folder: Path,
    checkers: Sequence[Checker],
    name: str,
    *,
    equations: float | None = None,
    solutions: float | None = None,
) -> Iterator[Row]:
    """False alarms on the worked solutions that GSM8K comes with (a few of them do miscalculate)."""
    paths = [folder / name for name in ("train.jsonl", "test.jsonl") if (folder / name).is_file()]
    claims = alarms = read = hit = 0
    listed: list[str] = []
    for path in paths:
        for number, row in enumerate(read_lines(path)):
            steps = [line for line in row["answer"].split("\n") if line.strip()]
            findings = [f for step in assess(row["question"], steps, checkers).steps for f in step.findings]
            wrong = [f for f in findings if f.status is Status.INVALID]
            claims, alarms, read, hit = claims + len(findings), alarms + len(wrong), read + 1, hit + bool(wrong)
            listed += [f"{path.stem} {number}, line {f.step}: {f.reason}" for f in wrong]
    if read:
        shared: dict[str, Any] = {"checker": name, "metric": "false alarms", "at_most": True}
        note = "some of these solutions do miscalculate: the list names each"
        yield Row.share(
            hits=alarms,
            n=claims,
            data="GSM8K gold, equations",
            bar=equations,
            note=note,
            disagreements=tuple(listed[:_SHOWN]),
            **shared,
        )
        yield Row.share(hits=hit, n=read, data="GSM8K gold, solutions", bar=solutions, **shared)


def processbench(
    data: Path,
    checkers: Sequence[Checker],
    name: str,
    *,
    bars: Mapping[str, float] | None = None,
    precision: Mapping[str, float] | None = None,
    note: str = "",
) -> Iterator[Row]:
    """Without a reference: what checkers alone can say of solutions whose first wrong step people marked."""
    for subset in ("gsm8k", "math"):
        path = data / "processbench" / f"{subset}.jsonl"
        if not path.is_file():
            continue
        labels, found = [], []
        for row in read_lines(path):
            first = assess(row["problem"], row["steps"], checkers).first_invalid
            labels.append(row["label"])
            found.append(-1 if first is None else first)
        rows = located(
            name, f"ProcessBench {subset}, no reference", labels, found, bar=(bars or {}).get(subset), note=note
        )
        yield from rows
        flagged = [(a, b) for a, b in zip(labels, found, strict=True) if b >= 0]
        if flagged:
            early, late = sum(0 <= b < a for a, b in flagged), sum(b > a >= 0 for a, b in flagged)
            yield Row.share(
                hits=sum(a == b for a, b in flagged), n=len(flagged), checker=name, data=f"ProcessBench {subset}, no reference",
                metric="precision of flagged steps", bar=(precision or {}).get(subset),
                note=f"of the others, {late} come after the first wrong step, {early} before it, the rest in right solutions",
            )  # fmt: skip


def located(
    checker: str, name: str, labels: Sequence[int], found: Sequence[int], *, bar: float | None, accepted: float | None = None,
    published: float | None = None, note: str = "",
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
    yield Row.share(hits=hit, n=len(wrong), metric="wrong steps found", note=note, **shared)
    yield Row.share(hits=kept, n=len(right), metric="right solutions accepted", bar=accepted, **shared)


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The objects of a JSONL file."""
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.strip():
            yield json.loads(line)
