"""Ranks of single layers: what is made, planned, exported, and refused."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from rich.console import Console
from transformers import AutoModelForCausalLM

import tiny_models
from moe_router import find_moe_layers
from moe_train import RunConfig, Screen, TrainError, start
from moe_train.adapters import add_lora, find_targets, largest_ranks
from moe_train.config import LoraSection
from moe_train.export import export_run
from moe_train.files import read_json

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*(is_gradient_checkpointing|gradient_checkpointing_enable).*:FutureWarning"
)
RANKS = {"q_proj": 6, "experts.down_proj": 2}


def ranks(model: Any) -> dict[str, int]:
    """Rank by the last part of the name; those of experts from factors of all experts."""
    found = {}
    for module in model.modules():
        if getattr(module, "lora_A", None):
            name = getattr(module, "parameter_name", None) or ""
            rows = module.lora_A["default"].weight.shape[0]
            found[name or type(module).__name__] = rows // (module.num_experts if name else 1)
    return found


@pytest.mark.parametrize("products", ["grouped", "peft"])
def test_layers_get_their_own_ranks_and_scalings(products: str) -> None:
    model = tiny_models.build("mixtral")
    lora = LoraSection(rank=4, alpha=8, ranks=RANKS, expert_products=products)
    adapted = add_lora(model, find_targets(model, find_moe_layers(model), lora), lora)
    layer = adapted.get_base_model().model.layers[0]
    assert {n: getattr(layer.self_attn, n).lora_A["default"].weight.shape[0] for n in ("q_proj", "k_proj")} == {
        "q_proj": 6,
        "k_proj": 4,
    }
    assert layer.self_attn.q_proj.scaling["default"] == pytest.approx(8 / 6)
    found = ranks(adapted)
    assert (found["gate_up_proj"], found["down_proj"]) == (4, 2)
    ids = torch.arange(3, 35).view(2, 16)
    adapted(input_ids=ids, labels=ids).loss.backward()
    assert all(p.grad is not None for n, p in adapted.named_parameters() if p.requires_grad and "lora_A" in n)


def test_the_plan_takes_the_largest_of_each_kind() -> None:
    model = tiny_models.build("mixtral")
    assert largest_ranks(model, LoraSection(rank=4, ranks=RANKS)) == (6, 4)
    assert largest_ranks(model, LoraSection(rank=4, ranks={"experts.gate_up_proj": 2, "down_proj": 3})) == (4, 3)
    assert largest_ranks(model, LoraSection(rank=4)) == (4, 4)


@pytest.mark.slow
def test_a_run_with_ranks_is_planned_proved_and_read_by_plain_peft(
    tiny_model: Path, config_for: Callable[..., RunConfig], tmp_path: Path
) -> None:
    config = config_for(
        f"model={tiny_model}",
        "lora.rank=4",
        "lora.ranks={experts.gate_up_proj: 2, experts.down_proj: 2}",
        "training.steps=8",
    )
    run = start(config, Screen(Console(file=io.StringIO()))).run
    assert read_json(run / "proof.json")["holds"]
    step = next(p for p in read_json(run / "receipt.json")["phases"] if p["phase"] == "step")
    assert step["estimated"] == pytest.approx(step["measured"], rel=0.03)
    base = AutoModelForCausalLM.from_pretrained(tiny_model)
    with pytest.warns(RuntimeWarning, match="rank_pattern keys did not match"):
        again = PeftModel.from_pretrained(base, run / "adapter")
    assert ranks(again)["gate_up_proj"] == 2
    assert export_run(run, tmp_path / "merged", form="merged").check.exported.largest_logit_difference < 1e-4


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"w1": 3}, r"no adapted layer's name ends in w1; there are mlp.experts.down_proj, .*self_attn.q_proj"),
        ({"q_proj": 0}, "q_proj has rank 0; ranks are 1 or more"),
    ],
)
def test_ranks_of_nothing_are_refused(asked: dict[str, int], said: str) -> None:
    model = tiny_models.build("mixtral")
    with pytest.raises(TrainError, match=said):
        find_targets(model, find_moe_layers(model), LoraSection(ranks=asked))
