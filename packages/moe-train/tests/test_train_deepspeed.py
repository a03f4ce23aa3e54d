"""DeepSpeed on one device learns what torch alone learns. Needs the extra; skipped without it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from moe_train import TrainError
from moe_train.engines import make_engine, read_deepspeed_config
from moe_train.files import read_jsonl


def write(path: Path, values: Any) -> Path:
    path.write_text(values if isinstance(values, str) else json.dumps(values))
    return path


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ("{", "not JSON"),
        ([1], "expected an object, found a list"),
        ({"train_batch_size": 4}, "train_batch_size is decided by training.batch_size"),
        ({"optimizer": {"type": "Adam"}}, "optimizer is decided by training.learning_rate"),
        ({"zero_optimization": {"stage": 3}}, "ZeRO stage 3"),
    ],
)
def test_files_that_contradict_the_run(tmp_path: Path, values: Any, said: str) -> None:
    with pytest.raises(TrainError, match=r"training\.deepspeed: ") as error:
        read_deepspeed_config(write(tmp_path / "ds.json", values))
    assert said in str(error.value)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(TrainError, match="no such file"):
        read_deepspeed_config(tmp_path / "none.json")


def test_without_the_extra(config_for: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setitem(sys.modules, "deepspeed", None)
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "DS_ACCELERATOR"):
        monkeypatch.setenv(name, "1")
    layer = torch.nn.Linear(1, 1)
    training = config_for(f"training.deepspeed={write(tmp_path / 'ds.json', {})}").training
    with pytest.raises(TrainError, match=r"pip install 'moe-train\[deepspeed\]'"):
        make_engine(layer, dict(layer.named_parameters()), training)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(TrainError, match="trains on one device"):
        make_engine(layer, dict(layer.named_parameters()), training)


@pytest.mark.slow
@pytest.mark.parametrize("stage", [1, 2])
def test_it_learns_what_torch_learns(tiny_model: Path, sums: Path, tmp_path: Path, stage: int) -> None:
    pytest.importorskip("deepspeed")
    config = write(
        tmp_path / "ds.json", {"zero_optimization": {"stage": stage, "offload_optimizer": {"device": "cpu"}}}
    )
    arguments = [
        f"model={tiny_model}", f"data.path={sums}", "training.steps=6", "training.batch_size=8", "training.learning_rate=0.01",
        "training.micro_batch_tokens=60", "training.checkpoint_every=2", "training.method=full",
    ]  # fmt: skip
    for name, more in (("torch", []), ("deepspeed", [f"training.deepspeed={config}"])):
        done = subprocess.run(
            [sys.executable, "-m", "moe_train", "run", *arguments, *more, f"name={name}"],
            cwd=tmp_path, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
    run = tmp_path / "runs" / "deepspeed"
    whole = read_jsonl(run / "metrics.jsonl")
    left, right = (read_jsonl(tmp_path / "runs" / n / "metrics.jsonl") for n in ("torch", "deepspeed"))
    for a, b in zip(left, right, strict=True):
        assert b["loss"] == pytest.approx(a["loss"], rel=1e-4)
        assert b["grad_norm"] == pytest.approx(a["grad_norm"], rel=1e-3)

    # As if it had been killed after step 5: it goes on from the checkpoint of step 4.
    for folder in ("model", "checkpoints/step-6"):
        shutil.rmtree(run / folder)
    (run / "eval" / "losses-tuned.json").unlink()
    done = subprocess.run(
        [sys.executable, "-m", "moe_train", "resume", str(run)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    again = read_jsonl(run / "metrics.jsonl")
    assert [line["step"] for line in again] == [1, 2, 3, 4, 5, 6]
    assert [line["loss"] for line in again] == pytest.approx([line["loss"] for line in whole], rel=1e-6)
