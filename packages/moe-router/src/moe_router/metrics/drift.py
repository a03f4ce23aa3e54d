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


def _pair(p_E: ArrayLike, q_E: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    p, q = load_fractions(p_E), load_fractions(q_E)
    if p.shape != q.shape:
        raise RouterError(f"loads of {p.size} and {q.size} experts cannot be compared")
    return p, q


def _relative_entropy(p: NDArray[np.float64], m: NDArray[np.float64]) -> float:
    used = p > 0
    return float((p[used] * np.log2(p[used] / m[used])).sum())
