"""What the configuration of a run does to training without a word, whatever the routing of the model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from moe_router.architectures.structure import model_types
from moe_router.doctor.findings import ERROR, WARNING, Finding, Patient

ZERO3_LEAVES = frozenset({"mixtral", "qwen2_moe", "qwen3_moe"})
"""Model types whose MoE blocks DeepSpeed knows as leaf modules by itself (0.19.8)."""


def restarts_with_trained_weights(patient: Patient) -> list[Finding]:
    """Trainer's `auto_find_batch_size` begins again at step 0 after running out of memory, with the weights as they were then."""
    if not _true(patient.setting("auto_find_batch_size")):
        return []
    return [
        Finding(
            check="restart-with-trained-weights",
            severity=ERROR,
            title="after running out of memory the run starts again at step 0 with weights that were trained already",
            evidence="auto_find_batch_size is on in the run's configuration",
            mend="switch it off and cut the batch by plan (moe-memprof estimate), or train with moe-train, which replays the step",
        )
    ]


def hidden_nan(patient: Patient) -> list[Finding]:
    """Trainer logs the mean of the steps before in the place of a loss that is NaN or infinite, unless told otherwise."""
    asked = patient.setting("logging_nan_inf_filter")
    if asked is None or not _true(asked):
        return []
    return [
        Finding(
            check="nan-hidden",
            severity=WARNING,
            title="a loss that is NaN or infinite will not be seen in the logs",
            evidence="logging_nan_inf_filter is on in the run's configuration",
            mend="set logging_nan_inf_filter: false",
        )
    ]


def zero3_leaves(patient: Patient) -> list[Finding]:
    """ZeRO-3 gathers module by module in the order of the first step; experts that differ between ranks make it wait for ever."""
    zero = patient.setting("zero_optimization")
    stage = zero.get("stage") if isinstance(zero, Mapping) else patient.setting("zero_stage")
    kinds = model_types(patient.model)
    if str(stage) != "3" or ZERO3_LEAVES & set(kinds):
        return []
    block = type(patient.layers[0].block).__name__
    return [
        Finding(
            check="zero3-leaf-modules",
            severity=ERROR,
            title="DeepSpeed ZeRO-3 does not know this model's MoE blocks as leaf modules",
            evidence=f"ZeRO stage 3 in the run's configuration; the {len(patient.layers)} MoE blocks of {' / '.join(kinds)} are {block}",
            mend=f"call deepspeed.utils.set_z3_leaf_modules(model, [{block}]) before training",
        )
    ]


def _true(value: Any) -> bool:
    return value is True or str(value).lower() in {"true", "1", "yes"}
