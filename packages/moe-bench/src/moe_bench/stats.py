"""The statistics of paired comparisons. Every function names its method and source."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from moe_bench.errors import BenchError


class Interval(NamedTuple):
    """A confidence interval."""

    low: float
    high: float


class Discordance(NamedTuple):
    """A 2 × 2 table of paired right and wrong answers."""

    both: int
    only_a: int
    only_b: int
    neither: int

    @property
    def n(self) -> int:
        """Pairs in all."""
        return self.both + self.only_a + self.only_b + self.neither


def _z(alpha: float) -> float:
    from scipy.stats import norm

    return float(norm.ppf(1 - alpha / 2))


def discordance(correct_a: ArrayLike, correct_b: ArrayLike) -> Discordance:
    """The table of two runs' right (1) and wrong (0) answers to the same items, in the same order."""
    a, b = np.asarray(correct_a, dtype=bool), np.asarray(correct_b, dtype=bool)
    if a.shape != b.shape or a.ndim != 1 or a.size == 0:
        raise BenchError(f"paired answers of shapes {a.shape} and {b.shape}: two equally long lists are needed")
    return Discordance(int((a & b).sum()), int((a & ~b).sum()), int((~a & b).sum()), int((~a & ~b).sum()))


def wilson_interval(successes: float, n: float, *, alpha: float = 0.05) -> Interval:
    """Wilson's score interval for a proportion (1927); effective numbers need not be whole."""
    if not 0 <= successes <= n or n == 0:
        raise BenchError(f"{successes} right of {n}: not a proportion")
    z, p = _z(alpha), successes / n
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return Interval(max(0.0, centre - half) if successes else 0.0, min(1.0, centre + half) if successes < n else 1.0)


def mcnemar_exact(table: Discordance) -> float:
    """Two-sided exact p-value of McNemar's test: a binomial test of the discordant pairs against one half (McNemar 1947)."""
    from scipy.stats import binomtest

    discordant = table.only_a + table.only_b
    return 1.0 if discordant == 0 else float(binomtest(table.only_b, discordant, 0.5).pvalue)


def paired_difference_interval(table: Discordance, *, alpha: float = 0.05) -> Interval:
    """Interval of accuracy B − accuracy A for paired proportions: method 10 of Newcombe (Statistics in Medicine 17, 1998).

    It combines the Wilson intervals of both proportions with the correlation of the pairs, and holds its coverage where
    the simple normal interval fails: few discordant pairs, accuracies near 0 or 1.
    """
    n = table.n
    e, f, g, h = table.both, table.only_b, table.only_a, table.neither  # B is the first of Newcombe's pair
    p_b, p_a = (e + f) / n, (e + g) / n
    low_b, high_b = wilson_interval(e + f, n, alpha=alpha)
    low_a, high_a = wilson_interval(e + g, n, alpha=alpha)
    margins = (e + f) * (g + h) * (e + g) * (f + h)
    if margins == 0:
        phi = 0.0
    else:
        cross = e * h - f * g
        # Newcombe's continuity correction, for positive association only.
        adjusted = max(cross - n / 2, 0) if cross > 0 else cross
        phi = adjusted / math.sqrt(margins)

    def reach(above: float, below: float) -> float:
        return math.sqrt(max(0.0, above * above - 2 * phi * above * below + below * below))

    difference = p_b - p_a
    return Interval(difference - reach(p_b - low_b, high_a - p_a), difference + reach(high_b - p_b, p_a - low_a))


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjusted p-values (1979), in the given order: each may be compared with the family's alpha."""
    count, running = len(p_values), 0.0
    adjusted = [0.0] * count
    for rank, i in enumerate(sorted(range(count), key=lambda i: p_values[i])):
        running = max(running, min(1.0, (count - rank) * p_values[i]))
        adjusted[i] = running
    return adjusted


def equivalence_p_value(table: Discordance, *, margin: float) -> float:
    """TOST p-value that accuracy B − accuracy A lies within ±margin: the larger of two one-sided score tests.

    The variance is the one that the data have if the difference is the margin (Tango, Statistics in Medicine 17, 1998). With that of the
    data alone, few or no discordant pairs would pass for certainty: 40 pairs without any are no evidence against 5 points, of which
    they come in 13 % of all cases.
    """
    from scipy.stats import norm

    if not 0 < margin < 1:
        raise BenchError(f"margin {margin}: must be above 0 and below 1")
    sides = (_score(table.only_b, table.only_a, table.n, margin), _score(table.only_a, table.only_b, table.n, margin))
    return float(max(norm.cdf(z) for z in sides))


def _score(ahead: ArrayLike, behind: ArrayLike, n: int, margin: float) -> NDArray[np.float64]:
    """Tango's z of (ahead − behind)/n against the margin, with the estimate of the behind share that the margin allows."""
    more, less = np.asarray(ahead, dtype=float), np.asarray(behind, dtype=float)
    linear = -more - less + (2 * n - more + less) * margin
    root = np.sqrt(linear * linear + 8 * n * less * margin * (1 - margin))
    share = (root - linear) / (4 * n)
    return np.asarray((more - less - n * margin) / np.sqrt(n * (2 * share + margin * (1 - margin))))


def equivalence_power(n: int, *, discordant: float, margin: float, alpha: float = 0.05) -> float:
    """How probable it is that n pairs show equivalence within ±margin where there is no difference: summed over all tables that count."""
    from scipy.stats import binom, norm

    if n < 1 or not 0 <= discordant <= 1 or not 0 < margin < 1:
        raise BenchError(
            f"{n} pairs, a share of {discordant} discordant, margin {margin}: nothing can be planned from this"
        )
    limit, total = float(norm.ppf(alpha)), 0.0
    spread = 8 * math.sqrt(n * discordant * (1 - discordant)) + 8
    for differ in range(max(0, int(n * discordant - spread)), min(n, int(n * discordant + spread)) + 1):
        ahead = np.arange(differ + 1)
        shown = (_score(ahead, differ - ahead, n, margin) <= limit) & (
            _score(differ - ahead, ahead, n, margin) <= limit
        )
        if shown.any():
            total += float(binom.pmf(differ, n, discordant) * binom.pmf(ahead[shown], differ, 0.5).sum())
    return min(1.0, total)


def minimum_detectable_difference(
    n: int, *, discordant: float, alpha: float = 0.05, power: float = 0.8
) -> float | None:
    """The smallest accuracy difference that n pairs would find significant with the given power; None where there is none.

    Solves the normal approximation of McNemar's test, z_α √ψ + z_β √(ψ − δ²) = δ √n with ψ the share of discordant pairs
    (Connor, Biometrics 43, 1987), for δ. No difference can be larger than ψ: where even that one would be missed, there is none.
    """
    from scipy.optimize import brentq
    from scipy.stats import norm

    if n < 1 or not 0 < discordant <= 1:
        raise BenchError(f"{n} pairs of which a share of {discordant} is discordant: nothing can be planned from this")
    z_alpha, z_beta = float(norm.ppf(1 - alpha / 2)), float(norm.ppf(power))

    def excess(delta: float) -> float:
        return (
            delta * math.sqrt(n) - z_alpha * math.sqrt(discordant) - z_beta * math.sqrt(max(0.0, discordant - delta**2))
        )

    return float(brentq(excess, 0.0, discordant)) if excess(discordant) > 0 else None
