"""What a run's answers depend on, and where it ran."""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from importlib import metadata
from typing import Any

from moe_bench import __version__
from moe_bench.answers import SCORER_VERSION
from moe_bench.item import Item

SCHEMA = "moe-bench/run@2"
READABLE = ("moe-bench/run@1", SCHEMA)
"""@1 had one answer to every item and no `sample` in its lines."""
_PACKAGES = ("torch", "transformers", "peft", "tokenizers", "httpx", "math-verify", "sympy")


def item_set_hash(items: Iterable[Item]) -> str:
    """Hash of a set of items, whatever their order."""
    return hashlib.sha256("\n".join(sorted(item.id for item in items)).encode()).hexdigest()[:16]


def text_hash(text: str) -> str:
    """sha256 of a text, 16 hex digits."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def make_header(
    *,
    suite: str,
    model: str,
    items: Sequence[Item],
    settings: dict[str, Any],
    observers: Mapping[str, str] | None = None,
    broken: Mapping[str, str] | None = None,
    processes: int = 1,
) -> dict[str, Any]:
    """The header of a run, plain values.

    Args:
        suite: name of the set of items.
        model: name of the model.
        items: all that are to be answered.
        settings: how they are.
        observers: package and version of each observer that watches, by name.
        broken: plug-ins that are installed and cannot be used, with the reason.
        processes: that answer together.
    """
    return {
        "schema": SCHEMA,
        "suite": suite,
        "model": model,
        "items": {"count": len(items), "hash": item_set_hash(items)},
        "settings": settings,
        "scorer": SCORER_VERSION,
        "scoring": _scoring(),
        "observers": dict(observers or {}),
        "broken_plugins": dict(broken or {}),
        "versions": {
            "python": platform.python_version(),
            "moe-bench": __version__,
            **{name: _version(name) for name in _PACKAGES},
        },
        "machine": {**_machine(), "processes": processes},
        "git_revision": _git_revision(),
    }


def _scoring() -> dict[str, Any]:
    """What the scorer says of itself: its version and that of the library it asks."""
    from moe_bench import answers

    identity = getattr(answers, "scorer_identity", None)
    return dict(identity()) if identity is not None else {"version": SCORER_VERSION}


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _machine() -> dict[str, Any]:
    values: dict[str, Any] = {"platform": platform.platform(), "cpus": os.cpu_count(), "memory": _memory()}
    torch = sys.modules.get("torch")  # looked up and not imported: outputs are replayed without it
    if torch is not None:
        values["threads"] = torch.get_num_threads()
        if torch.cuda.is_available():
            values["gpus"] = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return values


def _memory() -> int | None:
    """Bytes of main memory, where the system says."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None


def _git_revision() -> str | None:
    git = shutil.which("git")
    if git is None:
        return None
    found = subprocess.run([git, "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    return found.stdout.strip() or None
