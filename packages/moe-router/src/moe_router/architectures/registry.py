"""The adapters, and the search through them."""

from __future__ import annotations

from torch import nn

from moe_router.architectures.base import MoELayer, RouterAdapter
from moe_router.architectures.standard import StandardAdapter, fused_experts
from moe_router.errors import RouterError

ADAPTERS: tuple[RouterAdapter, ...] = (StandardAdapter(),)
"""Tried in this order; the first that finds layers reads the model."""

_TELLTALES = ("expert", "moe", "router")


def find_moe_layers(model: nn.Module) -> list[MoELayer]:
    """The MoE layers of a model, PEFT-wrapped or not, in their order; empty for a dense model.

    Raises:
        RouterError: for a model that looks like an MoE and whose routing no adapter can read, with what was found.
    """
    for adapter in ADAPTERS:
        layers = adapter.find(model)
        if layers:
            return layers
    if _suspects(model):
        raise RouterError(f"this looks like an MoE, but its routing cannot be read: {diagnose(model)}")
    return []


def _suspects(model: nn.Module) -> list[str]:
    """Modules that hold experts by name or by shape."""
    return [
        f"{name} ({type(module).__name__})"
        for name, module in model.named_modules()
        if name
        and (fused_experts(module) or any(t in type(module).__name__.lower() for t in _TELLTALES))
        and not type(module).__name__.endswith(("ForCausalLM", "Model", "DecoderLayer"))
    ]


def diagnose(model: nn.Module) -> str:
    """What was looked for and what was found, in one line."""
    looked_for = "looked for a block with fused [experts, ...] weights and a router beside them"
    suspects = _suspects(model)
    if not suspects:
        return f"{looked_for}; found no module that holds experts or routes"
    shown = ", ".join(suspects[:3])
    more = f" and {len(suspects) - 3} more" if len(suspects) > 3 else ""
    return f"{looked_for}; found {shown}{more}"
