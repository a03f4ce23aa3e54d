"""What LoRA adapts, and the proof that it does. References: PEFT's own state dict, and finite differences."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel

from moe_train import TrainError
from moe_train.adapters import Targets, add_lora, find_targets, trainable
from moe_train.assembly import adapted, find_layers, planned_targets, prove_on_batch
from moe_train.config import LoraSection, RunConfig
from moe_train.prepare import prepare
from moe_train.verify import COMPONENTS, base_name


def proven(config: RunConfig, change: Callable[[Any], None] = lambda _: None) -> Any:
    """The proof of a configuration, after something was done to the adapted model."""
    loaded, data = prepare(config)
    layers = find_layers(loaded)
    targets = planned_targets(config, loaded, layers)
    model = adapted(config, loaded, targets)
    change(model)
    return prove_on_batch(config, loaded, data, model, layers, targets)


def rows(proof: Any) -> dict[str, Any]:
    return {c.component: c for c in proof.components}


def test_lora_reaches_attention_and_every_expert(config_for: Any) -> None:
    proof = proven(config_for())
    assert proof.problems == ()
    found = rows(proof)
    assert (found["attention"].matched, found["attention"].adapted, found["attention"].gradient_nonzero) == (8, 8, 8)
    assert (found["experts"].matched, found["experts"].adapted, found["experts"].gradient_nonzero) == (4, 4, 4)
    assert all(found[c].frozen for c in ("router", "embeddings", "norms"))
    assert 0 < proof.experts_reached <= 8
    assert proof.experts_with_gradient == proof.experts_reached
    assert set(found) <= set(COMPONENTS)


def test_every_base_weight_is_in_exactly_one_row(config_for: Any) -> None:
    config = config_for()
    loaded, _ = prepare(config)
    proof = proven(config)
    assert sum(c.parameters for c in proof.components) == sum(p.numel() for p in loaded.model.parameters())


def test_full_training_trains_everything(config_for: Any) -> None:
    proof = proven(config_for("training.method=full"))
    assert proof.problems == ()
    assert not any(c.frozen for c in proof.components)


def test_gradient_checkpointing_keeps_the_proof(config_for: Any) -> None:
    assert proven(config_for("training.gradient_checkpointing=true")).problems == ()


@pytest.mark.parametrize("off", ["attention", "experts"])
def test_what_is_switched_off_stays_frozen(config_for: Any, off: str) -> None:
    proof = proven(config_for(f"lora.{off}=false"))
    assert proof.problems == ()
    assert rows(proof)[off].frozen
    assert rows(proof)[off].matched == 0


class TestSilentFailuresAreCaught:
    """Each of these trains without an error elsewhere; the proof must refuse it."""

    def test_a_target_that_peft_did_not_adapt(self, config_for: Any) -> None:
        config = config_for()
        loaded, data = prepare(config)
        layers = find_layers(loaded)
        asked = planned_targets(config, loaded, layers)
        assert asked is not None
        fewer = Targets(attention=asked.attention, experts=tuple(n for n in asked.experts if "down_proj" not in n))
        model = add_lora(loaded.model, fewer, config.lora)
        proof = prove_on_batch(config, loaded, data, model, layers, asked)
        assert len(proof.problems) == 2
        assert all("down_proj was to train and does not" in p for p in proof.problems)
        with pytest.raises(TrainError, match="trainability proof"):
            proof.require()

    def test_an_adapter_cut_off_from_the_loss(self, config_for: Any) -> None:
        def cut(model: Any) -> None:
            layer = model.base_model.model.model.layers[1].self_attn.v_proj
            layer.register_forward_hook(lambda _m, _a, out: out.detach())

        proof = proven(config_for(), cut)
        assert any("layers.1.self_attn.v_proj" in p and "no gradient" in p for p in proof.problems)

    def test_an_expert_that_is_left_out(self, config_for: Any) -> None:
        def silence(model: Any) -> None:
            for name, parameter in model.named_parameters():
                if "layers.0.mlp.experts" in name and "lora_B" in name:
                    parameter.register_hook(
                        lambda grad: (
                            grad.reshape(len(grad), -1, 4).index_fill(2, torch.tensor([1]), 0.0).reshape(grad.shape)
                        )
                    )

        proof = proven(config_for(), silence)
        assert "1 of" in proof.problems[-1]
        assert "experts that received tokens with a loss received no gradient" in proof.problems[-1]

    def test_a_weight_that_trains_unasked(self, config_for: Any) -> None:
        def thaw(model: Any) -> None:
            model.base_model.model.model.norm.weight.requires_grad_(True)

        proof = proven(config_for(), thaw)
        assert proof.problems == ("model.norm.weight trains although the configuration freezes it",)


def test_the_layout_of_a_fused_experts_adapter(config_for: Any) -> None:
    """Column k · E + e of B belongs to rank k of expert e: changing it changes that expert's weight alone."""
    config = config_for("lora.rank=2")
    loaded, _ = prepare(config)
    layers = find_layers(loaded)
    model = add_lora(loaded.model, planned_targets(config, loaded, layers), config.lora)
    for expert in range(4):
        with torch.no_grad():
            for name, p in model.named_parameters():
                if "lora_B" in name and "experts" in name:
                    p.zero_()
                    p.view(len(p), 2, 4)[:, :, expert] = 1.0
        before = {n: p.clone() for n, p in model.named_parameters() if "experts" in n and "lora" not in n}
        model.merge_adapter()
        for name, p in model.named_parameters():
            if name in before:
                changed = (p != before[name]).flatten(1).any(1)
                assert changed.tolist() == [e == expert for e in range(4)], name
        model.unmerge_adapter()


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")  # PEFT 0.21 on loading
def test_the_adapter_is_an_ordinary_peft_adapter(config_for: Any, tmp_path: Path) -> None:
    config = config_for()
    loaded, _ = prepare(config)
    model = add_lora(loaded.model, planned_targets(config, loaded, find_layers(loaded)), config.lora)
    with torch.no_grad():
        for parameter in trainable(model).values():
            parameter.normal_(std=0.1)
    ids = torch.arange(5, 25)[None]
    wanted = model(input_ids=ids).logits
    model.save_pretrained(tmp_path / "adapter")
    fresh, _ = prepare(config)
    again = PeftModel.from_pretrained(fresh.model, tmp_path / "adapter")
    torch.testing.assert_close(again(input_ids=ids).logits, wanted)


def test_models_that_cannot_be_adapted_so(config_for: Any) -> None:
    loaded, _ = prepare(config_for())
    layers = find_layers(loaded)
    with pytest.raises(TrainError, match=r"has no experts.*lora.attention=true"):
        find_targets(loaded.model, [], LoraSection(attention=False))
    for layer in loaded.model.model.layers:
        for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
            setattr(layer.self_attn, name, torch.nn.Identity())
        layer.mlp.experts.gate_up_proj = layer.mlp.experts.down_proj = None
    with pytest.raises(TrainError, match=r"lora.attention: no linear layer"):
        find_targets(loaded.model, layers, LoraSection())
    with pytest.raises(TrainError, match=r"keeps no fused .* weights"):
        find_targets(loaded.model, layers, LoraSection(attention=False))


def test_base_names() -> None:
    assert (
        base_name("base_model.model.model.layers.0.self_attn.q_proj.base_layer.weight")
        == "model.layers.0.self_attn.q_proj.weight"
    )
    assert base_name("base_model.model.model.layers.0.mlp.experts.base_layer.base_layer.down_proj") == (
        "model.layers.0.mlp.experts.down_proj"
    )
