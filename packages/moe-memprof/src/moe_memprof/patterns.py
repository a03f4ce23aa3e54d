"""Keeping routed experts in host memory and switching them in: what each way saves on the device and moves over the link.

Only for frozen experts, whose weights move one way. Letters: E experts of a layer, k experts a token goes to, T tokens of a micro-batch,
c experts of each layer that stay on the device, L layers with experts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from moe_memprof.architectures.base import Experts
from moe_memprof.errors import MemprofError
from moe_memprof.estimate import described, estimate
from moe_memprof.spec import RunSpec
from moe_memprof.weights import held_bytes


@dataclass(frozen=True, kw_only=True)
class Pattern:
    """A way of keeping experts."""

    name: str
    kept: int
    """c, experts of each layer that stay on the device."""
    resident: int
    """Bytes of experts on the device: those that stay, and the buffers of those that come and go."""
    peak: int
    """The step's peak with that."""
    moved: int
    """Bytes fetched from the host in a micro-batch: every missing expert that a token goes to, for the forward and for the backward pass
    (a checkpointed layer is run again just before its backward pass, with the same fetch)."""
    hit_share: float
    """Share of the assignments that find their expert on the device."""
    moved_per_token: int
    """Bytes fetched for a generated token, all layers, where nothing of the token before is kept."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def patterns(spec: RunSpec, loads: Sequence[Sequence[float]] | None = None) -> list[Pattern]:
    """Every pattern, from all experts on the device to none.

    How many experts of a layer are fetched follows from their loads: an expert that a share p of the tokens goes to is needed by at least
    one of T independent tokens with probability 1 - (1 - p)^T. Without loads every expert has p = k / E. Those that stay are the ones
    with the highest loads.

    Raises:
        MemprofError: where experts train, are spread over devices already, or the loads are of another model.
    """
    if spec.method == "full":
        raise MemprofError(
            "patterns: experts that train need their gradients and states beside them; use --zero 3 --offload-parameters cpu"
        )
    if not spec.parallel.alone:
        raise MemprofError("patterns: planned for one device without offloading; leave out --world and --offload-…")
    model = described(spec)
    sizes: Counter[int] = Counter()
    for tensor in model.tensors:
        if tensor.role == "routed expert" and tensor.layer is not None:
            sizes[tensor.layer] += held_bytes(tensor, spec)
    kinds = [(i, layer.feed_forward) for i, layer in enumerate(model.layers) if isinstance(layer.feed_forward, Experts)]
    if not kinds or not sizes:
        raise MemprofError(f"patterns: {model.model_type} has no layer with experts in this configuration")
    shares = _shares([e for _, e in kinds], loads)
    layers = [sizes[i] for i, _ in kinds]
    everything, largest = sum(layers), max(layers)
    peak = estimate(spec).phase("step").peak
    found: list[Pattern] = []
    least = min(e.count for _, e in kinds)
    for name, kept, buffers in (
        ("all on the device", least, 0),
        ("the hottest half stays", least // 2, 2),
        ("the hottest quarter stays", least // 4, 2),
        ("layer by layer, fetched ahead", 0, 2),
        ("layer by layer, waited for", 0, 1),
    ):
        stays = moved = hits = per_token = 0.0
        for size, (_, e), share in zip(layers, kinds, shares, strict=True):
            c = e.count if kept == least else kept
            one = size / e.count
            stays += c * one
            missing = share[c:]
            moved += 2 * one * sum(1 - (1 - min(1.0, p)) ** spec.tokens for p in missing)
            hits += sum(share[:c]) / e.top_k / len(kinds)
            per_token += one * sum(missing)
        resident = round(stays + buffers * largest * (1 - kept / least))
        found.append(
            Pattern(
                name=name,
                kept=kept,
                resident=resident,
                peak=peak - everything + resident,
                moved=round(moved),
                hit_share=hits,
                moved_per_token=round(per_token),
            )
        )
    return found


def _shares(kinds: Sequence[Experts], loads: Sequence[Sequence[float]] | None) -> list[list[float]]:
    """Share of the tokens that goes to each expert, highest first, for every layer with experts."""
    if loads is None:
        return [[e.top_k / e.count] * e.count for e in kinds]
    if len(loads) != len(kinds) or any(len(row) != e.count for row, e in zip(loads, kinds, strict=True)):
        raise MemprofError(
            f"patterns: the loads are of {len(loads)} layers with {len(loads[0])} experts, the model has {len(kinds)} with {kinds[0].count}"
        )
    return [sorted((n / sum(row) * e.top_k for n in row), reverse=True) for row, e in zip(loads, kinds, strict=True)]
