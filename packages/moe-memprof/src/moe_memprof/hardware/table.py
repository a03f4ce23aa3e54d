"""GPUs and accelerators: what their data sheets say, and what a process can really use of their memory.

The rows are in gpus.csv, one line each. Rates are dense (no structured sparsity), with accumulation in float32 where the source
tells the two apart. An empty field is a figure that no source states plainly, never zero.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cache
from importlib.resources import files
from types import MappingProxyType
from typing import Any, Literal

from moe_memprof.errors import MemprofError

GIB, MIB = 2**30, 2**20
_MEASURED = ("torch", "nvidia-smi", "amd-smi")
_CUDA = {
    "bf16": (8, 0),
    "tf32": (8, 0),
    "fp8": (8, 9),
    "fp4": (10, 0),
    "grouped_mm": (8, 0),
    "flash2": (8, 0),
    "mxfp4": (7, 5),
}
"""Lowest compute capability of a feature.

bf16, tf32, fp8 and fp4: CUDA C++ programming guide, tensor cores. grouped_mm: `_can_use_grouped_mm` of transformers 5.23 with torch
2.9 or newer. flash2: README of flash-attention 2. mxfp4: the quantizer of transformers 5.23, which also wants Triton 3.4.
"""
_OTHER: dict[str, dict[str, bool]] = {
    "gfx90a": {"bf16": True, "tf32": False, "fp8": False, "fp4": False, "flash2": True},
    "gfx942": {"bf16": True, "tf32": True, "fp8": True, "fp4": False, "flash2": True},
    "gfx950": {"bf16": True, "tf32": False, "fp8": True, "fp4": True, "flash2": True},
    "gfx1100": {"bf16": True, "tf32": False, "fp8": False, "fp4": False},
    "gfx1151": {"bf16": True, "tf32": False, "fp8": False, "fp4": False},
    "apple": {"bf16": True, "tf32": False, "fp8": False, "fp4": False, "flash2": False, "mxfp4": False},
    "xe-hpg": {"bf16": True, "tf32": False, "fp8": False, "fp4": False, "flash2": False},
    "xe-hpc": {"bf16": True, "tf32": True, "fp8": False, "fp4": False, "flash2": False},
}
"""The same for other makers' architectures; what is not there is unchecked."""


@dataclass(frozen=True, kw_only=True)
class GpuSpec:
    """One row of the table."""

    name: str
    vendor: str
    segment: str
    """consumer, workstation, data center, or unified (memory shared with the CPU)."""
    arch: str
    """NVIDIA: sm_ and the compute capability; AMD: the gfx name; Intel and Apple: the family."""
    memory_gb: int
    """Nominal memory as the data sheet states it."""
    usable: int
    """Bytes that the runtime reports as the device's total, before the context and the first tensor; see `usable_by`."""
    usable_by: str
    """Who says so. torch: total_memory or the total capacity of an out-of-memory message, the lowest published for Linux where drivers
    differ; nvidia-smi, amd-smi: their total, up to half a GiB above what torch sees; data sheet: nominal memory at 10^9 bytes per GB;
    macOS share: the default working set of the GPU, 2/3 of the memory below 36 GB and 3/4 from there on (newer systems give more)."""
    bandwidth: float
    """Of the memory, GB/s (10^9 bytes)."""
    bf16: float | None
    """TFLOPS (10^12), as all rates."""
    fp16: float | None
    fp8: float | None
    fp4: float | None
    link: str
    """The fastest interconnect, with its total bandwidth where the data sheet states it."""
    source: str
    """Where the data-sheet figures are from."""
    aliases: tuple[str, ...]

    @property
    def basis(self) -> Literal["measured", "data sheet", "default share"]:
        """How `usable` is known."""
        if self.usable_by in _MEASURED:
            return "measured"
        return "default share" if self.usable_by == "macOS share" else "data sheet"

    @property
    def usable_gib(self) -> float:
        """`usable` in GiB (2^30)."""
        return self.usable / GIB

    @property
    def capability(self) -> tuple[int, int] | None:
        """CUDA compute capability; None for other makers."""
        digits = self.arch.removeprefix("sm_")
        return (int(digits[:-1]), int(digits[-1])) if digits.isdigit() else None

    def supports(self, feature: str) -> bool | None:
        """Whether it has bf16, tf32, fp8, fp4, grouped_mm, flash2 (flash-attention 2) or mxfp4; None: unchecked.

        Raises:
            KeyError: for another feature.
        """
        least = _CUDA[feature]
        return _OTHER[self.arch].get(feature) if self.capability is None else self.capability >= least

    def to_dict(self) -> dict[str, Any]:
        """Plain values, the features as a dictionary of true, false and null."""
        values = {key: value for key, value in asdict(self).items() if key != "aliases"}
        support = {feature: self.supports(feature) for feature in _CUDA}
        return {**values, "basis": self.basis, "capability": self.capability, "supports": support}


def _read() -> dict[str, GpuSpec]:
    text = (files("moe_memprof.hardware") / "gpus.csv").read_text(encoding="utf-8")
    rows = (_row(values) for values in csv.DictReader(text.splitlines()))
    return {row.name: row for row in rows}


def _row(v: Mapping[str, str]) -> GpuSpec:
    memory, by = int(v["memory_gb"]), v["usable_by"]
    shared = working_set(memory * GIB) if by == "macOS share" else memory * 10**9
    usable = int(v["usable_mib"]) * MIB if v["usable_mib"] else shared
    return GpuSpec(
        name=v["name"],
        vendor=v["vendor"],
        segment=v["segment"],
        arch=v["arch"],
        memory_gb=memory,
        usable=usable,
        usable_by=by,
        bandwidth=float(v["bandwidth"]),
        bf16=_rate(v["bf16"]),
        fp16=_rate(v["fp16"]),
        fp8=_rate(v["fp8"]),
        fp4=_rate(v["fp4"]),
        link=v["link"],
        source=v["source"],
        aliases=tuple(v["aliases"].split("|")) if v["aliases"] else (),
    )


def _rate(text: str) -> float | None:
    return float(text) if text else None


def working_set(memory: int) -> int:
    """Bytes that macOS lets the GPU wire by default, of `memory` bytes: 2/3 below 36 GiB, 3/4 from there on.

    Source: `recommendedMaxWorkingSetSize` as Metal programs print it on macOS 14 and 15; macOS 26 gives up to 0.84.
    """
    return memory * 3 // 4 if memory >= 36 * GIB else memory * 2 // 3


TABLE: Mapping[str, GpuSpec] = MappingProxyType(_read())
"""All rows by name."""
GPUS: Mapping[str, int] = {name: row.memory_gb for name, row in TABLE.items()}
"""Nominal memory by name, in the unit of the data sheets."""

_NOISE = re.compile(r"\((r|tm)\)|\b(nvidia|geforce|amd|instinct|radeon|intel|apple|graphics|tesla|gpu)\b")
_SERIES = re.compile(r"^(rtx|gtx|rx|arc)(?=\d|a\d)")


def _key(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", _NOISE.sub(" ", name.lower()).replace("gib", "gb"))


def _keys(row: GpuSpec) -> set[str]:
    keys = {_key(name) for name in (row.name, *row.aliases)}
    keys |= {f"{key.removesuffix(size)}{size}" for key in keys for size in [f"{row.memory_gb}gb"]}
    return keys | {_SERIES.sub("", key) for key in keys}


@cache
def _by_key() -> dict[str, GpuSpec]:
    return {key: row for row in TABLE.values() for key in _keys(row)}


def lookup(name: str) -> GpuSpec:
    """The row of a GPU by its name: case, spaces, hyphens, the maker and a size that agrees do not matter.

    Raises:
        MemprofError: where no row, or no single row, has that name; with the nearest names.
    """
    key, known = _key(name), _by_key()
    if key in known:
        return known[key]
    several = list(dict.fromkeys(row.name for k, row in known.items() if key and k.startswith(key)))
    if len(several) > 1:
        rest = f" or {len(several) - 6} more" if len(several) > 6 else ""
        raise MemprofError(f"GPU {name!r}: say which, {' or '.join(several[:6])}{rest}")
    import difflib  # only for the message

    close = difflib.get_close_matches(key, known, n=6, cutoff=0.6)
    near = list(dict.fromkeys([*several, *(known[k].name for k in close)]))[:3]
    mend = f"did you mean {' or '.join(near)}? " if near else ""
    raise MemprofError(
        f"GPU {name!r}: not in the table; {mend}`moe-memprof hardware --all` lists it; "
        "`estimate` and `fit` take --available GIB instead"
    )


def identify(name: str, total: int) -> GpuSpec | None:
    """The row of a GPU that a driver names so and gives `total` bytes; None where none agrees in name and in memory."""
    key = _key(name)
    sized = ((row, _keys(row)) for row in TABLE.values())
    family = [row for row, keys in sized if key in keys | {k.removesuffix(f"{row.memory_gb}gb") for k in keys}]
    near = [row for row in family if 0.85 * row.usable <= total <= 1.05 * max(row.usable, row.memory_gb * GIB)]
    return min(near, key=lambda row: abs(row.usable - total)) if near else None
