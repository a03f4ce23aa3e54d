"""Word problems and mathematics."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

from moe_bench.datasets.rows import read
from moe_bench.errors import BenchError
from moe_bench.item import Item


def gsm8k(path: Path) -> Iterator[Item]:
    """JSONL with `question` and `answer`, the number behind `####` (Cobbe et al. 2021)."""
    for row in read(path):
        solution, mark, answer = row.text("answer").rpartition("####")
        if not mark or not answer.strip():
            raise BenchError(f"{row.where}: its answer has no number behind ####")
        yield _item(
            row.text("question"),
            answer.strip().replace(",", ""),
            "gsm8k",
            "number",
            solution=solution.strip(),
            index=row.number,
        )


def math(path: Path) -> Iterator[Item]:
    """JSONL of MATH and MATH-500: `problem`, `solution`, `answer`, `subject`, `level` (Hendrycks et al. 2021; Lightman et al. 2023)."""
    for row in read(path):
        more = {key: row.values[key] for key in ("subject", "level", "unique_id") if key in row.values}
        solution = str(row.values.get("solution", ""))
        yield _item(
            row.text("problem"), row.text("answer"), "math", "expression", solution=solution, index=row.number, **more
        )


def svamp(path: Path) -> Iterator[Item]:
    """JSONL or JSON with `Body`, `Question`, `Answer`, `Type` (Patel et al. 2021)."""
    for row in read(path):
        body = row.text("Body").strip()
        prompt = f"{body if body.endswith(('.', '?', '!')) else body + '.'} {row.text('Question').strip()}"
        try:
            value = Fraction(row.text("Answer"))
        except ValueError:
            raise BenchError(f"{row.where}: its Answer is no number: {row.text('Answer')!r}") from None
        target = str(value.numerator) if value.denominator == 1 else row.text("Answer")
        yield _item(
            prompt,
            target,
            "svamp",
            "number",
            index=row.number,
            type=str(row.values.get("Type", "")),
            unique_id=row.text("ID"),
        )


def processbench(path: Path) -> Iterator[Item]:
    """JSONL with `problem`, `steps`, `label` (Zheng et al. 2024), as items that ask for the first wrong step, -1 for none.

    The set holds solutions and no right answers: what is asked is where a given solution goes wrong.
    """
    for row in read(path):
        label = row.values.get("label")
        if not isinstance(label, int):
            raise BenchError(f"{row.where}: its label is no whole number")
        steps = row.texts("steps")
        listed = "\n".join(f"[{number}] {step}" for number, step in enumerate(steps))
        prompt = (
            f"{row.text('problem')}\n\nA solution, step by step:\n{listed}\n\n"
            "Which is the first step that is wrong? Answer with its number, or -1 where every step is right."
        )
        yield _item(
            prompt, str(label), "processbench", "number", index=row.number, steps=len(steps), unique_id=row.text("id")
        )


def mr_gsm8k(path: Path) -> Iterator[Item]:
    """JSONL of MR-GSM8K: `question` and `ground_truth_answer` (Zeng et al. 2023); the judged solution's label is kept."""
    for row in read(path):
        step = row.values.get("model_output_solution_first_error_step")
        yield _item(
            row.text("question"), row.text("ground_truth_answer"), "mr_gsm8k", "number", index=row.number,
            solution=str(row.values.get("ground_truth_solution", "")), first_error_step=step, type=str(row.values.get("question_type", "")),
        )  # fmt: skip


def _item(prompt: str, target: str, task: str, kind: str, *, solution: str = "", **metadata: Any) -> Item:
    return Item(
        prompt=prompt.strip(), target=target.strip(), task=task, operation="calculate" if kind == "number" else "", solution=solution,
        metadata={"answer_kind": kind, "set": task, **metadata},
    )  # fmt: skip
