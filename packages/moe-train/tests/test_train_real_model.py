"""The user's own model on the user's own data: a Mixtral made of SmolLM2, fine-tuned on GSM8K through the command line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from moe_train.files import read_json, read_jsonl
from real_mixtral import STEPS, TOKENS, load_dense, mixtral_of

pytestmark = [pytest.mark.slow, pytest.mark.realdata]


@pytest.fixture(scope="module")
def real_mixtral(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("real") / "smollm2-mixtral"
    dense, tokenizer = load_dense()
    # First that the conversion is right: with copied experts the Mixtral is the Llama.
    ids = tokenizer("Natalia sold clips to 48 of her friends in April.", return_tensors="pt").input_ids
    with torch.no_grad():
        difference = (mixtral_of(dense, experts=3, noise=0.0)(ids).logits - dense(ids).logits).abs().max()
    assert float(difference) < 1e-3
    mixtral_of(dense, experts=3, noise=0.1).to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_held_out_loss_falls_on_gsm8k(real_mixtral: Path, tmp_path: Path) -> None:
    data = Path(os.environ["MOE_TEST_DATA"]) / "gsm8k" / "train.jsonl"
    arguments = [
        f"model={real_mixtral}", f"data.path={data}", "name=gsm8k", "data.max_length=200", "data.too_long=drop",
        "data.held_out=0.05", "data.held_out_max=16", f"training.steps={STEPS}", "training.batch_size=3",
        f"training.micro_batch_tokens={TOKENS}", "training.learning_rate=0.0005", "training.checkpoint_every=1000",
    ]  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-m", "moe_train", "run", *arguments, "--json"],
        cwd=tmp_path, capture_output=True, text=True, check=False, timeout=1500,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    run = tmp_path / "runs" / "gsm8k"
    losses = json.loads(done.stdout)["held_out_loss"]
    print(losses, read_json(run / "stages.json")["seconds"])
    assert losses["records"] == 16
    assert losses["high"] < 0, "the whole interval is below zero"
    assert losses["verdict"] == "better"
    proof = read_json(run / "proof.json")
    assert proof["experts_with_gradient"] == proof["experts_reached"] > 60
    metrics = read_jsonl(run / "metrics.jsonl")
    assert len(metrics) == STEPS
    assert len(metrics[0]["load_entropy"]) == 30
    assert not read_json(run / "data.json")["duplicates_dropped"]
