"""Attention over all pairs of positions: by a fused kernel, or eagerly.

Letters: T tokens of the forward pass, B sequences, S length, A heads.
"""

from __future__ import annotations

from moe_memprof.architectures.base import Attention
from moe_memprof.replay.engine import F32, Memory, Tensor, fresh
from moe_memprof.replay.how import How
from moe_memprof.replay.linears import linear
from moe_memprof.replay.ops import add, attend, bmm, cast, copied, mul, repeated, scale, softmax, unary
from moe_memprof.replay.projections import project


def attention(m: Memory, how: How, a: Attention, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Multi-head attention with rotary positions."""
    with m.labelled("attention"):
        made = project(m, how, a, x, cos, sin)
        q, k, v, gate = made.q, made.k, made.v, made.gate
        del made
        eager = how.attention == "eager" or a.sinks
        # A CPU's kernel wants values as wide as keys; where they are not, attention is worked operation by operation, in fp32.
        plain = how.device == "cpu" and a.head_dim != a.value_dim
        out = (_eager if eager else _plain if plain else _fused)(m, how, a, q, k, v)
        del q, k, v
        if (a.rope_dim or plain) and not eager:
            # The kernel's output has the layout of the queries, which were joined head by head: it is copied for the projection.
            out = copied(m, out)
        width = a.heads * a.value_dim
        if a.gated and gate is None:
            gate = linear(m, how, x, how.hidden, width, adapted=how.adapts_attention)
        if gate is not None:
            out = mul(m, out, unary(m, gate, save="out"))
            del gate
        return linear(m, how, out, width, how.hidden, adapted=how.adapts_attention)


def _fused(m: Memory, how: How, a: Attention, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    extra: list[Tensor] = []
    if how.padded or 0 < (a.window or 0) < how.length:
        if a.heads != a.kv_heads:
            k, v = repeated(m, k, a.heads // a.kv_heads), repeated(m, v, a.heads // a.kv_heads)
        # The kernel takes the mask as numbers: made anew in every layer, and kept.
        with m.labelled("masks"):
            extra.append(fresh(m, how.sequences * how.length**2, how.width))
    return attend(
        m,
        q,
        k,
        v,
        heads_tokens=a.heads * how.tokens,
        out_elements=how.tokens * a.heads * a.value_dim,
        extra=extra,
    )


def _plain(m: Memory, how: How, a: Attention, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Torch's own composite: queries and keys both scaled, softmax of all pairs."""
    pairs = a.heads * how.sequences * how.length**2
    if a.heads != a.kv_heads:
        k, v = repeated(m, k, a.heads // a.kv_heads), repeated(m, v, a.heads // a.kv_heads)
    # Values are part of what they were expanded with: packed by the cast, or else by the product.
    q, k, v = cast(m, q, F32), cast(m, k, F32), copied(m, v) if v.width == F32 else cast(m, v, F32)
    scores = bmm(m, scale(m, q), scale(m, k), pairs)
    weights = softmax(m, scores)
    del scores
    return cast(m, bmm(m, weights, v, how.tokens * a.heads * a.value_dim), how.width)


def _eager(m: Memory, how: How, a: Attention, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Scores of all pairs of positions, softmax in fp32 (with sinks: in the model's dtype, after a column more)."""
    pairs = a.heads * how.sequences * how.length**2
    if a.heads != a.kv_heads:
        k, v = repeated(m, k, a.heads // a.kv_heads), repeated(m, v, a.heads // a.kv_heads)
    scores = bmm(m, q, k, pairs)
    scores = scale(m, scores)
    scores = add(m, scores, Tensor(None, pairs, how.width))
    if a.sinks:
        # The joined scores and the shifted ones are alive while softmax works.
        joined = unary(m, scores)
        shifted = unary(m, joined)
        weights = softmax(m, shifted)
        del joined, shifted
    else:
        weights = cast(m, softmax(m, cast(m, scores, F32)), how.width)
    del scores
    out = bmm(m, weights, v, how.tokens * a.heads * a.value_dim)
    return copied(m, out)
