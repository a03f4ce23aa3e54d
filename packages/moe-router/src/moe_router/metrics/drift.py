"""How far two loads of the same layer lie apart."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from moe_router.errors import RouterError
from moe_router.metrics.load import load_fractions


def js_divergence(p_E: ArrayLike, q_E: ArrayLike) -> float:
    """Jensen–Shannon divergence in bits, ½ KL(p‖m) + ½ KL(q‖m) with m = (p + q) / 2 (Lin 1991): 0 when equal, 1 when disjoint.

    Args:
        p_E: load of one layer, counts or shares, [E].
        q_E: the other load, [E].

    Raises:
        RouterError: for loads of different length.
    """
    p, q = _pair(p_E, q_E)
    m = (p + q) / 2
    return float(max(0.0, _relative_entropy(p, m) / 2 + _relative_entropy(q, m) / 2))


def domain_divergence(loads_GE: ArrayLike) -> float:
    """Generalised Jensen–Shannon divergence of several loads in bits, H(mean of p) − mean of H(p) (Lin 1991, equal weights).

    Args:
        loads_GE: the load of one layer in every group, counts or shares, [groups, experts].

    Returns:
        0 when all groups use the experts alike, at most log2 of the number of groups.

    Raises:
        RouterError: for fewer than two groups.
    """
    shares = np.array([load_fractions(load_E) for load_E in np.asarray(loads_GE)])
    if len(shares) < 2:
        raise RouterError(f"{len(shares)} groups: a divergence needs at least two")
    return max(0.0, float(_entropy(shares.mean(0)) - np.mean([_entropy(p) for p in shares])))


def _entropy(p: NDArray[np.float64]) -> float:
    used = p[p > 0]
    return float(-(used * np.log2(used)).sum())


def total_variation(p_E: ArrayLike, q_E: ArrayLike) -> float:
    """½ Σ |p − q|: the share of assignments that would have to move for the loads to agree."""
    p, q = _pair(p_E, q_E)
    return float(np.abs(p - q).sum() / 2)


def router_saturation(before_TK: ArrayLike, after_TK: ArrayLike) -> float:
    """Mean share of a token's experts that two checkpoints have in common, |A ∩ B| / k.

    Muennighoff et al. 2024 (OLMoE, arXiv 2409.02060, section 5.1).

    Args:
        before_TK: experts of every token in one checkpoint, [tokens, K], in any order.
        after_TK: those of the same tokens in another.

    Raises:
        RouterError: for choices of different shape.
    """
    before, after = _tokens(before_TK, after_TK)
    return float((before[:, :, None] == after[:, None, :]).any(2).mean())


def flipped_tokens(before_TK: ArrayLike, after_TK: ArrayLike) -> float:
    """Share of tokens whose set of experts is not the same in two checkpoints.

    Raises:
        RouterError: for choices of different shape.
    """
    before, after = _tokens(before_TK, after_TK)
    return float((np.sort(before, -1) != np.sort(after, -1)).any(-1).mean())


def _tokens(before_TK: ArrayLike, after_TK: ArrayLike) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    before, after = np.asarray(before_TK, dtype=np.int64), np.asarray(after_TK, dtype=np.int64)
    if before.shape != after.shape or before.ndim != 2 or not before.size:
        raise RouterError(
            f"choices of shapes {before.shape} and {after.shape}: expected the same [tokens, K] of both, not empty"
        )
    return before, after


def _pair(p_E: ArrayLike, q_E: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    p, q = load_fractions(p_E), load_fractions(q_E)
    if p.shape != q.shape:
        raise RouterError(f"loads of {p.size} and {q.size} experts cannot be compared")
    return p, q


def _relative_entropy(p: NDArray[np.float64], m: NDArray[np.float64]) -> float:
    used = p > 0
    return float((p[used] * np.log2(p[used] / m[used])).sum())
