"""What a forward pass keeps for the backward pass, layer by layer.

Derived from what autograd saves in transformers 5.23's code with `grouped_mm` experts and `sdpa` attention; every size was
checked against torch's allocator (`benchmarks/memory_grid.py`). Letters: T tokens of the forward pass, n = T · top-k rows
routed, H hidden, A query width, KV key width, E experts, I expert intermediate, V vocabulary, r LoRA rank, c bytes per element.
"""

from __future__ import annotations

from dataclasses import dataclass

from moe_memprof.inventory import ModelShape
from moe_memprof.spec import RunSpec

INDEX = 8
"""Bytes of an index (int64)."""
F32 = 4


@dataclass(frozen=True, kw_only=True)
class LayerMemory:
    """Bytes that one decoder layer takes around its forward and backward pass, by what for."""

    saved: dict[str, int]
    """Kept from its forward pass until its backward pass."""
    forward: dict[str, int]
    """At the highest moment of its forward pass beyond what it saves."""
    backward: dict[str, int]
    """At the highest moment of its backward pass beyond what it saved."""


def layer_memory(shape: ModelShape, spec: RunSpec, layer: int) -> LayerMemory:
    """The bytes of one layer for one forward and backward pass."""
    saved = _norms(shape, spec) | _attention(shape, spec)
    if shape.is_moe(layer):
        saved |= _experts(shape, spec)
        working = _experts_working(shape, spec)
    else:
        rows = spec.tokens * spec.width
        saved |= {"dense MLP": rows * (shape.hidden + 4 * shape.dense_intermediate)}
        working = ({"dense MLP": rows * shape.hidden}, {"dense MLP": rows * 3 * shape.dense_intermediate})
    return LayerMemory(saved=saved, forward=working[0], backward=working[1])


def _norms(s: ModelShape, spec: RunSpec) -> dict[str, int]:
    """Two norms: each keeps its input in fp32 and its inverse root mean square, and the scaled input if its weight trains."""
    width = F32 + (spec.width if spec.dtype != "float32" else 0)
    kept = 2 * spec.tokens * (s.hidden * width + F32)
    if spec.method == "full":
        kept += 2 * spec.tokens * s.hidden * spec.width
    return {"norms": kept}


def _attention(s: ModelShape, spec: RunSpec) -> dict[str, int]:
    """The projections' input, rotated query and keys, values, the output, and one log-sum-exp per head and token.

    Grouped keys and values are repeated to all heads before sdpa, which keeps the repeated ones.
    """
    rows = spec.tokens * spec.width
    repeated = s.query if s.kv_heads != s.heads else s.key_value
    kept = rows * (s.hidden + s.query + 2 * repeated + s.query) + spec.tokens * s.heads * F32
    if s.qk_norm != "none":
        kept += spec.tokens * (s.query + s.key_value) * (F32 if spec.dtype == "float32" else F32 + spec.width)
    if spec.method == "lora" and spec.lora_attention:
        kept += 4 * spec.tokens * spec.lora_rank * F32
    return {"attention": kept}


def _experts(s: ModelShape, spec: RunSpec) -> dict[str, int]:
    """Router, dispatch and the experts' own activations, in what autograd keeps of each."""
    rows = spec.tokens * s.top_k
    router = (
        spec.tokens * s.experts * F32 + spec.tokens * s.top_k * (2 * F32 + INDEX) + spec.tokens * s.hidden * spec.width
    )
    # The permutation, the rows' source tokens and the inverse permutation.
    dispatch = rows * 3 * INDEX + rows * F32
    weights_train = spec.method == "full" or spec.lora_experts
    kept_input = rows * s.hidden * spec.width if weights_train else 0
    # gate|up together, silu(gate), the product of both, and the output before it is weighted.
    kept = rows * spec.width * (2 * s.expert_intermediate + s.expert_intermediate + s.hidden)
    kept += rows * spec.width * s.expert_intermediate if weights_train else 0
    found = {"router": router, "dispatch": dispatch + kept_input, "experts": kept}
    if spec.method == "lora" and spec.lora_experts:
        found["materialised expert weights"] = expert_weights(s) * spec.width
    return found


def expert_weights(s: ModelShape) -> int:
    """Elements of one layer's routed experts."""
    return s.experts * 3 * s.hidden * s.expert_intermediate


def _experts_working(s: ModelShape, spec: RunSpec) -> tuple[dict[str, int], dict[str, int]]:
    rows = spec.tokens * s.top_k
    forward = {"experts": rows * spec.width * 2 * s.hidden}
    backward = {"experts": rows * spec.width * (2 * s.hidden + 3 * s.expert_intermediate)}
    if spec.method == "full" or spec.lora_experts:
        # The gradient of the (materialised) gate|up weight, the larger of the two, is whole before it is reduced or kept.
        backward["gradient of expert weights"] = s.experts * 2 * s.hidden * s.expert_intermediate * spec.width
    return forward, backward


def head_memory(s: ModelShape, spec: RunSpec) -> tuple[dict[str, int], dict[str, int]]:
    """Bytes of logits and loss: at the end of the forward pass, and at the start of the backward pass.

    Positions without a loss leave the pass before the upcast: what is kept of the others is the fp32 log-softmax. Going
    back, its gradient, then that of the selected rows, then that of all logits are alive together.
    """
    everywhere = spec.tokens * s.vocabulary * spec.width
    wanted = round(spec.tokens * spec.loss_share)
    selected = wanted * s.vocabulary * F32
    narrow = 0 if spec.dtype == "float32" else wanted * s.vocabulary * spec.width
    forward = {"logits": everywhere, "loss": 2 * selected + narrow}
    backward = {"logits": 2 * everywhere, "loss": selected + narrow}
    return forward, backward
