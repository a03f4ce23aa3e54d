"""Mixers with a state: short convolutions, gated delta nets, selective state spaces, as transformers writes them without kernels.

Letters: B sequences, S length, T = B · S tokens, W inner width, K width of queries and of keys, N state per channel.
With kernels, and for kinds that are not replayed here, projections and the streams between them by count.
"""

from __future__ import annotations

from moe_memprof.architectures.base import StateMixer
from moe_memprof.replay.engine import F32, Grads, Memory, Tensor, fresh, record, weight
from moe_memprof.replay.how import How
from moe_memprof.replay.linears import linear, norm
from moe_memprof.replay.ops import add, bmm, cast, concatenated, copied, mul, reduce_sum, repeated, scale, split, unary

EXACT = frozenset({"short_conv", "gated_delta_net", "mamba"})
STREAMS = {"gated_delta_net": 5, "mamba": 6, "mamba2": 6, "lightning": 6}
"""Tensors of T · width in the model's dtype that kernels keep; any other kind takes the default."""
DEFAULT_STREAMS = 8
CHUNK = 64
"""Tokens that the gated delta rule takes at once."""


def state_mixer(m: Memory, how: How, s: StateMixer, x: Tensor) -> Tensor:
    """Whatever mixes tokens without keys and values of all of them."""
    with m.labelled("state mixer"):
        if s.kind == "short_conv":
            return _short_conv(m, how, s, x)
        if how.device == "cpu" or not how.kernels:
            if s.kind == "gated_delta_net":
                return _gated_delta_net(m, how, s, x)
            if s.kind == "mamba":
                return _mamba(m, how, s, x)
        return _by_streams(m, how, s, x)


def _by_streams(m: Memory, how: How, s: StateMixer, x: Tensor) -> Tensor:
    stream = linear(m, how, x, how.hidden, 2 * s.width, adapted=how.adapts_attention)
    streams, size = STREAMS.get(s.kind, DEFAULT_STREAMS), how.tokens * s.width

    def back(_grads: Grads, _saved: list[Tensor]) -> Grads:
        scratch = fresh(m, 4 * size, how.width)
        grad = fresh(m, 2 * size, how.width)
        del scratch
        return [grad]

    kept = [fresh(m, size, how.width) for _ in range(streams)] if m.recording else []
    inner = record(m, (size, how.width), [stream], back, kept)
    del stream, kept
    return linear(m, how, inner, s.width, how.hidden, adapted=how.adapts_attention)


def _convolved(m: Memory, how: How, x: Tensor) -> Tensor:
    """A convolution over a few tokens of each channel: keeps its input; its result is a view of one with the padding's tokens more."""
    w = weight(m, how.hidden, how.width, trains=how.base_trains)
    padded, size, width = x.elements + 3 * how.sequences * (x.elements // how.tokens), x.elements, x.width
    trains = how.base_trains

    def back(_grads: Grads, _saved: list[Tensor]) -> Grads:
        whole = fresh(m, padded, width)
        found = fresh(m, size, width)
        del whole
        return [found, fresh(m, how.hidden, width) if trains else None]

    out = record(m, (padded, width), [x, w], back, [x.alias()])
    return Tensor(out.storage, size, width, out.node)


def _short_conv(m: Memory, how: How, s: StateMixer, x: Tensor) -> Tensor:
    """LFM2: C · conv(B · x)."""
    size = how.tokens * s.width
    b, c, inner = split(m, linear(m, how, x, how.hidden, 3 * s.width, adapted=how.adapts_attention), [size] * 3)
    product = mul(m, b, inner)
    convolved = _convolved(m, how, product)
    out = mul(m, c, convolved)
    out = copied(m, out)
    return linear(m, how, out, s.width, how.hidden, adapted=how.adapts_attention)


def _gated_delta_net(m: Memory, how: How, s: StateMixer, x: Tensor) -> Tensor:
    """Qwen's linear attention (arXiv:2412.06464): chunks of tokens at once, a state from chunk to chunk."""
    t, keys = how.tokens, s.keys
    joined = linear(m, how, x, how.hidden, 2 * keys + 2 * s.width, adapted=how.adapts_attention)
    small = linear(m, how, x, how.hidden, 2 * s.heads, adapted=how.adapts_attention)
    query, key, value, z = split(m, joined, [t * keys, t * keys, t * s.width, t * s.width])
    value, z, small = copied(m, value), copied(m, z), copied(m, small)
    query, key = copied(m, query), copied(m, key)
    convolved = _convolved(m, how, concatenated(m, [query, key, value]))
    mixed = unary(m, convolved, save="in")
    del convolved
    query, key, value = split(m, mixed, [t * keys, t * keys, t * s.width])
    beta = unary(m, split(m, small, [t * s.heads] * 2)[0], save="out")
    out = _chunked_rule(m, how, s, query, key, value, beta)
    del query, key, value
    out = _gated_norm(m, how, s, out, z)
    return linear(m, how, out, s.width, how.hidden, adapted=how.adapts_attention)


def _gated_norm(m: Memory, how: How, s: StateMixer, x: Tensor, z: Tensor) -> Tensor:
    normed = norm(m, how, x, s.width // s.heads, kind="narrow")
    gate = unary(m, cast(m, z, F32), save="in")
    return cast(m, mul(m, normed, gate), how.width)


def _unit(m: Memory, x: Tensor, rows: int) -> Tensor:
    """X over its length, row by row."""
    length = unary(m, reduce_sum(m, mul(m, x, x), rows), save="out")
    return mul(m, x, length)


def _chunked_rule(m: Memory, how: How, s: StateMixer, q: Tensor, k: Tensor, v: Tensor, beta: Tensor) -> Tensor:
    chunks = -(-how.length // CHUNK)
    padded, rows = how.sequences * chunks * CHUNK, how.tokens * s.heads
    wide = s.heads * s.head_keys
    if wide > s.keys:
        q, k = repeated(m, q, wide // s.keys), repeated(m, k, wide // s.keys)
    q, k, v, beta = (cast(m, one, F32) for one in (q, k, v, beta))
    q = scale(m, _unit(m, q, rows))
    k = _unit(m, k, rows)
    q, k, v = _padded(m, q, padded * wide), _padded(m, k, padded * wide), _padded(m, v, padded * s.width)
    beta = _padded(m, beta, padded * s.heads)
    v_beta, k_beta = mul(m, v, beta), mul(m, k, beta)
    square = padded * s.heads * CHUNK
    decay = unary(m, beta, save="out")
    pairs = unary(m, unary(m, record(m, (square, F32), [decay], lambda _g, _s: [fresh(m, square, F32)])), save="out")
    system = mul(m, bmm(m, _packed(m, how, k_beta), _packed(m, how, k), square), pairs)
    within = mul(m, bmm(m, _packed(m, how, q), _packed(m, how, k), square), pairs)
    decayed = mul(m, k_beta, decay)
    new = _solved(m, system, v_beta)
    carried = _solved(m, system, decayed)
    out = fresh(m, padded * s.width, F32)
    q, k = mul(m, q, decay), mul(m, k, decay)
    del v, beta, v_beta, k_beta, system, decayed, pairs
    return _through_chunks(m, how, s, [new, carried, q, within, k], out, chunks)


def _packed(m: Memory, how: How, x: Tensor) -> Tensor:
    """As a batched product takes it: the cast to fp32 has packed it already, without one it is copied here."""
    return copied(m, x) if how.width == F32 else x


def _padded(m: Memory, x: Tensor, elements: int) -> Tensor:
    size = x.elements
    return record(m, (elements, F32), [x], lambda _g, _s: [fresh(m, size, F32)])


def _solved(m: Memory, system: Tensor, right: Tensor) -> Tensor:
    """A triangular system: keeps the matrix and the solution."""
    sizes = (system.elements, right.elements)

    def back(_grads: Grads, _saved: list[Tensor]) -> Grads:
        for_right = fresh(m, sizes[1], F32)
        product = fresh(m, sizes[0], F32)
        for_system = fresh(m, sizes[0], F32)
        del product
        return [for_system, for_right]

    saved = [system.alias()]
    return record(m, (right.elements, F32), [system, right], back, saved, save_output=True)


def _through_chunks(m: Memory, how: How, s: StateMixer, inputs: list[Tensor], out: Tensor, chunks: int) -> Tensor:
    """Chunk by chunk: of each the state before it and its new values are kept; gradients of slices start from zeros of the whole's size."""
    state = how.sequences * s.width * s.head_keys
    sizes, size = [x.elements for x in inputs], how.tokens * s.width

    def back(_grads: Grads, _saved: list[Tensor]) -> Grads:
        whole = fresh(m, out_elements, F32)
        states = fresh(m, 3 * state, F32)
        found: Grads = [fresh(m, n, F32) for n in sizes]
        spread = fresh(m, max(sizes), F32)
        del whole, states, spread
        return found

    out_elements = out.elements
    kept = [fresh(m, state, F32) for _ in range(chunks)] + [fresh(m, out_elements, F32)] if m.recording else []
    after = record(m, out, inputs, back, [*(x.alias() for x in inputs[1:]), *kept])
    del kept
    cut = Tensor(after.storage, size, F32, after.node)
    del after
    return _narrowed(m, how, cut)


def _narrowed(m: Memory, how: How, x: Tensor) -> Tensor:
    return cast(m, x, how.width) if how.width != F32 else copied(m, x)


def _mamba(m: Memory, how: How, s: StateMixer, x: Tensor) -> Tensor:
    """Jamba's selective scan (arXiv:2312.00752), token by token: every channel's states of all tokens are kept."""
    t, size = how.tokens, how.tokens * s.width
    inner, gate = split(m, linear(m, how, x, how.hidden, 2 * s.width, adapted=how.adapts_attention), [size] * 2)
    inner = unary(m, _convolved(m, how, inner), save="in")
    parts = linear(m, how, copied(m, inner), s.width, s.rank + 2 * s.head_keys)
    step, b, c = split(m, parts, [t * s.rank, t * s.head_keys, t * s.head_keys])
    step, b, c = norm(m, how, step, s.rank), norm(m, how, b, s.head_keys), norm(m, how, c, s.head_keys)
    step = linear(m, how, step, s.rank, s.width)
    step = unary(m, add(m, step, weight(m, s.width, how.width, trains=how.base_trains)), save="in")
    states = size * s.head_keys
    decay = unary(m, _outer(m, step, None, states), save="out")
    wide = cast(m, inner, F32)
    driven = mul(m, _outer(m, step, cast(m, b, F32), states), wide)
    del wide, step
    out = _scanned(m, how, decay, driven, c, size)
    del decay, driven
    skip = mul(m, inner, weight(m, s.width, F32, trains=how.base_trains))
    out = add(m, out, skip)
    del skip
    out = mul(m, out, unary(m, gate, save="in"))
    out = _narrowed(m, how, out)
    return linear(m, how, out, s.width, how.hidden, adapted=how.adapts_attention)


def _outer(m: Memory, step: Tensor, other: Tensor | None, elements: int) -> Tensor:
    """Step sizes times a row of every token: numbers of state for each channel and token."""
    sizes = (step.elements, other.elements if other is not None else 0)

    def back(_grads: Grads, _saved: list[Tensor]) -> Grads:
        spread = fresh(m, elements, F32)
        found: Grads = [fresh(m, sizes[0], F32), fresh(m, sizes[1], F32) if other_wants else None]
        del spread
        return found[: 1 if other is None else 2]

    other_wants = other is not None and other.needs_grad
    inputs = [step] if other is None else [step, other]
    return record(m, (elements, F32), inputs, back, [x.alias() for x in inputs])


def _scanned(m: Memory, how: How, decay: Tensor, driven: Tensor, c: Tensor, size: int) -> Tensor:
    states, small, width = decay.elements, c.elements, how.width

    def back(_grads: Grads, _saved: list[Tensor]) -> Grads:
        for_driven, for_decay = fresh(m, states, F32), fresh(m, states, F32)
        spread = fresh(m, states, F32)
        del spread
        return [for_decay, for_driven, fresh(m, small, width)]

    kept = [fresh(m, states, F32)] if m.recording else []
    if kept and width != F32:
        kept.append(fresh(m, states, width))
    pieces = fresh(m, size, width)
    out = record(m, (size, width), [decay, driven, c], back, [decay.alias(), c.alias(), *kept])
    del pieces
    return out
