"""What the stock stack does without a word, each done with it and measured, and then refused, or right, in ours."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

import tiny_models
from moe_router import find_moe_layers
from moe_train import RunConfig, TrainError
from moe_train.adapters import find_targets
from moe_train.assembly import adapted, find_layers, planned_targets
from moe_train.config import LoraSection
from moe_train.data import Sample
from moe_train.prepare import prepare
from moe_train.trainer import batch_gradients, step_batch
from moe_train.verify import Proof, prove

pytestmark = [
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::RuntimeWarning:peft"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]
IDS = torch.arange(3, 67).view(2, 32) % 96


def backward(model: Any) -> None:
    model.train()
    model.zero_grad(set_to_none=True)
    model(input_ids=IDS, labels=IDS, use_cache=False).loss.backward()


def proof_of(model: Any, base: Any, *, quantised: bool = False) -> Proof:
    """Our proof on a model that the stock stack wrapped, against what `lora.attention` and `lora.experts` ask for."""
    layers = find_moe_layers(base)
    targets = find_targets(plain_twin(base), find_moe_layers(plain_twin(base)), LoraSection())
    backward(model)
    return prove(model, layers, targets, routed_LE=None, quantised=quantised)


def plain_twin(base: Any) -> Any:
    """A model of the same config that nothing has wrapped."""
    return type(base)(base.config)


@pytest.mark.parametrize(
    ("architecture", "targets"),
    [
        ("mixtral", ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]),
        ("qwen3_moe", ["q_proj", "k_proj", "v_proj", "o_proj", "w1", "w2", "w3"]),
        ("olmoe", ["q_proj", "k_proj", "v_proj", "o_proj", "w1", "w2", "w3"]),
        ("gpt_oss", "all-linear"),
    ],
)
def test_targets_that_reach_no_expert_are_taken_without_a_word(architecture: str, targets: Any) -> None:
    base = tiny_models.build(architecture)
    model = get_peft_model(base, LoraConfig(r=2, target_modules=targets))
    reached = [name for name, p in model.named_parameters() if p.requires_grad and ".experts." in name]
    assert reached == [], "the stock stack adapts no expert"
    assert any(p.requires_grad for p in model.parameters()), "and trains all the same"
    proof = proof_of(model, base)
    assert any("experts" in problem and "was to train and does not" in problem for problem in proof.problems)
    with pytest.raises(TrainError, match="trainability proof"):
        proof.require()


@pytest.mark.parametrize("architecture", ["mixtral", "qwen3_moe", "olmoe", "gemma4"])
def test_all_linear_adapts_the_router(architecture: str) -> None:
    base = tiny_models.build(architecture)
    routers = [layer.router_name for layer in find_moe_layers(base)]
    model = get_peft_model(base, LoraConfig(r=2, target_modules="all-linear"))
    trained = [
        name for name, p in model.named_parameters() if p.requires_grad and any(router in name for router in routers)
    ]
    assert len(trained) >= len(routers), "the stock stack adapts every router"
    proof = proof_of(model, base)
    assert any("although the configuration freezes it" in problem for problem in proof.problems)
    with pytest.raises(TrainError, match="trainability proof"):
        proof.require()


@pytest.fixture(scope="module")
def dense_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dense") / "mixtral"
    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "intermediate_size": 128, "head_dim": 16, "num_key_value_heads": 4}
    tiny_models.build("mixtral", **sizes).bfloat16().save_pretrained(folder)
    return folder


def stock_4bit(folder: Path) -> Any:
    settings = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype="float32")
    return AutoModelForCausalLM.from_pretrained(
        folder, quantization_config=settings, dtype=torch.float32, device_map={"": "cpu"}
    )


def test_load_in_4bit_leaves_every_expert_as_it_is(dense_folder: Path) -> None:
    base = stock_4bit(dense_folder)
    experts = [p for name, p in base.named_parameters() if ".experts." in name]
    linears = [p for name, p in base.named_parameters() if "self_attn" in name]
    assert {p.dtype for p in experts} == {torch.float32}, "not one expert is quantised"
    assert {p.dtype for p in linears} == {torch.uint8}
    config = LoraConfig(r=2, target_modules=["q_proj"], target_parameters=["experts.gate_up_proj", "experts.down_proj"])
    proof = proof_of(get_peft_model(base, config), base, quantised=True)
    assert sum("experts" in p and "is not quantised" in p for p in proof.problems) == len(experts)
    with pytest.raises(TrainError, match="is not quantised, against the configuration"):
        proof.require()


def test_kbit_preparation_takes_four_bytes_for_each_of_their_weights(dense_folder: Path) -> None:
    settings = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype="bfloat16")
    base = AutoModelForCausalLM.from_pretrained(
        dense_folder, quantization_config=settings, dtype=torch.bfloat16, device_map={"": "cpu"}
    )
    before = sum(p.numel() * p.element_size() for name, p in base.named_parameters() if ".experts." in name)
    prepared = prepare_model_for_kbit_training(base, use_gradient_checkpointing=False)
    after = sum(p.numel() * p.element_size() for name, p in prepared.named_parameters() if ".experts." in name)
    assert after == 2 * before


def test_adapters_of_packed_experts_are_left_out_or_train_nothing(dense_folder: Path) -> None:
    """bitsandbytes packs 3-D parameters when asked (`replace_parameter_4bit`); PEFT then finds none of them, and trains the rest."""
    from bitsandbytes.nn.parametrize import replace_parameter_4bit

    base = AutoModelForCausalLM.from_pretrained(dense_folder, dtype=torch.float32)
    targets = find_targets(base, find_moe_layers(base), LoraSection())
    for layer in base.model.layers:
        for name in ("gate_up_proj", "down_proj"):
            replace_parameter_4bit(layer.mlp.experts, name, quant_type="nf4")
    config = LoraConfig(r=2, target_modules=["q_proj"], target_parameters=["experts.gate_up_proj", "experts.down_proj"])
    model = get_peft_model(base, config)
    backward(model)
    factors = [p for n, p in model.named_parameters() if ".experts." in n and "lora_B" in n]
    assert not any(p.grad is not None and bool(p.grad.any()) for p in factors), "no expert is trained"
    proof = prove(model, find_moe_layers(base), targets, routed_LE=None)
    assert any("experts" in p and "was to train and is no weight of the model" in p for p in proof.problems)


def test_an_evaluation_before_training_costs_the_stock_4_bit_layers_their_gradient(dense_folder: Path) -> None:
    """bitsandbytes repacks a 4-bit linear for inference on CPUs with bfloat16 instructions; the repacked one has no backward pass."""
    base = stock_4bit(dense_folder)
    linear = base.model.layers[0].self_attn.q_proj
    if not getattr(linear, "support_avx512bf16_for_cpu", False):
        pytest.skip("this CPU, or this bitsandbytes, does not repack")
    model = get_peft_model(base, LoraConfig(r=2, target_modules=["q_proj", "v_proj"]))
    with torch.no_grad():
        model.eval()(input_ids=IDS)
    backward(model)
    got = [p.grad is not None and bool(p.grad.any()) for n, p in model.named_parameters() if "lora_B" in n]
    assert not all(got), "stock: some adapters have no gradient after an evaluation"


def test_ours_evaluates_first_and_trains_every_adapter(
    blocks_model: Path, config_for: Callable[..., RunConfig]
) -> None:
    config = config_for(f"model={blocks_model}", "quantisation.weights=nf4")
    loaded, data = prepare(config)
    targets = planned_targets(config, loaded, find_layers(loaded))
    model: Any = adapted(config, loaded, targets)
    with torch.no_grad():
        model.eval()(input_ids=IDS)
    model.train()
    batch_gradients(model, step_batch(data.train, config, 0), balancer=None, pad_id=0, micro_batch_tokens=512)
    without = [
        n for n, p in model.named_parameters() if "lora_B" in n and not (p.grad is not None and bool(p.grad.any()))
    ]
    assert without == []


def test_a_loss_that_is_no_number_stops_the_run(config_for: Callable[..., RunConfig]) -> None:
    """`Trainer` logs the last finite loss in its place and goes on (`logging_nan_inf_filter`); moe-router's doctor shows it."""
    config = config_for()
    loaded, data = prepare(config)
    model: Any = adapted(config, loaded, planned_targets(config, loaded, find_layers(loaded)))
    with torch.no_grad():
        next(p for n, p in model.named_parameters() if "lora_B" in n).fill_(float("nan"))
    batch: list[Sample] = step_batch(data.train, config, 0)
    with pytest.raises(TrainError, match="the loss is not finite"), warnings.catch_warnings():
        batch_gradients(model, batch, balancer=None, pad_id=0, micro_batch_tokens=512)


def test_shared_experts_that_peft_takes_for_routed_ones_are_refused() -> None:
    """PEFT rewrites `shared_experts.gate_proj` to the fused weights of the routed experts, with twice the rank, and says nothing."""
    base = tiny_models.build("deepseek_v3")
    names = [f"shared_experts.{n}" for n in ("gate_proj", "up_proj", "down_proj")]
    model = get_peft_model(base, LoraConfig(r=2, target_modules=names))
    trained = [n for n, p in model.named_parameters() if p.requires_grad]
    assert not any("shared_experts" in n for n in trained)
    assert any(".experts." in n for n in trained)
    plain = plain_twin(base)
    with pytest.raises(TrainError, match="for a routed expert's"):
        find_targets(plain, find_moe_layers(plain), LoraSection(shared_experts=True))


@pytest.mark.parametrize("architecture", ["qwen2_moe", "llama4", "granitemoehybrid", "aria", "bailing_hybrid"])
def test_shared_experts_of_other_architectures_are_adapted(architecture: str) -> None:
    from moe_train.adapters import add_lora

    base = tiny_models.build(architecture)
    layers = find_moe_layers(base)
    section = LoraSection(shared_experts=True)
    targets = find_targets(base, layers, section)
    model = add_lora(base, targets, section)
    backward(model)
    proof = prove(model, layers, targets, routed_LE=None)
    assert proof.problems == ()
    row = next(c for c in proof.components if c.component == "shared experts")
    assert row.adapted == row.gradient_nonzero == row.matched == len(targets.shared) > 0
