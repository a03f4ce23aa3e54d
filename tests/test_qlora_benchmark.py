"""The benchmark of full-size QLoRA runs, at a size for a CPU: what is built is really quantised, and the plan is near."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "qlora_full_size.py"


@pytest.mark.slow
def test_it_runs_where_no_gpu_is_at_hand(tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes")
    sizes = ["--device", "cpu", "--layers", "2", "--divide", "4", "--length", "64", "--rounds", "1"]
    command = [sys.executable, str(SCRIPT), *sizes, "--output", str(tmp_path / "out.json")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    rows = json.loads((tmp_path / "out.json").read_text())["rows"]
    assert [row["model"] for row in rows] == ["mixtral", "qwen3_moe"]
    for row in rows:
        assert sum(row["plan"]["parts"].values()) == row["plan"]["sum"]
        assert abs(row["plan_error"]) < 0.05
        assert row["peak"] < row["stock_peak_beside_ours"]
        assert set(row["tokens_per_second"]) == {"moe-train", "stock bfloat16 with PEFT"}
