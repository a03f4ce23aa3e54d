"""Logic and BIG-Bench Hard."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from moe_bench.datasets.rows import read
from moe_bench.errors import BenchError
from moe_bench.item import Item

_OPTION = re.compile(r"^\(?[A-Z]\)\s*")
_OF_TRUTH = {"A": "True", "B": "False", "C": "Unknown"}


def options(path: Path, *, task: str, operation: str) -> Iterator[Item]:
    """JSON of Logic-LM (Pan et al. 2023): `context`, `question`, `options`, `answer` as a letter."""
    for row in read(path):
        letter = row.text("answer").strip()
        listed = row.texts("options")
        if not re.fullmatch(r"[A-Z]", letter) or ord(letter) - 65 >= len(listed):
            raise BenchError(f"{row.where}: answer {letter!r} is none of its {len(listed)} options")
        plain = [_OPTION.sub("", option) for option in listed]
        shown = "\n".join(f"({chr(65 + n)}) {option}" for n, option in enumerate(plain))
        explanation = row.values.get("explanation")
        yield Item(
            prompt=f"{row.text('context')}\n\n{row.text('question')}\n{shown}", target=f"({letter})", task=task, operation=operation,
            solution="\n".join(explanation) if isinstance(explanation, list) else "",
            metadata={"answer_kind": "choice", "choices": plain, "set": task, "index": row.number, "unique_id": row.text("id")},
        )  # fmt: skip


def folio(path: Path) -> Iterator[Item]:
    """JSONL of FOLIO (Han et al. 2022): `premises`, `conclusion`, `label` True, False or Uncertain."""
    for row in read(path):
        label = row.text("label")
        if label not in ("True", "False", "Uncertain", "Unknown"):
            raise BenchError(f"{row.where}: label {label!r} is none of True, False, Uncertain")
        premises = row.values.get("premises")
        given = "\n".join(premises) if isinstance(premises, list) else row.text("premises")
        prompt = f"{given}\n\nDoes it follow that: {row.text('conclusion')} Answer True, False or Uncertain."
        yield Item(
            prompt=prompt, target="Uncertain" if label == "Unknown" else label, task="folio", operation="deduce",
            metadata={"answer_kind": "choice", "choices": ["True", "False", "Uncertain"], "set": "folio", "index": row.number},
        )  # fmt: skip


def bbh(path: Path) -> Iterator[Item]:
    """One task of BIG-Bench Hard (Suzgun et al. 2022), a JSON object with `examples`; or a folder of them, all of its tasks."""
    for file in sorted(path.glob("*.json")) if path.is_dir() else [path]:
        for row in read(file, under="examples"):
            yield Item(
                prompt=row.text("input"), target=row.text("target"), task=file.stem, operation=_BBH.get(file.stem, ""),
                metadata={"set": "bbh", "index": row.number},
            )  # fmt: skip


_BBH = {
    "boolean_expressions": "calculate", "multistep_arithmetic_two": "calculate", "object_counting": "calculate", "navigate": "tracking",
    "tracking_shuffled_objects_three_objects": "tracking", "tracking_shuffled_objects_five_objects": "tracking",
    "tracking_shuffled_objects_seven_objects": "tracking", "word_sorting": "ordering", "dyck_languages": "transform",
    "logical_deduction_three_objects": "ordering", "logical_deduction_five_objects": "ordering",
    "logical_deduction_seven_objects": "ordering", "formal_fallacies": "deduce", "web_of_lies": "deduce", "temporal_sequences": "cases",
    "date_understanding": "calculate", "reasoning_about_colored_objects": "compare", "penguins_in_a_table": "compare",
}  # fmt: skip
