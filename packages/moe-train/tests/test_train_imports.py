"""Adapters made elsewhere, against the update each expert was given, added by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file

import tiny_models
from moe_train import TrainError
from moe_train.experts import load_adapter

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")
IDS = torch.arange(3, 35).view(2, 16)
# Under transformers 4: where experts stood, and what their gate, up and down projections were called.
BEFORE = {
    "mixtral": ("block_sparse_moe.experts", ("w1", "w3", "w2")),
    "qwen3_moe": ("mlp.experts", ("gate_proj", "up_proj", "down_proj")),
    "olmoe": ("mlp.experts", ("gate_proj", "up_proj", "down_proj")),
    "deepseek_v3": ("mlp.experts", ("gate_proj", "up_proj", "down_proj")),
}


def experts_of(model: Any) -> list[tuple[str, Any]]:
    return [
        (name, m) for name, m in model.named_modules() if name.endswith("mlp.experts") and hasattr(m, "gate_up_proj")
    ]


def per_expert_adapter(architecture: str, model: Any, folder: Path) -> dict[str, torch.Tensor]:
    """An adapter as PEFT wrote it when experts were modules of their own."""
    where, names = BEFORE[architecture]
    generator, rank, found = torch.Generator().manual_seed(0), 2, {}
    for name, module in experts_of(model):
        inner, hidden = module.gate_up_proj.shape[1] // 2, module.gate_up_proj.shape[2]
        for e in range(module.gate_up_proj.shape[0]):
            for projection, (rows, columns) in zip(
                names, ((inner, hidden), (inner, hidden), (hidden, inner)), strict=True
            ):
                key = f"base_model.model.model.layers.{name.split('.')[2]}.{where}.{e}.{projection}"
                found[f"{key}.lora_A.weight"] = torch.randn(rank, columns, generator=generator) * 0.3
                found[f"{key}.lora_B.weight"] = torch.randn(rows, rank, generator=generator) * 0.3
    folder.mkdir()
    save_file(found, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    config = {
        "peft_type": "LORA", "r": rank, "lora_alpha": 4, "target_modules": list(names), "task_type": "CAUSAL_LM",
        "base_model_name_or_path": None, "bias": "none", "lora_dropout": 0.0,
    }  # fmt: skip
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return found


def merged_by_hand(architecture: str, model: Any, factors: dict[str, torch.Tensor]) -> Any:
    where, names = BEFORE[architecture]
    twin = tiny_models.build(architecture).eval()
    twin.load_state_dict(model.state_dict())
    with torch.no_grad():
        for name, module in experts_of(twin):
            for e in range(module.gate_up_proj.shape[0]):
                key = f"base_model.model.model.layers.{name.split('.')[2]}.{where}.{e}"
                gate, up, down = (
                    2.0 * factors[f"{key}.{n}.lora_B.weight"] @ factors[f"{key}.{n}.lora_A.weight"] for n in names
                )
                module.gate_up_proj[e] += torch.cat([gate, up])
                module.down_proj[e] += down
    return twin


@pytest.mark.parametrize("architecture", sorted(BEFORE))
def test_adapters_of_single_experts_are_joined(architecture: str, tmp_path: Path) -> None:
    model = tiny_models.build(architecture).eval()
    factors = per_expert_adapter(architecture, model, tmp_path / "adapter")
    with torch.no_grad():
        wanted, before = merged_by_hand(architecture, model, factors)(input_ids=IDS).logits, model(input_ids=IDS).logits
        found = load_adapter(model, tmp_path / "adapter").eval()(input_ids=IDS).logits
    assert float((wanted - before).abs().max()) > 0.05
    assert float((found - wanted).abs().max()) < 5e-5


def fused_adapter(folder: Path) -> tuple[Any, torch.Tensor]:
    base = tiny_models.build("mixtral").eval()
    state = {name: tensor.clone() for name, tensor in base.state_dict().items()}
    config = LoraConfig(r=2, target_modules=["q_proj"], target_parameters=["experts.gate_up_proj", "experts.down_proj"])
    model = get_peft_model(base, config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.2)
        model.save_pretrained(folder)
        wanted = model.eval()(input_ids=IDS).logits
    again = tiny_models.build("mixtral").eval()
    again.load_state_dict(state)
    return again, wanted


def test_peft_s_own_adapters_of_fused_experts(tmp_path: Path) -> None:
    base, wanted = fused_adapter(tmp_path)
    loaded = load_adapter(base, tmp_path, trainable=True)
    assert all(p.requires_grad for n, p in loaded.named_parameters() if "lora_" in n)
    with torch.no_grad():
        assert float((loaded.eval()(input_ids=IDS).logits - wanted).abs().max()) < 5e-5


@pytest.mark.parametrize("fault", ["another model", "cut short", "unknown names", "empty folder"])
def test_what_does_not_fit_is_refused(fault: str, tmp_path: Path) -> None:
    base, _ = fused_adapter(tmp_path)
    path = tmp_path / "adapter_model.safetensors"
    factors = load_file(path)
    if fault == "another model":
        base = tiny_models.build("mixtral", num_hidden_layers=2)
    elif fault == "cut short":
        save_file({k: v for k, v in factors.items() if "layers.1.mlp" not in k}, path, metadata={"format": "pt"})
    elif fault == "unknown names":
        renamed = {k.replace("mlp.experts", "mlp.experts.moe_lora"): v for k, v in factors.items()}
        save_file(renamed, path, metadata={"format": "pt"})
    else:
        (tmp_path / "adapter_config.json").unlink()
    with pytest.raises(TrainError, match="adapter "):
        load_adapter(base, tmp_path)
