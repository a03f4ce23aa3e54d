"""Does it reason better, and is that sure? Paired, resumable evaluation of language models.

The names below are loaded when first used, so that `import moe_bench` is quick.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from moe_bench.errors import BenchError
from moe_bench.item import Item, load_items

if TYPE_CHECKING:
    from moe_bench.compare import Comparison, compare_runs
    from moe_bench.runner import RunSummary, run_items

__version__ = "0.1.0"

_HOMES = {"Comparison": "compare", "RunSummary": "runner", "compare_runs": "compare", "run_items": "runner"}

__all__ = ["BenchError", "Comparison", "Item", "RunSummary", "compare_runs", "load_items", "run_items"]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"moe_bench.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'moe_bench' has no attribute {name!r}")
