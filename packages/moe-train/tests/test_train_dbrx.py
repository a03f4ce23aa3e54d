"""DBRX's experts as stacks: the stock model's numbers, its own checkpoint names, quantised, trained and merged."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from rich.console import Console
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM

import tiny_models
from moe_train import RunConfig, Screen, TrainError, start
from moe_train.experts.dbrx import stacked_dbrx
from moe_train.export import export_run
from moe_train.files import read_json
from moe_train.model import embedded_path, stacked_experts

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*(is_gradient_checkpointing|gradient_checkpointing_enable).*:FutureWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:bitsandbytes"),
]
IDS = torch.arange(3, 35).view(2, 16)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A tiny DBRX that moe-train can train: blocks of 64 divide its sizes, and it has a tokenizer."""
    torch.manual_seed(0)
    where = tmp_path / "dbrx"
    vocabulary = json.loads((embedded_path() / "config.json").read_text())["vocab_size"]
    sizes = {"ffn_hidden_size": 64, "moe_num_experts": 4, "moe_top_k": 2, "hidden_size": 64}
    try:
        model = tiny_models.build(
            "dbrx", vocab_size=vocabulary, eos_token_id=4, hidden_size=64, d_model=64, ffn_config=sizes
        )
        model.save_pretrained(where)
        AutoConfig.from_pretrained(where)
    except ValueError as error:
        pytest.skip(f"this transformers cannot read back what it writes of DBRX: {error}")
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(embedded_path() / name, where / name)
    return where


@pytest.mark.parametrize("implementation", ["eager", "grouped_mm"])
def test_stacks_give_the_stock_numbers_and_gradients(folder: Path, implementation: str) -> None:
    stock = AutoModelForCausalLM.from_pretrained(folder).train()
    with stacked_experts(folder):
        ours = AutoModelForCausalLM.from_pretrained(folder).train()
    ours.config.ffn_config._experts_implementation = implementation
    losses = [model(input_ids=IDS, labels=IDS).loss for model in (stock, ours)]
    assert float(losses[1].detach()) == pytest.approx(float(losses[0].detach()), rel=1e-6)
    for loss in losses:
        loss.backward()
    plain, stacked = stock.transformer.blocks[0].ffn.experts.mlp, ours.transformer.blocks[0].ffn.experts
    gate, up = stacked.gate_up_proj.grad.chunk(2, dim=1)
    for ours_grad, theirs in ((gate, plain.w1), (up, plain.v1), (stacked.down_proj.grad.transpose(1, 2), plain.w2)):
        torch.testing.assert_close(ours_grad.reshape(theirs.shape), theirs.grad, rtol=1e-4, atol=1e-7)
    torch.testing.assert_close(
        stock.transformer.wte.weight.grad, ours.transformer.wte.weight.grad, rtol=1e-4, atol=1e-7
    )


def test_saved_it_has_the_checkpoints_names_to_the_bit(folder: Path, tmp_path: Path) -> None:
    with stacked_experts(folder):
        model = AutoModelForCausalLM.from_pretrained(folder)
    model.save_pretrained(tmp_path / "again")
    before, after = (load_file(path / "model.safetensors") for path in (folder, tmp_path / "again"))
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_outside_the_stock_class_is_back(folder: Path) -> None:
    with pytest.raises(RuntimeError, match="stop"), stacked_dbrx():
        raise RuntimeError("stop")
    assert (
        type(AutoModelForCausalLM.from_pretrained(folder).transformer.blocks[0].ffn.experts).__name__ == "DbrxExperts"
    )


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_plain_peft_cannot_run_adapters_of_its_experts(folder: Path) -> None:
    """Why they are made stacks: PEFT takes the names, and the forward pass fails."""
    model = AutoModelForCausalLM.from_pretrained(folder)
    adapted = get_peft_model(
        model, LoraConfig(r=2, target_modules=[], target_parameters=["mlp.w1", "mlp.v1", "mlp.w2"])
    )
    with pytest.raises(AttributeError, match="v1"):
        adapted(input_ids=IDS)


@pytest.mark.slow
@pytest.mark.parametrize("weights", ["none", "nf4"])
def test_a_run_is_proved_and_merged_for_plain_transformers(
    folder: Path, weights: str, config_for: Callable[..., RunConfig], tmp_path: Path
) -> None:
    if weights != "none":
        pytest.importorskip("bitsandbytes")
    config = config_for(
        f"model={folder}", f"quantisation.weights={weights}", "training.steps=4", "training.learning_rate=0.02"
    )
    run = start(config, Screen(Console(file=io.StringIO()))).run
    experts = next(c for c in read_json(run / "proof.json")["components"] if c["component"] == "experts")
    assert experts["adapted"] == experts["gradient_nonzero"] == experts["tensors"] == 6
    assert experts["quantised"] == (0 if weights == "none" else 6)
    done = export_run(run, tmp_path / "merged", form="merged", dtype="float32")
    assert done.check.exported.largest_logit_difference < 1e-3
    assert done.check.kept > 0.99
    merged = load_file(tmp_path / "merged" / "model.safetensors")
    assert merged.keys() == load_file(folder / "model.safetensors").keys()
    for asked in ({"form": "adapter"}, {"form": "merged", "names": "transformers-5"}, {"form": "nf4"}):
        with pytest.raises(TrainError, match="nothing but moe-train knows stacks of this model's experts; add --merge"):
            export_run(run, tmp_path / "other", **asked)
