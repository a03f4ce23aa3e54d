"""Experts that are adapted, and quantised, for real: grouped low-rank products on frozen stacks of expert weights.

The names below are loaded when first used, so that importing the package asks for no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from moe_train.experts.forward import IMPLEMENTATION, use_grouped_experts
    from moe_train.experts.imports import load_adapter
    from moe_train.experts.lora import ParamWrapper, expert_lora_config
    from moe_train.experts.ops import Factors, expert_linear
    from moe_train.experts.stacks import DenseStack, Int8Stack, Nf4Stack, Stack

_HOMES = {
    "DenseStack": "stacks",
    "Factors": "ops",
    "IMPLEMENTATION": "forward",
    "Int8Stack": "stacks",
    "Nf4Stack": "stacks",
    "ParamWrapper": "lora",
    "Stack": "stacks",
    "expert_linear": "ops",
    "expert_lora_config": "lora",
    "load_adapter": "imports",
    "use_grouped_experts": "forward",
}

__all__ = [
    "IMPLEMENTATION",
    "DenseStack",
    "Factors",
    "Int8Stack",
    "Nf4Stack",
    "ParamWrapper",
    "Stack",
    "expert_linear",
    "expert_lora_config",
    "load_adapter",
    "use_grouped_experts",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"moe_train.experts.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'moe_train.experts' has no attribute {name!r}")
