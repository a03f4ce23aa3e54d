"""How far a plan may be off, read from measurements: receipts of the user's own runs, or else the runs this package was checked on.

What was measured is how far a step's tensors rise above weights, adapters and optimizer states, which are exact. A plan of a kind that
nobody measured gets no band, and the reason instead.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from math import floor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moe_memprof.errors import MemprofError
from moe_memprof.plan import CONTEXT, ErrorBand, Estimate, Phase

if TYPE_CHECKING:
    from moe_memprof.receipts import Receipt
    from moe_memprof.spec import RunSpec

FEWEST = 5
"""Receipts of one kind of device below which the package's own runs say more."""
_LEVEL = 0.95
_ALLOCATOR = "allocator: cached and fragmented"
_FIXED = ("weights:", "LoRA:", "optimizer state", "master weights", "Python", "allocator:", CONTEXT, "buffer")


@cache
def evidence() -> dict[str, Any]:
    """Measured over planned in the committed runs, and published shares of what torch does not count."""
    values: dict[str, Any] = json.loads(Path(__file__).with_name("evidence.json").read_text(encoding="utf-8"))
    return values


def step_rise(phase: Phase) -> int:
    """Bytes of a step's tensors above weights, adapters and optimizer states."""
    return sum(part.bytes for part in phase.parts if not part.name.startswith(_FIXED))


def spread(ratios: Sequence[float]) -> tuple[float, float, float]:
    """The range in which the next ratio lies, and with what probability, where all come from one distribution.

    Order statistics need no shape: the next of n exchangeable values lies between the j-th smallest and the j-th largest with probability
    (n + 1 - 2j) / (n + 1). j is the largest for which that is at least 95 %, or 1 where there are fewer than 39 values.

    Returns:
        The lower end, the upper end, the probability.
    """
    ordered, n = sorted(ratios), len(ratios)
    j = max(1, floor((1 - _LEVEL) / 2 * (n + 1)))
    return ordered[j - 1], ordered[n - j], (n + 1 - 2 * j) / (n + 1)


def error_band(spec: RunSpec, made: Estimate, receipts: Sequence[Receipt] = ()) -> ErrorBand:
    """The band of an estimate's peak.

    Args:
        spec: the run.
        made: its estimate.
        receipts: of earlier runs; those of another kind of device are left out.
    """
    phase = made.binding
    if phase.name != "step":
        return _none(f"the {phase.name} phase decides here, and only steps have been measured beside their plans")
    if not spec.parallel.alone:
        return _none("no run on several devices, or with offloading, has been measured beside its plan")
    own = [r for receipt in receipts if _kind(receipt) == spec.device for r in receipt.readings if r.phase == "step"]
    if len(own) >= FEWEST:
        ratios, whose = [r.measured / r.estimated for r in own if r.estimated], f"{len(own)} receipts of your runs"
    elif any(part.kind == "heuristic" and part.name.startswith("activations:") for part in phase.parts):
        return _none(
            "layers of this kind are planned by a rule that has not been measured; your own receipts will tell"
        )
    else:
        ratios = evidence()["step_cpu"]["measured_over_planned"]
        whose = f"{len(ratios)} measured steps on a CPU (benchmarks/memory_grid.py)"
        if spec.device == "cuda":
            whose += ", GPU kernels unmeasured"
    low, high, probability = spread(ratios)
    rise = step_rise(phase)
    bounds = [phase.peak + rise * (low - 1), phase.peak + rise * (high - 1)]
    basis = f"{whose}: {100 * (low - 1):+.1f} to {100 * (high - 1):+.1f} % of what a step adds, {100 * probability:.0f} % of such runs"
    if spec.device == "cuda":
        notes = _published(phase, bounds)
        basis = "; ".join([basis, *notes])
    return ErrorBand(low=round(bounds[0]), high=round(bounds[1]), readings=len(ratios), basis=basis)


def _published(phase: Phase, bounds: list[float]) -> list[str]:
    """Widen the bounds by what published runs say of the allocator and the context; returns the reasons."""
    notes: list[str] = []
    sizes = {part.name: part.bytes for part in phase.parts if part.kind == "heuristic"}
    if _ALLOCATOR in sizes:
        pairs = evidence()["reserved_over_allocated"]
        tensors = sum(p.bytes for p in phase.parts if p.name not in {_ALLOCATOR, CONTEXT, "buffer"})
        for i, ratio in enumerate((pairs["lowest"], pairs["highest"])):
            bounds[i] += tensors * (ratio - 1) - sizes[_ALLOCATOR]
        notes.append(
            f"cached memory {100 * (pairs['lowest'] - 1):.1f} to {100 * (pairs['highest'] - 1):.0f} % in {pairs['pairs']} published pairs"
        )
    if CONTEXT in sizes:
        context = evidence()["context_gib"]
        for i, gib in enumerate((context["lowest"], context["highest"])):
            bounds[i] += gib * 2**30 - sizes[CONTEXT]
        notes.append(f"context {context['lowest']} to {context['highest']} GiB in published runs")
    return notes


def _none(why: str) -> ErrorBand:
    return ErrorBand(low=None, high=None, readings=0, basis=why)


def _kind(receipt: Receipt) -> str:
    return "cuda" if "cuda" in str(receipt.environment.get("device", "")).casefold() else "cpu"


def find_receipts(places: Sequence[Path]) -> list[Receipt]:
    """The receipts in files and folders, folders searched as moe-train leaves them (`RUN/receipt.json`).

    Raises:
        MemprofError: for a place that does not exist or a file that is no receipt.
    """
    from moe_memprof.receipts import Receipt

    found: list[Receipt] = []
    for place in places:
        if not place.exists():
            raise MemprofError(f"receipts {place}: no such file or folder")
        files = sorted([*place.glob("receipt.json"), *place.glob("*/receipt.json")]) if place.is_dir() else [place]
        found += [Receipt.load(file) for file in files]
    return found
