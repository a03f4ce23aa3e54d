"""The user's own model on the user's own data: a Mixtral made of SmolLM2, fine-tuned on GSM8K by the command line, in 16 and 4 bits."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from moe_train import load_config
from moe_train.export.check import agreement, computed_afresh
from moe_train.export.merge import copy_surroundings, merge
from moe_train.export.reference import make_reference
from moe_train.export.source import Held
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


def arguments_for(model: Path, name: str, *more: str) -> list[str]:
    data = Path(os.environ["MOE_TEST_DATA"]) / "gsm8k" / "train.jsonl"
    return [
        f"model={model}", f"data.path={data}", f"name={name}", "data.max_length=200", "data.too_long=drop",
        "data.held_out=0.05", "data.held_out_max=16", f"training.steps={STEPS}", "training.batch_size=3",
        f"training.micro_batch_tokens={TOKENS}", "training.learning_rate=0.0005", "training.checkpoint_every=1000", *more,
    ]  # fmt: skip


def command(verb: str, *arguments: str, at: Path) -> dict[str, object]:
    done = subprocess.run(
        [sys.executable, "-m", "moe_train", verb, *arguments, "--json"],
        cwd=at,
        capture_output=True,
        text=True,
        check=False,
        timeout=2400,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, object] = json.loads(done.stdout)
    return found


def test_held_out_loss_falls_on_gsm8k(real_mixtral: Path, tmp_path: Path) -> None:
    losses = command("run", *arguments_for(real_mixtral, "gsm8k"), at=tmp_path)["held_out_loss"]
    run = tmp_path / "runs" / "gsm8k"
    print(losses, read_json(run / "stages.json")["seconds"])
    assert isinstance(losses, dict)
    assert losses["records"] == 16
    assert losses["high"] < 0, "the whole interval is below zero"
    assert losses["verdict"] == "better"
    proof = read_json(run / "proof.json")
    assert proof["experts_with_gradient"] == proof["experts_reached"] > 60
    metrics = read_jsonl(run / "metrics.jsonl")
    assert len(metrics) == STEPS
    assert len(metrics[0]["load_entropy"]) == 30
    assert not read_json(run / "data.json")["duplicates_dropped"]


def test_qlora_learns_and_comes_out_again(real_mixtral: Path, tmp_path: Path) -> None:
    """Experts in NF4 with double quantisation, adapters on them; adapter and merged model in processes that know nothing of moe-train."""
    overrides = (
        "quantisation.weights=nf4",
        "quantisation.double=true",
        "dtype=float32",
        "training.steps=12",
        "training.learning_rate=0.001",
    )
    losses = command("run", *arguments_for(real_mixtral, "qlora", *overrides), at=tmp_path)["held_out_loss"]
    run = tmp_path / "runs" / "qlora"
    assert isinstance(losses, dict)
    print(losses, read_json(run / "stages.json")["seconds"])
    assert losses["high"] < 0, "the whole interval is below zero"
    rows = {row["component"]: row for row in read_json(run / "proof.json")["components"]}
    assert rows["experts"]["quantised"] == rows["experts"]["adapted"] == rows["experts"]["tensors"] == 60
    assert rows["experts"]["gradient_nonzero"] == 60

    # The merged model in plain transformers, computed in float32: merged into the weights that were trained on, then into the checkpoint's.
    for onto in ("trained", "original"):
        done = command(
            "export", str(run), "--to", f"merged-{onto}", "--merge", "--onto", onto, "--dtype", "float32", at=tmp_path
        )
        print(onto, done["check"])
        assert isinstance(done["check"], dict)
        if onto == "trained":
            assert done["check"]["exported"]["largest_logit_difference"] < 5e-3
            assert done["check"]["exported"]["same_experts"] > 0.999
        else:
            assert done["check"]["kept"] < 0.99, (
                "the base before it was quantised is another model, and the check says so"
            )

    # The adapter in plain PEFT on the base, dequantised.
    config = load_config(run / "config.yaml")
    reference = make_reference(config, run, keep=True)
    dense = tmp_path / "dense"
    dense.mkdir()
    merge(Held(reference.model, torch.float32), {}, dense, names="checkpoint")
    copy_surroundings(real_mixtral, dense, dtype=torch.float32)
    again = computed_afresh(str(dense), reference.tokens, adapter=run / "adapter", dtype="float32", device="cpu")
    found = agreement(reference.trained, again)
    print("adapter on the dequantised base", found)
    assert found.largest_logit_difference < 5e-3
    assert found.same_experts is not None
    assert found.same_experts > 0.999
