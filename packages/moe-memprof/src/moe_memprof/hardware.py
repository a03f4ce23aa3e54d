"""What memory there is, without importing torch."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil

GIB = 2**30
GPUS = {
    "A10": 24,
    "A100-40GB": 40,
    "A100-80GB": 80,
    "H100": 80,
    "H200": 141,
    "L4": 24,
    "L40S": 48,
    "RTX 3090": 24,
    "RTX 4090": 24,
    "RTX 5090": 32,
    "RTX A6000": 48,
    "T4": 16,
    "V100-16GB": 16,
    "V100-32GB": 32,
}
"""Nominal memory of GPUs by name, in the unit of their data sheets (for these, close to GiB); usable is a little less."""


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """One GPU of this machine."""

    name: str
    total: int
    free: int


@dataclass(frozen=True, kw_only=True)
class Hardware:
    """The memory of this machine, in bytes."""

    total: int
    available: int
    limit: int | None
    """What the control group of this process allows, where that is less than the machine has."""
    cpus: int
    gpus: tuple[Gpu, ...]

    @property
    def usable(self) -> int:
        """What a new process can take without swapping: the lower of what is free and what is allowed."""
        return self.available if self.limit is None else min(self.available, self.limit)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, schema moe-memprof/hardware@1."""
        return {"schema": "moe-memprof/hardware@1", **asdict(self), "usable": self.usable}


def detect() -> Hardware:
    """Look at this machine; GPUs are asked through nvidia-smi."""
    memory = psutil.virtual_memory()
    limit = _cgroup_limit()
    return Hardware(
        total=memory.total,
        available=memory.available,
        limit=limit if limit is not None and limit < memory.total else None,
        cpus=psutil.cpu_count() or 1,
        gpus=tuple(_gpus()),
    )


def _cgroup_limit(root: Path = Path("/sys/fs/cgroup")) -> int | None:
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        try:
            text = (root / name).read_text(encoding="ascii").strip()
        except OSError:
            continue
        if text.isdigit():
            return int(text)
    return None


def _gpus() -> list[Gpu]:
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return []
    query = [tool, "--query-gpu=name,memory.total,memory.free", "--format=csv,noheader,nounits"]
    try:
        answer = subprocess.run(query, capture_output=True, text=True, timeout=10, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    return parse_nvidia_smi(answer)


def parse_nvidia_smi(text: str) -> list[Gpu]:
    """The GPUs in nvidia-smi's csv output of name, total and free memory in MiB."""
    found = []
    for line in text.splitlines():
        name, total, free = (field.strip() for field in line.rsplit(",", 2))
        found.append(Gpu(name=name, total=int(total) * 2**20, free=int(free) * 2**20))
    return found
