"""nn.Linear, plain, adapted by PEFT or quantised by bitsandbytes, and the RMSNorm between them.

Letters: n elements of the weight, r LoRA rank.
"""

from __future__ import annotations

from moe_memprof.replay.engine import F32, Grads, Memory, Tensor, fresh, record, weight
from moe_memprof.replay.how import How
from moe_memprof.replay.ops import add, cast, matmul, mul, reduce_sum, scale, unary


def linear(
    m: Memory, how: How, x: Tensor, inputs: int, outputs: int, *, adapted: bool = False, quantised: bool = True
) -> Tensor:
    """A linear layer, with PEFT's LoRA where it is adapted: the input and the update in the adapters' fp32."""
    rows = x.elements // inputs
    bits = how.linear_bits if quantised else 0
    if bits:
        out = dequantised_product(m, how, x, inputs * outputs, rows * outputs)
    else:
        out = matmul(m, x, weight(m, inputs * outputs, how.width, trains=how.base_trains), rows)
    if not (adapted and how.rank):
        return out
    if bits:
        # PEFT clones the result of a 4-bit layer before it adds to it.
        out = unary(m, out)
    full = cast(m, x, F32)
    low = matmul(m, full, weight(m, inputs * how.rank, F32, trains=True), rows)
    del full
    update = matmul(m, low, weight(m, how.rank * outputs, F32, trains=True), rows)
    del low
    update = scale(m, update)
    if bits:
        update = cast(m, update, how.width)
    out = add(m, out, update)
    del update
    return cast(m, out, how.width)


def dequantised_product(m: Memory, how: How, x: Tensor, elements: int, outputs: int) -> Tensor:
    """A product with a frozen quantised weight, which is in 16 bits for the product, and once more for the gradient of the input.

    Args:
        m: where it happens.
        how: the run.
        x: the input.
        elements: numbers of the weight.
        outputs: numbers of the result.
    """
    size, width = x.elements, x.width

    def back(_grads: Grads, _saved: list[Tensor]) -> Grads:
        whole = fresh(m, elements, how.width, "dequantised weights")
        grad = fresh(m, size, width)
        del whole
        return [grad]

    whole = fresh(m, elements, how.width, "dequantised weights")
    out = record(m, (outputs, how.width), [x], back)
    del whole
    return out


def norm(m: Memory, how: How, x: Tensor, size: int, *, weighted: bool = True, kind: str = "") -> Tensor:
    """RMSNorm over rows of `size`, worked in fp32; or LayerNorm, whose kernel keeps its input and two numbers a row."""
    kind = kind or how.written.norm
    with m.labelled("norms"):
        if kind == "layer":
            return _layer_norm(m, how, x, size)
        full = cast(m, x, F32)
        squared = unary(m, full, save="in", scratch=2)
        mean = reduce_sum(m, squared, x.elements // size)
        del squared
        root = unary(m, unary(m, mean), save="out")
        del mean
        scaled = mul(m, full, root)
        del full, root
        if not weighted:
            return cast(m, scaled, how.width)
        w = weight(m, size, how.width, trains=how.base_trains)
        if kind == "narrow":
            return mul(m, w, cast(m, scaled, how.width))
        if kind == "wide":
            return cast(m, mul(m, w, scaled), how.width)
        w = cast(m, w, F32)
        return cast(m, mul(m, scaled, unary(m, w) if kind == "scaled wide" else w), how.width)


def _layer_norm(m: Memory, how: How, x: Tensor, size: int) -> Tensor:
    trains, elements, width = how.base_trains, x.elements, x.width

    def back(_grads: Grads, _saved: list[Tensor]) -> Grads:
        for_weight = fresh(m, size, width, "gradients") if trains else None
        return [fresh(m, elements, width), for_weight]

    statistics = fresh(m, 2 * elements // size, F32)
    return record(m, (elements, width), [x, weight(m, size, width, trains=trains)], back, [x.alias(), statistics])
