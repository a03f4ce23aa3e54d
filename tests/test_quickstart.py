"""The main job as a newcomer runs it, through all four packages."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from moe_bench.tasks import SUITES

GIB = 2**30


@pytest.mark.slow
def test_the_quickstart_teaches_what_it_says(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "moe_train", "run", "--json"],
        cwd=tmp_path, capture_output=True, text=True, check=False, timeout=900,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["verdict"] == "better"
    answers, retained = result["answers"], result["retained"]
    assert answers["p_value"] < 1e-9
    assert answers["ci_low"] > 0.25, "at least a quarter of the items more, with 95 % confidence"
    assert all(task["verdict"] == "better" for task in answers["tasks"])
    # Forgetting is asked of every kind it was built on: a few chosen ones could hide it.
    assert {task["task"] for task in retained["tasks"]} == set(SUITES["foundation"])
    assert retained["ci_low"] > -0.12, "what it could do before is kept, nearly"
    assert result["held_out_loss"]["high"] < -1

    (run,) = (tmp_path / "runs").iterdir()
    assert (run / "report.html").stat().st_size > 100_000
    memory = [json.loads(line) for line in (run / "memory.jsonl").read_text().splitlines()]
    assert max(line["rss"] for line in memory) < 2 * GIB
    receipt = json.loads((run / "receipt.json").read_text())
    (phase,) = receipt["phases"]
    assert abs(phase["estimated"] / phase["measured"] - 1) < 0.15
    data = json.loads((run / "data.json").read_text())
    assert data["shared_prompts"] == {"train_and_held_out": 0, "train_and_test_items": 0}
    assert json.loads((run / "proof.json").read_text())["holds"] is True

    # The siblings read what the run left, each with its own command.
    for command in (
        ["moe_bench", "compare", run / "eval" / "base", run / "eval" / "tuned"],
        ["moe_router", "analyze", run / "routing" / "tuned.trace"],
        ["moe_router", "diff", run / "routing" / "base.trace", run / "routing" / "tuned.trace"],
        ["moe_memprof", "compare", run / "receipt.json"],
    ):
        other = subprocess.run([sys.executable, "-m", *map(str, command)], capture_output=True, text=True, check=False)
        assert other.returncode == 0, other.stderr
