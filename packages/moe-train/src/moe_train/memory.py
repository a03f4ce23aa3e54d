"""The memory plan of a run, from moe-memprof, and the receipt that puts the measurement beside it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from moe_train.data import Sample, batch_indices, micro_batches
from moe_train.errors import TrainError

if TYPE_CHECKING:
    from moe_memprof import Estimate
    from moe_memprof.measure import StepMemory
    from moe_memprof.receipts import Receipt
    from moe_memprof.spec import Loss
    from moe_train.config import RunConfig
    from moe_train.loss import After
    from moe_train.model import LoadedModel
    from moe_train.prepare import Data

SCHEMA = "moe-train/plan@1"


@dataclass(frozen=True, kw_only=True)
class MemoryPlan:
    """What the run will take, or why that could not be said."""

    estimate: Estimate | None
    reason: str
    """Why there is no estimate; empty where there is one."""
    available: int
    """Bytes free on the device before the run."""

    @property
    def needed(self) -> int | None:
        """Bytes beyond what the process already takes."""
        if self.estimate is None:
            return None
        return max(phase.tensor_peak for phase in self.estimate.phases) - _weights(self.estimate)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, schema moe-train/plan@1."""
        estimate = None if self.estimate is None else self.estimate.to_dict()
        return {
            "schema": SCHEMA,
            "estimate": estimate,
            "reason": self.reason,
            "available": self.available,
            "needed": self.needed,
        }


def _weights(estimate: Estimate) -> int:
    """The base weights: they are loaded when the plan is made."""
    return sum(part.bytes for part in estimate.phase("step").parts if part.name.startswith("weights:"))


def largest_micro_batch(
    samples: Sequence[Sample], *, batch_size: int, max_tokens: int, steps: int, seed: int
) -> list[Sample]:
    """Of all micro-batches that the run will execute, the one with the most padded tokens."""
    best: list[Sample] = []
    for step in range(steps):
        batch = [samples[i] for i in batch_indices(len(samples), batch_size=batch_size, step=step, seed=seed)]
        best = max([best, *micro_batches(batch, max_tokens=max_tokens)], key=_padded)
    return best


def _loss_of_plan(after: After | None) -> Loss:
    if after is None:
        return "completion"
    return "liger" if after.fused else "chunked"


def _padded(group: Sequence[Sample]) -> int:
    return len(group) * max((len(s.ids) for s in group), default=0)


def plan_memory(config: RunConfig, loaded: LoadedModel, data: Data) -> MemoryPlan:
    """The plan for the largest micro-batch of the whole run, on the device the model is on."""
    t = config.training
    common = {"batch_size": t.batch_size, "max_tokens": t.micro_batch_tokens, "seed": config.seed}
    largest = largest_micro_batch(data.train, steps=t.steps, **common)
    available, baseline = _memory_now(loaded)
    # Whether a step has several micro-batches decides whether gradients are there when the next one starts.
    several = 2 if sum(len(s.ids) for s in data.train[: t.batch_size]) > t.micro_batch_tokens else 1
    made, reason = _estimate(config, loaded, data, largest, baseline, micro_batches=several)
    return MemoryPlan(estimate=made, reason=reason, available=available)


def _estimate(
    config: RunConfig,
    loaded: LoadedModel,
    data: Data,
    group: Sequence[Sample],
    baseline: int | None,
    *,
    micro_batches: int,
) -> tuple[Estimate | None, str]:
    from moe_memprof import MemprofError, RunSpec, estimate
    from moe_train.adapters import largest_ranks
    from moe_train.loss import loss_of

    values = loaded.model.config.to_dict()
    linear_rank, expert_rank = largest_ranks(loaded.model, config.lora)
    share = sum(s.completion_tokens for s in group) / _padded(group)
    longest = max([len(loaded.tokenizer(item.prompt)["input_ids"]) for item in data.items], default=0)
    try:
        spec = RunSpec(
            config=values,
            method="qlora" if config.quantisation.weights != "none" else config.training.method,
            bits=8 if config.quantisation.weights == "int8" else 4,
            double_quant=config.quantisation.double,
            quantise_experts=config.quantisation.weights != "none",
            expert_lora=_expert_lora(config, loaded),
            loss=_loss_of_plan(loss_of(config, loaded)),
            dtype=str(loaded.model.dtype).removeprefix("torch."),
            lora_rank=linear_rank,
            expert_rank=expert_rank,
            lora_attention=config.lora.attention,
            lora_experts=config.lora.experts,
            sequences=len(group),
            length=max(len(s.ids) for s in group),
            padded=len({len(s.ids) for s in group}) > 1,
            loss_share=min(1.0, share),
            optimizer=config.training.optimizer,
            checkpointing=config.training.gradient_checkpointing,
            accumulation=micro_batches,
            device="cuda" if loaded.model.device.type == "cuda" else "cpu",
            merged_eval=config.quantisation.weights == "none",
            eval_sequences=min(config.evaluation.batch_size, max(1, len(data.items))),
            eval_length=longest + config.evaluation.max_new_tokens,
            baseline=baseline,
        )
        return estimate(spec), ""
    except MemprofError as error:
        return None, str(error)


def _expert_lora(config: RunConfig, loaded: LoadedModel) -> Literal["peft", "grouped"]:
    from moe_train.experts.forward import is_dispatched

    dispatched = any(is_dispatched(module) for module in loaded.model.modules())
    return "grouped" if dispatched and config.lora.expert_products != "peft" else "peft"


def _memory_now(loaded: LoadedModel) -> tuple[int, int | None]:
    """Free bytes where the run happens, and what the process takes without the model."""
    import psutil
    import torch

    if loaded.model.device.type == "cuda":
        return torch.cuda.mem_get_info()[0], None
    weights = sum(p.numel() * p.element_size() for p in loaded.model.parameters())
    from moe_memprof.hardware import detect

    return detect().usable, max(0, int(psutil.Process().memory_info().rss) - weights)


_MENDS = {
    "load": "use a smaller model",
    "step": "lower training.micro_batch_tokens, set training.gradient_checkpointing=true, or train fewer parts (lora.experts=false)",
    "evaluate": "lower evaluation.batch_size or evaluation.max_new_tokens",
    "save": "train fewer parts (lora.experts=false), or lower lora.rank",
}


def check_fits(plan: MemoryPlan) -> None:
    """Refuse a run that the plan says will not fit.

    Raises:
        TrainError: with both numbers and what to change.
    """
    if plan.needed is not None and plan.needed > plan.available:
        assert plan.estimate is not None
        raise TrainError(
            f"memory: the run needs {plan.needed / 2**30:.2f} GiB beyond the loaded model ({plan.estimate.binding.name}: "
            f"{plan.estimate.binding.moment}) and {plan.available / 2**30:.2f} GiB are free; {_MENDS[plan.estimate.binding.name]}"
        )


def write_receipt(
    path: Path, config: RunConfig, loaded: LoadedModel, data: Data, *, step: int, measured: StepMemory
) -> Receipt | None:
    """Put the measured step beside the plan for exactly its micro-batches; None where there was no estimate.

    Measured are the tensors' live bytes above what was there before the step, so weights, adapters and optimizer state are in
    neither number.
    """
    from moe_memprof.error_band import step_rise
    from moe_memprof.receipts import Reading, Receipt

    t = config.training
    indices = batch_indices(len(data.train), batch_size=t.batch_size, step=step, seed=config.seed)
    groups = micro_batches([data.train[i] for i in indices], max_tokens=t.micro_batch_tokens)
    planned = 0
    for group in groups:
        made, _ = _estimate(config, loaded, data, group, None, micro_batches=len(groups))
        if made is None:
            return None
        planned = max(planned, step_rise(made.phase("step")))
    receipt = Receipt(
        label=path.parent.name,
        readings=(Reading(phase="step", estimated=planned, measured=measured.peak),),
        environment={"device": measured.device, "step": step + 1},
    )
    receipt.save(path)
    return receipt
