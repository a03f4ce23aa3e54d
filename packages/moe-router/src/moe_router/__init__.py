"""Read the executed routing of Mixture-of-Experts models, and keep it healthy.

The names below are loaded when first used, so that `import moe_router` needs no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from moe_router.errors import RouterError

if TYPE_CHECKING:
    from moe_router.architectures.base import MoELayer, RouterAdapter, Routing
    from moe_router.architectures.registry import diagnose, find_moe_layers
    from moe_router.balance.balancer import RoutingBalancer, StepRouting
    from moe_router.callback import RoutingCallback
    from moe_router.capture import RoutingRecorder
    from moe_router.logits import extract_routing_logits
    from moe_router.token_trace import TokenTrace
    from moe_router.trace import RoutingTrace

__version__ = "0.1.0"

_HOMES = {
    "RoutingCallback": "callback",
    "TokenTrace": "token_trace",
    "extract_routing_logits": "logits",
    "MoELayer": "architectures.base",
    "RouterAdapter": "architectures.base",
    "Routing": "architectures.base",
    "RoutingBalancer": "balance.balancer",
    "RoutingRecorder": "capture",
    "RoutingTrace": "trace",
    "StepRouting": "balance.balancer",
    "diagnose": "architectures.registry",
    "find_moe_layers": "architectures.registry",
}

__all__ = [
    "MoELayer",
    "RouterAdapter",
    "RouterError",
    "Routing",
    "RoutingBalancer",
    "RoutingCallback",
    "RoutingRecorder",
    "RoutingTrace",
    "StepRouting",
    "TokenTrace",
    "diagnose",
    "extract_routing_logits",
    "find_moe_layers",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"moe_router.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'moe_router' has no attribute {name!r}")
