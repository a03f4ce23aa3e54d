"""y = x Wᵀ + s · (x Aᵀ) Bᵀ for rows sorted by expert, each with its expert's W, A and B.

Neither W + s·B·A nor the gradient of W is ever built, and a quantised W is dequantised again in the backward pass instead of kept.
Shapes: R rows, E experts, O output features, I input features, r rank.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from moe_train.experts import kernels
from moe_train.experts.stacks import Nf4Stack, Stack


@dataclass(frozen=True)
class Factors:
    """One adapter of a stack."""

    a: Tensor
    """[E, r, I]."""
    b: Tensor
    """[E, O, r]."""
    scaling: float
    dropout: float = 0.0
    """Probability with which elements of the adapter's input are left out, the rest scaled up."""


def expert_linear(x_RI: Tensor, offsets_E: Tensor, base: Stack, adapters: tuple[Factors, ...] = ()) -> Tensor:
    """The product of each row with its expert's matrix, and with its adapters'.

    Args:
        x_RI: rows sorted by expert.
        offsets_E: int32, where each expert's rows end; rows after the last are left zero.
        base: frozen weights. They get no gradient.
        adapters: in the dtype they train in; they are multiplied in the rows' dtype.

    Returns:
        [R, O], in the rows' dtype.
    """
    if not adapters:
        return _apply(x_RI, x_RI, offsets_E, base, None)
    first, *rest = adapters
    y_RO = _apply(x_RI, _dropped(x_RI, first), offsets_E, base, first)
    for adapter in rest:
        y_RO = y_RO + _apply(x_RI, _dropped(x_RI, adapter), offsets_E, None, adapter)
    return y_RO


def _dropped(x_RI: Tensor, adapter: Factors) -> Tensor:
    return torch.nn.functional.dropout(x_RI, adapter.dropout) if adapter.dropout else x_RI


def _apply(x_RI: Tensor, z_RI: Tensor, offsets_E: Tensor, base: Stack | None, adapter: Factors | None) -> Tensor:
    a, b, scaling = (adapter.a, adapter.b, adapter.scaling) if adapter is not None else (None, None, 0.0)
    grouped = x_RI.is_cuda and x_RI.dtype == torch.bfloat16
    function = _Grouped if grouped else _ByExpert
    out: Tensor = function.apply(x_RI, z_RI, a, b, offsets_E, base, scaling)  # type: ignore[no-untyped-call]
    return out


def spans(offsets_E: Tensor) -> list[tuple[int, int, int]]:
    """(expert, begin, end) of the experts with rows; one wait for the device."""
    found, begin = [], 0
    for expert, end in enumerate(offsets_E.tolist()):
        if end > begin:
            found.append((expert, begin, end))
        begin = end
    return found


class _ByExpert(torch.autograd.Function):
    """One expert after the other: any device and dtype, one dequantised expert alive at a time.

    x is what the base multiplies and z what the adapter does; without dropout they are the same tensor.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        z: Tensor,
        a: Tensor | None,
        b: Tensor | None,
        offsets: Tensor,
        base: Stack | None,
        s: float,
    ) -> Tensor:
        found = spans(offsets)
        out_features = base.out_features if base is not None else b.shape[1]  # type: ignore[union-attr]
        y = x.new_empty((x.shape[0], out_features))
        if not found or found[-1][2] < x.shape[0]:
            y.zero_()
        h = None if a is None else x.new_zeros((x.shape[0], a.shape[1]))
        for e, i, j in found:
            if base is not None:
                torch.mm(x[i:j], base.expert(e, x.dtype).T, out=y[i:j])
            if a is not None and b is not None and h is not None:
                torch.mm(z[i:j], a[e].to(x.dtype).T, out=h[i:j])
                update = b[e].to(x.dtype).T
                if base is not None:
                    y[i:j].addmm_(h[i:j], update, alpha=s)
                else:
                    torch.mm(h[i:j], update, out=y[i:j]).mul_(s)
        same = z is x
        ctx.save_for_backward(None if same else x, z if a is not None else None, a, b, h)
        ctx.spans, ctx.base, ctx.s, ctx.same, ctx.shape = found, base, s, same, x.shape
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (dy,) = grads
        dy = dy.contiguous()
        _, z, a, b, h = ctx.saved_tensors
        needs_x, needs_z, needs_a, needs_b, *_ = ctx.needs_input_grad
        base, s, same = ctx.base, ctx.s, ctx.same
        rows = ctx.shape
        wants_input = needs_x or needs_z
        covered = bool(ctx.spans) and ctx.spans[-1][2] == rows[0]
        new = dy.new_empty if covered else dy.new_zeros
        dx = new(rows) if wants_input and (base is not None or same) else None
        dz = new(rows) if needs_z and not same and a is not None else None
        da = torch.zeros_like(a) if needs_a else None
        db = torch.zeros_like(b) if needs_b else None
        for e, i, j in ctx.spans:
            g = dy[i:j]
            if dx is not None and base is not None:
                torch.mm(g, base.expert(e, dy.dtype), out=dx[i:j])
            if a is None:
                continue
            dh = g @ b[e].to(dy.dtype)
            if s != 1.0:
                dh *= s
            if same and dx is not None:
                if base is not None:
                    dx[i:j].addmm_(dh, a[e].to(dy.dtype))
                else:
                    torch.mm(dh, a[e].to(dy.dtype), out=dx[i:j])
            elif dz is not None:
                torch.mm(dh, a[e].to(dy.dtype), out=dz[i:j])
            if da is not None:
                da[e] = dh.T @ z[i:j]
            if db is not None:
                db[e] = (g.T @ h[i:j]) * s
        return dx, dz, da, db, None, None, None


class _Grouped(torch.autograd.Function):
    """All experts in one grouped product: bfloat16 on a GPU."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        z: Tensor,
        a: Tensor | None,
        b: Tensor | None,
        offsets: Tensor,
        base: Stack | None,
        s: float,
    ) -> Tensor:
        y = None if base is None else _base_product(x, base, offsets, out=True)
        h = None
        if a is not None and b is not None:
            h = _product(z, a.to(x.dtype).transpose(1, 2), offsets)
            update = _product(h, b.to(x.dtype).transpose(1, 2), offsets)
            y = update.mul_(s) if y is None else y.add_(update, alpha=s)
        assert y is not None
        same = z is x
        ctx.save_for_backward(z if a is not None else None, a, b, h, offsets)
        ctx.base, ctx.s, ctx.same = base, s, same
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (dy,) = grads
        dy = dy.contiguous()
        z, a, b, h, offsets = ctx.saved_tensors
        needs_x, needs_z, needs_a, needs_b, *_ = ctx.needs_input_grad
        base, s, same = ctx.base, ctx.s, ctx.same
        dx = dz = da = db = None
        if (needs_x or needs_z) and base is not None:
            dx = _base_product(dy, base, offsets, out=False)
        if a is not None:
            dh = _product(dy, b.to(dy.dtype), offsets).mul_(s)
            if needs_x or needs_z:
                through = _product(dh, a.to(dy.dtype), offsets)
                if same:
                    dx = through if dx is None else dx.add_(through)
                else:
                    dz = through
            if needs_a:
                da = torch.nn.functional.grouped_mm(dh.T, z, offs=offsets).to(a.dtype)
            if needs_b:
                db = (torch.nn.functional.grouped_mm(dy.T, h, offs=offsets) * s).to(b.dtype)
        return dx, dz, da, db, None, None, None


def _product(x_RI: Tensor, w_EIO: Tensor, offsets_E: Tensor) -> Tensor:
    """The grouped product of torch; rows after the last offset are made zero, which the kernel leaves as they are."""
    y: Tensor = torch.nn.functional.grouped_mm(x_RI, w_EIO, offs=offsets_E)
    tail = torch.arange(x_RI.shape[0], device=x_RI.device) >= offsets_E[-1]
    return y.masked_fill_(tail[:, None], 0.0)


def _base_product(x: Tensor, base: Stack, offsets_E: Tensor, *, out: bool) -> Tensor:
    """The product x Wᵀ where `out`, else x W. A quantised stack is dequantised whole while it is multiplied, or not at all (`kernels`)."""

    def dequantised() -> Tensor:
        matrices = base.whole(x.dtype)
        return _product(x, matrices.transpose(1, 2) if out else matrices, offsets_E)

    if isinstance(base, Nf4Stack) and x.is_cuda and kernels.installed():
        found = spans(offsets_E)
        if kernels.faster_packed(x, base, found, out=out, dequantised=dequantised):
            return kernels.packed_product(x, base, found, out=out)
    return dequantised()
