"""How evenly tokens fall on experts, and what that costs: bands of memory, and capacity factors priced against dropped tokens.

Letters: T tokens, k experts a token goes to, E experts, C capacity of an expert, L layers.
"""

from __future__ import annotations

import json
import struct
import sys
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import ceil
from pathlib import Path
from typing import Any

from moe_memprof.architectures.base import Experts, Model
from moe_memprof.errors import MemprofError
from moe_memprof.estimate import described, estimate
from moe_memprof.spec import RunSpec

FACTORS = (1.0, 1.25, 1.5, 2.0)
_CODES = {"I64": "q", "I32": "i", "U32": "I", "F64": "d", "F32": "f"}


@dataclass(frozen=True, kw_only=True)
class Band:
    """A way in which tokens may fall on experts, and the peak it leads to."""

    name: str
    """balanced, measured or worst."""
    busiest: float
    """Rows of the busiest rank over an even share."""
    peak: int


@dataclass(frozen=True, kw_only=True)
class Capacity:
    """A capacity factor: every expert has room for factor · T · k / E rows, and what does not fit is dropped."""

    factor: float
    rows: int
    """Slots of all experts of a layer together, filled or not."""
    bytes: int
    """Routed activations of the step with that many slots, by the rows' share of the plan's."""
    dropped: float | None
    """Share of the assignments that find no room, over all layers of the loads; None without loads."""


def read_loads(path: Path) -> list[list[float]]:
    """Assignments of each layer's experts, [L][E], from a list in a JSON file or a trace of moe-router.

    Raises:
        MemprofError: for a file that is neither, or loads that cannot be.
    """
    try:
        if path.suffix == ".json":
            values: Any = json.loads(path.read_text(encoding="utf-8"))
            values = values.get("loads") if isinstance(values, dict) else values
            loads = [[float(n) for n in row] for row in (values if isinstance(values[0], list) else [values])]
        else:
            loads = _from_trace(path)
    except FileNotFoundError:
        raise MemprofError(f"loads {path}: no such file") from None
    except (OSError, ValueError, KeyError, TypeError, IndexError, struct.error):
        raise MemprofError(
            f"loads {path}: neither a trace of moe-router nor a JSON file with a list of loads per layer, [[...], ...]"
        ) from None
    if not loads or any(min(row, default=-1) < 0 or sum(row) <= 0 for row in loads):
        raise MemprofError(f"loads {path}: every layer needs loads of at least 0 that are not all 0")
    return loads


def _from_trace(path: Path) -> list[list[float]]:
    """The counts of a trace, summed over its units; read with the standard library alone."""
    with path.open("rb") as file:
        (size,) = struct.unpack("<Q", file.read(8))
        if size > 100_000_000:
            raise ValueError("no safetensors header")
        header: dict[str, Any] = json.loads(file.read(size))
        entry = header["counts_ULE"]
        begin, end = entry["data_offsets"]
        file.seek(8 + size + begin)
        numbers = array(_CODES[entry["dtype"]])
        numbers.frombytes(file.read(end - begin))
    if sys.byteorder == "big":
        numbers.byteswap()
    units, layers, experts = entry["shape"]
    loads = [[0.0] * experts for _ in range(layers)]
    for unit in range(units):
        for layer in range(layers):
            start = (unit * layers + layer) * experts
            row = loads[layer]
            for expert, n in enumerate(numbers[start : start + experts]):
                row[expert] += n
    return loads


def busiest_share(loads: Sequence[Sequence[float]], ranks: int) -> float:
    """Share of a layer's rows that its busiest rank receives, in the layer where that is largest; experts in order on the ranks."""
    highest = 1 / ranks
    for row in loads:
        per = len(row) // ranks
        if per:
            highest = max(highest, *(sum(row[i * per : (i + 1) * per]) / sum(row) for i in range(ranks)))
    return min(1.0, highest)


def bands(spec: RunSpec, loads: Sequence[Sequence[float]] | None) -> list[Band]:
    """The peak under even routing, under the loads where they are given, and when one rank receives everything.

    On one device all three are the same: the rows of a layer are T · k however they fall.
    """
    ranks = spec.parallel.expert_parallel
    shares: list[tuple[str, float]] = [("balanced", 1 / ranks)]
    if loads is not None:
        shares.append(("measured", busiest_share(loads, ranks)))
    shares.append(("worst", 1.0))
    found: list[Band] = []
    for name, share in shares:
        run = replace(spec, parallel=replace(spec.parallel, hottest_share=share))
        found.append(Band(name=name, busiest=share * ranks, peak=estimate(run).peak))
    return found


def capacities(
    spec: RunSpec, loads: Sequence[Sequence[float]] | None, factors: Sequence[float] = FACTORS
) -> list[Capacity]:
    """Capacity factors priced: slots and bytes, against what is dropped.

    The dispatch of Switch Transformers (arXiv:2101.03961, equation 3), as DeepSpeed's and Megatron's MoE layers have it; transformers' own
    layers drop nothing and have no such factor.
    """
    model = described(spec)
    experts = _experts(model)
    rows = spec.tokens * experts.top_k
    routed = sum(
        p.bytes
        for p in estimate(spec).phase("step").parts
        if p.name in {"activations: experts", "activations: dispatch"}
    )
    found: list[Capacity] = []
    for factor in factors:
        each = ceil(factor * rows / experts.count)
        dropped = None
        if loads is not None:
            lost = sum(max(0.0, n / sum(row) * rows - each) for row in loads for n in row)
            dropped = lost / (rows * len(loads))
        slots = each * experts.count
        found.append(Capacity(factor=factor, rows=slots, bytes=round(routed * slots / rows), dropped=dropped))
    return found


def _experts(model: Model) -> Experts:
    found = next((x.feed_forward for x in model.layers if isinstance(x.feed_forward, Experts)), None)
    if found is None:
        raise MemprofError(f"routing: {model.model_type} has no layer with experts in this configuration")
    return found
