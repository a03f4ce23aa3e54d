"""Auxiliary losses that do not do what they seem to."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from moe_router.doctor.findings import ERROR, NOTE, WARNING, Finding, Patient
from moe_router.errors import RouterError
from moe_router.logits import extract_routing_logits
from moe_router.metrics.load import normalised_entropy

COEFFICIENTS = ("router_aux_loss_coef", "aux_loss_coef", "moe_loss_weight")
BALANCED = "use moe-router's RoutingBalancer (moe-train does), whose loss is on executed indices, per layer"


def stock_loss(patient: Patient) -> Callable[..., Any] | None:
    """The load-balancing loss of the model's own modeling file, where it takes logits and chooses among them itself; None for none."""
    module = sys.modules.get(type(_base(patient.model)).__module__)
    loss = getattr(module, "load_balancing_loss_func", None)
    # Switch's and NLLB-MoE's are given the decision.
    return loss if loss is not None and "gate_logits" in inspect.signature(loss).parameters else None


def coefficient(patient: Patient) -> tuple[str, float] | None:
    """The configuration's auxiliary-loss coefficient, by name."""
    for holder in (patient.config, getattr(patient.config, "ffn_config", None)):
        for name in COEFFICIENTS:
            value = getattr(holder, name, None)
            if isinstance(value, int | float):
                return name, float(value)
    return None


def selection_never_ran(patient: Patient) -> list[Finding]:
    """The stock loss takes the top-k of the softmax of the logits; routers with a selection bias, groups or noise choose otherwise."""
    if stock_loss(patient) is None or any(layer.scoring == "product keys" for layer in patient.layers):
        return []
    shares = []
    for layer, routing in zip(patient.layers, patient.routing(), strict=True):
        assumed = (
            routing.logits_TE[:, : layer.num_experts].float().softmax(-1).topk(routing.indices_TK.shape[-1], -1).indices
        )
        differ = (assumed.sort(-1).values != routing.indices_TK.sort(-1).values).any(-1)
        shares.append(float(differ.float().mean()))
    worst = int(np.argmax(shares))
    if max(shares) < 0.01:
        return []
    on = bool(getattr(patient.config, "output_router_logits", False)) or bool(patient.setting("output_router_logits"))
    return [
        Finding(
            check="selection-never-ran",
            severity=ERROR if on else WARNING,
            title="the stock auxiliary loss balances experts that were not executed",
            evidence=(
                f"of this batch's tokens {np.mean(shares):.0%} went to other experts than the stock loss counts ({shares[worst]:.0%} in "
                f"{patient.layers[worst].name})"
            ),
            mend=f"leave output_router_logits off and {BALANCED}",
        )
    ]


def logits_off(patient: Patient) -> list[Finding]:
    """A coefficient alone adds nothing: the loss needs output_router_logits."""
    stated = coefficient(patient)
    asked = patient.setting("output_router_logits")
    if stated is None or stated[1] == 0 or asked:
        return []
    with torch.no_grad():
        plain = float(patient.forward(labels=patient.labels).loss)
        with_logits = _loss_with_logits(patient)
    if getattr(patient.config, "output_router_logits", False):
        return []
    if with_logits is None or abs(with_logits - plain) < 1e-9:
        return [
            Finding(
                check="dead-coefficient",
                severity=WARNING,
                title=f"{stated[0]} is in the configuration, but the model computes no auxiliary loss at all",
                evidence=f"the loss is {plain:.6f} with output_router_logits off, and the same with it on",
                mend=BALANCED,
            )
        ]
    return [
        Finding(
            check="router-logits-off",
            severity=NOTE,
            title=f"{stated[0]} = {stated[1]:g} has no effect while output_router_logits is off",
            evidence=f"the loss is {plain:.6f} as configured, and {with_logits:.6f} with output_router_logits=True",
            mend=f"to balance load, {BALANCED}; to leave it, nothing",
        )
    ]


def grows_with_accumulation(patient: Patient) -> list[Finding]:
    """Trainer divides the cross-entropy of every micro-batch by the whole batch's tokens, but adds its auxiliary loss undivided."""
    steps = patient.setting("gradient_accumulation_steps", "accumulation", "accum")
    rows = len(patient.batch["input_ids"])
    stated = coefficient(patient)
    if stock_loss(patient) is None or rows < 2 or stated is None or stated[1] == 0:
        return []
    tokens = int((patient.labels[:, 1:] != -100).sum())
    with torch.no_grad():
        whole = _auxiliary(patient, patient.batch, tokens)
        parts = [_auxiliary(patient, {k: v[i : i + 1] for k, v in patient.batch.items()}, tokens) for i in range(rows)]
    if whole is None or any(p is None for p in parts) or not whole:
        return []
    ratio = sum(p for p in parts if p is not None) / whole
    if ratio < 1.5:
        return []
    used = bool(getattr(patient.config, "output_router_logits", False)) or bool(patient.setting("output_router_logits"))
    severity = ERROR if used and steps is not None and int(steps) > 1 else NOTE
    return [
        Finding(
            check="accumulation-factor",
            severity=severity,
            title="the stock auxiliary loss is multiplied by the number of micro-batches",
            evidence=f"in one piece it adds {whole:.6f} to this batch's loss, in {rows} micro-batches {ratio:.2f} times as much",
            mend=f"divide the coefficient by the accumulation steps, or {BALANCED} and independent of the cut",
        )
    ]


def pooled_collapse(patient: Patient) -> list[Finding]:
    """The stock loss pools all layers, so that layers which each collapse on experts of their own look even together."""
    loads = [
        torch.bincount(r.indices_TK.reshape(-1), minlength=layer.num_experts).numpy(force=True)
        for layer, r in zip(patient.layers, patient.routing(), strict=True)
    ]
    if len({len(load) for load in loads}) > 1:
        return []
    own = [normalised_entropy(load) for load in loads]
    pooled = normalised_entropy(np.sum(loads, axis=0))
    worst = int(np.argmin(own))
    if own[worst] > 0.75 or pooled - own[worst] < 0.15:
        return []
    layer, load = patient.layers[worst].name, loads[worst]
    text = (
        "tokens drawn at random; give text of your own with --data" if patient.random_tokens else "tokens of your text"
    )
    return [
        Finding(
            check="pooled-collapse",
            severity=NOTE if patient.random_tokens else WARNING,
            title="single layers are far less even than all layers pooled, which is what the stock loss sees",
            evidence=(
                f"load entropy is {own[worst]:.2f} in {layer} ({np.count_nonzero(load)} of {len(load)} experts used), {pooled:.2f} pooled "
                f"over {len(own)} layers, on {int(patient.batch['attention_mask'].sum())} {text}"
            ),
            mend=f"look at load layer by layer on your own data (moe-router trace, analyze), and {BALANCED}",
        )
    ]


def probabilities_as_logits(patient: Patient) -> list[Finding]:
    """What a model returns as router_logits may have been through a softmax already."""
    try:
        with torch.no_grad():
            outputs = patient.forward(output_router_logits=True)
        fields = [getattr(outputs, name, None) for name in ("router_logits", "decoder_router_logits")]
        raw = next(t for value in fields if value for t in value if isinstance(t, Tensor) and t.is_floating_point())
    except (StopIteration, TypeError, RouterError):
        return []
    rows = raw.reshape(-1, raw.shape[-1]).float()
    if not (bool((rows >= 0).all()) and bool(((rows.sum(-1) - 1).abs() < 1e-2).all())):
        return []
    again = rows.softmax(-1)
    applies = stock_loss(patient) is not None
    return [
        Finding(
            check="probabilities-as-logits",
            severity=ERROR if applies else WARNING,
            title="router_logits hold probabilities"
            + (", to which the stock loss applies a second softmax" if applies else ""),
            evidence=(
                f"every row sums to 1; a softmax on top takes the largest mean probability from {float(rows.mean(0).max()):.3f} to "
                f"{float(again.mean(0).max()):.3f} of {rows.shape[-1]} experts"
            ),
            mend="take moe_router.extract_routing_logits(model, ...) in their place, or transformers 5.6 and later",
        )
    ]


def reentrant_checkpointing(patient: Patient) -> list[Finding]:
    """Reentrant checkpointing runs the layers without gradient, so that an auxiliary loss on their logits trains nothing."""
    if stock_loss(patient) is None or not hasattr(patient.model, "gradient_checkpointing_enable"):
        return []
    asked = patient.setting("use_reentrant", "gradient_checkpointing_reentrant")
    norms = {}
    for reentrant in (False, True):
        with patient.training():
            try:
                norms[reentrant] = _router_gradient(patient, reentrant=reentrant)
            except (RuntimeError, ValueError, TypeError):
                return []
            finally:
                _checkpointing_off(patient)
    if not norms[False] or norms[True] > 1e-6 * norms[False]:
        return []
    return [
        Finding(
            check="reentrant-checkpointing",
            severity=ERROR if asked else NOTE,
            title="with reentrant gradient checkpointing the auxiliary loss gives the routers no gradient",
            evidence=(
                f"the routers' gradient from the auxiliary loss is {norms[False]:.2e} without reentrance and {norms[True]:.1e} with it"
            ),
            mend='gradient_checkpointing_kwargs={"use_reentrant": False}',
        )
    ]


def _router_gradient(patient: Patient, *, reentrant: bool) -> float:
    model: Any = patient.model
    kwargs = {"use_reentrant": reentrant}
    if hasattr(model, "activation_checkpointing_enable"):
        model.activation_checkpointing_enable(activation_checkpointing_kwargs=kwargs)
    else:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=kwargs)
    model.enable_input_require_grads()
    for layer in patient.layers:
        for parameter in layer.router.parameters():
            if parameter.is_floating_point():
                parameter.requires_grad_(True)
    outputs = patient.forward(output_router_logits=True)
    loss = getattr(outputs, "aux_loss", None)
    if not isinstance(loss, Tensor):
        logits = extract_routing_logits(outputs)
        loss = stock_loss(patient)(logits, patient.layers[0].num_experts, patient.layers[0].top_k)  # type: ignore[misc]
    if not loss.requires_grad:
        return 0.0
    loss.backward()
    gradients = [p.grad for layer in patient.layers for p in layer.router.parameters() if p.grad is not None]
    return float(sum(g.float().norm() ** 2 for g in gradients) ** 0.5) if gradients else 0.0


def _checkpointing_off(patient: Patient) -> None:
    model: Any = patient.model
    off = getattr(model, "activation_checkpointing_disable", None) or getattr(
        model, "gradient_checkpointing_disable", None
    )
    if off is not None:
        off()
    if hasattr(model, "disable_input_require_grads"):
        model.disable_input_require_grads()


def _loss_with_logits(patient: Patient) -> float | None:
    try:
        return float(patient.forward(labels=patient.labels, output_router_logits=True).loss)
    except TypeError:
        return None


def _auxiliary(patient: Patient, batch: dict[str, Tensor], tokens: int) -> float | None:
    """What the auxiliary loss adds to a batch's loss when the Trainer says how many tokens the whole batch has."""
    part = Patient.__new__(Patient)
    part.model, part.batch, part.run, part.layers, part.random_tokens = patient.model, batch, {}, patient.layers, True
    try:
        loss = [
            float(part.forward(labels=part.labels, output_router_logits=on, num_items_in_batch=tokens).loss)
            for on in (True, False)
        ]
    except TypeError:
        return None
    return loss[0] - loss[1]


def _base(model: Any) -> Any:
    return model.get_base_model() if hasattr(model, "get_base_model") else model
