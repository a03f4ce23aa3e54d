"""Fine-tune Mixture-of-Experts language models for reasoning, and prove what was trained.

The names below are loaded when first used, so that `import moe_train` is quick.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from moe_train.errors import TrainError

__version__ = "0.1.0"

_HOMES = {
    "RunConfig": "config",
    "load_config": "config",
    "Outcome": "workflow",
    "resume": "workflow",
    "start": "workflow",
    "Screen": "console",
}

__all__ = ["Outcome", "RunConfig", "Screen", "TrainError", "load_config", "resume", "start"]

if TYPE_CHECKING:
    from moe_train.config import RunConfig, load_config
    from moe_train.console import Screen
    from moe_train.workflow import Outcome, resume, start


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"moe_train.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'moe_train' has no attribute {name!r}")
