"""How evenly the experts of one layer are used.

Every function takes the load of one layer, [E]: counts or shares, not negative, not all zero.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from moe_router.errors import RouterError


def load_fractions(load_E: ArrayLike) -> NDArray[np.float64]:
    """The load as shares that sum to 1, [E].

    Raises:
        RouterError: for a load that is empty, negative or all zero.
    """
    load = np.asarray(load_E, dtype=np.float64)
    if load.ndim != 1 or load.size == 0 or (load < 0).any() or load.sum() <= 0:
        raise RouterError("load: expected one layer's counts or shares, none negative and not all zero")
    shares: NDArray[np.float64] = load / load.sum()
    return shares


def normalised_entropy(load_E: ArrayLike) -> float:
    """H(f) / log E with H(f) = −Σ f log f (Shannon 1948): 1 when the load is even, 0 when one expert has it all."""
    f = load_fractions(load_E)
    if f.size == 1:
        return 1.0
    used = f[f > 0]
    return float(max(0.0, -(used * np.log(used)).sum() / np.log(f.size)))


def gini(load_E: ArrayLike) -> float:
    """Gini coefficient Σ_i Σ_j |f_i − f_j| / (2 E): 0 when even, (E − 1) / E when one expert has it all."""
    f = np.sort(load_fractions(load_E))
    n = f.size
    return float((2 * np.arange(1, n + 1) - n - 1) @ f / n)


def coefficient_of_variation(load_E: ArrayLike) -> float:
    """Standard deviation of the load over its mean (population form): 0 when even, √(E − 1) when one expert has it all."""
    f = load_fractions(load_E)
    return float(f.std() / f.mean())


def max_violation(load_E: ArrayLike) -> float:
    """MaxVio: the busiest expert's load over the mean load, less 1 (Wang et al. 2024, arXiv 2408.15664, section 4.1)."""
    f = load_fractions(load_E)
    return float(f.max() * f.size - 1)


def dead_experts(load_E: ArrayLike) -> list[int]:
    """Experts that received nothing."""
    return [int(e) for e in np.flatnonzero(load_fractions(load_E) == 0)]


def dominant_experts(load_E: ArrayLike, *, factor: float = 2.0) -> list[int]:
    """Experts whose load is at least `factor` times the mean."""
    f = load_fractions(load_E)
    return [int(e) for e in np.flatnonzero(f * f.size >= factor)]
