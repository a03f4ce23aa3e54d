"""The adapters, and the search through them."""

from __future__ import annotations

import warnings
from functools import cache
from importlib.metadata import entry_points
from typing import Any

from torch import nn

from moe_router.architectures.base import MoELayer, RouterAdapter
from moe_router.architectures.capacity import NllbMoeAdapter, SwitchAdapter
from moe_router.architectures.legacy import LegacyAdapter
from moe_router.architectures.special import DbrxAdapter, DogeAdapter, Gemma4Adapter, JetMoeAdapter, Llama4Adapter
from moe_router.architectures.standard import StandardAdapter
from moe_router.architectures.structure import fused_experts, listed_experts, model_types, routers, running_modules
from moe_router.errors import RouterError

ENTRY_POINTS = "moe_router.adapters"
ADAPTERS: tuple[RouterAdapter, ...] = (
    Llama4Adapter(),
    DbrxAdapter(),
    Gemma4Adapter(),
    JetMoeAdapter(),
    SwitchAdapter(),
    NllbMoeAdapter(),
    DogeAdapter(),
    StandardAdapter(),
    LegacyAdapter(),
)
"""Tried in this order, after those of other packages; the first that finds layers reads the model."""

_TELLTALES = ("expert", "moe", "router")


@cache
def plugged_in() -> tuple[RouterAdapter, ...]:
    """The adapters that other installed packages register.

    Raises:
        RouterError: naming the package whose adapter cannot be loaded, or is none.
    """
    found: list[RouterAdapter] = []
    for entry in entry_points(group=ENTRY_POINTS):
        try:
            loaded: Any = entry.load()
            adapter = loaded() if isinstance(loaded, type) else loaded
        except Exception as error:
            raise RouterError(
                f"adapter {entry.name} ({entry.value}) cannot be loaded: {error}; mend or uninstall it"
            ) from error
        if not all(callable(getattr(adapter, method, None)) for method in ("find", "attach")):
            raise RouterError(
                f"adapter {entry.name} ({entry.value}) lacks find or attach: see moe_router.RouterAdapter"
            )
        found.append(adapter)
    return tuple(found)


def find_moe_layers(model: nn.Module) -> list[MoELayer]:
    """The MoE layers of a model, PEFT-wrapped or not, in their order; empty for a dense model.

    Warns when the architecture is none of the tested ones, so that the layers were recognised by their structure.

    Raises:
        RouterError: for a model that looks like an MoE and whose routing no adapter can read, with what was found.
    """
    for adapter in (*plugged_in(), *ADAPTERS):
        layers = adapter.find(model)
        if layers:
            if not all(layer.tested for layer in layers):
                kind = " / ".join(model_types(model)) or type(model).__name__
                warnings.warn(
                    f"{kind} is not among the tested architectures; its {len(layers)} MoE layers were recognised by their structure "
                    f"({layers[0].name}: {type(layers[0].router).__name__} beside {type(layers[0].experts).__name__}), and what "
                    "the experts receive is compared as they run",
                    stacklevel=2,
                )
            return layers
    if _suspects(model):
        raise RouterError(f"this looks like an MoE, but its routing cannot be read: {diagnose(model)}")
    return []


def _suspects(model: nn.Module) -> list[str]:
    """Modules that hold experts by name or by shape."""
    return [
        f"{name} ({type(module).__name__})"
        for name, module in running_modules(model)
        if name
        and (
            fused_experts(module)
            or (listed_experts(module) and "expert" in name)
            or any(t in type(module).__name__.lower() for t in _TELLTALES)
        )
        and not type(module).__name__.endswith(
            ("ForCausalLM", "Model", "DecoderLayer", "Attention", "Norm", "MLP", "Embedding")
        )
    ]


def diagnose(model: nn.Module) -> str:
    """What was looked for and what was found, in one line."""
    looked_for = "looked for a block with experts (fused [experts, ...] weights, or a list of modules) and one router beside them"
    suspects = _suspects(model)
    if not suspects:
        return f"{looked_for}; found no module that holds experts or routes"
    routing = [name for name, block in running_modules(model) if routers(block)]
    shown = ", ".join(suspects[:3]) + (f" and {len(suspects) - 3} more" if len(suspects) > 3 else "")
    where = (
        f"a router in {routing[0]}"
        if routing
        else "no router (a class named ...Router or ...Gate, or a linear layer named gate or router)"
    )
    return f"{looked_for}; found {shown}, and {where}"
