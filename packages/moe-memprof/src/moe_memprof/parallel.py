"""Many devices: what of a plan is sharded, and what sharding itself takes.

The rank that is planned is the one with most: shares are rounded up, and with experts on several ranks it is the one whose experts
receive most tokens. Letters: n elements, w ranks.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from math import ceil

from moe_memprof.architectures.base import Experts, Model
from moe_memprof.devices import Parallel
from moe_memprof.errors import MemprofError
from moe_memprof.optimizer import optimizer_memory
from moe_memprof.plan import Part
from moe_memprof.spec import RunSpec
from moe_memprof.weights import Trained, held_bytes

REDUCE_BUCKET = 500_000_000
"""DeepSpeed's reduce_bucket_size and allgather_bucket_size, in elements, where the configuration leaves them out."""
SWAP_BUFFERS = 4
"""DeepSpeed's offload_optimizer.buffer_count: parameter, gradient and both moments of a group on the way to or from the disk."""
SUB_GROUP = 1_000_000_000
"""Elements that ZeRO-3 updates at a time (sub_group_size)."""
PARAMETER_BUFFERS = 5 * 100_000_000
"""Elements of DeepSpeed's offload_param.buffer_count buffers of buffer_size each."""
KEPT_OF_NVME = 1_000_000_000
"""Elements that stay in host memory where parameters are offloaded to a disk (offload_param.max_in_cpu)."""
PERSISTENT = 100_000
"""DeepSpeed's stage3_param_persistence_threshold: smaller tensors stay whole on every rank."""


def check(model: Model, parallel: Parallel) -> None:
    """Refuse to spread experts unevenly.

    Raises:
        MemprofError: when the experts do not divide over the ranks.
    """
    counts = {layer.feed_forward.count for layer in model.layers if isinstance(layer.feed_forward, Experts)}
    uneven = [count for count in counts if count % parallel.expert_parallel]
    if uneven:
        raise MemprofError(f"expert_parallel: {parallel.expert_parallel} does not divide {uneven[0]} experts")


def on_rank(trains: Sequence[Trained], parallel: Parallel) -> list[Trained]:
    """What trains on one rank of expert parallelism: its experts' share alone, everything else whole."""
    ranks = parallel.expert_parallel
    return [
        replace(t, shape=(ceil(t.shape[0] / ranks), *t.shape[1:])) if t.role == "routed expert" and ranks > 1 else t
        for t in trains
    ]


def own(trains: Sequence[Trained], parallel: Parallel, *, sharded: bool) -> list[Trained]:
    """What a rank has before ZeRO or FSDP2 divide it: they divide by all ranks what expert parallelism divided by some already."""
    return list(trains) if sharded else on_rank(trains, parallel)


def spread(parts: Sequence[Part], parallel: Parallel) -> list[Part]:
    """Weights, adapters and states of one rank; adapters and states come as `own` gives them."""
    found: list[Part] = []
    for part in parts:
        shares = 1
        weights = part.name.startswith("weights:") or part.name.startswith("LoRA:")
        if part.name.startswith("weights: routed expert"):
            shares *= parallel.expert_parallel
        if weights and parallel.shards_weights:
            shares *= parallel.world // shares
        if part.name in {"optimizer state", "master weights"} and parallel.shards_states:
            shares *= parallel.world
        moved = (weights and parallel.offload_parameters != "none") or (
            part.name in {"optimizer state", "master weights"} and parallel.offload_optimizer != "none"
        )
        if moved:
            continue
        if shares > 1:
            part = replace(part, bytes=ceil(part.bytes / shares), formula=f"{part.formula}; 1/{shares} on this rank")
        found.append(part)
    return found


def step_parts(
    model: Model, moment: Counter[str], trains: Sequence[Trained], spec_width: int, parallel: Parallel
) -> Counter[str]:
    """A moment of the step on one rank: gradients sharded or copied into buckets, experts' rows of the busiest rank."""
    here = Counter(moment)
    everything, here_alone = sum(t.bytes for t in trains), sum(t.bytes for t in on_rank(trains, parallel))
    gradients = here_alone
    if parallel.shards_gradients:
        here["gradients"] = ceil(everything / parallel.world)
    elif everything:
        here["gradients"] = ceil(here["gradients"] * here_alone / everything)
    if "materialised expert weights" in here:
        here["materialised expert weights"] = ceil(here["materialised expert weights"] / parallel.expert_parallel)
    for name in ("experts", "dispatch"):
        if name in here:
            here[name] = round(here[name] * parallel.imbalance)
    if parallel.world > 1:
        bucket = min(gradients, REDUCE_BUCKET * spec_width if parallel.zero else gradients)
        if parallel.fsdp:
            bucket = largest_layer(on_rank(trains, parallel))
        here["gradient buckets"] += bucket
    if parallel.shards_weights or parallel.offload_parameters != "none":
        here["gathered layers"] += 2 * gathered_layer(model, spec_width, parallel.expert_parallel)
    return here


def largest_layer(trains: Sequence[Trained]) -> int:
    """Bytes of the gradients of the layer with most."""
    sizes: Counter[int | None] = Counter()
    for t in trains:
        sizes[t.layer] += t.bytes
    return max(sizes.values(), default=0)


def gathered_layer(model: Model, width: int, expert_parallel: int) -> int:
    """Bytes of the layer with most weights, whole but for the experts of other ranks."""
    sizes: Counter[int | None] = Counter()
    for tensor in model.tensors:
        if tensor.elements > PERSISTENT:
            shares = expert_parallel if tensor.role == "routed expert" else 1
            sizes[tensor.layer] += ceil(tensor.elements * width / shares)
    return max(sizes.values(), default=0)


STEP_FORMULAS = {
    "gradient buckets": (
        "DDP copies all gradients into buckets (gradient_as_bucket_view is off by default); "
        "DeepSpeed: reduce_bucket_size, 5e8 elements at most; FSDP2: one layer's"
    ),
    "gathered layers": "the layer at work and the one being fetched, whole (a MoE block is gathered at once)",
}


def host_parts(model: Model, trains: Sequence[Trained], spec: RunSpec) -> list[Part]:
    """What all ranks of one machine keep in host memory for the device's sake."""
    parallel = spec.parallel
    parts: list[Part] = []
    memory = optimizer_memory(trains, spec)
    n = sum(t.elements for t in trains)
    paged = optimizer_memory(own(trains, parallel, sharded=parallel.shards_states), spec).pageable
    if parallel.shards_states:
        paged = ceil(paged / parallel.world)
    if memory.pageable:
        parts.append(
            Part(
                name="paged optimizer state",
                bytes=paged * parallel.world,
                kind="derived",
                formula=memory.formula,
            )
        )
    if parallel.offload_optimizer == "cpu":
        size = memory.states + (n * 4 if spec.master_weights else 0) + n * 4
        why = "states, fp32 weights and pinned gradients of all ranks"
        parts.append(Part(name="offloaded optimizer", bytes=size, kind="derived", formula=why))
    if parallel.offload_optimizer == "nvme":
        size = SWAP_BUFFERS * min(SUB_GROUP, ceil(n / parallel.world)) * 4 * parallel.world
        why = f"{SWAP_BUFFERS} pinned buffers of a group in fp32 (buffer_count, sub_group_size) on every rank"
        parts.append(Part(name="buffers of the optimizer's disk", bytes=size, kind="heuristic", formula=why))
    if parallel.offload_parameters == "nvme":
        whole = sum(t.elements for t in model.tensors)
        size = (PARAMETER_BUFFERS * parallel.world + min(KEPT_OF_NVME, whole)) * spec.width
        why = "5 pinned buffers of 1e8 elements on every rank, and max_in_cpu's 1e9 elements"
        parts.append(Part(name="buffers of the parameters' disk", bytes=size, kind="heuristic", formula=why))
    if parallel.offload_parameters == "cpu":
        size = sum(held_bytes(t, spec) for t in model.tensors)
        parts.append(
            Part(name="offloaded parameters", bytes=size, kind="derived", formula="weights of all ranks, pinned")
        )
    return parts
