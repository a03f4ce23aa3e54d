"""The text of hand-labelled real steps, looked up by data set, item and step in the folder that MOE_TEST_DATA names.

The labels are in `tests/data/real_operation_labels.csv`; the text belongs to others and is not kept here.
"""

from __future__ import annotations

import csv
import json
import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from moe_router.operations.generate import Example

LABELS = Path(__file__).parents[1] / "tests" / "data" / "real_operation_labels.csv"
ROUNDS = (1, 2, 3, 4, 5)
"""1 to 3 are learned from; 4 (at random within each data set) and 5 (sought out for rare operations) are for the score."""
_SENTENCE = re.compile(r"(?<=[.!?])\s+(?=[A-Z(])|\n+")


def real_steps(data: Path, *, labelling: Sequence[int] = ROUNDS) -> list[Example]:
    """The labelled steps of some rounds of labelling; the item is what must stay together."""
    with LABELS.open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if int(row["round"]) in labelling]
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
    elif folder == "mr_gsm8k":
        for record in _lines(data / folder / "subset.jsonl"):
            found[record["uuid"]] = record["model_output_steps"]
    elif folder == "math":
        for record in _lines(data / folder / f"{part}.jsonl"):
            found[record["unique_id"]] = [step for step in _SENTENCE.split(record["solution"]) if step.strip()]
    elif folder == "logic_llm":
        for record in json.loads((data / folder / f"{part}.json").read_text(encoding="utf-8")):
            found[record["id"]] = record["explanation"]
    else:
        for number, record in enumerate(_lines(data / folder / f"{part}.jsonl")):
            found[str(record.get("id", number))] = _written(record)
    return found


def _written(record: dict) -> list[str]:  # type: ignore[type-arg]
    if "answer" in record and "question" in record:
        return record["answer"].split("\n")  # type: ignore[no-any-return]
    if "175b_verification" in record:
        return record["175b_verification"]["solution"].split("\n")  # type: ignore[no-any-return]
    return record["steps"]  # type: ignore[no-any-return]


def _lines(path: Path) -> list[dict]:  # type: ignore[type-arg]
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
