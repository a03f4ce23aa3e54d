"""What a trace says, computed once for tables, pictures and words.

Shapes: G groups, C token types, L MoE layers, E experts.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from moe_router.errors import RouterError
from moe_router.metrics.collaboration import (
    Edge,
    Information,
    Repetition,
    collaboration_graph,
    repetition,
    transition_information,
)
from moe_router.metrics.groups import Specialization, specialization
from moe_router.metrics.load import (
    coefficient_of_variation,
    dead_experts,
    dominant_experts,
    gini,
    load_fractions,
    max_violation,
    normalised_entropy,
)
from moe_router.metrics.significance import GroupComparison, bootstrap_interval, compare_units, false_discovery_rates
from moe_router.metrics.specialization import Affinity, type_affinity
from moe_router.operations.steps import OUTSIDE
from moe_router.trace import RoutingTrace

MAX_GROUPS = 12
"""Groups compared with the rest; the largest of more."""


@dataclass(frozen=True, kw_only=True)
class LayerFacts:
    """How the experts of one layer were used."""

    name: str
    share_E: NDArray[np.float64]
    mass_E: NDArray[np.float64]
    """Shares of the routing weight."""
    entropy: float
    entropy_interval: tuple[float, float] | None
    """95 %, by sequences; None where they are too few."""
    gini: float
    gini_interval: tuple[float, float] | None
    variation: float
    """Coefficient of variation."""
    max_violation: float
    max_violation_interval: tuple[float, float] | None
    dead: list[int]
    dominant: list[int]
    repeated: Repetition | None
    idle: float
    """Share of the slots in which no expert worked."""


@dataclass(frozen=True, kw_only=True)
class Analysis:
    """Everything the report shows."""

    trace: RoutingTrace
    layers: tuple[LayerFacts, ...]
    comparisons: tuple[GroupComparison, ...]
    """Each group against all others; empty with one group."""
    not_compared: tuple[str, ...]
    """Why groups are not among them."""
    specialization: Specialization | None
    """Of every expert by group, against chance; None with one group or too few sequences."""
    affinity: tuple[Affinity, ...]
    """Of token types, for every layer; empty where none were told apart or sequences are too few."""
    affinity_q_LCE: NDArray[np.float64] | None
    """False discovery rate over layers × types × experts."""
    no_affinity: str
    """Why there is none."""
    information_L: tuple[Information, ...]
    """What a layer's first choice tells of the next layer's."""
    edges: tuple[Edge, ...]
    """Pairs of experts that share tokens more often than chance, at 5 % false discoveries where sequences are enough to tell."""


def analyse(trace: RoutingTrace, *, permutations: int | None = None) -> Analysis:
    """Compute what the report shows.

    Args:
        trace: of any text.
        permutations: of the group tests; see `compare_units`.
    """
    comparisons, not_compared = _comparisons(trace, permutations)
    affinity, q_LCE, no_affinity = _affinity(trace)
    try:
        special = specialization(trace, permutations=min(999, permutations or 999)) if len(trace.groups) > 1 else None
    except RouterError:
        special = None  # the comparisons say which groups have too few sequences
    transitions = () if trace.transitions_FLEE is None else trace.transitions_FLEE.swapaxes(0, 1)
    return Analysis(
        trace=trace,
        layers=tuple(_layer(trace, n) for n in range(len(trace.layers))),
        comparisons=comparisons,
        not_compared=not_compared,
        specialization=special,
        affinity=affinity,
        affinity_q_LCE=q_LCE,
        no_affinity=no_affinity,
        information_L=tuple(transition_information(counts_FEE) for counts_FEE in transitions),
        edges=tuple(collaboration_graph(trace)) if trace.coactivation_FLEE is not None else (),
    )


def _layer(trace: RoutingTrace, layer: int) -> LayerFacts:
    counts_E = trace.layer_counts(layer)
    units_UE = trace.counts_ULE[:, layer, : trace.experts_L[layer]]
    enough = len(units_UE) >= 5
    slots = int(trace.tokens_U.sum()) * trace.top_k_L[layer]
    return LayerFacts(
        name=trace.layers[layer],
        share_E=load_fractions(counts_E),
        mass_E=load_fractions(trace.mass_GLE[:, layer, : trace.experts_L[layer]].sum(0)),
        entropy=normalised_entropy(counts_E),
        entropy_interval=bootstrap_interval(units_UE, normalised_entropy) if enough else None,
        gini=gini(counts_E),
        gini_interval=bootstrap_interval(units_UE, gini) if enough else None,
        variation=coefficient_of_variation(counts_E),
        max_violation=max_violation(counts_E),
        max_violation_interval=bootstrap_interval(units_UE, max_violation) if enough else None,
        dead=dead_experts(counts_E),
        dominant=dominant_experts(counts_E),
        repeated=repetition(trace, layer) if trace.pairs_U.sum() else None,
        idle=float(trace.idle_UL[:, layer].sum() / slots),
    )


def _comparisons(trace: RoutingTrace, permutations: int | None) -> tuple[tuple[GroupComparison, ...], tuple[str, ...]]:
    if len(trace.groups) < 2:
        return (), ()
    order = np.argsort(-trace.tokens_G, kind="stable")
    found, refused = [], []
    if len(order) > MAX_GROUPS:
        refused.append(f"of {len(order)} groups the {MAX_GROUPS} with most tokens are compared")
    for g in sorted(order[:MAX_GROUPS]):
        own = trace.unit_group_U == g
        counts = np.concatenate([trace.counts_ULE[own], trace.counts_ULE[~own]])
        try:
            found.append(
                compare_units(counts, int(own.sum()), groups=(trace.groups[g], "the rest"), permutations=permutations)
            )
        except RouterError as error:
            refused.append(str(error))
    return tuple(found), tuple(refused)


def told_apart(trace: RoutingTrace) -> NDArray[np.int64] | None:
    """(folds, types, layers, experts): assignments by token type, without those outside of any step: operations are compared
    with one another, not with the prompt.
    """
    if trace.types_FCLE is None or OUTSIDE not in trace.types:
        return trace.types_FCLE
    types_FCLE = trace.types_FCLE.copy()
    types_FCLE[:, trace.types.index(OUTSIDE)] = 0
    return types_FCLE


def _affinity(trace: RoutingTrace) -> tuple[tuple[Affinity, ...], NDArray[np.float64] | None, str]:
    types_FCLE = told_apart(trace)
    if types_FCLE is None:
        return (), None, "token types were not recorded (moe-router trace --types)"
    try:
        found = tuple(type_affinity(types_FCLE[:, :, layer, :experts]) for layer, experts in enumerate(trace.experts_L))
    except RouterError as error:
        return (), None, str(error)
    p_LCE = np.ones((len(found), len(trace.types), trace.num_experts))
    for layer, affinity in enumerate(found):
        p_LCE[layer, :, : affinity.p_CE.shape[1]] = affinity.p_CE
    return found, false_discovery_rates(p_LCE), ""
