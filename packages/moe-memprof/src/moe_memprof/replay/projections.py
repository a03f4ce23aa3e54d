"""From hidden states to rotated queries, keys and values.

Letters: T tokens of the forward pass, A heads, D head size.
"""

from __future__ import annotations

from dataclasses import dataclass

from moe_memprof.architectures.base import Attention
from moe_memprof.replay.engine import F32, Grads, Memory, Tensor, fresh, record
from moe_memprof.replay.how import How
from moe_memprof.replay.linears import linear, norm
from moe_memprof.replay.ops import cast, concatenated, copied, copied_back, mul, rotate, rotate_in_chunks, split, unary


@dataclass
class Projected:
    """What attention works on; it lets go of each when it is done with it."""

    q: Tensor
    k: Tensor
    v: Tensor
    gate: Tensor | None = None


def project(m: Memory, how: How, a: Attention, x: Tensor, cos: Tensor, sin: Tensor) -> Projected:
    """Queries, keys and values as the family makes them."""
    if a.kv_rank:
        return _latent(m, how, a, x, cos, sin)
    if how.written.layer == "sandwich":
        return _one_by_one(m, how, a, x, cos, sin)
    if how.written.joined_projections:
        return _joined(m, how, a, x, cos, sin)
    return _grouped(m, how, a, x, cos, sin)


def _rotated(m: Memory, how: How, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    kind = how.written.rotation
    if kind == "none":
        return x
    if kind == "chunks":
        return rotate_in_chunks(m, x)
    if kind == "complex":
        return cast(m, mul(m, cast(m, x, F32), cos), how.width)
    if kind == "halves remade":
        x = cast(m, x, F32)
    return cast(m, rotate(m, x, cos, sin), how.width)


def _query(m: Memory, how: How, a: Attention, x: Tensor) -> tuple[Tensor, Tensor | None]:
    """The query, and its gate where both come out of one linear head by head."""
    width = a.heads * a.head_dim
    if not (a.gated and how.written.gate == "query"):
        return linear(m, how, x, how.hidden, width, adapted=how.adapts_attention), None
    both = linear(m, how, x, how.hidden, 2 * width, adapted=how.adapts_attention)
    q, gate = split(m, both, [how.tokens * width] * 2)
    return q, copied(m, gate)


def _grouped(m: Memory, how: How, a: Attention, x: Tensor, cos: Tensor, sin: Tensor) -> Projected:
    query, keys, values = a.heads * a.head_dim, a.kv_heads * a.head_dim, a.kv_heads * a.value_dim
    q, gate = _query(m, how, a, x)
    if a.qk_norm != "none":
        q = norm(m, how, q, a.head_dim if a.qk_norm == "head" else query)
    q = copied_back(m, q)
    k = linear(m, how, x, how.hidden, keys, adapted=how.adapts_attention)
    if a.qk_norm != "none":
        k = norm(m, how, k, a.head_dim if a.qk_norm == "head" else keys)
    k = copied_back(m, k)
    v = linear(m, how, x, how.hidden, values, adapted=how.adapts_attention)
    if a.rope_dim:
        turned_q = _partly_rotated(m, how, a, a.heads, q, cos, sin)
        return Projected(turned_q, _partly_rotated(m, how, a, a.kv_heads, k, cos, sin), v, gate)
    if how.written.rotation == "halves remade":
        cos, sin = fresh(m, cos.elements, F32), fresh(m, sin.elements, F32)
    turned_q, turned_k = _rotated(m, how, q, cos, sin), _rotated(m, how, k, cos, sin)
    if how.written.unit_queries:
        turned_q = norm(m, how, turned_q, a.head_dim, weighted=False)
        turned_k = norm(m, how, turned_k, a.head_dim, weighted=False)
    return Projected(turned_q, turned_k, v, gate)


def _partly_rotated(m: Memory, how: How, a: Attention, heads: int, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Some of each head is rotated and joined with the rest."""
    turned = _rotated(m, how, part(m, x, how.tokens * heads * a.rope_dim), cos, sin)
    return concatenated(m, [turned, part(m, x, how.tokens * heads * (a.head_dim - a.rope_dim))])


def _one_by_one(m: Memory, how: How, a: Attention, x: Tensor, cos: Tensor, sin: Tensor) -> Projected:
    """Gemma 4: the query is done before the key begins, and values are normed too."""
    keys = a.kv_heads * a.head_dim
    q = norm(m, how, linear(m, how, x, how.hidden, a.heads * a.head_dim, adapted=how.adapts_attention), a.head_dim)
    q = _rotated(m, how, q, cos, sin)
    k = linear(m, how, x, how.hidden, keys, adapted=how.adapts_attention)
    v = linear(m, how, x, how.hidden, keys, adapted=how.adapts_attention)
    k = _rotated(m, how, norm(m, how, k, a.head_dim), cos, sin)
    return Projected(q, k, norm(m, how, v, a.head_dim, weighted=False))


def _joined(m: Memory, how: How, a: Attention, x: Tensor, cos: Tensor, sin: Tensor) -> Projected:
    """DBRX: one linear for all three, clamped."""
    sizes = [how.tokens * n for n in (a.heads * a.head_dim, a.kv_heads * a.head_dim, a.kv_heads * a.value_dim)]
    whole = linear(m, how, x, how.hidden, sum(sizes) // how.tokens, adapted=how.adapts_attention)
    whole = unary(m, whole, save="in")
    q, k, v = split(m, whole, sizes)
    return Projected(_rotated(m, how, q, cos, sin), _rotated(m, how, k, cos, sin), v)


def _latent(m: Memory, how: How, a: Attention, x: Tensor, cos: Tensor, sin: Tensor) -> Projected:
    """Compressed queries, keys and values (DeepSeek-V2, arXiv:2405.04434, section 2.1), expanded for the kernel."""
    query, plain = a.heads * a.head_dim, a.head_dim - a.rope_dim
    if a.query_rank:
        q = linear(m, how, x, how.hidden, a.query_rank, adapted=how.adapts_attention)
        q = norm(m, how, q, a.query_rank)
        q = linear(m, how, q, a.query_rank, query, adapted=how.adapts_attention)
    else:
        q = linear(m, how, x, how.hidden, query, adapted=how.adapts_attention)
    compressed = linear(m, how, x, how.hidden, a.kv_rank + a.rope_dim, adapted=how.adapts_attention)
    latent = norm(m, how, part(m, compressed, how.tokens * a.kv_rank), a.kv_rank)
    turned_k = rotate(m, part(m, compressed, how.tokens * a.rope_dim), cos, sin)
    del compressed
    turned_q = rotate(m, part(m, q, how.tokens * a.heads * a.rope_dim), cos, sin)
    q = concatenated(m, [part(m, q, how.tokens * a.heads * plain), turned_q])
    del turned_q
    both = linear(m, how, latent, a.kv_rank, a.heads * (plain + a.value_dim), adapted=how.adapts_attention)
    del latent
    v = part(m, both, how.tokens * a.heads * a.value_dim)
    k = concatenated(m, [part(m, both, how.tokens * a.heads * plain), turned_k], elements=how.tokens * query)
    return Projected(q, k, v)


def part(m: Memory, x: Tensor, elements: int) -> Tensor:
    """A view of some of x; its gradient is spread into zeros of x's size."""
    size, width = x.elements, x.width

    def back(_grads: Grads, _saved: list[Tensor]) -> Grads:
        return [fresh(m, size, width)]

    return record(m, Tensor(x.storage, elements, width), [x], back)
