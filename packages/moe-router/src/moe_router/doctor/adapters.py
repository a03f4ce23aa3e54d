"""Adapters that are not where they seem to be, or that learn nothing."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from torch import nn

from moe_router.architectures.structure import unwrapped
from moe_router.doctor.findings import ERROR, NOTE, Finding, Patient


def adapted_router(patient: Patient) -> list[Finding]:
    """Adapters on routers change who decides; `all-linear` puts them there."""
    adapted = [
        layer.router_name for layer in patient.layers if any("lora_" in n for n, _ in layer.router.named_parameters())
    ]
    if adapted:
        return [
            Finding(
                check="router-adapted",
                severity=ERROR,
                title="adapters sit on the routers",
                evidence=f"{len(adapted)} of {len(patient.layers)} routers have LoRA weights, {adapted[0]} first",
                mend="list target_modules by name, without the gate or router; or train routers on purpose, at a rate of their own",
            )
        ]
    linear = [
        layer
        for layer in patient.layers
        if isinstance(unwrapped(layer.router), nn.Linear)
        or any(isinstance(m, nn.Linear) for m in layer.router.modules())
    ]
    if not linear:
        return []
    asked = patient.setting("target_modules") == "all-linear"
    return [
        Finding(
            check="router-adapted",
            severity=ERROR if asked else NOTE,
            title="target_modules='all-linear' " + ("adapts" if asked else "would adapt") + " the routers",
            evidence=f"{len(linear)} of {len(patient.layers)} routers are or hold an nn.Linear, {linear[0].router_name} first",
            mend="list target_modules by name, without the gate or router",
        )
    ]


def experts_out_of_reach(patient: Patient) -> list[Finding]:
    """PEFT's target_modules match modules; fused experts are parameters. Looked at in the model where it has adapters, or in the run."""
    fused = [
        layer
        for layer in patient.layers
        if any(p.ndim == 3 for p in unwrapped(layer.experts).parameters(recurse=False))
    ]
    if not fused:
        return []
    weights = sum(p.numel() for layer in fused for p in unwrapped(layer.experts).parameters())
    share = weights / sum(p.numel() for p in patient.model.parameters())
    held = f"{len(fused)} layers hold their experts as three-dimensional parameters, {share:.0%} of all weights"
    if adapters := lora_parameters(patient.model):
        inside = sum(any(f"{layer.experts_name}." in f"{name}." for name in adapters) for layer in fused)
        if inside or any(p.requires_grad for layer in fused for p in unwrapped(layer.experts).parameters()):
            return []
        evidence = f"{held}; of the model's {len(adapters)} adapter weights none is on them"
    else:
        targets = patient.setting("target_modules")
        if targets is None or patient.setting("target_parameters", "experts"):
            return []
        matched = _matched(patient.model, targets)
        evidence = f"{held}; target_modules={targets!r} matches {len(matched)} modules, none of them among the experts"
        if matched:
            evidence += f" ({', '.join(sorted({name.rpartition('.')[2] for name in matched})[:6])})"
    return [
        Finding(
            check="experts-untrained",
            severity=ERROR,
            title="the run's target_modules reach no expert",
            evidence=evidence,
            mend="name them in target_parameters (mlp.experts.gate_up_proj, mlp.experts.down_proj); moe-train proves what trains",
        )
    ]


def adapters_without_gradient(patient: Patient) -> list[Finding]:
    """Adapters below a reentrant checkpoint whose input has no gradient, or on experts that were packed, learn nothing."""
    adapters = {name: p for name, p in lora_parameters(patient.model).items() if p.requires_grad}
    if not adapters:
        return []
    with patient.training():
        patient.backward()
        # At the start B is zero, and so is the gradient of A: a pair is dead only when neither has one.
        alive = {_pair(name) for name, p in adapters.items() if p.grad is not None and bool(p.grad.any())}
    pairs = {_pair(name) for name in adapters}
    dead = sorted(pairs - alive)
    if not dead:
        return []
    experts = [name for name in dead if any(layer.experts_name in name for layer in patient.layers)]
    return [
        Finding(
            check="adapters-without-gradient",
            severity=ERROR,
            title="adapters train nothing",
            evidence=(
                f"{len(dead)} of {len(pairs)} adapters got no gradient in a forward and backward pass, {len(experts)} of them on experts; "
                f"{(experts or dead)[0]} first"
            ),
            mend=(
                'gradient_checkpointing_kwargs={"use_reentrant": False}; adapt experts that are not packed, or let moe-train quantise and '
                "adapt them together"
            ),
        )
    ]


def lora_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """LoRA's weights by name; empty for a model without adapters."""
    return {name: p for name, p in model.named_parameters() if "lora_" in name}


def _pair(name: str) -> str:
    """The module that a LoRA weight belongs to."""
    return re.split(r"\.lora_", name)[0]


def _matched(model: nn.Module, targets: Any) -> list[str]:
    """The modules that PEFT would adapt: all linear ones, those a pattern matches whole, or those whose names end in one of a list."""
    names = [name for name, module in model.named_modules() if isinstance(unwrapped(module), nn.Linear)]
    if targets == "all-linear":
        return [name for name in names if not name.endswith("lm_head")]
    if isinstance(targets, str):
        return [name for name in names if re.fullmatch(targets, name)]
    wanted: Sequence[str] = [str(target) for target in targets]
    return [name for name in names if any(name == w or name.endswith(f".{w}") for w in wanted)]
