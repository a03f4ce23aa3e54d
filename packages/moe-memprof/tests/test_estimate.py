"""Estimates add up, follow what is changed in the way they must, and agree with sums done by hand."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moe_memprof import Estimate, MemprofError, Part, Phase, RunSpec, estimate
from moe_memprof.architectures.registry import SUPPORTED, describe
from moe_memprof.devices import Parallel
from moe_memprof.plan import BASELINE, CONTEXT
from published import MIXTRAL_8X7B, OLMOE_1B_7B, QWEN3_30B_A3B

SPECS = st.builds(
    RunSpec,
    config=st.sampled_from([MIXTRAL_8X7B, QWEN3_30B_A3B, OLMOE_1B_7B]),
    method=st.sampled_from(["full", "lora"]),
    dtype=st.sampled_from(["float32", "bfloat16"]),
    lora_rank=st.integers(1, 64),
    lora_experts=st.booleans(),
    sequences=st.integers(1, 16),
    length=st.integers(1, 8192),
    loss_share=st.floats(0.1, 1),
    optimizer=st.sampled_from(["adamw", "adamw_fused", "adamw_8bit", "adafactor", "lion", "sgd"]),
    loss=st.sampled_from(["stock", "completion", "chunked", "liger"]),
    accumulation=st.sampled_from([1, 4]),
    device=st.sampled_from(["cpu", "cuda"]),
    checkpointing=st.booleans(),
    baseline=st.none() | st.integers(0, 2**30),
)


@given(SPECS)
@settings(max_examples=60, deadline=None)
def test_parts_add_up_and_nothing_is_negative(spec: RunSpec) -> None:
    made = estimate(spec)
    written = made.to_dict()
    assert made.peak == max(sum(p["bytes"] for p in phase["parts"]) for phase in written["phases"])
    assert [phase["peak"] for phase in written["phases"]] == [
        sum(p["bytes"] for p in phase["parts"]) for phase in written["phases"]
    ]
    assert all(p["bytes"] >= 0 and p["formula"] and p["kind"] for phase in written["phases"] for p in phase["parts"])
    assert json.loads(json.dumps(written)) == written


@given(SPECS, st.integers(1, 512))
@settings(max_examples=40, deadline=None)
def test_more_tokens_never_take_less(spec: RunSpec, more: int) -> None:
    longer = RunSpec(**{**vars(spec), "length": spec.length + more})
    assert estimate(longer).phase("step").peak >= estimate(spec).phase("step").peak


@given(SPECS)
@settings(max_examples=40, deadline=None)
def test_checkpointing_never_takes_more(spec: RunSpec) -> None:
    spec = replace(spec, length=max(64, spec.length))  # of a single token there is nothing to keep
    off, on = (estimate(replace(spec, checkpointing=c)).phase("step").peak for c in (False, True))
    # The layer at hand: its input in 16 bits, of which the norm keeps a cast copy anyway, and states of random numbers.
    held = spec.sequences * spec.length * spec.config["hidden_size"] * spec.width + 50 * 5056
    assert on <= off + 1.05 * held  # with the share that a GPU's allocator keeps beside it


def step_parts(**values) -> dict[str, int]:
    return {p.name: p.bytes for p in estimate(RunSpec(**values)).phase("step").parts}


def test_weights_and_states_of_a_full_fine_tune_by_hand() -> None:
    """OLMoE in bf16 with fused AdamW, one token: weights, two moments and all gradients, 2 bytes each."""
    n = 6_919_161_856
    parts = step_parts(
        config=OLMOE_1B_7B, method="full", dtype="bfloat16", length=1, optimizer="adamw_fused", allocator=False
    )
    assert sum(size for name, size in parts.items() if name.startswith("weights")) == 2 * n
    assert (parts["optimizer state"], parts["gradients"]) == (4 * n, 2 * n)
    assert sum(parts.values()) == pytest.approx(8 * n, rel=0.001)
    # torch's default for CUDA takes the square roots of all second moments at once
    assert (
        step_parts(config=OLMOE_1B_7B, method="full", dtype="bfloat16", length=1, optimizer="adamw")[
            "optimizer's temporaries"
        ]
        == 2 * n
    )


def test_four_bits_by_hand() -> None:
    """bitsandbytes' NF4 on the linears of Mixtral: 4.5 bits each, 4.127 with double quantisation; experts stay in 16 bits."""
    attention, experts = 32 * (2 * 4096 * 4096 + 2 * 1024 * 4096), 45_097_156_608
    stock = step_parts(config=MIXTRAL_8X7B, method="qlora", dtype="bfloat16", length=16)
    assert stock["weights: attention (4 bits)"] == attention * 4.5 / 8
    assert stock["weights: routed expert"] == 2 * experts
    ours = {"quantise_experts": True, "double_quant": True, "expert_lora": "grouped"}
    nested = step_parts(config=MIXTRAL_8X7B, method="qlora", dtype="bfloat16", length=16, **ours)
    assert nested["weights: routed expert (4 bits)"] == pytest.approx(experts * (0.5 + 1 / 64 + 4 / 64 / 256), rel=1e-6)
    prepared = step_parts(config=MIXTRAL_8X7B, method="qlora", dtype="bfloat16", length=16, kbit_prepare=True)
    assert prepared["weights: routed expert"] == 4 * experts  # what PEFT's preparation makes of them


def test_a_stock_run_as_published() -> None:
    """experts4bit-qlora's pre-registered run of the stock stack on an RTX 5090: 16.32e9 bytes allocated (rows of about 555 tokens)."""
    made = estimate(
        RunSpec(
            config=OLMOE_1B_7B, method="qlora", dtype="bfloat16", lora_rank=16, optimizer="adamw_8bit", loss="stock",
            checkpointing="non-reentrant", sequences=2, length=555, padded=True, accumulation=4, allocator=False,
        )
    )  # fmt: skip
    assert made.trainable_parameters == 121_634_816
    assert made.peak == pytest.approx(16.32e9, rel=0.05)


def test_peft_materialises_the_experts_once_per_layer() -> None:
    with_experts = estimate(RunSpec(config=MIXTRAL_8X7B, dtype="bfloat16", length=16))
    parts = {p.name: p.bytes for p in with_experts.phase("step").parts}
    assert parts["weights: routed expert"] == 2 * 45_097_156_608
    # All layers' are kept, and in the backward pass the last layer's gradient comes on top.
    assert (
        parts["weights: routed expert"] <= parts["materialised expert weights"] < 1.05 * parts["weights: routed expert"]
    )
    without = estimate(RunSpec(config=MIXTRAL_8X7B, dtype="bfloat16", length=16, lora_experts=False))
    assert not any("materialised" in p.name for p in without.phase("step").parts)


@pytest.mark.parametrize(("device", "name"), [("cpu", BASELINE), ("cuda", CONTEXT)])
def test_what_the_process_takes_is_in_the_peak_and_not_in_the_tensors(device: str, name: str) -> None:
    without, with_it = (estimate(RunSpec(config=OLMOE_1B_7B, device=device, baseline=b)) for b in (None, 1000))  # type: ignore[arg-type]
    assert with_it.peak == without.peak + 1000
    assert [p.tensor_peak for p in with_it.phases] == [p.tensor_peak for p in without.phases]
    assert name in {p.name for p in with_it.phases[0].parts}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"length": 0}, "length: must be at least 1, got 0"),
        ({"dtype": "int4"}, "'int4' is not one of float32"),
        ({"loss_share": 0.0}, "loss_share"),
        ({"lora_attention": False, "lora_experts": False}, "nothing would train"),
        ({"method": "distil"}, "method: 'distil' is not one of full, lora, qlora"),
        ({"optimizer": "adam"}, "optimizer: 'adam' is not one of"),
        ({"checkpointing": "some"}, "checkpointing: 'some' is not one of none"),
        ({"method": "qlora", "quantise_experts": True}, "PEFT cannot adapt packed 4-bit experts"),
        ({"master_weights": True}, "only a full fine-tune"),
    ],
)
def test_impossible_specs_are_refused(values: dict, message: str) -> None:
    with pytest.raises(MemprofError, match=message):
        RunSpec(config=MIXTRAL_8X7B, **values)


def test_an_estimate_without_phases_and_negative_parts_cannot_be_made() -> None:
    with pytest.raises(MemprofError, match="at least one phase"):
        Estimate(parameters=1, active_parameters=1, trainable_parameters=1, phases=(), not_modelled=())
    with pytest.raises(MemprofError, match="-1 bytes"):
        Part(name="x", bytes=-1, kind="derived", formula="x")
    assert Phase(name="load", moment="m", parts=(Part(name="x", bytes=3, kind="derived", formula="x"),) * 2).peak == 6


def rank_parts(phase: str = "step", **values) -> dict[str, int]:
    spec = RunSpec(
        config=QWEN3_30B_A3B,
        method="full",
        dtype="bfloat16",
        length=64,
        allocator=False,
        optimizer="adamw_fused",
        **values,
    )
    return {p.name: p.bytes for p in estimate(spec).phase(phase).parts}


def test_zero_shards_what_its_stage_says() -> None:
    """States, then gradients, then weights: each stage divides one more by the number of ranks (arXiv:1910.02054, figure 1)."""
    n = 30_532_122_624
    for stage, (states, gradients, experts) in {
        1: (8, 1, 1),
        2: (8, 8, 1),
        3: (8, 8, 8),
    }.items():
        parts = rank_parts(parallel=Parallel(world=8, zero=stage))
        assert parts["optimizer state"] == 4 * n / states
        assert parts["gradients"] == pytest.approx(2 * n / gradients, rel=1e-6)
        assert parts["weights: routed expert"] == 2 * 48 * 128 * 3 * 768 * 2048 / experts
        assert ("gathered layers" in parts) == (stage == 3)
    assert rank_parts(parallel=Parallel(world=2))["gradient buckets"] == 2 * n  # DDP's copies


def test_offloaded_states_are_in_host_memory_and_not_on_the_device() -> None:
    spec = RunSpec(
        config=OLMOE_1B_7B, method="full", dtype="bfloat16", length=64, optimizer="adamw_fused",
        parallel=Parallel(world=2, zero=2, offload_optimizer="cpu"),
    )  # fmt: skip
    made = estimate(spec)
    assert "optimizer state" not in {p.name for p in made.phase("step").parts}
    assert [p.name for p in made.host] == ["offloaded optimizer"]
    assert made.host[0].bytes == (4 + 4) * 6_919_161_856
    assert made.to_dict()["host"][0]["bytes"] == made.host[0].bytes


def test_experts_spread_over_ranks_and_the_busiest_rank_takes_most() -> None:
    even = rank_parts(parallel=Parallel(world=8, expert_parallel=8))
    assert even["weights: routed expert"] == 2 * 48 * 16 * 3 * 768 * 2048
    spread = Parallel(world=8, expert_parallel=8)
    spec = RunSpec(config=QWEN3_30B_A3B, dtype="bfloat16", lora_experts=False, parallel=spread)
    balanced, worst = estimate(spec), estimate(replace(spec, parallel=replace(spread, hottest_share=1.0)))
    rows = [{p.name: p.bytes for p in made.phase("step").parts}["activations: experts"] for made in (balanced, worst)]
    assert rows[1] == pytest.approx(8 * rows[0], rel=1e-6)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"world": 0}, "world: must be at least 1"),
        ({"world": 2, "zero": 4}, "zero: must be 0, 1, 2 or 3"),
        ({"world": 2, "zero": 3, "fsdp": True}, "keep one"),
        ({"world": 8, "expert_parallel": 3}, "must divide world"),
        ({"offload_optimizer": "cpu"}, "add --zero"),
        ({"world": 2, "zero": 2, "offload_parameters": "cpu"}, "only ZeRO-3"),
        ({"world": 4, "expert_parallel": 4, "hottest_share": 0.1}, "hottest_share"),
    ],
)
def test_impossible_layouts_are_refused(values: dict, message: str) -> None:
    with pytest.raises(MemprofError, match=message):
        Parallel(**values)
    with pytest.raises(MemprofError, match="does not divide 8 experts"):
        estimate(RunSpec(config=MIXTRAL_8X7B, parallel=Parallel(world=16, expert_parallel=16)))


def test_what_the_user_knows_better_replaces_a_part_and_the_buffer_comes_on_top() -> None:
    spec = RunSpec(config=OLMOE_1B_7B, dtype="bfloat16", allocator=False)
    plain = estimate(spec)
    known = estimate(replace(spec, overrides={"tensor being read": 0}))
    read = next(p.bytes for p in plain.phase("load").parts if p.name == "tensor being read")
    assert plain.phase("load").peak - known.phase("load").peak == read
    assert next(p for p in known.phase("load").parts if p.name == "tensor being read").kind == "given"
    buffered = estimate(replace(spec, buffer=0.1))
    assert buffered.peak == pytest.approx(1.1 * plain.peak, abs=1)
    with pytest.raises(MemprofError, match="did you mean 'tensor being read'"):
        estimate(replace(spec, overrides={"tensor being red": 0}))
    with pytest.raises(MemprofError, match="buffer: must be between"):
        replace(spec, buffer=2.0)


@pytest.mark.parametrize("kind", SUPPORTED)
def test_every_architecture_can_be_planned(kind: str) -> None:
    """With the sizes that transformers takes where a config names none; some types have no complete defaults."""
    try:
        describe({"model_type": kind})
    except MemprofError:
        pytest.skip("its configuration class has no complete defaults")
    for method in ("full", "lora", "qlora"):
        made = estimate(RunSpec(config={"model_type": kind}, method=method, dtype="bfloat16", length=32))  # type: ignore[arg-type]
        assert made.phase("step").peak > made.phase("load").peak / 4
        assert made.trainable_parameters > 0
