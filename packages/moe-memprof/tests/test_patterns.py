"""Patterns of keeping experts against drawn tokens, a published pair of runs, and what cannot be."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from moe_memprof import MemprofError, RunSpec
from moe_memprof.devices import Parallel
from moe_memprof.patterns import patterns
from published import MIXTRAL_8X7B, OLMOE_1B_7B

SPEC = RunSpec(config=OLMOE_1B_7B, method="lora", dtype="bfloat16", length=64, checkpointing=True)
LAYERS, EXPERTS, TOP_K = 16, 64, 8
ONE = 3 * 2048 * 1024 * 2
"""Bytes of one of OLMoE's experts."""


def by_name(spec: RunSpec, loads=None):
    return {p.name: p for p in patterns(spec, loads)}


def test_all_on_the_device_is_the_plan_itself_and_moves_nothing() -> None:
    found = by_name(SPEC)["all on the device"]
    assert (found.moved, found.moved_per_token, found.hit_share) == (0, 0, pytest.approx(1.0))
    assert found.resident == LAYERS * EXPERTS * ONE


def test_fetched_experts_are_those_that_drawn_tokens_go_to() -> None:
    rng = random.Random(0)
    drawn = 0
    rounds = 300
    for _ in range(rounds):
        drawn += len({e for _ in range(SPEC.tokens) for e in rng.sample(range(EXPERTS), TOP_K)})
    expected = 2 * LAYERS * ONE * drawn / rounds
    assert by_name(SPEC)["layer by layer, fetched ahead"].moved == pytest.approx(expected, rel=0.01)


def test_the_hottest_stay() -> None:
    loads = [[float(EXPERTS - e) ** 2 for e in range(EXPERTS)]] * LAYERS
    even, skewed = by_name(SPEC)["the hottest quarter stays"], by_name(SPEC, loads)["the hottest quarter stays"]
    assert even.hit_share == pytest.approx(0.25)
    assert skewed.hit_share == pytest.approx(sum(sorted(loads[0])[-16:]) / sum(loads[0]))
    assert skewed.moved < even.moved
    assert skewed.moved_per_token == pytest.approx((1 - skewed.hit_share) * TOP_K * ONE * LAYERS, rel=1e-6)


def test_less_on_the_device_moves_more() -> None:
    found = patterns(SPEC)
    assert [p.resident for p in found] == sorted((p.resident for p in found), reverse=True)
    assert [p.moved for p in found] == sorted(p.moved for p in found)
    assert len({p.peak - p.resident for p in found}) == 1


def test_offloading_experts_saves_what_a_published_pair_of_runs_saved() -> None:
    """experts4bit-qlora's OLMoE grid, bfloat16 experts: 14.54 GB on the device, 2.41 GB with the experts' weights on the host."""
    found = by_name(SPEC)
    saved = found["all on the device"].peak - found["layer by layer, waited for"].peak
    assert saved == pytest.approx((14.54 - 2.41) * 1e9, rel=0.01)


@pytest.mark.parametrize(
    ("spec", "loads", "why"),
    [
        (replace(SPEC, method="full"), None, "--offload-parameters cpu"),
        (replace(SPEC, parallel=Parallel(world=2)), None, "one device"),
        (SPEC, [[1.0] * 8] * 32, "32 layers with 8 experts, the model has 16 with 64"),
        (replace(SPEC, config={**MIXTRAL_8X7B, "model_type": "mistral"}), None, "model_type"),
    ],
)
def test_what_cannot_be_is_refused(spec, loads, why) -> None:
    with pytest.raises(MemprofError, match=why):
        patterns(spec, loads)
