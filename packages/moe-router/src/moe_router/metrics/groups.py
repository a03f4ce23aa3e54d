"""How far each expert of each layer belongs to groups, against what groups of the same sizes give by chance.

Whole sequences change groups at random; under the null hypothesis that it does not matter which group a sequence is of, every such
exchange is as likely as what was seen.

Shapes: U units, G groups, P permutations, L MoE layers, E experts.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from moe_router.errors import RouterError
from moe_router.metrics.significance import false_discovery_rates
from moe_router.trace import RoutingTrace

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Specialization:
    """Every expert's specialisation by group, and every layer's."""

    groups: tuple[str, ...]
    score_LE: Floats
    """1 − H(group | expert) / log G, each group weighed alike: 0 serves all alike, 1 one alone; NaN where unused."""
    chance_LE: Floats
    """What exchanging sequences between the groups gives on average: experts with few tokens look specialised by chance."""
    p_adjusted_LE: Floats
    """Of the score, adjusted for all experts of all layers (max-T; Westfall and Young 1993); NaN where unused."""
    bits_L: Floats
    """How many bits the group tells of the expert (generalised Jensen–Shannon divergence of the groups' loads; Lin 1991)."""
    chance_bits_L: Floats
    q_L: Floats
    """False discovery rate over layers."""


def specialization(trace: RoutingTrace, *, permutations: int = 999, seed: int = 0) -> Specialization:
    """Specialisation of experts and layers by the groups of a trace, with the sequence as the unit.

    Args:
        trace: with two groups or more.
        permutations: exchanges of sequences between the groups.
        seed: of the draw.

    Raises:
        RouterError: for fewer than two groups with two sequences each.
    """
    groups = [g for g in range(len(trace.groups)) if (trace.unit_group_U == g).sum() >= 2 and trace.tokens_G[g] > 0]
    if len(groups) < 2:
        raise RouterError("specialisation needs at least two groups of two sequences or more")
    kept_U = np.isin(trace.unit_group_U, groups)
    counts = trace.counts_ULE[kept_U].astype(np.float64)
    units, layers, experts = counts.shape
    flat_UX = counts.reshape(units, -1)
    member_GU = np.array([trace.unit_group_U[kept_U] == g for g in groups], dtype=np.float64)

    def measured(member: Floats) -> tuple[Floats, Floats]:
        sums_GLE = (member @ flat_UX).reshape(len(groups), layers, experts)
        totals = sums_GLE.sum(-1, keepdims=True)
        shares = np.divide(sums_GLE, totals, out=np.zeros_like(sums_GLE), where=totals > 0)
        mean_LE = shares.mean(0)
        bits_L = _entropy(mean_LE, axis=-1) - _entropy(shares, axis=-1).mean(0)
        with np.errstate(invalid="ignore", divide="ignore"):
            of_group = shares / shares.sum(0)
        score_LE = 1 - _entropy(of_group, axis=0) / np.log2(len(groups))
        return np.where(mean_LE > 0, score_LE, np.nan), bits_L

    score_LE, bits_L = measured(member_GU)
    rng = np.random.default_rng(seed)
    drawn = [measured(member_GU[:, rng.permutation(units)]) for _ in range(permutations)]
    scores_PLE, bits_PL = np.array([s for s, _ in drawn]), np.array([b for _, b in drawn])
    chance_LE, spread_LE = scores_PLE.mean(0), scores_PLE.std(0)
    spread_LE[~(spread_LE > 0)] = np.inf
    with np.errstate(invalid="ignore"):
        standard_LE = np.nan_to_num((score_LE - chance_LE) / spread_LE)
        largest_P = np.nan_to_num((scores_PLE - chance_LE) / spread_LE).reshape(permutations, -1).max(1)
    p_adjusted_LE = ((largest_P[:, None, None] >= standard_LE - 1e-12).sum(0) + 1) / (permutations + 1)
    p_L = ((bits_PL >= bits_L - 1e-12).sum(0) + 1) / (permutations + 1)
    return Specialization(
        groups=tuple(trace.groups[g] for g in groups),
        score_LE=score_LE,
        chance_LE=chance_LE,
        p_adjusted_LE=np.where(np.isnan(score_LE), np.nan, p_adjusted_LE),
        bits_L=bits_L,
        chance_bits_L=bits_PL.mean(0),
        q_L=false_discovery_rates(p_L),
    )


def _entropy(p: Floats, *, axis: int) -> Floats:
    """In bits; entries that are NaN or 0 add nothing."""
    logs = np.log2(p, out=np.zeros_like(p), where=p > 0)
    total: Floats = -(np.nan_to_num(p) * logs).sum(axis)
    return total
