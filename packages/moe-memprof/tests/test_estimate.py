"""Estimates add up, follow what is changed in the way they must, and agree with sums done by hand."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moe_memprof import Estimate, MemprofError, Part, Phase, RunSpec, estimate
from moe_memprof.plan import BASELINE
from test_inventory import MIXTRAL_8X7B, OLMOE_1B_7B, QWEN3_30B_A3B

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
    optimizer=st.sampled_from(["adamw", "sgd"]),
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
    off, on = (estimate(RunSpec(**{**vars(spec), "checkpointing": c})).phase("step").peak for c in (False, True))
    assert on <= off


def test_weights_and_states_of_a_full_fine_tune_by_hand() -> None:
    """OLMoE in bf16 with AdamW, one token: weights, two moments and all gradients, 2 bytes each."""
    made = estimate(RunSpec(config=OLMOE_1B_7B, method="full", dtype="bfloat16", sequences=1, length=1))
    n = 6_919_161_856
    parts = {p.name: p.bytes for p in made.phase("step").parts}
    assert sum(size for name, size in parts.items() if name.startswith("weights")) == 2 * n
    assert parts["optimizer state"] == 4 * n
    assert made.trainable_parameters == n
    gradients = parts["gradients"] + parts.get("gradient of expert weights", 0)
    assert 0.9 * 2 * n < gradients <= 2 * n


def test_peft_materialises_the_experts_once_per_layer() -> None:
    with_experts = estimate(RunSpec(config=MIXTRAL_8X7B, dtype="bfloat16", length=16))
    parts = {p.name: p.bytes for p in with_experts.phase("step").parts}
    assert parts["materialised expert weights"] == parts["weights: routed expert"] == 2 * 45_097_156_608
    without = estimate(RunSpec(config=MIXTRAL_8X7B, dtype="bfloat16", length=16, lora_experts=False))
    assert not any("materialised" in p.name for p in without.phase("step").parts)


def test_baseline_is_in_the_peak_and_not_in_the_tensors() -> None:
    without, with_it = (estimate(RunSpec(config=OLMOE_1B_7B, baseline=b)) for b in (None, 1000))
    assert with_it.peak == without.peak + 1000
    assert [p.tensor_peak for p in with_it.phases] == [p.peak for p in without.phases]
    assert BASELINE in {p.name for p in with_it.phases[0].parts}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"length": 0}, "length: must be at least 1, got 0"),
        ({"dtype": "int4"}, "'int4' is not one of float32"),
        ({"loss_share": 0.0}, "loss_share"),
        ({"lora_attention": False, "lora_experts": False}, "nothing would train"),
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
