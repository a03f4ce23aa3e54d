"""Grouped expert LoRA against a float64 loop on every architecture whose experts transformers dispatches, and against plain PEFT."""

from __future__ import annotations

import copy
import functools
import warnings
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model

import tiny_models
from expert_reference import dense, loop
from moe_train import TrainError
from moe_train.experts import (
    DenseStack,
    Factors,
    Int8Stack,
    Nf4Stack,
    expert_linear,
    expert_lora_config,
    use_grouped_experts,
)
from moe_train.experts.forward import adapted, experts_forward, is_dispatched
from moe_train.experts.ops import _ByExpert, _Grouped
from moe_train.experts.stacks import quantise_int8, quantise_nf4

TARGETS = ["experts.gate_up_proj", "experts.down_proj"]
pytestmark = [
    # PEFT 0.21 calls what transformers 5.23 renamed; so do the tests, for both.
    pytest.mark.filterwarnings("ignore:.*(is_gradient_checkpointing|gradient_checkpointing_enable).*:FutureWarning"),
]
NOT_DISPATCHED = {"dbrx", "doge", "jetmoe", "llama4", "longcat_flash", "nllb_moe", "step3p7", "switch_transformers"}
"""Architectures whose experts run in their own way; those with fused weights are adapted through PEFT's own wrapper."""


@functools.cache
def experts_of(architecture: str) -> tuple[Any, ...]:
    """One experts module of each layout in a tiny model."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(0)
        model = tiny_models.build(architecture)
    found = {}
    for module in model.modules():
        if is_dispatched(module):
            shapes = tuple(tuple(p.shape) for p in module.parameters())
            found.setdefault((type(module), shapes), module)
    return tuple(found.values())


def choices(experts: Any, width: int, tokens: int = 23) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Tokens, experts of each, weights; the last expert gets none."""
    generator = torch.Generator().manual_seed(3)
    hidden = torch.randn(tokens, width, generator=generator)
    count = max(1, experts.num_experts - 1)
    top_k = min(3, count)
    ids = torch.stack([torch.randperm(count, generator=generator)[:top_k] for _ in range(tokens)])
    return hidden, ids, torch.rand(tokens, top_k, generator=generator)


def random_adapters(
    stacks: dict[str, torch.Tensor], rank: int = 4
) -> dict[str, tuple[torch.Tensor, torch.Tensor, float]]:
    generator = torch.Generator().manual_seed(5)
    made = {}
    for name, stack in stacks.items():
        e, out, inner = stack.shape
        a = torch.randn(e, rank, inner, generator=generator) / inner**0.5
        made[name] = (a, torch.randn(e, out, rank, generator=generator) / rank**0.5 / 4, 1.5)
    return made


def relative(found: torch.Tensor, right: torch.Tensor) -> float:
    found, right = found.detach(), right.detach()
    return float((found.double() - right.double()).norm() / right.double().norm().clamp_min(1e-12))


def check_block(
    experts: Any, stacks: dict[str, torch.Tensor], *, dtype: torch.dtype, tolerance: float, dropout_path: bool
) -> None:
    """Output and all gradients of our forward pass against the loop's."""
    hidden, ids, weights = choices(experts, next(iter(stacks.values())).shape[2])
    adapters = random_adapters(stacks)
    names = [*adapters]

    def leaves(as_dtype: torch.dtype) -> list[torch.Tensor]:
        values = [hidden.to(as_dtype), weights.to(as_dtype)]
        values += [t for name in names for t in adapters[name][:2]]
        return [v.clone().requires_grad_() for v in values]

    ours = leaves(dtype)
    x, w, *flat = ours
    with (
        adapted(experts, names[0], (Factors(flat[0], flat[1], 1.5),)),
        adapted(experts, names[1], (Factors(flat[2], flat[3], 1.5),)),
    ):
        if dropout_path:  # a second adapter of nothing takes the way without the fused block
            nothing = Factors(torch.zeros_like(flat[0]), torch.zeros_like(flat[1]), 1.0)
            with adapted(experts, names[0], (nothing,)):
                out = experts_forward(experts, x, ids, w)
        else:
            out = experts_forward(experts, x, ids, w)
    torch.manual_seed(9)
    weighting = torch.randn(out.shape)
    (out.float() * weighting).sum().backward()

    theirs = leaves(dtype)
    rx, rw, *rflat = theirs
    factors = {name: (rflat[2 * i], rflat[2 * i + 1], 1.5) for i, name in enumerate(names)}
    reference = loop(experts, stacks, rx, ids, rw, factors)
    (reference * weighting.double()).sum().backward()
    assert relative(out, reference) < tolerance
    for mine, right in zip(ours, theirs, strict=True):
        assert mine.grad is not None
        assert relative(mine.grad, right.grad) < tolerance


@pytest.mark.parametrize("architecture", sorted(tiny_models.SPECIFIC))
def test_every_architectures_experts_equal_the_loop(architecture: str) -> None:
    modules = experts_of(architecture)
    assert bool(modules) != (architecture in NOT_DISPATCHED), [type(m).__name__ for m in modules]
    for experts in modules:
        names = ["gate_up_proj" if experts.has_gate else "up_proj", "down_proj"]
        reference = copy.deepcopy(experts)
        stacks = {name: dense(reference, name) for name in names}
        for dropout_path in (False, True):
            check_block(experts, stacks, dtype=torch.float32, tolerance=1e-5, dropout_path=dropout_path)


def quantised(architecture: str, kind: str) -> tuple[Any, dict[str, torch.Tensor]]:
    """An experts module of a size that blocks divide, its weights quantised; and what they stand for, by the reference's own arithmetic."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(0)
        model = tiny_models.build(architecture, hidden_size=64, intermediate_size=128, moe_intermediate_size=64)
    experts = next(m for m in model.modules() if is_dispatched(m))
    stacks = {}
    for name in ("gate_up_proj", "down_proj"):
        weight = getattr(experts, name).detach()
        if kind == "nf4":
            values, scales = quantise_nf4(weight)
            low, high = values >> 4, values & 15  # bitsandbytes packs the first of two elements high
            import bitsandbytes.functional as bnb

            code = bnb.get_4bit_type("nf4", device="cpu")
            levels = torch.stack([code[low.long()], code[high.long()]], -1).view(weight.shape)
            stored = (levels.view(weight.shape[0], -1, 64) * scales[..., None]).view(weight.shape).double()
        else:
            values, scales = quantise_int8(weight)
            stored = values.double() * scales[..., None].double()
        assert relative(stored, weight) < (0.12 if kind == "nf4" else 0.01)
        setattr(experts, name, torch.nn.Parameter(values, requires_grad=False))
        experts.register_buffer(f"{name}_scales", scales)
        stacks[name] = stored.transpose(1, 2) if experts.is_transposed else stored
    return experts, stacks


@pytest.mark.parametrize("dropout_path", [False, True])
@pytest.mark.parametrize("kind", ["nf4", "int8"])
@pytest.mark.parametrize("architecture", ["mixtral", "gpt_oss", "deepseek_v3"])
def test_quantised_experts_equal_the_loop_over_what_they_stand_for(
    architecture: str, kind: str, dropout_path: bool
) -> None:
    experts, stacks = quantised(architecture, kind)
    check_block(experts, stacks, dtype=torch.float32, tolerance=1e-5, dropout_path=dropout_path)


@pytest.mark.parametrize("kind", ["dense", "nf4", "int8"])
def test_sixteen_bits_stay_within_a_hundredth(kind: str) -> None:
    experts, stacks = quantised("mixtral", kind) if kind != "dense" else (None, None)
    if experts is None:
        experts = copy.deepcopy(experts_of("mixtral")[0]).bfloat16()
        stacks = {name: dense(experts, name) for name in ("gate_up_proj", "down_proj")}
    for dropout_path in (False, True):
        check_block(experts, stacks, dtype=torch.bfloat16, tolerance=1e-2, dropout_path=dropout_path)


@pytest.mark.parametrize("adapter", [True, False])
def test_the_grouped_kernel_does_what_one_expert_after_the_other_does(adapter: bool) -> None:
    torch.manual_seed(0)
    offsets = torch.tensor([16, 16, 40, 48], dtype=torch.int32)
    results = []
    for function in (_ByExpert, _Grouped):
        generator = torch.Generator().manual_seed(1)
        x = torch.randn(56, 32, generator=generator, requires_grad=True)
        stack = DenseStack(torch.randn(4, 24, 32, generator=generator))
        a = torch.randn(4, 8, 32, generator=generator, requires_grad=True) if adapter else None
        b = torch.randn(4, 24, 8, generator=generator, requires_grad=True) if adapter else None
        y = function.apply(x, x, a, b, offsets, stack, 0.5)
        assert not y[48:].any()
        y[:48].square().sum().backward()
        results.append([y.detach(), x.grad[:48], *([a.grad, b.grad] if adapter else [])])
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def test_dropout_leaves_elements_out_of_the_adapter_alone() -> None:
    torch.manual_seed(0)
    x = torch.randn(4000, 64)
    offsets = torch.tensor([2000, 4000], dtype=torch.int32)
    stack = DenseStack(torch.randn(2, 8, 64))
    a, b = torch.randn(2, 4, 64), torch.randn(2, 8, 4)
    plain = expert_linear(x, offsets, stack)
    full = expert_linear(x, offsets, stack, (Factors(a, b, 1.0),)) - plain
    dropped = expert_linear(x, offsets, stack, (Factors(a, b, 1.0, dropout=0.3),)) - plain
    assert relative(dropped.mean(0), full.mean(0)) < 0.5
    # An element kept with probability 1 - p and scaled by 1 / (1 - p) has variance p / (1 - p) · x²; those of a row add up through B · A.
    variance = 0.3 / 0.7 * torch.stack([((x[:2000] ** 2) @ ((b[e] @ a[e]) ** 2).T).sum() for e in (0,)])
    assert float((dropped - full)[:2000].square().sum()) == pytest.approx(float(variance.sum()), rel=0.05)


def lora(**changes: Any) -> LoraConfig:
    values = {
        "r": 4,
        "lora_alpha": 8,
        "target_modules": ["o_proj"],
        "target_parameters": TARGETS,
        "init_lora_weights": False,
    }
    return LoraConfig(**{**values, **changes})


def tiny(architecture: str = "mixtral") -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(0)
        return tiny_models.build(architecture).eval()


def wrapped(model: Any, config: LoraConfig) -> Any:
    torch.manual_seed(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return get_peft_model(model, config)


IDS = torch.arange(3, 51).view(2, 24)


@pytest.mark.parametrize("architecture", ["mixtral", "gpt_oss", "deepseek_v3", "qwen3_moe"])
def test_peft_reads_what_we_write_and_the_other_way_round(architecture: str, tmp_path) -> None:
    base = tiny(architecture)
    ours = wrapped(base, expert_lora_config(base, lora()))
    plain = wrapped(tiny(architecture), lora())
    assert {k: v.shape for k, v in ours.state_dict().items()} == {k: v.shape for k, v in plain.state_dict().items()}
    logits = ours(input_ids=IDS).logits
    ours.save_pretrained(tmp_path / "ours")
    plain.save_pretrained(tmp_path / "plain")
    read = PeftModel.from_pretrained(tiny(architecture), tmp_path / "ours")
    torch.testing.assert_close(read(input_ids=IDS).logits, logits, rtol=1e-4, atol=1e-5)
    base = tiny(architecture)
    back = PeftModel.from_pretrained(base, tmp_path / "plain", config=expert_lora_config(base, lora()))
    torch.testing.assert_close(back(input_ids=IDS).logits, plain(input_ids=IDS).logits, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("checkpointing", [None, False, True])
def test_two_steps_of_training_equal_pefts(checkpointing: bool | None) -> None:
    results = []
    for grouped in (True, False):
        base = tiny()
        model = wrapped(base, expert_lora_config(base, lora(use_rslora=True)) if grouped else lora(use_rslora=True))
        model.train()
        if checkpointing is not None:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": checkpointing})
            model.enable_input_require_grads()
        parameters = [p for p in model.parameters() if p.requires_grad]
        optimizer = torch.optim.SGD(parameters, lr=0.5)
        losses = []
        for _ in range(2):
            loss = model(input_ids=IDS, labels=IDS, use_cache=False).loss
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            losses.append(float(loss.detach()))
        results.append((losses, [p.detach().clone() for p in parameters]))
    assert results[0][0] == pytest.approx(results[1][0], rel=1e-5)
    assert results[0][0][0] != results[0][0][1]
    for one, other in zip(results[0][1], results[1][1], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def test_several_adapters_switching_off_scaling_and_merging() -> None:
    base = tiny()
    model = wrapped(base, expert_lora_config(base, lora()))
    plain = wrapped(tiny(), lora())
    for m, config in ((model, expert_lora_config(base, lora(r=2))), (plain, lora(r=2))):
        torch.manual_seed(2)
        m.add_adapter("second", config)
    for choose in ("second", ["default", "second"]):
        for m in (model, plain):
            m.base_model.set_adapter(choose)
        torch.testing.assert_close(model(input_ids=IDS).logits, plain(input_ids=IDS).logits, rtol=1e-4, atol=1e-5)
    with model.disable_adapter(), plain.disable_adapter():
        torch.testing.assert_close(model(input_ids=IDS).logits, plain(input_ids=IDS).logits, rtol=1e-4, atol=1e-5)
    model.base_model.set_adapter("default")
    before = model(input_ids=IDS).logits
    torch.testing.assert_close(model.merge_and_unload()(input_ids=IDS).logits, before, rtol=1e-4, atol=1e-5)


def test_autocast_multiplies_in_sixteen_bits() -> None:
    base = tiny()
    model = wrapped(base, expert_lora_config(base, lora()))
    exact = model(input_ids=IDS).logits
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = model(input_ids=IDS, labels=IDS).loss
        rough = model(input_ids=IDS).logits
    loss.backward()
    assert 1e-4 < relative(rough, exact) < 0.05
    assert all(p.grad is not None and p.grad.dtype == p.dtype for p in model.parameters() if p.requires_grad)


def test_only_the_chosen_experts_change() -> None:
    base = tiny()
    model = wrapped(base, expert_lora_config(base, lora(init_lora_weights=True)))
    layers = [m for m in model.modules() if type(m).__name__ == "ParamWrapper"]
    for layer in layers:
        layer.train_only([1, 6])
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.1, weight_decay=0)
    for _ in range(3):
        model(input_ids=IDS, labels=IDS).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    changed = set()
    for layer in layers:
        delta = layer.get_delta_weight("default")
        changed |= {e for e in range(8) if delta[e].any()}
    assert changed == {1, 6}
    with pytest.raises(TrainError, match="numbers from 0 to 7"):
        layers[0].train_only([8], adapter_name="other")


def test_dropout_is_allowed_and_is_off_in_evaluation() -> None:
    base = tiny()
    model = wrapped(base, expert_lora_config(base, lora(lora_dropout=0.5)))
    model.train()
    one, other = model(input_ids=IDS).logits, model(input_ids=IDS).logits
    assert relative(one, other) > 1e-3
    model.eval()
    assert torch.equal(model(input_ids=IDS).logits, model(input_ids=IDS).logits)


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(TrainError, match="names no target_parameters"):
        expert_lora_config(tiny(), LoraConfig(target_modules=["q_proj"]))
    with pytest.raises(TrainError, match="does not dispatch"):
        expert_lora_config(tiny("llama4"), lora())
    with pytest.raises(TrainError, match=r"gate_up_proj trains; .* freeze it"):
        use_grouped_experts(tiny())
    base = tiny()
    model = wrapped(base, expert_lora_config(base, lora()))
    base.set_experts_implementation("eager")
    with pytest.raises(TrainError, match="runs 'eager'"):
        model(input_ids=IDS)
    with pytest.raises(TrainError, match="do not divide into blocks"):
        quantise_nf4(torch.randn(2, 8, 48))


def test_packed_weights_are_adapted_in_their_true_shape_and_not_merged() -> None:
    experts, stacks = quantised("mixtral", "nf4")

    class Holder(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.experts, self.config = experts, experts.config

        def forward(self, *args: Any) -> Any:
            return self.experts(*args)

    holder = Holder()
    model = wrapped(holder, expert_lora_config(holder, lora(target_modules=[])))
    shapes = sorted(tuple(p.shape) for p in model.parameters() if p.requires_grad)
    expected = []
    for _, out, inner in (stack.shape for stack in stacks.values()):
        expected += [(4 * 8, inner), (out, 4 * 8)]
    assert shapes == sorted(expected)
    wrapper = next(m for m in model.modules() if type(m).__name__ == "ParamWrapper")
    with pytest.raises(TrainError, match="lost in rounding"):
        wrapper.merge()


def test_stacks_agree_on_one_expert_and_all() -> None:
    torch.manual_seed(0)
    weight = torch.randn(3, 64, 128)
    for transposed in (False, True):
        for stack in (
            DenseStack(weight, transposed),
            Nf4Stack(*quantise_nf4(weight), transposed),
            Int8Stack(*quantise_int8(weight), transposed),
        ):
            whole = stack.whole(torch.float32)
            assert (
                whole.shape
                == (3, stack.out_features, stack.in_features)
                == ((3, 128, 64) if transposed else (3, 64, 128))
            )
            for e in range(3):
                assert torch.equal(whole[e], stack.expert(e, torch.float32))
