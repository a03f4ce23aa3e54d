"""The plan against torch's own allocations: the committed grid meets its bars, and some of its cases are measured anew."""

from __future__ import annotations

import importlib.util
import json
import statistics
import sys
from pathlib import Path
from types import ModuleType

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture(scope="module")
def grid() -> ModuleType:
    spec = importlib.util.spec_from_file_location("memory_grid", BENCHMARKS / "memory_grid.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["memory_grid"] = module
    spec.loader.exec_module(module)
    return module


def test_the_committed_grid_meets_the_bars() -> None:
    runs = json.loads((BENCHMARKS / "memory_grid.json").read_text())["runs"]
    assert len(runs) >= 60
    for some in (runs, [run for run in runs if run["held_out"]]):
        errors = [abs(run["planned"] / run["measured"] - 1) for run in some]
        assert statistics.median(errors) <= 0.03
        assert max(errors) <= 0.10
    assert all(sum(run["parts"].values()) == run["planned"] for run in runs)


def test_the_committed_grid_is_the_grid(grid: ModuleType) -> None:
    runs = json.loads((BENCHMARKS / "memory_grid.json").read_text())["runs"]
    assert [run["name"] for run in runs] == [case.name for case in grid.cases()]


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "mixtral full float32 2x128",
        "qwen3_moe lora bfloat16 4x128 checkpointing=non-reentrant",
        "gpt_oss lora float32 4x128",
        "deepseek_v3 lora float32 4x128",
        "glm4_moe full float32 2x128",
        "olmoe lora float32 4x128 attention=eager",
        "deepseek_v3 lora float32 4x128 experts=eager",
        "mixtral lora float32 1x64 experts=batched_mm",
        "mixtral lora float32 4x128 padded=True",
        "qwen3_moe full float32 2x128 accumulation=2",
        "mixtral full float32 1x32 optimizer=adamw step=True",
        "mixtral qlora bfloat16 4x128 checkpointing=non-reentrant",
    ],
)
def test_measured_now(grid: ModuleType, name: str) -> None:
    case = next(case for case in grid.cases() if case.name == name)
    if case.method == "qlora":
        pytest.importorskip("bitsandbytes")
    with grid.quiet():
        truth, (plan, _) = grid.measured(case), grid.planned(case)
    assert plan == pytest.approx(truth, rel=0.03)
