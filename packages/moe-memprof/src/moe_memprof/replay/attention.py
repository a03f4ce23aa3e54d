"""What mixes tokens: attention with grouped keys and values, latent attention, and the rest by its streams.

Letters: T tokens of the forward pass, B sequences, S length, A heads, D head size.
"""

from __future__ import annotations

from moe_memprof.architectures.base import Attention, StateMixer
from moe_memprof.replay.engine import F32, Grads, Memory, Tensor, fresh, record
from moe_memprof.replay.how import How
from moe_memprof.replay.linears import linear, norm
from moe_memprof.replay.ops import (
    add,
    attend,
    bmm,
    cast,
    concatenated,
    copied,
    copied_back,
    mul,
    repeated,
    rotate,
    scale,
    softmax,
    unary,
)

STREAMS = {"gated_delta_net": 36, "mamba": 40, "mamba2": 24, "lightning": 12, "short_conv": 5}
"""Tensors of T · width in fp32 that a mixer keeps, read off measured tiny models; any other kind takes the default."""
DEFAULT_STREAMS = 16


def attention(m: Memory, how: How, a: Attention, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Multi-head attention with rotary positions."""
    with m.labelled("attention"):
        if a.kv_rank:
            q, k, v = _latent(m, how, a, x, cos, sin)
        else:
            q, k, v = _grouped(m, how, a, x, cos, sin)
        eager = how.attention == "eager" or a.sinks
        out = _eager(m, how, a, q, k, v) if eager else _fused(m, how, a, q, k, v)
        del q, k, v
        if a.rope_dim and not eager:
            # The kernel's output has the layout of the queries, which were joined head by head: it is copied for the projection.
            out = copied(m, out)
        width = a.heads * a.value_dim
        if a.gated:
            gate = unary(m, linear(m, how, x, how.hidden, width, adapted=how.adapts_attention), save="out")
            out = mul(m, out, gate)
            del gate
        return linear(m, how, out, width, how.hidden, adapted=how.adapts_attention)


def _grouped(m: Memory, how: How, a: Attention, x: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    query, keys, values = a.heads * a.head_dim, a.kv_heads * a.head_dim, a.kv_heads * a.value_dim
    q = linear(m, how, x, how.hidden, query, adapted=how.adapts_attention)
    if a.qk_norm != "none":
        q = norm(m, how, q, a.head_dim if a.qk_norm == "head" else query)
    q = copied_back(m, q)
    k = linear(m, how, x, how.hidden, keys, adapted=how.adapts_attention)
    if a.qk_norm != "none":
        k = norm(m, how, k, a.head_dim if a.qk_norm == "head" else keys)
    k = copied_back(m, k)
    v = linear(m, how, x, how.hidden, values, adapted=how.adapts_attention)
    if a.rope_dim:
        return _partly_rotated(m, how, a, a.heads, q, cos, sin), _partly_rotated(m, how, a, a.kv_heads, k, cos, sin), v
    turned_q, turned_k = rotate(m, q, cos, sin), rotate(m, k, cos, sin)
    return turned_q, turned_k, v


def _partly_rotated(m: Memory, how: How, a: Attention, heads: int, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Some of each head is rotated and joined with the rest."""
    turned = rotate(m, _part(m, x, how.tokens * heads * a.rope_dim), cos, sin)
    return concatenated(m, [turned, _part(m, x, how.tokens * heads * (a.head_dim - a.rope_dim))])


def _latent(m: Memory, how: How, a: Attention, x: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Compressed queries, keys and values (DeepSeek-V2, arXiv:2405.04434, section 2.1), expanded for the kernel."""
    query, plain = a.heads * a.head_dim, a.head_dim - a.rope_dim
    if a.query_rank:
        q = linear(m, how, x, how.hidden, a.query_rank, adapted=how.adapts_attention)
        q = norm(m, how, q, a.query_rank)
        q = linear(m, how, q, a.query_rank, query, adapted=how.adapts_attention)
    else:
        q = linear(m, how, x, how.hidden, query, adapted=how.adapts_attention)
    compressed = linear(m, how, x, how.hidden, a.kv_rank + a.rope_dim, adapted=how.adapts_attention)
    latent = norm(m, how, _part(m, compressed, how.tokens * a.kv_rank), a.kv_rank)
    turned_k = rotate(m, _part(m, compressed, how.tokens * a.rope_dim), cos, sin)
    del compressed
    turned_q = rotate(m, _part(m, q, how.tokens * a.heads * a.rope_dim), cos, sin)
    q = concatenated(m, [_part(m, q, how.tokens * a.heads * plain), turned_q])
    del turned_q
    both = linear(m, how, latent, a.kv_rank, a.heads * (plain + a.value_dim), adapted=how.adapts_attention)
    del latent
    v = _part(m, both, how.tokens * a.heads * a.value_dim)
    k = concatenated(m, [_part(m, both, how.tokens * a.heads * plain), turned_k], elements=how.tokens * query)
    return q, k, v


def _part(m: Memory, x: Tensor, elements: int) -> Tensor:
    """A view of some of x; its gradient is spread into zeros of x's size."""
    size, width = x.elements, x.width

    def back(_grads: Grads, _saved: list[Tensor]) -> Grads:
        return [fresh(m, size, width)]

    return record(m, Tensor(x.storage, elements, width), [x], back)


def _fused(m: Memory, how: How, a: Attention, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    extra: list[Tensor] = []
    if how.padded:
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


def state_mixer(m: Memory, how: How, s: StateMixer, x: Tensor) -> Tensor:
    """Linear attention, state spaces, convolutions: projections in and out, and the streams between them by count."""
    with m.labelled("state mixer"):
        stream = linear(m, how, x, how.hidden, 2 * s.width, adapted=how.adapts_attention)
        streams, size = STREAMS.get(s.kind, DEFAULT_STREAMS), how.tokens * s.width

        def back(_grads: Grads, _saved: list[Tensor]) -> Grads:
            scratch = fresh(m, 4 * size, F32)
            grad = fresh(m, 2 * size, how.width)
            del scratch
            return [grad]

        kept = [fresh(m, size, F32) for _ in range(streams)] if m.recording else []
        inner = record(m, (size, how.width), [stream], back, kept)
        del stream, kept
        return linear(m, how, inner, s.width, how.hidden, adapted=how.adapts_attention)
