"""The text of hand-labelled real steps, looked up by data set, item and step in the folder that MOE_TEST_DATA names.

The labels are in `tests/data/real_operation_labels.csv`; the text belongs to others and is not kept here.
"""

from __future__ import annotations

import csv
import json
import re
from collections import defaultdict
from pathlib import Path

from moe_router.operations.generate import Example

LABELS = Path(__file__).parents[1] / "tests" / "data" / "real_operation_labels.csv"
_SENTENCE = re.compile(r"(?<=[.!?])\s+(?=[A-Z(])|\n+")


def real_steps(data: Path, *, labelling: int | None = None) -> list[Example]:
    """The labelled steps of one round of labelling, or of all; the item is what must stay together."""
    with LABELS.open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if labelling in (None, int(row["round"]))]
    held = {dataset: _steps(data, dataset) for dataset in {row["dataset"] for row in rows}}
    return [
        Example(
            held[row["dataset"]][row["item"]][int(row["step"])], row["operation"], f"{row['dataset']}/{row['item']}"
        )
        for row in rows
    ]


def _steps(data: Path, dataset: str) -> dict[str, list[str]]:
    """The steps of every item of a data set."""
    folder, _, part = dataset.partition("/")
    found: dict[str, list[str]] = defaultdict(list)
    if folder == "prmbench":
        for record in _lines(data / folder / "prm800k_test_p2_4o_step_contradiction.jsonl"):
            found[str(record["idx"])] = record["original_process"]
    elif folder == "bbh":
        for record in _lines(data / folder / "code_davinci_002_outputs.jsonl"):
            if record["task"] == part and record["mode"] == "cot":
                text = record["prediction"].strip().strip('",').replace("\\n", "\n").replace('\\"', '"')
                found[str(record["i"])] = [step for step in _SENTENCE.split(text) if step.strip()]
    else:
        for number, record in enumerate(_lines(data / folder / f"{part}.jsonl")):
            found[str(record.get("id", number))] = record["steps"]
    return found


def _lines(path: Path) -> list[dict]:  # type: ignore[type-arg]
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
