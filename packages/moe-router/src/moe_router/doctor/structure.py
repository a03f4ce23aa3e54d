"""Weights that are not what they seem: adapters on routers, biases that never move, experts left as they were."""

from __future__ import annotations

from importlib.metadata import version

import torch

from moe_router.architectures.structure import unwrapped
from moe_router.architectures.support import window
from moe_router.doctor.findings import ERROR, NOTE, WARNING, Finding, Patient

_BIAS_NAMES = ("e_score_correction_bias", "expert_bias", "balancing_biases", "expert_biases")


def unsupported_version(patient: Patient) -> list[Finding]:
    """What the installed transformers returns, and whether this architecture is among the tested ones."""
    installed = version("transformers")
    release = tuple(int(n) for n in installed.split(".")[:2])
    found = []
    if release < (5, 6):
        found.append(
            Finding(
                check="transformers-version",
                severity=WARNING,
                title=f"transformers {installed} reads routing in another way",
                evidence=window(installed),
                mend="upgrade to transformers 5.17 or later",
            )
        )
    if not patient.layers[0].tested:
        layer = patient.layers[0]
        found.append(
            Finding(
                check="untested-architecture",
                severity=WARNING,
                title=f"{getattr(patient.config, 'model_type', 'this model')} was recognised by its structure alone",
                evidence=(
                    f"{len(patient.layers)} layers like {layer.name}: {type(layer.router).__name__} beside "
                    f"{type(layer.experts).__name__}"
                ),
                mend="compare a few decisions with what you know, or register an adapter (moe_router.RouterAdapter)",
            )
        )
    return found


def experts_unquantised(patient: Patient) -> list[Finding]:
    """`load_in_4bit` packs nn.Linear; fused experts stay as they are."""
    quantised = getattr(patient.model, "is_quantized", False) or getattr(patient.model, "is_loaded_in_4bit", False)
    asked = quantised or patient.setting("load_in_4bit", "load_in_8bit")
    wide = [
        p
        for layer in patient.layers
        for p in unwrapped(layer.experts).parameters()
        if p.ndim == 3 and p.is_floating_point() and p.element_size() >= 2
    ]
    if not asked or not wide:
        return []
    size = sum(p.numel() * p.element_size() for p in wide)
    total = sum(p.numel() * p.element_size() for p in patient.model.parameters())
    return [
        Finding(
            check="experts-unquantised",
            severity=ERROR,
            title="the experts are not quantised",
            evidence=f"{len(wide)} expert tensors are {wide[0].dtype}, {size / 2**30:.2f} GiB of the model's {total / 2**30:.2f}".replace(
                "torch.", ""
            ),
            mend="plan for their full size (moe-memprof estimate), or load them quantised with moe-train",
        )
    ]


def bias_never_updated(patient: Patient) -> list[Finding]:
    """Selection biases that balance load in pre-training are moved by no stock trainer."""
    biases = {
        name: tensor
        for name, tensor in (*patient.model.named_buffers(), *patient.model.named_parameters())
        if name.rpartition(".")[2] in _BIAS_NAMES
    }
    if not biases:
        return []
    before = {name: tensor.detach().clone() for name, tensor in biases.items()}
    with patient.training():
        patient.backward()
        moved = [
            n
            for n, t in biases.items()
            if not torch.equal(t.detach(), before[n]) or (t.grad is not None and bool(t.grad.any()))
        ]
    if moved:
        return []
    zero = sum(not bool(t.any()) for t in biases.values())
    return [
        Finding(
            check="bias-never-updated",
            severity=WARNING if zero == len(biases) else NOTE,
            title="the routers' selection biases are not moved by training",
            evidence=(
                f"{len(biases)} biases, {zero} of them zero throughout; none has a gradient or changed in a forward and backward pass in "
                "training mode"
            ),
            mend="leave them alone in a short fine-tune; to balance load with them, move each by u·sign(mean load − load) after a step",
        )
    ]


def routers_without_gradient(patient: Patient) -> list[Finding]:
    """Experts that are copies of one another give their router nothing to learn from."""
    frozen = [not any(p.requires_grad for p in layer.router.parameters()) for layer in patient.layers]
    if all(frozen):
        return []
    with patient.training():
        patient.backward()
        norms = [
            sum(float(p.grad.float().norm()) for p in layer.router.parameters() if p.grad is not None)
            for layer in patient.layers
        ]
    dead = [layer for layer, norm, cold in zip(patient.layers, norms, frozen, strict=True) if not cold and norm < 1e-8]
    if not dead or len(dead) < len(patient.layers) / 2:
        return []
    return [
        Finding(
            check="router-without-gradient",
            severity=ERROR,
            title="the routers get no gradient from the loss",
            evidence=f"{len(dead)} of {len(patient.layers)} routers have a gradient below 1e-8, {dead[0].router_name} first",
            mend="if the experts were copied from one layer (upcycled), perturb them before training",
        )
    ]


def compiled_before(patient: Patient) -> list[Finding]:
    """Hooks that come after the first compiled call are never reached."""
    compiled = hasattr(patient.model, "_orig_mod") or any(
        getattr(module, "_compiled_call_impl", None) is not None for module in patient.model.modules()
    )
    if not compiled:
        return []
    patient.routing()  # raises where the routers are not reached
    return [
        Finding(
            check="compiled",
            severity=NOTE,
            title="the model is compiled",
            evidence=f"all {len(patient.layers)} routers were reached in this process, before its first compiled call",
            mend="attach recorders and balancers before torch.compile; without a recorded token moe-router raises an error",
        )
    ]
