"""Settings to start from on a GPU, and which well-known MoE models are worth trying there.

A preset is settings and nothing else. Whether a model fits is never written down here: it is computed by `moe_memprof.estimate`
for the preset at hand, on the model's own config.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from importlib.resources import files
from typing import TYPE_CHECKING, Any, Literal

from moe_memprof.errors import MemprofError
from moe_memprof.hardware.detect import Gpu, Hardware
from moe_memprof.hardware.presets import CPU, Preset, memory_class, notes_for, preset_for
from moe_memprof.hardware.table import GpuSpec, lookup
from moe_memprof.spec import Method, RunSpec

if TYPE_CHECKING:
    from moe_memprof.plan import Estimate

METHODS: tuple[Method, ...] = ("full", "lora", "qlora")
"""From the most that is trained to the least memory."""
_LENGTH = 2048
_NO_SDPA = frozenset({"gpt_oss"})
"""Model types whose attention transformers 5.23 runs eagerly (or by kernels of the Hub): `_supports_sdpa = False`."""


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """What the estimate says of a model under a preset."""

    model: str
    method: Method | None
    """The first of full, lora and qlora that fits; where none does, the one that takes least; None where none could be estimated."""
    peak: int | None
    """Bytes of its highest phase."""
    fits: bool | None
    """None: unchecked, never to be read as yes."""
    attention: str
    """Of the estimate: the preset's, or eager where the architecture has no other."""
    reason: str = ""
    """Why a method, or the model, is unchecked."""


@dataclass(frozen=True, kw_only=True)
class Advice:
    """A preset with what it rests on."""

    kind: Literal["no GPU", "one GPU", "many GPUs", "Apple"]
    memory_class: str
    """One of `CLASSES`, for each device; without a GPU, `no GPU`."""
    device: str
    devices: int
    budget: int
    """Bytes of one device (the smallest) that candidates are held against."""
    preset: Preset
    parallel: str | None
    """With many GPUs: how to use them. The candidates are for one device that holds the whole model."""
    notes: tuple[str, ...]
    candidates: tuple[Candidate, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def advise(
    target: str | GpuSpec | Hardware,
    *,
    configs: Mapping[str, Mapping[str, Any]] | None = None,
    estimator: Callable[[RunSpec], Estimate] | None = None,
    baseline: int | None = None,
    stock: bool = False,
) -> Advice:
    """Settings to start from on a GPU of the table, or on this machine.

    Args:
        target: a GPU's name, its row, or what `detect()` returned.
        configs: config.json contents by name, to say which of these models fit; see `known_models`.
        estimator: computes the memory of a run; `moe_memprof.estimate` where None.
        baseline: bytes that a process takes on a GPU before the model (the CUDA context); None leaves it out.
        stock: settings for transformers, bitsandbytes and PEFT as they are, rather than for software that holds experts in 4 bits
            and adapts them in grouped products.

    Raises:
        MemprofError: for a name that is not in the table.
    """
    if isinstance(target, Hardware):
        advice = _of_machine(target)
    else:
        row = lookup(target) if isinstance(target, str) else target
        advice = _of_gpu(row, device=row.name, devices=1, budget=row.usable, apple=row.vendor == "Apple")
    if stock:
        advice = replace(advice, preset=replace(advice.preset, quantise_experts=False, expert_lora="peft"))
    if not configs:
        return advice
    from moe_memprof.estimate import estimate

    make = estimator or estimate
    candidates = (_candidate(name, c, advice, make, baseline) for name, c in configs.items())
    return replace(advice, candidates=tuple(candidates))


def _of_machine(hardware: Hardware) -> Advice:
    if not hardware.gpus:
        return Advice(
            kind="no GPU",
            memory_class="no GPU",
            device=f"CPU, {hardware.cpus} threads",
            devices=1,
            budget=hardware.usable,
            preset=CPU,
            parallel=None,
            notes=("a CPU trains models of some hundred million parameters; larger ones are for a GPU",),
            candidates=(),
        )
    smallest = min(hardware.gpus, key=lambda gpu: gpu.total)
    row = smallest.row
    budget = min(gpu.free for gpu in hardware.gpus if gpu.total == smallest.total)
    apple = smallest.vendor == "Apple"
    if row is not None and row.basis == "measured":
        budget = min(budget, row.usable)
    return _of_gpu(row, device=smallest.name, devices=len(hardware.gpus), budget=budget, apple=apple, seen=smallest)


def _of_gpu(
    row: GpuSpec | None, *, device: str, devices: int, budget: int, apple: bool, seen: Gpu | None = None
) -> Advice:
    total = seen.total if seen is not None else budget
    size = memory_class(total)
    parallel = None
    if devices > 1:
        parallel = (
            "data parallel where one GPU holds the model; else shard: ZeRO-3 or FSDP2, expert parallelism in a node"
        )
    return Advice(
        kind="Apple" if apple else "many GPUs" if devices > 1 else "one GPU",
        memory_class=size.name,
        device=device,
        devices=devices,
        budget=budget,
        preset=preset_for(size, row, apple=apple),
        parallel=parallel,
        notes=tuple(notes_for(row, apple=apple)),
        candidates=(),
    )


def _candidate(
    name: str,
    config: Mapping[str, Any],
    advice: Advice,
    estimator: Callable[[RunSpec], Estimate],
    baseline: int | None,
) -> Candidate:
    attention: Literal["sdpa", "eager"] = "eager" if config.get("model_type") in _NO_SDPA else advice.preset.attention
    least: tuple[int, Method] | None = None
    reason = ""
    for method in METHODS:
        try:
            peak = estimator(replace(_spec(config, method, advice, baseline), attention=attention)).peak
        except MemprofError as error:
            reason = str(error)
            continue
        least = min(least or (peak, method), (peak, method))
        if peak <= advice.budget:
            least = (peak, method)
            break
    if least is None:
        return Candidate(model=name, method=None, peak=None, fits=None, attention=attention, reason=reason)
    peak, method = least
    fits = True if peak <= advice.budget else None if reason else False
    return Candidate(model=name, method=method, peak=peak, fits=fits, attention=attention, reason=reason)


def _spec(config: Mapping[str, Any], method: Method, advice: Advice, baseline: int | None) -> RunSpec:
    preset, cpu = advice.preset, advice.kind == "no GPU"
    length = min(_LENGTH, preset.micro_batch_tokens)
    return RunSpec(
        config=config,
        method=method,
        dtype=preset.dtype,
        device="cpu" if cpu else "cuda",
        quantise_experts=method == "qlora" and preset.quantise_experts,
        expert_lora=preset.expert_lora,
        sequences=preset.micro_batch_tokens // length,
        length=length,
        attention=preset.attention,
        experts=preset.experts,
        optimizer=preset.optimizer,
        checkpointing=preset.checkpointing,
        baseline=None if cpu else baseline,
    )


def known_models() -> dict[str, dict[str, Any]]:
    """The config.json of well-known MoE models by hub id, smallest first; without keys that have no part in memory."""
    text = (files("moe_memprof.hardware") / "models.json").read_text(encoding="utf-8")
    return {model["hub_id"]: model["config"] for model in json.loads(text)}
