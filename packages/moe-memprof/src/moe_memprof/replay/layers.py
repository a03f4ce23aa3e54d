"""A decoder layer, as transformers writes it, in sizes."""

from __future__ import annotations

from typing import Literal

from moe_memprof.architectures.base import Attention, Dense, Experts, Layer, StateMixer
from moe_memprof.replay.attention import attention, state_mixer
from moe_memprof.replay.engine import Memory, Tensor
from moe_memprof.replay.experts import batched_experts, eager_experts, grouped_experts
from moe_memprof.replay.how import How
from moe_memprof.replay.linears import linear, norm
from moe_memprof.replay.ops import add, mul, scale, unary
from moe_memprof.replay.routers import route


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
    early = _shared(m, how, e, x) if how.written.shared_first else None
    routing = route(m, how, e, x)
    run = _IMPLEMENTATIONS[how.experts] if e.fused else eager_experts
    out = run(m, how, e, x, routing.weights)
    shared = early if how.written.shared_first else _shared(m, how, e, x)
    if shared is None:
        return out
    with m.labelled("shared experts"):
        if how.written.shared_gate:
            shared = mul(m, unary(m, linear(m, how, x, how.hidden, 1), save="out"), shared)
        return add(m, out, shared)


_IMPLEMENTATIONS = {"grouped_mm": grouped_experts, "batched_mm": batched_experts, "eager": eager_experts}


def _shared(m: Memory, how: How, e: Experts, x: Tensor) -> Tensor | None:
    if not e.shared_intermediate:
        return None
    with m.labelled("shared experts"):
        return dense(m, how, Dense(intermediate=e.shared_intermediate), x)


def decoder_layer(m: Memory, how: How, layer: Layer, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Norm, mixer, residual; norm, feed-forward, residual; norms beyond the two stand after mixer and feed-forward."""
    before, after = how.written.norms == "before", layer.norms > 2 or how.written.norms == "after"
    if layer.mixer is not None:
        h = norm(m, how, x, how.hidden) if before else x
        mixer = layer.mixer
        h = attention(m, how, mixer, h, cos, sin) if isinstance(mixer, Attention) else state_mixer(m, how, mixer, h)
        if after:
            h = norm(m, how, h, how.hidden)
        x = _joined(m, how, x, h)
        del h
    if layer.feed_forward is None:
        return x
    h = norm(m, how, x, how.hidden) if before else x
    fed = layer.feed_forward
    out = moe(m, how, fed, h) if isinstance(fed, Experts) else dense(m, how, fed, h)
    if layer.beside is not None:
        out = add(m, out, dense(m, how, layer.beside, h))
    del h
    if after:
        out = norm(m, how, out, how.hidden)
    return _joined(m, how, x, out)


def _joined(m: Memory, how: How, x: Tensor, out: Tensor) -> Tensor:
    with m.labelled("residual stream"):
        if how.written.scaled_residual:
            return add(m, x, scale(m, out))
        return add(m, x, out)


def exactness(layer: Layer, how: How) -> Literal["derived", "heuristic"]:
    """Whether a layer's replay follows its code operation by operation, or approximates a part of it."""
    rough = isinstance(layer.mixer, StateMixer) or layer.norms > 2 or layer.beside is not None
    rough = rough or not how.written.exact
    return "heuristic" if rough or (how.adapts_experts and how.expert_lora == "grouped") else "derived"
