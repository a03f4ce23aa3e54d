"""A decoder layer, as transformers writes it, in sizes."""

from __future__ import annotations

from typing import Literal

from moe_memprof.architectures.base import Attention, Dense, Experts, Layer, StateMixer
from moe_memprof.replay.attention import attention, state_mixer
from moe_memprof.replay.engine import Memory, Tensor
from moe_memprof.replay.experts import batched_experts, eager_experts, grouped_experts, route
from moe_memprof.replay.how import How
from moe_memprof.replay.linears import linear, norm
from moe_memprof.replay.ops import add, mul, unary


def dense(m: Memory, how: How, d: Dense, x: Tensor) -> Tensor:
    """An MLP: act(gate) · up, then down; without a gate act(up), then down."""
    with m.labelled("dense MLP"):
        first = linear(m, how, x, how.hidden, d.intermediate)
        activated = unary(m, first, save="in")
        del first
        if d.gated:
            up = linear(m, how, x, how.hidden, d.intermediate)
            activated = mul(m, activated, up)
            del up
        return linear(m, how, activated, d.intermediate, how.hidden)


def moe(m: Memory, how: How, e: Experts, x: Tensor) -> Tensor:
    """Router, routed experts, shared experts."""
    shared = _shared(m, how, e, x) if how.shared_first else None
    weights, _indices = route(m, how, e, x)
    run = {"grouped_mm": grouped_experts, "batched_mm": batched_experts, "eager": eager_experts}[how.experts]
    out = (run if e.fused else eager_experts)(m, how, e, x, weights)
    if not e.shared_intermediate:
        return out
    shared = shared or _shared(m, how, e, x)
    assert shared is not None
    return add(m, out, _through_gate(m, how, x, shared) if how.shared_gate else shared)


def _shared(m: Memory, how: How, e: Experts, x: Tensor) -> Tensor | None:
    return dense(m, how, Dense(intermediate=e.shared_intermediate), x) if e.shared_intermediate else None


def _through_gate(m: Memory, how: How, x: Tensor, shared: Tensor) -> Tensor:
    return mul(m, unary(m, linear(m, how, x, how.hidden, 1), save="out"), shared)


def decoder_layer(m: Memory, how: How, layer: Layer, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Norm, mixer, residual; norm, feed-forward, residual; norms beyond the two stand after mixer and feed-forward."""
    after = layer.norms > 2
    if layer.mixer is not None:
        h = norm(m, how, x, how.hidden)
        mixer = layer.mixer
        h = attention(m, how, mixer, h, cos, sin) if isinstance(mixer, Attention) else state_mixer(m, how, mixer, h)
        if after:
            h = norm(m, how, h, how.hidden)
        with m.labelled("residual stream"):
            x = add(m, x, h)
    if layer.feed_forward is None:
        return x
    h = norm(m, how, x, how.hidden)
    out = (
        moe(m, how, layer.feed_forward, h)
        if isinstance(layer.feed_forward, Experts)
        else dense(m, how, layer.feed_forward, h)
    )
    if layer.beside is not None:
        out = add(m, out, dense(m, how, layer.beside, h))
    del h
    if after:
        out = norm(m, how, out, how.hidden)
    with m.labelled("residual stream"):
        return add(m, x, out)


def exactness(layer: Layer, how: How) -> Literal["derived", "heuristic"]:
    """Whether a layer's replay follows its code operation by operation, or approximates a part of it."""
    rough = isinstance(layer.mixer, StateMixer) or layer.norms > 2 or layer.beside is not None
    return "heuristic" if rough or (how.adapts_experts and how.expert_lora == "grouped") else "derived"
