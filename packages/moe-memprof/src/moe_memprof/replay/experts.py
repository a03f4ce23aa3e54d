"""Routed experts by transformers' implementations, and what adapts them.

Letters: T tokens, H hidden, k experts a token goes to, n = T · k routed rows, E experts, I expert intermediate, r LoRA rank.
"""

from __future__ import annotations

from moe_memprof.architectures.base import Experts
from moe_memprof.replay.engine import F32, INDEX, Grads, Memory, Tensor, fresh, record, weight
from moe_memprof.replay.how import How
from moe_memprof.replay.linears import dequantised_product, linear
from moe_memprof.replay.ops import (
    add,
    cast,
    copied,
    gated,
    gather,
    grouped_matmul,
    matmul,
    mul,
    reduce_sum,
    scale,
    unary,
)


def _expert_weight(m: Memory, how: How, e: Experts, inputs: int, outputs: int) -> Tensor:
    """An expert weight [E, out, in]; where PEFT adapts it, W + ΔW is built whole."""
    elements = e.count * inputs * outputs
    if not how.adapts_experts or how.expert_lora == "grouped":
        return weight(m, elements, how.width, trains=how.base_trains)
    with m.labelled("materialised expert weights"):
        a = cast(m, weight(m, e.count * how.rank_of_experts * inputs, F32, trains=True), how.width)
        b = cast(m, weight(m, e.count * how.rank_of_experts * outputs, F32, trains=True), how.width)
        saved, sizes = [a.alias(), b.alias()], (a.elements, b.elements)

        def back(_grads: Grads, _saved: list[Tensor]) -> Grads:
            return [fresh(m, sizes[0], how.width), fresh(m, sizes[1], how.width)]

        return record(m, (elements, how.width), [a, b], back, saved, scratch=[(elements, how.width)])


def _project(m: Memory, how: How, e: Experts, x: Tensor, rows: int, inputs: int, outputs: int) -> Tensor:
    """One grouped product, with low-rank ones beside it where experts are adapted without building ΔW."""
    if how.expert_bits:
        out = dequantised_product(m, how, x, e.count * inputs * outputs, rows * outputs)
    else:
        out = grouped_matmul(m, x, _expert_weight(m, how, e, inputs, outputs), rows, outputs, e.count)
    if not (how.adapts_experts and how.rank_of_experts and how.expert_lora == "grouped"):
        return out
    a = cast(m, weight(m, e.count * how.rank_of_experts * inputs, F32, trains=True), how.width)
    b = cast(m, weight(m, e.count * how.rank_of_experts * outputs, F32, trains=True), how.width)
    low = grouped_matmul(m, x, a, rows, how.rank_of_experts)
    update = scale(m, grouped_matmul(m, low, b, rows, outputs))
    del low
    return add(m, out, update)


def grouped_experts(m: Memory, how: How, e: Experts, x: Tensor, weights: Tensor) -> Tensor:
    """`grouped_mm`: rows sorted by expert, two grouped products, weighted, put back and summed."""
    rows = how.tokens * e.top_k
    inner = 2 * e.intermediate if e.gated else e.intermediate
    with m.labelled("dispatch"):
        order, sorted_ids = fresh(m, rows, INDEX), fresh(m, rows, INDEX)
        source = fresh(m, rows, INDEX)
        routed = gather(m, x, source, rows * how.hidden)
        del source
        sorted_weights = gather(m, weights, order, rows)
    biases: list[Tensor] = []
    with m.labelled("experts"):
        if e.bias:
            biases.append(fresh(m, rows * inner, how.width))
        up = _project(m, how, e, routed, rows, how.hidden, inner)
        product = _activated(m, e, up)
        del up
        if e.bias:
            biases[0] = fresh(m, rows * how.hidden, how.width)
        down = _project(m, how, e, product, rows, e.intermediate, how.hidden)
        del product
        weighted = mul(m, down, sorted_weights)
    with m.labelled("dispatch"):
        inverse = fresh(m, rows, INDEX)
        back = gather(m, weighted, inverse, rows * how.hidden)
        del weighted
        summed = reduce_sum(m, back, how.tokens * how.hidden)
        del back, sorted_ids
        return cast(m, summed, how.width)


def _activated(m: Memory, e: Experts, up: Tensor) -> Tensor:
    if not e.gated:
        return unary(m, up, save="in")
    if not e.bias:
        return gated(m, up)
    # gpt-oss: both halves clamped, gate · sigmoid(α gate) · (up + 1).
    gate, other = _half(m, up), _half(m, up)
    gate = unary(m, gate, save="in")
    other = unary(m, other, save="in")
    sigmoid = unary(m, scale(m, gate), save="out")
    glu = mul(m, gate, sigmoid)
    return mul(m, unary(m, other), glu)


def _half(m: Memory, x: Tensor) -> Tensor:
    """Every other column; its gradient is spread into zeros of x's size."""
    size, width = x.elements, x.width

    def back(_grads: Grads, _saved: list[Tensor]) -> Grads:
        return [fresh(m, size, width)]

    return record(m, Tensor(x.storage, size // 2, width), [x], back)


def batched_experts(m: Memory, how: How, e: Experts, x: Tensor, weights: Tensor) -> Tensor:
    """`batched_mm`: the weights of a row's expert are copied for every row."""
    rows = how.tokens * e.top_k
    inner = 2 * e.intermediate if e.gated else e.intermediate
    with m.labelled("dispatch"):
        routed = _copied_rows(m, x, rows * how.hidden)
    with m.labelled("experts"):
        chosen = gather(
            m, _expert_weight(m, how, e, how.hidden, inner), fresh(m, rows, INDEX), rows * how.hidden * inner
        )
        up = grouped_matmul(m, routed, chosen, rows, inner)
        product = _activated(m, e, up)
        del up
        chosen = gather(
            m,
            _expert_weight(m, how, e, e.intermediate, how.hidden),
            fresh(m, rows, INDEX),
            rows * how.hidden * e.intermediate,
        )
        down = grouped_matmul(m, product, chosen, rows, how.hidden)
        weighted = mul(m, down, weights)
    with m.labelled("dispatch"):
        return cast(m, reduce_sum(m, weighted, how.tokens * how.hidden), how.width)


def every_expert(m: Memory, how: How, e: Experts, x: Tensor, scores: Tensor) -> Tensor:
    """Llama 4: all tokens go to all experts, multiplied by their scores first, most of which are zero."""
    rows = how.tokens * e.count
    inner = 2 * e.intermediate if e.gated else e.intermediate
    with m.labelled("dispatch"):
        copies = _copied_rows(m, x, rows * how.hidden)
        routed = mul(m, copies, copied(m, scores))
    with m.labelled("experts"):
        up = grouped_matmul(m, routed, _expert_weight(m, how, e, how.hidden, inner), rows, inner)
        product = _activated(m, e, up)
        return grouped_matmul(m, product, _expert_weight(m, how, e, e.intermediate, how.hidden), rows, how.hidden)


def _copied_rows(m: Memory, x: Tensor, elements: int) -> Tensor:
    size, width = x.elements, x.width

    def back(_grads: Grads, _saved: list[Tensor]) -> Grads:
        return [fresh(m, size, width)]

    return record(m, (elements, width), [x], back)


def eager_experts(m: Memory, how: How, e: Experts, x: Tensor, weights: Tensor) -> Tensor:
    """`eager`: one expert after the other, on its rows; also what a list of expert modules does."""
    inner = 2 * e.intermediate if e.gated else e.intermediate
    total = how.tokens * e.top_k
    loads = how.loads or [total // e.count + (i < total % e.count) for i in range(e.count)]
    with m.labelled("dispatch"):
        mask = fresh(m, total * (e.count + 1), INDEX)
        out = fresh(m, how.tokens * how.hidden, how.width)
    with m.labelled("experts"):
        wholes = (
            [_expert_weight(m, how, e, how.hidden, inner), _expert_weight(m, how, e, e.intermediate, how.hidden)]
            if e.fused
            else []
        )
        for rows in loads:
            if rows:
                out = _one_expert(m, how, e, x, weights, out, rows, wholes)
    del mask
    return out


def _one_expert(
    m: Memory, how: How, e: Experts, x: Tensor, weights: Tensor, out: Tensor, rows: int, wholes: list[Tensor]
) -> Tensor:
    inner = 2 * e.intermediate if e.gated else e.intermediate
    tokens, places = fresh(m, rows, INDEX), fresh(m, rows, INDEX)
    routed = gather(m, x, tokens, rows * how.hidden)
    if wholes:
        up = matmul(m, routed, _selected(m, e, wholes[0]), rows)
        product = _activated(m, e, up)
        down = matmul(m, product, _selected(m, e, wholes[1]), rows)
    else:
        up = linear(m, how, routed, how.hidden, inner, adapted=how.adapts_experts)
        product = _activated(m, e, up)
        down = linear(m, how, product, e.intermediate, how.hidden, adapted=how.adapts_experts)
    weighted = cast(m, mul(m, down, gather(m, weights, places, rows)), how.width)
    return _added_rows(m, out, weighted, tokens)


def _selected(m: Memory, e: Experts, whole: Tensor) -> Tensor:
    """One expert's matrix, a view; its gradient is spread into zeros of all experts' size."""
    size, width = whole.elements, whole.width

    def back(_grads: Grads, _saved: list[Tensor]) -> Grads:
        return [fresh(m, size, width)]

    return record(m, Tensor(whole.storage, size // e.count, width), [whole], back)


def _added_rows(m: Memory, out: Tensor, rows: Tensor, tokens: Tensor) -> Tensor:
    """index_add_ in place, which saves its source; the rows' gradient is gathered from the sum's."""
    size, width = rows.elements, rows.width

    def back(grads: Grads, _saved: list[Tensor]) -> Grads:
        whole = grads[0]
        assert whole is not None
        return [whole.alias(), fresh(m, size, width)]

    return record(m, out.alias(), [out, rows], back, [tokens.alias(), rows.alias()])
