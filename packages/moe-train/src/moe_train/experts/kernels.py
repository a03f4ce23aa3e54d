"""Which way NF4 experts are multiplied on a GPU: dequantised whole and by torch's grouped product, or packed by Triton kernels.

The kernels are those of grouped-nf4-gemm (extra `kernels`), which decode in registers: no stack in 16 bits is ever there. Which way is
faster depends on the GPU, the shape and the number of rows, so both are timed the first time that each comes up, and the faster is taken
from then on. What was measured is kept with the run, and a run that goes on takes the same ways again.
Shapes: R rows, E experts, O output features, I input features.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from functools import cache
from importlib.util import find_spec
from typing import Any, Literal

import torch
from torch import Tensor

from moe_train.experts.stacks import Nf4Stack, plain_scales

SCHEMA = "moe-train/kernels@1"
Way = Literal["dequantise", "packed"]
_REPEATS = 3


@dataclass(frozen=True)
class Product:
    """A kind of product, of those that are timed apart."""

    device: str
    """Name of the GPU."""
    experts: int
    stored: tuple[int, int]
    """Rows and columns of each matrix as it is stored."""
    along: bool
    """Whether x is multiplied along the stored columns (x Wᵀ); across them it is (x W)."""
    rows: int
    """Rows of x, up to the next power of two."""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """Both ways of a product, timed."""

    product: Product
    dequantise_ms: float | None
    """Median; None where its memory did not suffice."""
    packed_ms: float | None
    """Median; None where the kernel did not run it."""
    not_packed: str = ""
    """Why it did not."""

    @property
    def way(self) -> Way:
        """The faster; to dequantise where neither was timed."""
        if self.packed_ms is None:
            return "dequantise"
        return "packed" if self.dequantise_ms is None or self.packed_ms < self.dequantise_ms else "dequantise"

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {
            **asdict(self.product),
            "dequantise_ms": self.dequantise_ms,
            "packed_ms": self.packed_ms,
            "not_packed": self.not_packed,
            "way": self.way,
        }


@dataclass
class Choices:
    """What was measured in this process, or by the run that this one goes on with."""

    measured: dict[Product, Measured] = field(default_factory=dict)

    def way(
        self, product: Product, ways: dict[Way, Callable[[], object]], time_ms: Callable[[Callable[[], object]], float]
    ) -> Way:
        """The way for a product, timed where it is the first of its kind.

        Args:
            product: the kind.
            ways: what to run for each way.
            time_ms: milliseconds that something takes.
        """
        if product not in self.measured:
            times: dict[Way, float | None] = {}
            reasons: dict[Way, str] = {}
            for way, run in ways.items():
                try:
                    run()  # compiles, and does not count
                    times[way] = statistics.median(time_ms(run) for _ in range(_REPEATS))
                except Exception as error:
                    # A GPU or shape that the kernels do not take: the other way does, and the record says why.
                    if way == "dequantise" and not isinstance(error, torch.OutOfMemoryError):
                        raise
                    times[way], reasons[way] = None, f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
            self.measured[product] = Measured(
                product=product,
                dequantise_ms=times["dequantise"],
                packed_ms=times["packed"],
                not_packed=reasons.get("packed", ""),
            )
        return self.measured[product].way

    def to_dict(self) -> dict[str, Any]:
        """Plain values, schema moe-train/kernels@1."""
        return {"schema": SCHEMA, "products": [found.to_dict() for found in self.measured.values()]}

    def take(self, values: dict[str, Any]) -> None:
        """Go by what was measured before."""
        for found in values["products"]:
            rows, columns = found["stored"]
            product = Product(found["device"], found["experts"], (rows, columns), found["along"], found["rows"])
            self.measured[product] = Measured(
                product=product,
                dequantise_ms=found["dequantise_ms"],
                packed_ms=found["packed_ms"],
                not_packed=found["not_packed"],
            )


CHOICES = Choices()
"""Of this process."""


def time_on_gpu(run: Callable[[], object]) -> float:
    """Milliseconds on the current CUDA stream."""
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
    begin.record()
    run()
    end.record()
    end.synchronize()
    return float(begin.elapsed_time(end))


@cache
def installed() -> bool:
    """Whether the kernels are there."""
    return find_spec("nf4_grouped") is not None and find_spec("triton") is not None


def faster_packed(
    x: Tensor, stack: Nf4Stack, spans: Iterable[tuple[int, int, int]], *, out: bool, dequantised: Callable[[], Tensor]
) -> bool:
    """Whether the packed way is to be taken for a product, which is timed where it is the first of its kind.

    Args:
        x: [R, I] where `out`, else [R, O].
        stack: the weights.
        spans: (expert, begin, end) of the experts with rows.
        out: x Wᵀ from the inputs to the outputs, or x W from the outputs' gradients back.
        dequantised: the other way.
    """
    rows = 1 << max(0, x.shape[0] - 1).bit_length()
    stored = (stack.packed.shape[1], 2 * stack.packed.shape[2])
    product = Product(torch.cuda.get_device_name(x.device), stack.experts, stored, out != stack.transposed, rows)
    found = list(spans)
    ways: dict[Way, Callable[[], object]] = {
        "dequantise": dequantised,
        "packed": lambda: packed_product(x, stack, found, out=out),
    }
    return CHOICES.way(product, ways, time_on_gpu) == "packed"


def packed_product(x: Tensor, stack: Nf4Stack, spans: Iterable[tuple[int, int, int]], *, out: bool) -> Tensor:
    """The product of each row with its expert's matrix, without dequantising the stack: [R, O] where `out`, else [R, I], in bfloat16.

    Args:
        x: bfloat16 rows sorted by expert; those of no span come out zero.
        stack: the weights.
        spans: (expert, begin, end) of the experts with rows.
        out: x Wᵀ from the inputs to the outputs, or x W from the outputs' gradients back.
    """
    from nf4_grouped import dgrad_4bit_grouped, gemm_4bit_grouped

    found = list(spans)
    scales = plain_scales(stack.scales_EB, stack.nested_EC).view(*stack.packed.shape[:2], -1)
    width = stack.out_features if out else stack.in_features
    covered = found[-1][2] if found else 0
    if not covered:
        return x.new_zeros((x.shape[0], width))
    # The kernels know matrices as they are stored: along their columns, or across them.
    kernel = gemm_4bit_grouped if out != stack.transposed else dgrad_4bit_grouped
    sizes, experts = [end - begin for _, begin, end in found], [expert for expert, _, _ in found]
    y: Tensor = kernel(x[:covered].contiguous(), stack.packed, scales, sizes, experts)
    return y if covered == x.shape[0] else torch.cat([y, y.new_zeros((x.shape[0] - covered, width))])
