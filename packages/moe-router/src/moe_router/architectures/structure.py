"""Where experts, routers and their sizes are found in a block of any architecture."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from torch import nn

from moe_router.errors import RouterError

_ROUTER_CLASS = re.compile(r"(Router|Gate|Gating)$")
_ROUTER_NAMES = frozenset(["gate", "router", "router_gate"])
_TOP_K_NAMES = ("num_experts_per_tok", "moe_topk", "moe_k", "top_k_experts", "moe_top_k", "num_experts_per_token")


def unwrapped(module: nn.Module) -> nn.Module:
    """The module below PEFT's wrappers; a parameter wrapper may wrap another. Of several copies (`modules_to_save`) the one that runs."""
    while True:
        below = getattr(module, "base_layer", None) or _running_copy(module)
        if not isinstance(below, nn.Module):
            return module
        module = below


def _running_copy(module: nn.Module) -> nn.Module | None:
    """What PEFT's `modules_to_save` runs in the place of a module; None for any other module."""
    copies, original = getattr(module, "modules_to_save", None), getattr(module, "original_module", None)
    if not isinstance(copies, nn.ModuleDict) or not isinstance(original, nn.Module):
        return None
    active = [] if getattr(module, "disable_adapters", False) else getattr(module, "active_adapters", [])
    return next((copies[name] for name in active if name in copies), original)


def running_modules(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Every module by name, without the copies that PEFT keeps beside the one that runs."""
    asleep: list[str] = []
    for name, module in model.named_modules():
        if any(name.startswith(prefix) for prefix in asleep):
            continue
        yield name, module
        running = _running_copy(module)
        if running is not None:
            # The original, and those in the dictionary of copies.
            kept = [
                (path, copy)
                for path, copy in module.named_modules()
                if path.count(".") == path.startswith("modules_to_save.")
            ]
            asleep += [
                f"{name}.{path}" for path, copy in kept if path not in ("", "modules_to_save") and copy is not running
            ]


def fused_experts(module: nn.Module) -> int:
    """Number of experts whose weights the module holds in three-dimensional parameters [experts, ...]; 0 if it holds none.

    Where one parameter has more rows than another, the further ones are experts without weights of their own (longcat_flash).
    """
    if isinstance(module, nn.Conv1d):  # its kernel has three dimensions too
        return 0
    counts = {shape[0] for shape in _weight_shapes(module) if len(shape) == 3}
    stated = getattr(module, "total_experts", None)
    if len(counts) == 2 and stated in counts:
        return int(stated)
    return counts.pop() if len(counts) == 1 else 0


def _weight_shapes(module: nn.Module) -> list[tuple[int, ...]]:
    """Of a module's own parameters; of those that bitsandbytes packed, the shape before."""
    packed = [getattr(p, "quant_state", None) for p in module.parameters(recurse=False)]
    shapes = [
        tuple(p.shape) for p, state in zip(module.parameters(recurse=False), packed, strict=True) if state is None
    ]
    # `replace_parameter_4bit` moves the parameter into a parametrization that unpacks it.
    for steps in getattr(module, "parametrizations", {}).values():
        packed += [getattr(step, "quant_state", None) for step in steps]
    return shapes + [tuple(state.shape) for state in packed if state is not None]


def listed_experts(module: nn.Module) -> list[nn.Module]:
    """The experts of a module that holds each as a module of its own; empty for any other."""
    if not isinstance(module, nn.ModuleList | nn.ModuleDict):
        return []
    children = [child for name, child in module.named_children() if name.removeprefix("expert_").isdigit()]
    same = len({type(unwrapped(child)) for child in children}) == 1
    return children if len(children) > 1 and same else []


def routers(block: nn.Module) -> dict[str, nn.Module]:
    """The children of a block that route, by name: by their class, or a linear layer named as a router."""
    found = {}
    for name, child in block.named_children():
        inner = unwrapped(child)
        if _ROUTER_CLASS.search(type(inner).__name__) or (name in _ROUTER_NAMES and isinstance(inner, nn.Linear)):
            found[name] = child
    return found


def _config(model: nn.Module) -> Any:
    """The configuration of a model, inside what DistributedDataParallel, DeepSpeed or torch.compile put around it too."""
    while not hasattr(model, "config"):
        inner = getattr(model, "module", None) or getattr(model, "_orig_mod", None)
        if not isinstance(inner, nn.Module):
            return None
        model = inner
    return model.config


def text_config(model: nn.Module) -> Any:
    """The configuration of the language model."""
    config = _config(model)
    return config.get_text_config() if hasattr(config, "get_text_config") else config


def model_types(model: nn.Module) -> list[str]:
    """The model types a model names in its configuration, the most inclusive first."""
    configs = [_config(model), text_config(model)]
    return list(dict.fromkeys(str(c.model_type) for c in configs if getattr(c, "model_type", None)))


def top_k(name: str, router: nn.Module, block: nn.Module, model: nn.Module) -> int:
    """Experts per token, from the router, its block or the configuration.

    Raises:
        RouterError: when none of them states it.
    """
    inner, config = unwrapped(router), text_config(model)
    holders = [(inner, ("top_k",)), (block, ("top_k",)), (getattr(inner, "config", None), _TOP_K_NAMES)]
    holders += [(config, _TOP_K_NAMES), (getattr(config, "ffn_config", None), _TOP_K_NAMES)]
    for holder, names in holders:
        for attribute in names:
            value = getattr(holder, attribute, None)
            if isinstance(value, int):
                return value
    raise RouterError(f"{name}: the number of experts per token was found neither on the router nor in the config")


def stream_of(name: str, model: nn.Module) -> str:
    """Which positions a block routes, by its place in the model."""
    if re.search(r"(^|\.)(vision|visual|vision_\w+)\.", f"{name}."):
        return "vision"
    side = re.search(r"(^|\.)(encoder|decoder)\.", name)
    if side is None:
        return "text"
    both = {child for child, _ in model.get_submodule(name[: side.start(2)].rstrip(".")).named_children()}
    return side[2] if {"encoder", "decoder"} <= both else "text"
