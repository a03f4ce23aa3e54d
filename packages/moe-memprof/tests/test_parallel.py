"""Expert parallelism and offloading against sums done by hand."""

from __future__ import annotations

from dataclasses import replace
from math import ceil

import pytest

from moe_memprof import RunSpec, estimate
from moe_memprof.architectures.registry import describe
from moe_memprof.devices import Parallel
from published import MIXTRAL_8X7B

FULL = RunSpec(config=MIXTRAL_8X7B, method="full", dtype="bfloat16", length=128, accumulation=2, allocator=False)


def parts(spec: RunSpec, phase: str = "step") -> dict[str, int]:
    return {part.name: part.bytes for part in estimate(spec).phase(phase).parts}


@pytest.mark.parametrize("ranks", [2, 4, 8])
def test_a_rank_has_gradients_and_states_of_its_own_experts_alone(ranks) -> None:
    model = describe(MIXTRAL_8X7B)
    experts = sum(t.elements for t in model.tensors if t.role == "routed expert")
    mine = model.parameters - experts + experts // ranks
    found = parts(replace(FULL, parallel=Parallel(world=ranks, expert_parallel=ranks)))
    assert found["gradients"] == mine * 2
    assert found["optimizer state"] == 2 * mine * 2
    assert found["weights: routed expert"] == experts // ranks * 2


def test_zero_divides_by_all_ranks_whatever_expert_parallelism_divided_before() -> None:
    alone = replace(FULL, parallel=Parallel(world=8, zero=3))
    spread = replace(FULL, parallel=Parallel(world=8, zero=3, expert_parallel=8))
    total = describe(MIXTRAL_8X7B).parameters
    for spec in (alone, spread):
        found = parts(spec)
        assert found["gradients"] == ceil(total * 2 / 8)
        assert found["optimizer state"] == ceil(total * 4 / 8)
    # The experts of other ranks are not gathered.
    assert parts(spread)["gathered layers"] < parts(alone)["gathered layers"] / 4


def test_adapters_of_experts_are_the_ranks_own() -> None:
    spec = replace(FULL, method="lora", lora_rank=16, optimizer="adamw")
    whole = parts(spec)
    found = parts(replace(spec, parallel=Parallel(world=4, expert_parallel=4)))
    assert found["LoRA: routed expert"] == whole["LoRA: routed expert"] // 4
    assert found["LoRA: attention"] == whole["LoRA: attention"]
    states = 2 * (found["LoRA: routed expert"] + found["LoRA: attention"])
    assert found["optimizer state"] == states


def test_states_on_a_disk_take_buffers_in_host_memory() -> None:
    host = {
        p.name: p.bytes
        for p in estimate(
            replace(FULL, parallel=Parallel(world=2, zero=3, offload_optimizer="nvme", offload_parameters="nvme"))
        ).host
    }
    assert host["buffers of the optimizer's disk"] == 4 * 10**9 * 4 * 2  # a sub-group is smaller than a rank's share
    assert host["buffers of the parameters' disk"] == (5 * 10**8 * 2 + 10**9) * 2
