"""The trace: what was routed where, summed, in one safetensors file.

Shapes: G groups, U units (sets of whole sequences), L MoE layers, E experts of the largest layer, F folds, C token types.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moe_router.errors import RouterError

TYPE_FOLDS = 32
"""Parts by sequence in which token types are counted: enough to see how far sequences differ, and small."""


PAIR_FOLDS = 8
"""Parts by sequence in which pairs of experts are counted: enough for an interval."""
MAX_FOLDED_EXPERTS = 128
"""Layers with more experts than this count pairs of experts in one part, so that a trace stays small."""


def pair_folds(experts: int) -> int:
    """Parts in which pairs of experts are counted where the largest layer has so many."""
    return PAIR_FOLDS if experts <= MAX_FOLDED_EXPERTS else 1


def fold_of(unit: Any, group: Any) -> Any:
    """The fold of a unit, by its number among those of its group; small groups after one another fall into different folds."""
    return (unit + 8 * group) % TYPE_FOLDS


SCHEMA = "moe-router/trace@2"
_ARRAYS = (
    "counts_ULE",
    "first_ULE",
    "idle_UL",
    "repeats_UL",
    "pairs_U",
    "tokens_U",
    "sequences_U",
    "unit_group_U",
    "mass_GLE",
)
_OPTIONAL = ("types_FCLE", "coactivation_FLEE", "transitions_FLEE")

Counts = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class RoutingTrace:
    """Executed routing of a text: sums by layer and expert, for units of whole sequences, each of one group."""

    model: str
    layers: tuple[str, ...]
    """Names of the MoE layers."""
    experts_L: tuple[int, ...]
    """Experts of every layer; where a layer has fewer than E, the rest of its row is zero."""
    top_k_L: tuple[int, ...]
    groups: tuple[str, ...]
    """A task, domain or whatever else the text was told apart by."""
    types: tuple[str, ...] = ()
    """Names of the token types."""
    unit_group_U: Counts
    """The group of every unit."""
    sequences_U: Counts
    """Sequences in every unit: 1 as long as the group has no more sequences than units."""
    tokens_U: Counts
    counts_ULE: Counts
    """Assignments executed: a token counts once for each of its top-k experts."""
    first_ULE: Counts
    """Tokens whose heaviest expert it was."""
    idle_UL: Counts
    """Slots of the top-k in which no expert worked: dropped over capacity, or skipped."""
    pairs_U: Counts
    """Tokens whose predecessor in the same sequence was recorded in the same forward pass."""
    repeats_UL: Counts
    """Those of them whose first choice was their predecessor's."""
    mass_GLE: NDArray[np.float64]
    """Sum of the routing weights."""
    types_FCLE: Counts | None = None
    """Assignments by token type, in 32 folds of sequences (`fold_of`); None where none were told apart."""
    coactivation_FLEE: Counts | None = None
    """Tokens that went to both experts; symmetric, zero diagonal; in 8 folds of units (the unit's number in its group, modulo 8), or in one
    above 128 experts. None for layers of more than 512 experts."""
    transitions_FLEE: Counts | None = None
    """Tokens by first choice in a layer and first choice in the next, [F, L − 1, E, E]; None as above."""
    metadata: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check that the parts agree.

        Raises:
            RouterError: when shapes or sums contradict one another.
        """
        units, layers, experts = len(self.unit_group_U), len(self.layers), self.num_experts
        for name, shape in (
            ("counts_ULE", (units, layers, experts)),
            ("first_ULE", (units, layers, experts)),
            ("idle_UL", (units, layers)),
            ("repeats_UL", (units, layers)),
            ("mass_GLE", (len(self.groups), layers, experts)),
            ("coactivation_FLEE", (pair_folds(experts), layers, experts, experts)),
            ("transitions_FLEE", (pair_folds(experts), layers - 1, experts, experts)),
            ("types_FCLE", (TYPE_FOLDS, len(self.types), layers, experts)),
        ):
            array = getattr(self, name)
            if array is not None and array.shape != shape:
                raise RouterError(
                    f"trace: {name} is {array.shape} where {shape} is due by what is stated of units, layers and experts"
                )
        due_UL = self.tokens_U[:, None] * np.array(self.top_k_L)
        if (self.counts_ULE.sum(-1) + self.idle_UL != due_UL).any():
            raise RouterError(
                "trace: the assignments of a layer are not tokens times top-k; part of the routing is missing"
            )

    @property
    def num_experts(self) -> int:
        """Experts of the largest layer."""
        return max(self.experts_L)

    @property
    def top_k(self) -> int:
        """Experts per token, of the layer that takes most."""
        return max(self.top_k_L)

    def _by_group(self, array_U: NDArray[Any]) -> NDArray[Any]:
        sums = np.zeros((len(self.groups), *array_U.shape[1:]), dtype=array_U.dtype)
        np.add.at(sums, self.unit_group_U, array_U)
        return sums

    @cached_property
    def counts_GLE(self) -> Counts:
        """Assignments executed, by group."""
        return self._by_group(self.counts_ULE)

    @cached_property
    def first_GLE(self) -> Counts:
        """Tokens by their heaviest expert, by group."""
        return self._by_group(self.first_ULE)

    @cached_property
    def coactivation_LEE(self) -> Counts | None:
        """Tokens that went to both experts, over all folds."""
        return None if self.coactivation_FLEE is None else self.coactivation_FLEE.sum(0)

    @cached_property
    def transitions_LEE(self) -> Counts | None:
        """Tokens by first choice in a layer and in the next, over all folds, [L − 1, E, E]."""
        return None if self.transitions_FLEE is None else self.transitions_FLEE.sum(0)

    @cached_property
    def tokens_G(self) -> Counts:
        """Tokens of every group."""
        return self._by_group(self.tokens_U)

    @cached_property
    def sequences_G(self) -> Counts:
        """Sequences of every group."""
        return self._by_group(self.sequences_U)

    def units_of(self, group: str) -> Counts:
        """The units of a group.

        Raises:
            RouterError: for a group that is not in the trace.
        """
        if group not in self.groups:
            raise RouterError(f"trace: no group {group!r}; it has {', '.join(map(repr, self.groups))}")
        return np.flatnonzero(self.unit_group_U == self.groups.index(group))

    def layer_counts(self, layer: int, *, group: str | None = None) -> Counts:
        """Assignments of one layer, over all groups or of one, [experts of that layer]."""
        rows = self.counts_ULE if group is None else self.counts_ULE[self.units_of(group)]
        counts: Counts = rows[:, layer, : self.experts_L[layer]].sum(0)
        return counts

    def save(self, path: str | Path) -> None:
        """Write the file at once: a stop leaves the old one or the new."""
        from safetensors.numpy import save

        header = {
            "schema": SCHEMA,
            **{n: getattr(self, n) for n in ("model", "layers", "experts_L", "top_k_L", "groups", "types")},
            "metadata": dict(self.metadata),
        }
        arrays = {n: getattr(self, n) for n in (*_ARRAYS, *_OPTIONAL) if getattr(self, n) is not None}
        data = save({n: _compact(a) for n, a in arrays.items()}, metadata={"moe_router": json.dumps(header)})
        path = Path(path)
        temporary = path.with_name(f".{path.name}.tmp")
        try:
            with temporary.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)

    @classmethod
    def load(cls, path: str | Path) -> RoutingTrace:
        """Read a trace.

        Raises:
            RouterError: for a file that is missing, is not a trace, or is of another version.
        """
        from safetensors import SafetensorError, safe_open

        path = Path(path)
        header = read_header(path)
        if header["schema"] not in {SCHEMA, "moe-router/trace@1"}:
            raise RouterError(f"trace {path}: written as {header['schema']}, this version of moe-router reads {SCHEMA}")
        try:
            with safe_open(path, framework="numpy") as file:
                arrays: dict[str, Any] = {name: _wide(file.get_tensor(name)) for name in file.keys()}  # noqa: SIM118 - not a dict
        except SafetensorError as error:
            raise RouterError(f"trace {path}: damaged ({error})") from None
        try:
            if header["schema"] != SCHEMA:
                header, arrays = _from_version_1(header, arrays)
            return cls(**stated_in(header), **arrays)
        except (KeyError, TypeError, AttributeError, IndexError) as error:
            raise RouterError(
                f"trace {path}: damaged (parts of a trace are missing or of another kind: {error})"
            ) from None


def _from_version_1(
    header: dict[str, Any], arrays: dict[str, NDArray[Any]]
) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """The older form as the newer: it knew no sequences, so that every group is one unit of an unknown number of them, 0."""
    layers, groups = len(header["layers"]), len(header["groups"])
    none_GL = np.zeros((groups, layers), dtype=np.int64)
    pairs_LEE = arrays["coactivation_LEE"]
    pairs_FLEE = np.zeros((pair_folds(pairs_LEE.shape[-1]), *pairs_LEE.shape), dtype=np.int64)
    pairs_FLEE[0] = pairs_LEE  # not told apart by sequence: all in one fold, from which no interval comes
    stated = {"experts_L": [header["num_experts"]] * layers, "top_k_L": [header["top_k"]] * layers, "types": []}
    return {**header, **stated}, {
        "counts_ULE": arrays["counts_GLE"],
        "first_ULE": arrays["first_GLE"],
        "mass_GLE": arrays["mass_GLE"],
        "coactivation_FLEE": pairs_FLEE,
        "tokens_U": arrays["tokens_G"],
        "unit_group_U": np.arange(groups),
        "sequences_U": none_GL[:, 0],
        "pairs_U": none_GL[:, 0],
        "idle_UL": none_GL,
        "repeats_UL": none_GL,
    }


def read_header(path: Path) -> dict[str, Any]:
    """What a trace file says of itself.

    Raises:
        RouterError: for a file that is missing or is not a trace.
    """
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise RouterError(f"trace {path}: no such file")
    try:
        with safe_open(path, framework="numpy") as file:
            header = json.loads((file.metadata() or {}).get("moe_router", "null"))
    except (SafetensorError, OSError) as error:
        raise RouterError(f"trace {path}: not a safetensors file ({error})") from None
    except json.JSONDecodeError:
        header = None
    if not isinstance(header, dict) or not isinstance(header.get("schema"), str):
        raise RouterError(f"trace {path}: a safetensors file, but not a routing trace")
    return header


def stated_in(header: Mapping[str, Any]) -> dict[str, Any]:
    """What the header of a trace states of it, as the fields of its class."""
    lists = {n: tuple(header[n]) for n in ("layers", "experts_L", "top_k_L", "groups", "types")}
    return {"model": header["model"], "metadata": header["metadata"], **lists}


def merge(traces: Sequence[RoutingTrace]) -> RoutingTrace:
    """The traces of several processes or files of one model as one; groups of the same name become one.

    Raises:
        RouterError: for traces of different models.
    """
    first = traces[0]
    for other in traces[1:]:
        for name in ("layers", "experts_L", "top_k_L", "types"):
            if getattr(other, name) != getattr(first, name):
                raise RouterError(f"traces with different {name.removesuffix('_L')} cannot be merged")
    groups = tuple(dict.fromkeys(g for t in traces for g in t.groups))
    place = [np.array([groups.index(g) for g in t.groups]) for t in traces]
    mass_GLE = np.zeros((len(groups), *first.mass_GLE.shape[1:]))
    for t, at in zip(traces, place, strict=True):
        np.add.at(mass_GLE, at, t.mass_GLE)

    def joined(name: str) -> Any:
        return np.concatenate([getattr(t, name) for t in traces])

    def added(name: str) -> Any:
        arrays = [getattr(t, name) for t in traces]
        return None if any(a is None for a in arrays) else sum(arrays[1:], arrays[0])

    return replace(
        first,
        groups=groups,
        unit_group_U=np.concatenate([at[t.unit_group_U] for t, at in zip(traces, place, strict=True)]),
        mass_GLE=mass_GLE,
        **{n: joined(n) for n in _ARRAYS if n.endswith(("_U", "_UL", "_ULE")) and n != "unit_group_U"},
        **{n: added(n) for n in _OPTIONAL},
    )


def _compact(array: NDArray[Any]) -> NDArray[Any]:
    """Counts in four bytes where they fit."""
    if array.dtype == np.int64 and (array.size == 0 or array.max() <= np.iinfo(np.int32).max):
        return np.ascontiguousarray(array, dtype=np.int32)
    return np.ascontiguousarray(array)


def _wide(array: NDArray[Any]) -> NDArray[Any]:
    return array.astype(np.int64) if array.dtype.kind == "i" else array
