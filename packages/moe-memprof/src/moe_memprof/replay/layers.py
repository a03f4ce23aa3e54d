"""A decoder layer, as transformers writes it, in sizes."""

from __future__ import annotations

from collections.abc import Callable

from moe_memprof.architectures.base import Attention, Dense, Experts, Layer
from moe_memprof.replay.attention import attention
from moe_memprof.replay.engine import Memory, Tensor
from moe_memprof.replay.experts import batched_experts, eager_experts, every_expert, grouped_experts
from moe_memprof.replay.fused_experts import fused_experts, runs_fused
from moe_memprof.replay.how import How
from moe_memprof.replay.linears import linear, norm
from moe_memprof.replay.mixers import state_mixer
from moe_memprof.replay.ops import add, mul, reduce_sum, scale, unary
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
    if how.written.router == "scores into inputs":
        return _all_beside_shared(m, how, e, x, routing.weights)
    out = _implementation(how, e)(m, how, e, x, routing.weights)
    shared = early if how.written.shared_first else _shared(m, how, e, x)
    if shared is None:
        return out
    with m.labelled("shared experts"):
        if how.written.shared_gate:
            shared = mul(m, unary(m, linear(m, how, x, how.hidden, 1), save="out"), shared)
        return add(m, out, shared)


def _all_beside_shared(m: Memory, how: How, e: Experts, x: Tensor, scores: Tensor) -> Tensor:
    """Llama 4: every expert's output is there while the shared expert runs; then they are summed."""
    routed = every_expert(m, how, e, x, scores)
    shared = _shared(m, how, e, x)
    with m.labelled("dispatch"):
        summed = reduce_sum(m, routed, how.tokens * how.hidden)
    del routed
    return summed if shared is None else add(m, shared, summed)


def _implementation(how: How, e: Experts) -> Callable[[Memory, How, Experts, Tensor, Tensor], Tensor]:
    if e.fused and not how.written.own_loop and runs_fused(how):
        return fused_experts
    return _IMPLEMENTATIONS[how.experts] if e.fused and not how.written.own_loop else eager_experts


_IMPLEMENTATIONS = {"grouped_mm": grouped_experts, "batched_mm": batched_experts, "eager": eager_experts}


def _shared(m: Memory, how: How, e: Experts, x: Tensor) -> Tensor | None:
    if not e.shared_intermediate:
        return None
    with m.labelled("shared experts"):
        return dense(m, how, Dense(intermediate=e.shared_intermediate), x)


def decoder_layer(m: Memory, how: How, layer: Layer, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Norm, mixer, residual; norm, feed-forward, residual; norms beyond the two stand after mixer and feed-forward."""
    if how.written.layer == "sandwich" and isinstance(layer.mixer, Attention):
        return _sandwich(m, how, layer, layer.mixer, x, cos, sin)
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


def _sandwich(m: Memory, how: How, layer: Layer, mixer: Attention, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Gemma 4: a norm before and after each block; a dense MLP and experts side by side, each with its own, the router on the stream."""
    h = norm(m, how, x, how.hidden)
    h = norm(m, how, attention(m, how, mixer, h, cos, sin), how.hidden)
    x = _joined(m, how, x, h)
    h = norm(m, how, x, how.hidden)
    fed, beside = layer.feed_forward, layer.beside
    if isinstance(fed, Experts):
        if beside is not None:
            h = norm(m, how, dense(m, how, beside, h), how.hidden)
        routing = route(m, how, fed, x)
        inner = norm(m, how, x, how.hidden)
        second = _implementation(how, fed)(m, how, fed, inner, routing.weights)
        h = add(m, h, norm(m, how, second, how.hidden))
    elif fed is not None:
        h = dense(m, how, fed, h)
    return _joined(m, how, x, norm(m, how, h, how.hidden))


def _joined(m: Memory, how: How, x: Tensor, out: Tensor) -> Tensor:
    with m.labelled("residual stream"):
        if how.written.scaled_residual:
            return add(m, x, scale(m, out))
        return add(m, x, out)
