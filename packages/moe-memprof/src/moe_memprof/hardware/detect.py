"""What memory this machine has, without importing torch."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from moe_memprof.hardware.table import GpuSpec, identify, working_set

_MIB = 2**20
_UNITS = {"B": 1, "KB": 2**10, "MB": _MIB, "GB": 2**30}
"""amd-smi counts in powers of 1024, whatever the letters say: an MI300X has 196592 MB there, which is 191.98 GiB."""


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """One GPU of this machine."""

    name: str
    """As its driver says."""
    total: int
    """Bytes; with unified memory, what the system lets the GPU use."""
    free: int
    """Bytes of it that nobody uses now."""
    vendor: str = "NVIDIA"

    @property
    def row(self) -> GpuSpec | None:
        """Its row of the table; None where the table has none that agrees."""
        return identify(self.name, self.total)


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
        gpus = [{**asdict(gpu), "row": gpu.row.name if gpu.row else None} for gpu in self.gpus]
        return {"schema": "moe-memprof/hardware@1", **asdict(self), "gpus": gpus, "usable": self.usable}


def detect() -> Hardware:
    """Look at this machine; GPUs are asked through nvidia-smi, amd-smi or rocm-smi, and sysctl on a Mac."""
    import psutil

    memory = psutil.virtual_memory()
    limit = cgroup_limit()
    return Hardware(
        total=memory.total,
        available=memory.available,
        limit=limit if limit is not None and limit < memory.total else None,
        cpus=psutil.cpu_count() or 1,
        gpus=(*_nvidia(memory.total, memory.available), *_amd(), *_apple(memory.available)),
    )


def cgroup_limit(root: Path = Path("/sys/fs/cgroup")) -> int | None:
    """Bytes that the control group mounted at `root` allows; None where it sets no limit."""
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        try:
            text = (root / name).read_text(encoding="ascii").strip()
        except OSError:
            continue
        if text.isdigit():
            return int(text)
    return None


def _ask(program: str, *arguments: str) -> str:
    """What a program prints; nothing where it is not there, fails or takes more than ten seconds."""
    path = shutil.which(program)
    if path is None:
        return ""
    import subprocess  # slow to import, and seldom needed

    try:
        return subprocess.run([path, *arguments], capture_output=True, text=True, timeout=10, check=True).stdout
    except (OSError, ValueError, subprocess.SubprocessError):
        return ""


def _nvidia(total: int, available: int) -> list[Gpu]:
    query = ("--query-gpu=name,memory.total,memory.free", "--format=csv,noheader,nounits")
    return parse_nvidia_smi(_ask("nvidia-smi", *query), host=(total, available))


def parse_nvidia_smi(text: str, *, host: tuple[int, int] | None = None) -> list[Gpu]:
    """The GPUs in nvidia-smi's csv output of name, total and free memory in MiB.

    Args:
        text: a line for each GPU.
        host: total and available bytes of the machine, for a GPU that shares them and reports none of its own (GB10). Without it
            such a GPU is left out.
    """
    found = []
    for line in text.splitlines():
        fields = [field.strip() for field in line.rsplit(",", 2)]
        if len(fields) == 3 and fields[1].isdigit() and fields[2].isdigit():
            found.append(Gpu(name=fields[0], total=int(fields[1]) * _MIB, free=int(fields[2]) * _MIB))
        elif len(fields) == 3 and "N/A" in fields[1] and host is not None:
            found.append(Gpu(name=fields[0], total=host[0], free=host[1]))
    return found


def _amd() -> list[Gpu]:
    static = _ask("amd-smi", "static", "--asic", "--vram", "--json")
    if static and (found := parse_amd_smi(static, _ask("amd-smi", "metric", "--mem-usage", "--json"))):
        return found
    return parse_rocm_smi(_ask("rocm-smi", "--showproductname", "--showmeminfo", "vram", "--json"))


def parse_amd_smi(static: str, metric: str = "") -> list[Gpu]:
    """The GPUs in the JSON of `amd-smi static --asic --vram`, with what is free from `amd-smi metric --mem-usage`.

    Both are lists in older releases and objects with `gpu_data` in newer ones. Without the second, all is taken as free.
    """
    used = {e.get("gpu"): _bytes(_inner(e, "mem_usage", "used_vram")) for e in _entries(metric)}
    found = []
    for entry in _entries(static):
        name, total = _inner(entry, "asic", "market_name"), _bytes(_inner(entry, "vram", "size"))
        if isinstance(name, str) and total:
            free = max(0, total - used.get(entry.get("gpu"), 0))
            found.append(Gpu(name=name, total=total, free=free, vendor="AMD"))
    return found


def _entries(text: str) -> Sequence[dict[str, Any]]:
    try:
        values = json.loads(text)
    except json.JSONDecodeError:
        return ()
    values = values.get("gpu_data", ()) if isinstance(values, dict) else values
    return [e for e in values if isinstance(e, dict)] if isinstance(values, list) else ()


def _inner(entry: dict[str, Any], section: str, field: str) -> Any:
    values = entry.get(section)
    return values.get(field) if isinstance(values, dict) else None


def _bytes(reading: Any) -> int:
    """Bytes of {"value": 196592, "unit": "MB"}; 0 for anything else, as N/A."""
    if not isinstance(reading, dict) or not str(reading.get("value")).isdigit():
        return 0
    return int(reading["value"]) * _UNITS.get(str(reading.get("unit")).upper(), 0)


def parse_rocm_smi(text: str) -> list[Gpu]:
    """The GPUs in the JSON of `rocm-smi --showproductname --showmeminfo vram`: an object of cards, memory in bytes."""
    try:
        cards = json.loads(text)
    except json.JSONDecodeError:
        return []
    found = []
    for card in cards.values() if isinstance(cards, dict) else ():
        lower = {str(key).lower(): str(value) for key, value in card.items()} if isinstance(card, dict) else {}
        total, used = lower.get("vram total memory (b)", ""), lower.get("vram total used memory (b)", "0")
        if total.isdigit():
            name = lower.get("card series") or lower.get("card model") or "AMD GPU"
            free = int(total) - int(used) if used.isdigit() else int(total)
            found.append(Gpu(name=name, total=int(total), free=max(0, free), vendor="AMD"))
    return found


def _apple(available: int) -> list[Gpu]:
    import platform  # sys.platform would make mypy skip the rest

    if platform.system() != "Darwin":
        return []
    names = ("machdep.cpu.brand_string", "hw.memsize", "iogpu.wired_limit_mb")
    return parse_sysctl("".join(_ask("sysctl", name) for name in names), available=available)


def parse_sysctl(text: str, *, available: int) -> list[Gpu]:
    """The GPU of an Apple chip in sysctl's lines of brand_string, hw.memsize and iogpu.wired_limit_mb.

    Its total is the limit that the user set there, or else the system's default share of the memory; `available` bytes of the
    machine bound what is free.
    """
    values = dict(line.split(": ", 1) for line in text.splitlines() if ": " in line)
    chip, memory = values.get("machdep.cpu.brand_string", ""), values.get("hw.memsize", "")
    if not chip.startswith("Apple ") or not memory.isdigit():
        return []
    wired = values.get("iogpu.wired_limit_mb", "0")
    total = int(wired) * _MIB if wired.isdigit() and int(wired) else working_set(int(memory))
    name = f"{chip} {int(memory) // 2**30}GB"
    return [Gpu(name=name, total=total, free=min(total, available), vendor="Apple")]
