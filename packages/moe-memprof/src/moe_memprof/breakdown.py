"""Where the bytes are, layer by layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from moe_memprof.architectures.base import Attention, Dense, Experts, Layer, StateMixer
from moe_memprof.estimate import described
from moe_memprof.phases import how_of, task_of
from moe_memprof.replay.step import replay
from moe_memprof.spec import RunSpec
from moe_memprof.weights import held_bytes


@dataclass(frozen=True, kw_only=True)
class LayerBytes:
    """One or more layers that are alike in everything; bytes of each one of them."""

    numbers: str
    """As `0` or `1-31`."""
    kind: str
    weights: int
    kept: int
    """From its forward pass until its backward pass."""
    forward_rise: int
    """Highest moment of its forward pass, above the start of it."""
    backward_rise: int


def breakdown(spec: RunSpec) -> list[LayerBytes]:
    """The layers of a run by kind; those that are alike in everything share a row."""
    model = described(spec)
    moments = replay(model, how_of(model, spec), task_of(spec))
    count = len(model.layers)
    weights = [0] * count
    for tensor in model.tensors:
        if tensor.layer is not None and tensor.layer < count:
            weights[tensor.layer] += held_bytes(tensor, spec)
    rows: list[LayerBytes] = []
    found: list[tuple[str, int, int, int, int]] = []
    for i, layer in enumerate(model.layers):
        forward, back = moments[1 + i], moments[1 + 2 * count + 1 - i]
        found.append((kind_name(layer), weights[i], forward.change, forward.rise, back.rise))
    for alike in dict.fromkeys(found):
        kind, held, kept, forward_rise, backward_rise = alike
        rows.append(
            LayerBytes(
                numbers=ranges([i for i, one in enumerate(found) if one == alike]),
                kind=kind,
                weights=held,
                kept=kept,
                forward_rise=forward_rise,
                backward_rise=backward_rise,
            )
        )
    return rows


def ranges(numbers: Sequence[int]) -> str:
    """Rising numbers in few characters: `0-2, 4`, or with a step, `1, 3, .. 23`."""
    steps = {b - a for a, b in pairwise(numbers)}
    if len(numbers) > 3 and len(steps) == 1 and steps != {1}:
        return f"{numbers[0]}, {numbers[1]}, .. {numbers[-1]}"
    runs: list[list[int]] = []
    for n in numbers:
        if runs and n == runs[-1][-1] + 1:
            runs[-1].append(n)
        else:
            runs.append([n])
    return ", ".join(f"{run[0]}" if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)


def kind_name(layer: Layer) -> str:
    """What a layer is, in a few words."""
    mixer = layer.mixer
    if isinstance(mixer, Attention):
        first = "latent attention" if mixer.kv_rank else "attention"
        first = f"attention, window {mixer.window}" if mixer.window else first
    else:
        first = mixer.kind if isinstance(mixer, StateMixer) else "no mixer"
    then = layer.feed_forward
    if isinstance(then, Experts):
        shared = " and shared" if then.shared_intermediate else ""
        return f"{first}; {then.count} experts{shared}, top {then.top_k}"
    return f"{first}; dense MLP" if isinstance(then, Dense) else first
