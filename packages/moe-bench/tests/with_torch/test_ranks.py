"""Several processes of torchrun share a run, and come to what one process comes to."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch
from click.testing import CliRunner

from moe_bench import BenchError
from moe_bench.cli import main
from moe_bench.log import read_header, read_samples
from moe_bench.observed import read_observed
from moe_bench.ranks import Ranks
from small_mixtral import small_mixtral, tokenizer_of_bytes

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    mixtral = small_mixtral()
    with torch.no_grad():
        mixtral.lm_head.weight.mul_(40)
    mixtral.save_pretrained(folder)
    tokenizer_of_bytes(template=True).save_pretrained(folder)
    return folder


def arguments(model: Path, out: Path) -> list[str]:
    return [
        "run", "--model", str(model), "--suite", "composition", "--per-task", "9", "--max-new-tokens", "24", "--batch", "2",
        "--temperature", "0.5", "--samples", "2", "-o", str(out),
    ]  # fmt: skip


def single(model: Path, out: Path, *more: str) -> None:
    result = CliRunner().invoke(main, [*arguments(model, out), *more])
    assert result.exit_code == 0, result.output


def torchrun(model: Path, out: Path, *more: str, processes: int = 2) -> subprocess.Popen[str]:
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes), "-m", "moe_bench"]
    return subprocess.Popen(
        [sys.executable, *launch, *arguments(model, out), *more],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
    )  # fmt: skip


def kill_9(launcher: subprocess.Popen[str]) -> None:
    """The launcher and the processes it started, which have sessions of their own."""
    family = [*psutil.Process(launcher.pid).children(recursive=True), psutil.Process(launcher.pid)]
    for member in family:
        member.kill()
    psutil.wait_procs(family)
    launcher.communicate()


def lines(out: Path) -> list[dict[str, object]]:
    kept = [{k: v for k, v in s.items() if k != "seconds"} for s in read_samples(out)]
    return sorted(kept, key=lambda s: (s["id"], s["sample"]))


@pytest.fixture(scope="module")
def alone(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("alone") / "run"
    single(model, out, "--observe", "routing")
    return out


def test_two_processes_come_to_the_same(model: Path, alone: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    process = torchrun(model, out, "--observe", "routing")
    said, _ = process.communicate(timeout=240)
    assert process.returncode == 0, said
    assert lines(out) == lines(alone)
    assert len(lines(out)) == 72
    assert not (out / "parts").exists()
    header, other = read_header(out), read_header(alone)
    assert header["machine"].pop("processes") == 2
    assert {k: header[k] for k in ("items", "settings", "model", "suite")} == {
        k: other[k] for k in ("items", "settings", "model", "suite")
    }
    # In the order of the items and their answers, whoever was quicker.
    keys = [(s["id"], s["sample"]) for s in read_samples(out)]
    order = list(dict.fromkeys(item for item, _ in keys))
    assert keys == [(item, n) for item in order for n in range(2)]
    assert said.count("right") == 1, "one process speaks"
    # What both observed is what one observes.
    both, one = (read_observed(folder)["routing"] for folder in (out, alone))
    assert (both["parts"], both["answers"]) == (2, 72)
    for part in ("prompt", "answer"):
        counted = [
            {n: g["counts_LE"] for n, g in values["result"]["parts"][part]["groups"].items()} for values in (both, one)
        ]
        assert counted[0] == counted[1]


def test_killed_and_gone_on_with_by_another_number(model: Path, alone: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    process = torchrun(model, out)
    deadline = time.monotonic() + 200
    parts = [out / "parts" / f"{rank}-of-2.jsonl" for rank in range(2)]
    while process.poll() is None and time.monotonic() < deadline and not all(p.exists() for p in parts):
        time.sleep(0.01)
    kill_9(process)
    there = sum(p.read_bytes().count(b"\n") for p in parts if p.exists())
    assert 2 <= there < 72
    single(model, out)
    assert lines(out) == lines(alone)
    # And from one process to two.
    content = (out / "samples.jsonl").read_bytes().splitlines(keepends=True)
    (out / "samples.jsonl").write_bytes(b"".join(content[:7]))
    process = torchrun(model, out)
    said, _ = process.communicate(timeout=240)
    assert process.returncode == 0, said
    assert lines(out) == lines(alone)
    assert (out / "samples.jsonl").read_bytes().startswith(b"".join(content[:7]))


def test_a_wrong_environment_is_said(monkeypatch: pytest.MonkeyPatch, model: Path, alone: Path) -> None:
    assert Ranks.from_environment() == Ranks()
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "2")
    with pytest.raises(BenchError, match="RANK 2 is none of WORLD_SIZE 2"):
        Ranks.from_environment()
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("LOCAL_RANK", "0")
    assert Ranks.from_environment() == Ranks(rank=1, world=2, local=0)
    assert list(Ranks(rank=1, world=3).share(8)) == [1, 4, 7]
    monkeypatch.setenv("RANK", "x")
    with pytest.raises(BenchError, match="must be whole numbers"):
        Ranks.from_environment()


def test_two_commands_at_one_folder_are_kept_apart(model: Path, alone: Path) -> None:
    from moe_bench.log import locked

    before = json.dumps(lines(alone))
    with locked(alone):
        result = CliRunner().invoke(main, [*arguments(model, alone)])
    assert result.exit_code == 2
    assert "another command is writing to it" in result.output
    assert json.dumps(lines(alone)) == before
