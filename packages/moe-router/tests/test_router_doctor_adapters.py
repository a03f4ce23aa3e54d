"""Adapters that miss the experts, sit on the routers or learn nothing: made with stock PEFT, found."""

from __future__ import annotations

import pytest
import torch
from peft import LoraConfig, get_peft_model

from moe_router.doctor import adapters
from moe_router.doctor.checkup import examine
from moe_router.doctor.findings import Patient
from tiny_models import build

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")


@pytest.fixture
def batch() -> dict[str, torch.Tensor]:
    ids = torch.randint(3, 97, (4, 24), generator=torch.Generator().manual_seed(1))
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def found(model, batch, **run):
    return {f.check: f for f in examine(model, batch, run=run)}


MISSED = [
    ("mixtral", ["q_proj", "v_proj", "gate_proj", "up_proj", "down_proj"]),
    ("qwen3_moe", ["q_proj", "v_proj", "w1", "w2", "w3"]),
    ("olmoe", ["q_proj", "v_proj", "w1", "w2", "w3"]),
    ("gpt_oss", "all-linear"),
]


@pytest.mark.parametrize(("architecture", "targets"), MISSED)
def test_targets_that_reach_no_expert(architecture: str, targets, batch) -> None:
    """As a plan, by what would match; as a model, by where its adapters are. PEFT itself says nothing."""
    plan = found(build(architecture), batch, lora={"target_modules": targets})["experts-untrained"]
    assert plan.severity == "error"
    assert "none of them among the experts (" in plan.evidence
    assert "q_proj" in plan.evidence
    model = get_peft_model(build(architecture), LoraConfig(r=2, target_modules=targets)).eval()
    finding = found(model, batch)["experts-untrained"]
    adapted = len(adapters.lora_parameters(model))
    assert f"of the model's {adapted} adapter weights none is on them" in finding.evidence
    assert not any("experts" in name for name, p in model.named_parameters() if p.requires_grad)


def test_targets_that_reach_them(batch) -> None:
    both = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]
    assert "experts-untrained" not in found(build("mixtral"), batch, target_modules=["q_proj"], target_parameters=both)
    model = get_peft_model(build("mixtral"), LoraConfig(r=2, target_modules=["q_proj"], target_parameters=both)).eval()
    findings = found(model, batch)
    assert not {"experts-untrained", "adapters-without-gradient"} & set(findings)


def test_router_adapted(batch) -> None:
    model = build("gemma4")  # its router holds an nn.Linear
    assert found(model, batch)["router-adapted"].severity == "note"
    assert found(model, batch, lora={"target_modules": "all-linear"})["router-adapted"].severity == "error"
    adapted = get_peft_model(model, LoraConfig(r=2, target_modules="all-linear")).eval()
    finding = found(adapted, batch)["router-adapted"]
    assert finding.severity == "error"
    assert "3 of 3 routers" in finding.evidence


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
def test_adapters_below_a_reentrant_checkpoint_train_nothing(batch) -> None:
    """Embeddings are frozen, so nothing that enters a checkpointed layer has a gradient, and none comes out. Newer releases of
    transformers give the embeddings' output a gradient by a hook; without it, as in a loop of one's own, nothing trains.
    """
    for reentrant in (True, False):
        model = get_peft_model(build("mixtral"), LoraConfig(r=2, target_modules=["q_proj", "v_proj"])).eval()
        base = model.get_base_model()
        base.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": reentrant})
        for hook in getattr(base, "_require_grads_hooks", []):
            hook.remove()
        findings = adapters.adapters_without_gradient(Patient(model=model, batch=batch))
        assert [f.check for f in findings] == (["adapters-without-gradient"] if reentrant else [])
        if reentrant:
            assert findings[0].severity == "error"
            assert "6 of 6 adapters got no gradient" in findings[0].evidence
