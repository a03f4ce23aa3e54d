"""Settings to start from, by the memory that a device has to give. They promise nothing: see `advise`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from moe_memprof.hardware.table import GIB, GpuSpec
from moe_memprof.spec import Method, Optimizer


@dataclass(frozen=True, kw_only=True)
class Preset:
    """Settings to start from; the estimate says what they take."""

    method: Method
    """full, lora (on base weights of `dtype`) or qlora (on a 4-bit base, routed experts included)."""
    dtype: str
    quantization: str | None
    """nf4 with qlora, None otherwise."""
    quantise_experts: bool
    """Whether qlora holds the routed experts in 4 bits as well; transformers 5 with bitsandbytes leaves them in 16."""
    micro_batch_tokens: int
    """Most padded tokens in one forward pass; the batch of an optimizer step is the user's."""
    checkpointing: bool
    """Recompute activations in the backward pass."""
    optimizer: Optimizer
    attention: Literal["sdpa", "eager"]
    """transformers' attn_implementation."""
    experts: Literal["grouped_mm", "eager", "batched_mm"]
    """transformers' experts_implementation."""
    expert_lora: Literal["peft", "grouped"]
    """grouped: low-rank products for the rows of each expert, which never build W + ΔW; peft: PEFT's, which does."""


@dataclass(frozen=True, kw_only=True)
class MemoryClass:
    """GPUs with about as much memory."""

    name: str
    least: float
    """Usable GiB from which on it holds."""
    method: Method
    tokens: int
    """Micro-batch tokens of the preset."""
    optimizer: Optimizer


CLASSES = (
    MemoryClass(name="8-12 GB", least=0, method="qlora", tokens=1024, optimizer="paged_adamw_8bit"),
    MemoryClass(name="16 GB", least=14, method="qlora", tokens=2048, optimizer="paged_adamw_8bit"),
    MemoryClass(name="24 GB", least=21, method="qlora", tokens=4096, optimizer="paged_adamw_8bit"),
    MemoryClass(name="32 GB", least=30, method="qlora", tokens=4096, optimizer="adamw_8bit"),
    MemoryClass(name="40-64 GB", least=38, method="qlora", tokens=8192, optimizer="adamw_8bit"),
    MemoryClass(name="80 GB", least=74, method="lora", tokens=8192, optimizer="adamw_fused"),
    MemoryClass(name="96 GB", least=90, method="lora", tokens=8192, optimizer="adamw_fused"),
    MemoryClass(name="141 GB and more", least=130, method="lora", tokens=16384, optimizer="adamw_fused"),
)
"""By the memory that one device has to give."""

CPU = Preset(
    method="lora",
    dtype="float32",
    quantization=None,
    quantise_experts=True,
    micro_batch_tokens=512,
    checkpointing=True,
    optimizer="adamw",
    attention="sdpa",
    experts="grouped_mm",
    expert_lora="grouped",
)
"""Without a GPU."""


def memory_class(total: int) -> MemoryClass:
    """The class of a device with `total` usable bytes."""
    return [c for c in CLASSES if total >= c.least * GIB][-1]


def preset_for(size: MemoryClass, row: GpuSpec | None, *, apple: bool) -> Preset:
    """Settings for a device of this class; `row` is its row of the table, None where it has none."""
    method: Method = "lora" if apple else size.method
    return Preset(
        method=method,
        dtype="float16" if row is not None and row.supports("bf16") is False else "bfloat16",
        quantization="nf4" if method == "qlora" else None,
        quantise_experts=True,
        micro_batch_tokens=min(size.tokens, 2048) if apple else size.tokens,
        checkpointing=True,
        optimizer="adamw" if apple else size.optimizer,
        attention="sdpa",
        experts="grouped_mm",
        expert_lora="grouped",
    )


def notes_for(row: GpuSpec | None, *, apple: bool) -> list[str]:
    """What one should know of a device before using these settings on it."""
    notes = []
    if row is None and not apple:
        notes.append("not in the table: bfloat16 is assumed; torch.cuda.is_bf16_supported() says whether it is there")
    if row is not None and row.capability is not None:
        if row.supports("bf16") is False:
            notes.append("no bfloat16: float16 needs loss scaling, and the router stays in float32")
        if row.supports("grouped_mm") is False:
            notes.append("grouped_mm runs as a loop over experts before compute capability 8.0")
        if row.capability < (7, 5):
            notes.append("builds of torch for CUDA 13 leave out compute capability below 7.5; take one for CUDA 12.6")
        if row.supports("flash2"):
            notes.append("flash_attention_2 works too, with the flash-attn package")
    if apple:
        notes.append("memory is shared with the system; `sudo sysctl iogpu.wired_limit_mb=N` raises the GPU's part")
    elif row is not None and row.capability is None:
        notes.append(
            "kernels for experts, flash attention and 4 bits differ by maker; nothing here was tried on this one"
        )
    if apple or (row is not None and row.capability is None):
        notes.append("the estimate follows CUDA's kernels and allocator")
    return notes
