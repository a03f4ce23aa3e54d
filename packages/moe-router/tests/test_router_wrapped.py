"""Models as people train them: routers and experts adapted, copied and packed by PEFT and bitsandbytes."""

from __future__ import annotations

import pytest
import torch
from peft import LoraConfig, get_peft_model

from moe_router import RoutingRecorder, find_moe_layers
from moe_router.architectures.structure import running_modules
from tiny_models import build

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")


def counts(model, batch):
    with RoutingRecorder(model) as recorder, torch.no_grad():
        model(**batch)
    return recorder.trace().counts_GLE


@pytest.mark.parametrize(
    "adapters",
    [
        {"target_parameters": ["mlp.gate.weight"]},
        {"target_modules": ["q_proj"], "modules_to_save": ["gate"]},
        {"target_modules": ["q_proj"], "modules_to_save": ["experts"]},
        {"target_modules": ["q_proj"], "modules_to_save": ["mlp"]},
    ],
)
@pytest.mark.parametrize("architecture", ["mixtral", "qwen3_moe"])
def test_routers_and_experts_that_peft_wraps(architecture: str, adapters, padded_batch) -> None:
    plain = counts(build(architecture), padded_batch)
    model = get_peft_model(build(architecture), LoraConfig(r=2, **adapters)).eval()
    assert len(find_moe_layers(model)) == 3
    assert (counts(model, padded_batch) == plain).all()


def test_of_several_copies_the_one_that_runs_is_read(padded_batch) -> None:
    model = get_peft_model(
        build("mixtral"), LoraConfig(r=2, target_modules=["q_proj"], modules_to_save=["gate"])
    ).eval()
    before = counts(model, padded_batch)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "gate.modules_to_save" in name:
                parameter.copy_(parameter.flip(0))  # experts change places, in the copy that trains
    assert (counts(model, padded_batch)[0, 0] == before[0, 0, ::-1]).all()
    with model.disable_adapter():
        assert (counts(model, padded_batch) == before).all()
    names = [name for name, _ in running_modules(model)]
    assert any("gate.modules_to_save.default" in name for name in names)
    assert not any("gate.original_module" in name for name in names)


def test_experts_packed_by_bitsandbytes(padded_batch) -> None:
    """`replace_parameter_4bit` leaves no three-dimensional parameter; the routing is that of the model as it runs now."""
    parametrize = pytest.importorskip("bitsandbytes.nn.parametrize")
    model = build("mixtral", hidden_size=64, intermediate_size=64)
    layers = find_moe_layers(model)
    for layer in layers:
        for name, _ in list(layer.experts.named_parameters()):
            parametrize.replace_parameter_4bit(layer.experts, name, quant_type="nf4")
    assert [layer.num_experts for layer in find_moe_layers(model)] == [8, 8, 8]
    received: list = []
    layers[0].experts.register_forward_pre_hook(lambda _m, args: received.append(args[1]))
    with RoutingRecorder(model) as recorder, torch.no_grad():
        model(**padded_batch)
    keep = padded_batch["attention_mask"].reshape(-1).bool()
    assert (
        recorder.trace().counts_GLE[0, 0].tolist() == torch.bincount(received[0][keep].flatten(), minlength=8).tolist()
    )


def test_linear_layers_packed_by_bitsandbytes(tmp_path, padded_batch) -> None:
    """`load_in_4bit`: attention is packed, routers and experts are not."""
    pytest.importorskip("bitsandbytes")
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    build("mixtral", hidden_size=128, intermediate_size=128, head_dim=32, num_key_value_heads=4).save_pretrained(
        tmp_path
    )
    model = AutoModelForCausalLM.from_pretrained(
        tmp_path, quantization_config=BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_compute_dtype=torch.float32)
    )
    assert "4bit" in type(model.model.layers[0].self_attn.q_proj).__name__
    assert counts(model, padded_batch).sum() == 22 * 3 * 2
