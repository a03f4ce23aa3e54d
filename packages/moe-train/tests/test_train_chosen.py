"""Only chosen experts are adapted: which, the proof of it, what is left at nothing, and lists that cannot be."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file

from moe_train import RunConfig, Screen, TrainError, load_config, start
from moe_train.export import export_run
from moe_train.files import read_json

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")
QUIET = Screen(Console(file=io.StringIO()))


@pytest.mark.parametrize("text", ['{"model.layers.1.mlp": [0, 3]}', "experts:\n  1: [3, 0]\n"])
def test_only_they_change(text: str, config_for: Callable[..., RunConfig], tmp_path: Path) -> None:
    path = tmp_path / "chosen.json"
    path.write_text(text)
    run = start(config_for(f"lora.chosen_experts={path}", "training.steps=6", "training.learning_rate=0.02"), QUIET).run
    rows = {row["component"]: row for row in read_json(run / "proof.json")["components"]}
    assert (rows["experts"]["tensors"], rows["experts"]["matched"], rows["experts"]["gradient_nonzero"]) == (4, 2, 2)
    assert 0 < read_json(run / "proof.json")["experts_reached"] <= 2
    stored = load_file(run / "adapter" / "adapter_model.safetensors")
    factors = {name: b for name, b in stored.items() if "experts" in name and "lora_B" in name}
    assert len(factors) == 2
    for name, b in factors.items():
        assert "layers.1." in name
        by_expert_E = b.view(b.shape[0], -1, 4).abs().sum((0, 1))
        assert by_expert_E[[1, 2]].sum() == 0
        assert bool((by_expert_E[[0, 3]] > 0).all())
    assert export_run(run, tmp_path / "merged", form="merged").check.kept > 0.999


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ('{"model.layers.7.mlp": [0]}', "no MoE layer 'model.layers.7.mlp'"),
        ('{"0": [4]}', "numbers from 0 to 3"),
        ('{"0": ["a"]}', "numbers from 0 to 3"),
        ('{"0": []}', "names no expert"),
        ("[1, 2]", "expected experts by layer"),
        ("{", "neither JSON nor YAML"),
    ],
)
def test_lists_that_cannot_be(text: str, why: str, config_for: Callable[..., RunConfig], tmp_path: Path) -> None:
    path = tmp_path / "chosen.json"
    path.write_text(text)
    with pytest.raises(TrainError, match=why):
        start(config_for(f"lora.chosen_experts={path}"), QUIET)


@pytest.mark.parametrize("override", ["lora.experts=false", "lora.expert_products=peft"])
def test_what_does_not_go_together(override: str) -> None:
    with pytest.raises(TrainError, match=r"lora\.chosen_experts: needs"):
        load_config(None, ["data.tasks={change: 10}", "lora.chosen_experts=x.json", override])


def test_on_a_quantised_base(blocks_model: Path, config_for: Callable[..., Any], tmp_path: Path) -> None:
    path = tmp_path / "chosen.yaml"
    path.write_text("0: [2]\n1: [0, 1, 2, 3]\n")
    overrides = [f"model={blocks_model}", "quantisation.weights=nf4", f"lora.chosen_experts={path}", "training.steps=4"]
    run = start(config_for(*overrides, "training.learning_rate=0.02"), QUIET).run
    stored = load_file(run / "adapter" / "adapter_model.safetensors")
    first = next(b for name, b in stored.items() if "layers.0.mlp.experts" in name and "lora_B" in name)
    assert torch.equal(
        first.view(first.shape[0], -1, 4).abs().sum((0, 1)) > 0, torch.tensor([False, False, True, False])
    )
