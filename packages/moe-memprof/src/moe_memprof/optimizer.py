"""Optimizer states, and what an optimizer's step takes beside them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

from moe_memprof.plan import Part
from moe_memprof.spec import RunSpec
from moe_memprof.weights import F32, Trained

SMALLEST_8BIT = 4096
"""bitsandbytes keeps the states of smaller tensors in fp32."""
STATE_BLOCK = 256
"""Elements of an 8-bit state that share an fp32 scale (arXiv:2110.02861)."""


@dataclass(frozen=True)
class OptimizerMemory:
    """What an optimizer takes."""

    states: int
    """Bytes on the device between steps."""
    pageable: int
    """Bytes that move to the host when the device is short of memory."""
    step: int
    """Bytes while it steps, beside weights, gradients and states."""
    formula: str
    step_formula: str


def optimizer_memory(trains: Sequence[Trained], spec: RunSpec) -> OptimizerMemory:
    """States and temporaries of `spec.optimizer` for these tensors.

    Sources: torch.optim's single-tensor (CPU) and foreach (CUDA) implementations; bitsandbytes' block-wise 8-bit states;
    Adafactor, arXiv:1804.04235, section 4.
    """
    own = sum(t.bytes for t in trains)
    if spec.master_weights:
        own = sum(t.elements * F32 for t in trains)
    largest = max((t.bytes for t in trains), default=0)
    name = spec.optimizer
    if name in {"adamw", "adamw_fused", "paged_adamw"}:
        temporary, why = 0, "the fused kernel works in place"
        if name == "adamw" and spec.device == "cpu":
            temporary, why = 2 * largest, "square root of the second moment, twice, of the largest tensor"
        elif name == "adamw":
            temporary, why = own, "torch's foreach implementation takes the square roots of all second moments at once"
        if name == "paged_adamw":
            return OptimizerMemory(0, 2 * own, 0, "two moments per trainable parameter, in paged memory", why)
        return OptimizerMemory(2 * own, 0, temporary, "two moments per trainable parameter", why)
    if name in {"adamw_8bit", "paged_adamw_8bit", "lion_8bit"}:
        moments = 1 if name == "lion_8bit" else 2
        small = sum(t.elements * F32 for t in trains if t.elements < SMALLEST_8BIT)
        large = sum(t.elements + ceil(t.elements / STATE_BLOCK) * F32 for t in trains if t.elements >= SMALLEST_8BIT)
        states, formula = moments * (small + large), f"{moments} · (n bytes and an fp32 scale per {STATE_BLOCK})"
        paged = name.startswith("paged")
        return OptimizerMemory(0 if paged else states, states if paged else 0, 0, formula, "the kernel works in place")
    if name == "adafactor":
        factored = sum(_factors(t) for t in trains) * F32
        return OptimizerMemory(
            factored, 0, 2 * largest // max(1, _width(trains)) * F32,
            "a row and a column of second moments per matrix, in fp32", "the update of the largest tensor in fp32, twice",
        )  # fmt: skip
    if name in {"lion", "sgd_momentum"}:
        return OptimizerMemory(
            own, 0, largest if spec.device == "cpu" else own, "one moment per trainable parameter", "the update"
        )
    return OptimizerMemory(0, 0, 0, "no state", "in place")


def _width(trains: Sequence[Trained]) -> int:
    return max((t.width for t in trains), default=1)


def _factors(t: Trained) -> int:
    if len(t.shape) < 2:
        return t.elements
    stack = t.elements // (t.shape[-1] * t.shape[-2])
    return stack * (t.shape[-1] + t.shape[-2])


def state_parts(trains: Sequence[Trained], spec: RunSpec) -> list[Part]:
    """Adapters, master weights and optimizer states: what stays on the device from step to step beside the base weights."""
    parts: list[Part] = []
    if spec.method != "full":
        for role in dict.fromkeys(t.role for t in trains):
            n = sum(t.elements for t in trains if t.role == role)
            parts.append(
                Part(name=f"LoRA: {role}", bytes=n * F32, kind="derived", formula=f"{n:,} parameters · 4 bytes")
            )
    if spec.master_weights:
        n = sum(t.elements for t in trains)
        parts.append(Part(name="master weights", bytes=n * F32, kind="derived", formula=f"{n:,} parameters · 4 bytes"))
    memory = optimizer_memory(trains, spec)
    if memory.states:
        parts.append(Part(name="optimizer state", bytes=memory.states, kind="derived", formula=memory.formula))
    return parts
