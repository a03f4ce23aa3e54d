"""What the weights take in the form the installed stack really holds them, and what is trained of them.

Letters: n elements of a tensor, r LoRA rank, E experts.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from math import ceil, prod

from moe_memprof.architectures.base import Model, TensorSpec
from moe_memprof.plan import Part
from moe_memprof.spec import BYTES, RunSpec

BLOCK = 64
"""Elements of an NF4 block with a scale of its own (bitsandbytes' default)."""
NESTED = 256
"""Scales in a block of double quantisation."""
F32 = 4


@dataclass(frozen=True, kw_only=True)
class Trained:
    """A tensor that trains."""

    role: str
    shape: tuple[int, ...]
    width: int
    """Bytes of an element, and of its gradient's."""
    layer: int | None

    @property
    def elements(self) -> int:
        """How many numbers it holds."""
        return prod(self.shape)

    @property
    def bytes(self) -> int:
        """Of the weight itself."""
        return self.elements * self.width


def is_quantised(tensor: TensorSpec, spec: RunSpec) -> bool:
    """Whether a weight is held in `spec.bits` bits.

    bitsandbytes replaces nn.Linear modules and leaves the head out; fused experts are no nn.Linear (transformers 5), so that they are
    quantised only where `quantise_experts` says so.
    """
    if spec.method != "qlora":
        return False
    if tensor.kind == "linear":
        return tensor.name.endswith(".weight") and not tensor.name.startswith("lm_head") and len(tensor.shape) == 2
    return spec.quantise_experts and tensor.role == "routed expert" and len(tensor.shape) == 3


def quantised_bytes(shape: tuple[int, ...], *, bits: int, double_quant: bool) -> int:
    """Bytes of a weight in bitsandbytes' format.

    4 bits: n / 2, and a scale for every 64 elements, in fp32, or with double quantisation in 8 bits with an fp32 scale for every 256 of
    those (QLoRA, arXiv:2305.14314, section 3). 8 bits: n, and an fp32 scale for every row (LLM.int8(), arXiv:2208.07339).
    """
    n = prod(shape)
    if bits == 8:
        return n + n // shape[-1] * F32
    scales = ceil(n / BLOCK)
    return ceil(n / 2) + (scales + ceil(scales / NESTED) * F32 if double_quant else scales * F32)


def held_bytes(tensor: TensorSpec, spec: RunSpec) -> int:
    """Bytes of one weight as it stays in memory."""
    if is_quantised(tensor, spec):
        return quantised_bytes(tensor.shape, bits=spec.bits, double_quant=spec.double_quant)
    width = BYTES.get(tensor.dtype or spec.dtype, spec.width)
    if spec.method == "qlora" and spec.kbit_prepare:
        width = F32
    return tensor.elements * width


def weight_parts(model: Model, spec: RunSpec) -> list[Part]:
    """The base weights by role; quantised and unquantised ones apart."""
    sizes: Counter[tuple[str, str]] = Counter()
    counts: Counter[tuple[str, str]] = Counter()
    for tensor in model.tensors:
        width = (
            F32 if spec.method == "qlora" and spec.kbit_prepare else BYTES.get(tensor.dtype or spec.dtype, spec.width)
        )
        form = f"{spec.bits} bits" if is_quantised(tensor, spec) else f"{width} bytes each"
        sizes[tensor.role, form] += held_bytes(tensor, spec)
        counts[tensor.role, form] += tensor.elements
    several = Counter(role for role, _ in sizes)
    return [
        Part(
            name=f"weights: {role}" + (f" ({form})" if several[role] > 1 or form.endswith("bits") else ""),
            bytes=size,
            kind="derived",
            formula=f"{counts[role, form]:,} parameters, {form}" + (" and scales" if form.endswith("bits") else ""),
        )
        for (role, form), size in sizes.items()
    ]


def trained(model: Model, spec: RunSpec) -> list[Trained]:
    """Everything that gets a gradient: all weights, or the adapters' A [r, in] and B [out, r] in fp32."""
    if spec.method == "full":
        return [
            Trained(role=t.role, shape=t.shape, width=BYTES.get(t.dtype or spec.dtype, spec.width), layer=t.layer)
            for t in model.tensors
        ]
    found: list[Trained] = []
    for tensor in model.tensors:
        attention = tensor.role == "attention" and tensor.kind == "linear" and len(tensor.shape) == 2
        experts = tensor.role == "routed expert" and len(tensor.shape) == (2 if tensor.kind == "linear" else 3)
        if (attention and spec.lora_attention) or (experts and spec.lora_experts):
            stack = tensor.shape[:-2]
            r = spec.expert_rank if stack and spec.expert_rank is not None else spec.lora_rank
            pairs = ((*stack, r, tensor.shape[-1]), (*stack, tensor.shape[-2], r))
            found += [Trained(role=tensor.role, shape=pair, width=F32, layer=tensor.layer) for pair in pairs]
    return found
