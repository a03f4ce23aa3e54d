"""A whole experts block, a few experts at a time, that keeps only what its gate was given.

Between forward and backward pass nothing stays but the inputs and the gate's input [R, G]; rows, activations and low-rank products
are made again for some rows at a time, so that no tensor of R rows and H columns is ever there. The base's products are not repeated.
Shapes: T tokens, K experts a token goes to, R = T·K rows, n rows at a time, E experts, H hidden, G columns of the first product, I of
the second's input, r rank.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from moe_train.experts.ops import Factors, spans
from moe_train.experts.stacks import Stack


@dataclass(frozen=True, kw_only=True)
class Block:
    """The frozen parts of an experts block."""

    first: Stack
    """[E, G, H]."""
    second: Stack
    """[E, H, I]."""
    gate: Callable[[Tensor], Tensor]
    """From [n, G] to [n, I]: the module's own code."""
    first_bias_EG: Tensor | None = None
    second_bias_EH: Tensor | None = None
    dtype: torch.dtype
    """Of the products."""


def fused_experts(
    block: Block,
    hidden_TH: Tensor,
    weights_TK: Tensor,
    order_R: Tensor,
    offsets_E: Tensor,
    first: Factors | None = None,
    second: Factors | None = None,
) -> Tensor:
    """The weighted sum of what the chosen experts make of each token, [T, H] in the hidden states' dtype.

    Args:
        block: what is frozen.
        hidden_TH: the tokens.
        weights_TK: routing weights.
        order_R: positions in the flattened [T, K] choices, sorted by expert.
        offsets_E: where each expert's rows end in that order.
        first: adapter of the first stack, without dropout.
        second: adapter of the second.
    """
    parts = [f for adapter in (first, second) for f in ((None, None) if adapter is None else (adapter.a, adapter.b))]
    scalings = tuple(0.0 if adapter is None else adapter.scaling for adapter in (first, second))
    out: Tensor = _Fused.apply(hidden_TH, weights_TK, *parts, order_R, offsets_E, block, scalings)  # type: ignore[no-untyped-call]
    return out


_ROWS = 512
"""Rows that are worked on together, of one expert or of neighbours."""


def _chunks(found: list[tuple[int, int, int]]) -> list[list[tuple[int, int, int]]]:
    """The rows cut into pieces of that many, each as the spans of experts in it.

    What is done row by row is so done in few calls, and takes the same memory however tokens fall on experts.
    """
    chunks: dict[int, list[tuple[int, int, int]]] = {}
    for e, begin, end in found:
        for piece in range(begin // _ROWS, -(-end // _ROWS)):
            span = (e, max(begin, piece * _ROWS), min(end, (piece + 1) * _ROWS))
            chunks.setdefault(piece, []).append(span)
    return list(chunks.values())


@dataclass(frozen=True)
class _Adapter:
    """Factors in the dtype they are multiplied in, and where their gradients go."""

    a: Tensor
    b: Tensor
    s: float
    da: Tensor | None = None
    db: Tensor | None = None


def _adapter(a: Tensor | None, b: Tensor | None, s: float, dtype: torch.dtype) -> _Adapter | None:
    return None if a is None or b is None else _Adapter(a.to(dtype), b.to(dtype), s)


def _product(
    x: Tensor, y: Tensor, chunk: list[tuple[int, int, int]], stack: Stack, bias: Tensor | None, adapter: _Adapter | None
) -> Tensor:
    """Puts x Wᵀ + bias + s · (x Aᵀ) Bᵀ into y, both [n, …] of the chunk's rows."""
    begin = chunk[0][1]
    for e, i, j in chunk:
        here = slice(i - begin, j - begin)
        rows = x[here]
        torch.mm(rows, stack.expert(e, x.dtype).T, out=y[here])
        if adapter is not None:
            y[here].addmm_(torch.mm(rows, adapter.a[e].T), adapter.b[e].T, alpha=adapter.s)
        if bias is not None:
            y[here].add_(bias[e].to(y.dtype))
    return y


def _product_backward(
    g: Tensor,
    x: Tensor | None,
    dx: Tensor | None,
    chunk: list[tuple[int, int, int]],
    stack: Stack,
    adapter: _Adapter | None,
) -> None:
    """Puts the gradient of the input into dx where it is wanted, and adds those of the adapter to its own."""
    begin = chunk[0][1]
    for e, i, j in chunk:
        here = slice(i - begin, j - begin)
        rows = g[here]
        if dx is not None:
            torch.mm(rows, stack.expert(e, g.dtype), out=dx[here])
        if adapter is None:
            continue
        h = torch.mm(rows, adapter.b[e])
        if adapter.s != 1.0:
            h *= adapter.s
        if dx is not None:
            dx[here].addmm_(h, adapter.a[e])
        if adapter.da is not None and x is not None:
            _into(adapter.da[e], h.T, x[here])
        if adapter.db is not None and x is not None:
            low = torch.mm(x[here], adapter.a[e].T)
            _into(adapter.db[e], rows.T, low if adapter.s == 1.0 else low.mul_(adapter.s))


def _into(target: Tensor, one: Tensor, other: Tensor) -> None:
    if target.dtype == one.dtype:
        target.addmm_(one, other)
    else:
        target.add_(torch.mm(one, other))


class _Fused(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weights: Tensor, a1: Tensor | None, b1: Tensor | None, a2: Tensor | None, b2: Tensor | None,
        order: Tensor, offsets: Tensor, block: Block, scalings: tuple[float, float],
    ) -> Tensor:  # fmt: skip
        k, dtype = weights.shape[1], block.dtype
        flat = weights.reshape(-1)
        chunks = _chunks(spans(offsets))
        one, two = _adapter(a1, b1, scalings[0], dtype), _adapter(a2, b2, scalings[1], dtype)
        kept = hidden.new_empty((order.numel(), block.first.out_features), dtype=dtype)
        out = torch.zeros(hidden.shape, dtype=_wide(dtype), device=hidden.device)
        for chunk in chunks:
            i, j = chunk[0][1], chunk[-1][2]
            rows = order[i:j]
            tokens = rows // k
            x = hidden.index_select(0, tokens).to(dtype)
            act = block.gate(_product(x, kept[i:j], chunk, block.first, block.first_bias_EG, one))
            y = _product(act, x.new_empty(x.shape), chunk, block.second, block.second_bias_EH, two)
            out.index_add_(0, tokens, y.mul_(flat.index_select(0, rows)[:, None].to(dtype)).to(out.dtype))
            del x, act, y  # the next piece's would stand beside them
        ctx.save_for_backward(hidden, weights, a1, b1, a2, b2, order, kept)
        ctx.block, ctx.scalings, ctx.chunks = block, scalings, chunks
        return out.to(hidden.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (dout,) = grads
        hidden, weights, a1, b1, a2, b2, order, kept = ctx.saved_tensors
        block, (s1, s2) = ctx.block, ctx.scalings
        k, dtype = weights.shape[1], block.dtype
        needs_hidden, needs_weights, *needs = ctx.needs_input_grad[:6]
        flat = weights.reshape(-1)
        dhidden = torch.zeros(hidden.shape, dtype=_wide(dtype), device=hidden.device) if needs_hidden else None
        dflat = torch.zeros_like(flat) if needs_weights else None
        made = [
            torch.zeros_like(t) if t is not None and n else None for t, n in zip((a1, b1, a2, b2), needs, strict=True)
        ]
        one, two = _adapter(a1, b1, s1, dtype), _adapter(a2, b2, s2, dtype)
        one = None if one is None else replace(one, da=made[0], db=made[1])
        two = None if two is None else replace(two, da=made[2], db=made[3])
        for chunk in ctx.chunks:
            i, j = chunk[0][1], chunk[-1][2]
            rows = order[i:j]
            tokens = rows // k
            w = flat.index_select(0, rows)[:, None].to(dtype)
            g = dout.index_select(0, tokens).to(dtype)
            with torch.enable_grad():
                up = kept[i:j].detach().requires_grad_()
                act = block.gate(up)
            done = act.detach()
            # <g, y> of each row, for the routing weight's gradient. y is linear in the activations, so that it is <dact, act> / w; but a
            # bias is not in it, and a weight of nothing hides it: there the product is made again.
            again = dflat is not None and (block.second_bias_EH is not None or bool((w == 0).any()))
            if dflat is not None and again:
                y = _product(done, g.new_empty(g.shape), chunk, block.second, block.second_bias_EH, two)
                dflat.index_copy_(0, rows, (g * y).sum(-1, dtype=_wide(dtype)).to(dflat.dtype))
            g.mul_(w)
            dact = torch.empty_like(done)
            _product_backward(g, done, dact, chunk, block.second, two)
            if dflat is not None and not again:
                through = (dact * done).sum(-1, dtype=_wide(dtype)) / w[:, 0]
                dflat.index_copy_(0, rows, through.to(dflat.dtype))
            if dhidden is None and made[0] is None and made[1] is None:
                continue
            (dup,) = torch.autograd.grad(act, up, dact)
            del act, up, done, dact
            x = hidden.index_select(0, tokens).to(dtype) if one is not None else None
            dx = g if dhidden is not None else None
            _product_backward(dup, x, dx, chunk, block.first, one)
            if dhidden is not None and dx is not None:
                dhidden.index_add_(0, tokens, dx.to(dhidden.dtype))
            del g, dup, x, dx  # the next piece's would stand beside them
        dweights = None if dflat is None else dflat.view_as(weights)
        return None if dhidden is None else dhidden.to(hidden.dtype), dweights, *made, None, None, None, None


def _wide(dtype: torch.dtype) -> torch.dtype:
    """The dtype that sums over experts are taken in."""
    return torch.float64 if dtype == torch.float64 else torch.float32
