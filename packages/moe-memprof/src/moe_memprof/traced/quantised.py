"""Linears whose weight is held in few bits: the trace needs only that it is put into 16 bits for each product and not kept."""

from __future__ import annotations

from typing import Any

import torch

from moe_memprof.errors import MemprofError
from moe_memprof.spec import RunSpec


class _Product(torch.autograd.Function):
    """Like bitsandbytes' MatMul4Bit: the weight is dequantised in both passes, and no input is saved for a frozen weight."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        ctx.weight = weight
        return torch.nn.functional.linear(x, weight.to(x.dtype, copy=True), bias)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> Any:
        (grad,) = grads
        return grad @ ctx.weight.to(grad.dtype, copy=True), None, None


class QuantisedLinear(torch.nn.Linear):
    """A linear that multiplies by a copy of its weight."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """The product; the copy stands for the dequantised weight."""
        return _Product.apply(input, self.weight, self.bias)  # type: ignore[no-untyped-call, no-any-return]


def quantise(model: Any, spec: RunSpec) -> None:
    """Make linears quantised as bitsandbytes in transformers does: all but the head; fused experts are left.

    Raises:
        MemprofError: for quantised experts, whose modules are no part of transformers or PEFT.
    """
    if spec.quantise_experts:
        raise MemprofError(
            "traced estimate: quantised experts are not transformers' own code; leave quantise_experts out"
        )
    head = model.get_output_embeddings()
    quantised = set()
    for module in model.modules():
        if type(module) is torch.nn.Linear and module is not head:
            module.__class__ = QuantisedLinear
            quantised.add(id(module.weight))
    if spec.kbit_prepare:
        for parameter in model.parameters():
            if id(parameter) not in quantised and parameter.dtype in {torch.float16, torch.bfloat16}:
                parameter.data = parameter.data.float()
