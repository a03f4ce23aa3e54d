"""From a full trace to the sums of one, in parts, so that it may be larger than memory.

Shapes: T tokens of a part, L MoE layers, E experts of the largest layer, K experts per token, U units.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from moe_router.errors import RouterError
from moe_router.streaming import MAX_PAIRED_EXPERTS, units_for
from moe_router.token_trace import TokenTrace
from moe_router.trace import TYPE_FOLDS, RoutingTrace, fold_of, pair_folds


def summarise_tokens(trace: TokenTrace, *, threads: int = 2) -> RoutingTrace:
    """The sums that `RoutingRecorder` keeps, of a full trace.

    Where no weights were kept, each expert's mass is its number of assignments over top-k, and a token's first choice the expert the
    router named first.

    Args:
        trace: of any size; about 100 MiB of it are in memory at a time.
        threads: layers looked at together.
    """
    units = _units(trace)
    experts = max(trace.experts_L)
    with ThreadPoolExecutor(threads) as pool:
        layers = list(pool.map(lambda n: _layer(trace, n, units, experts), range(len(trace.layers))))
    paired = experts <= MAX_PAIRED_EXPERTS
    transitions = None
    if paired:
        with ThreadPoolExecutor(threads) as pool:
            steps = list(pool.map(lambda n: _step(trace, n, units, experts), range(len(trace.layers) - 1)))
        none = np.zeros((pair_folds(experts), 0, experts, experts), dtype=np.int64)
        transitions = np.stack(steps, axis=1) if steps else none

    def stacked(name: str) -> Any:
        return np.stack([getattr(layer, name) for layer in layers], axis=1)

    return RoutingTrace(
        model=trace.model,
        layers=trace.layers,
        experts_L=trace.experts_L,
        top_k_L=trace.top_k_L,
        groups=trace.groups,
        types=trace.types if trace.type_T is not None else (),
        unit_group_U=units.group_U,
        sequences_U=np.bincount(units.unit_N, minlength=len(units.group_U)),
        tokens_U=units.sum(trace.lengths_N),
        counts_ULE=stacked("counts_UE"),
        first_ULE=stacked("first_UE"),
        idle_UL=stacked("idle_U"),
        pairs_U=units.sum(np.maximum(trace.lengths_N - 1, 0)),
        repeats_UL=stacked("repeats_U"),
        mass_GLE=stacked("mass_GE"),
        types_FCLE=np.stack([layer.types_FCE for layer in layers], axis=2) if trace.type_T is not None else None,
        coactivation_FLEE=stacked("coactivation_FEE") if paired else None,
        transitions_FLEE=transitions,
        metadata=trace.metadata,
    )


class _Units(NamedTuple):
    unit_N: NDArray[np.int64]
    """The unit of every sequence."""
    group_U: NDArray[np.int64]

    def fold_U(self) -> NDArray[np.int64]:
        """The fold of every unit."""
        first_U = np.searchsorted(self.group_U, self.group_U)
        folds: NDArray[np.int64] = fold_of(np.arange(len(self.group_U)) - first_U, self.group_U)
        return folds

    def pair_fold_U(self, folds: int) -> NDArray[np.int64]:
        """The part of every unit in which pairs of experts are counted."""
        return (np.arange(len(self.group_U)) - np.searchsorted(self.group_U, self.group_U)) % folds

    def sum(self, values_N: NDArray[np.int64]) -> NDArray[np.int64]:
        return np.bincount(self.unit_N, weights=values_N, minlength=len(self.group_U)).astype(np.int64)


def _units(trace: TokenTrace) -> _Units:
    """Sequences of a group in turn, up to the limit, as the recorder places them."""
    limit = min(map(units_for, trace.experts_L))
    unit_N = np.zeros(len(trace.group_N), dtype=np.int64)
    group_U: list[int] = []
    for group in range(len(trace.groups)):
        of_group = np.flatnonzero(trace.group_N == group)
        unit_N[of_group] = len(group_U) + np.arange(len(of_group)) % limit
        group_U += [group] * min(limit, len(of_group))
    return _Units(unit_N, np.array(group_U))


class _Layer(NamedTuple):
    counts_UE: NDArray[np.int64]
    first_UE: NDArray[np.int64]
    idle_U: NDArray[np.int64]
    repeats_U: NDArray[np.int64]
    mass_GE: NDArray[np.float64]
    types_FCE: NDArray[np.int64]
    coactivation_FEE: NDArray[np.int64]


def _layer(trace: TokenTrace, layer: int, units: _Units, experts: int) -> _Layer:
    """One layer's sums. Counting is torch's, which lets other threads run."""
    top_k, groups, types = trace.top_k_L[layer], len(trace.groups), max(1, len(trace.types))
    count, bins, folds = len(units.group_U), experts + 1, pair_folds(experts)
    fold_U = torch.from_numpy(units.pair_fold_U(folds))
    totals = {
        "counts": torch.zeros(count * bins, dtype=torch.int64),
        "first": torch.zeros(count * bins, dtype=torch.int64),
        "pairs": torch.zeros((folds if experts <= MAX_PAIRED_EXPERTS else 0) * bins * bins, dtype=torch.int64),
        "types": torch.zeros(TYPE_FOLDS * types * bins, dtype=torch.int64),
    }
    repeats_U = torch.zeros(count, dtype=torch.int64)
    mass = torch.zeros(groups * bins, dtype=torch.float64)
    last: tuple[int, int] = (-1, -1)
    for part in trace.chunks():
        sequence_T = trace.sequence_of(part)
        unit_T = torch.from_numpy(units.unit_N[sequence_T])
        ranked = trace.ranked(part, layer)[:, :top_k].astype(np.int64)
        if ((ranked >= trace.experts_L[layer]) & (ranked != trace.idle)).any():
            raise RouterError(f"token trace: {trace.layers[layer]} holds experts beyond its {trace.experts_L[layer]}")
        chosen_TK = torch.from_numpy(np.minimum(ranked, experts))  # idle slots into the bin behind the experts
        first_T = chosen_TK[:, 0]
        base_T = unit_T * bins
        for k in range(top_k):
            _count(totals["counts"], base_T + chosen_TK[:, k])
        _count(totals["first"], base_T + first_T)
        if experts <= MAX_PAIRED_EXPERTS:
            pairs_T = fold_U[unit_T] * bins * bins
            for i in range(top_k):
                for j in range(i + 1, top_k):
                    _count(totals["pairs"], pairs_T + chosen_TK[:, i] * bins + chosen_TK[:, j])
        if trace.type_T is not None:
            type_T = torch.from_numpy(np.asarray(trace.type_T[part], dtype=np.int64))
            fold_T = torch.from_numpy(units.fold_U()[units.unit_N[sequence_T]])
            for k in range(top_k):
                _count(totals["types"], (fold_T * types + type_T) * bins + chosen_TK[:, k])
        if trace.weights_TLK is not None:
            group_T = torch.from_numpy(trace.group_N[sequence_T].astype(np.int64))
            weights_TK = -np.sort(-np.asarray(trace.weights_TLK[part, layer], dtype=np.float64), axis=-1)[:, :top_k]
            keys = (group_T[:, None] * bins + chosen_TK).reshape(-1)
            mass += torch.bincount(keys, weights=torch.from_numpy(weights_TK).reshape(-1), minlength=groups * bins)
        numbers = torch.from_numpy(sequence_T)
        together_T = numbers[1:] == numbers[:-1]
        repeats_U += torch.bincount(unit_T[1:][together_T & (first_T[1:] == first_T[:-1])], minlength=count)
        if last[0] == int(numbers[0]) and last[1] == int(first_T[0]):  # across the cut between two parts
            repeats_U[unit_T[0]] += 1
        last = int(numbers[-1]), int(first_T[-1])
    counts_UB = totals["counts"].view(count, bins).numpy()
    if trace.weights_TLK is None:
        counts_GB = np.zeros((groups, bins))
        np.add.at(counts_GB, units.group_U, counts_UB)
        mass = torch.from_numpy(counts_GB / top_k).reshape(-1)
    pairs = totals["pairs"].view(-1, bins, bins).numpy()[:, :-1, :-1]
    return _Layer(
        counts_UE=counts_UB[:, :-1],
        first_UE=totals["first"].view(count, bins).numpy()[:, :-1],
        idle_U=counts_UB[:, -1],
        repeats_U=repeats_U.numpy(),
        mass_GE=mass.view(groups, bins).numpy()[:, :-1],
        types_FCE=totals["types"].view(TYPE_FOLDS, types, bins).numpy()[..., :-1],
        coactivation_FEE=pairs + pairs.swapaxes(1, 2),
    )


def _step(trace: TokenTrace, layer: int, units: _Units, experts: int) -> NDArray[np.int64]:
    """First choices of a layer against those of the next, [F, E, E]."""
    bins, folds = experts + 1, pair_folds(experts)
    total = torch.zeros(folds * bins * bins, dtype=torch.int64)
    fold_N = torch.from_numpy(units.pair_fold_U(folds)[units.unit_N])
    for part in trace.chunks():
        fold_T = fold_N[torch.from_numpy(trace.sequence_of(part))]
        before, after = (
            torch.from_numpy(np.minimum(trace.ranked(part, n)[:, 0].astype(np.int64), experts))
            for n in (layer, layer + 1)
        )
        _count(total, (fold_T * bins + before) * bins + after)
    return total.view(folds, bins, bins).numpy()[:, :-1, :-1]


def _count(total: torch.Tensor, keys: torch.Tensor) -> None:
    total += torch.bincount(keys, minlength=len(total))
