"""moe-router's classifier tells moe-bench the operations of its items; what is not installed, or breaks, is one line."""

from __future__ import annotations

import json
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import moe_bench.annotators
from moe_bench import BenchError
from moe_bench.annotators import GROUP, annotated, annotators
from moe_bench.cli import main
from moe_bench.tasks import make_items

ITEMS = make_items(["addition", "deduction", "comparison", "units"], count_per_family=20, seed=0, split="test")


def test_it_is_found_and_tells_calculation_from_deduction() -> None:
    assert "operations" in annotators()
    by_task: dict[str, list[str]] = {}
    for before, after in zip(ITEMS, annotated(ITEMS, "operations"), strict=True):
        assert before.id == after.id
        by_task.setdefault(after.task, []).append(after.operation)
    assert by_task["addition"].count("calculate") >= 18
    assert by_task["deduction"].count("deduce") >= 12
    assert by_task["deduction"].count("calculate") <= 2


def test_a_run_keeps_what_it_told(tmp_path: Path) -> None:
    items = tmp_path / "items.jsonl"
    items.write_text("".join(json.dumps({**item.to_dict(), "operation": ""}) + "\n" for item in ITEMS[:4]))
    outputs = tmp_path / "out.jsonl"
    outputs.write_text("".join(json.dumps({"id": item.id, "output": item.target}) + "\n" for item in ITEMS[:4]))
    arguments = [
        "run",
        "--outputs",
        str(outputs),
        "--data",
        str(items),
        "--annotate",
        "operations",
        "-o",
        str(tmp_path / "run"),
    ]
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code == 0, done.output
    samples = [json.loads(line) for line in (tmp_path / "run" / "samples.jsonl").read_text().splitlines()]
    assert {sample["operation"] for sample in samples} == {"calculate"}


@pytest.mark.parametrize(
    ("value", "why"),
    [("json:dumps", "TypeError"), ("nowhere:at_all", "ModuleNotFoundError"), ("builtins:zip", "answered for")],
)
def test_what_breaks_is_one_line(value: str, why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def points(**_: Any) -> list[EntryPoint]:
        return [EntryPoint(name="x", value=value, group=GROUP)]

    monkeypatch.setattr(moe_bench.annotators, "entry_points", points)
    with pytest.raises(BenchError, match=f"annotator x: .*{why}"):
        annotated(ITEMS, "x")
    with pytest.raises(BenchError, match="annotator 'y' is not installed; there are x"):
        annotated(ITEMS, "y")
