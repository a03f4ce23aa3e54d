"""Differences in routing, with the sequence as the unit.

Tokens of one sequence are routed alike, so that a test which counts tokens finds differences between any two halves of the same text. Here
whole sequences (units of them) change sides: under the null hypothesis that it does not matter which group a sequence belongs to, every
such exchange is as likely as what was seen, whatever tokens within a sequence do (permutation test; Fisher 1935, Pitman 1937).

Shapes: U units, P permutations, L MoE layers, E experts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import combinations
from math import comb

import numpy as np
from numpy.typing import ArrayLike, NDArray

from moe_router.errors import RouterError
from moe_router.trace import RoutingTrace

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class GroupComparison:
    """Two groups of one trace, expert by expert and layer by layer."""

    groups: tuple[str, str]
    units: tuple[int, int]
    """Exchangeable sets of sequences on each side; the sequences themselves, up to 256."""
    permutations: int
    exact: bool
    """Whether these are all exchanges there are."""
    exchanges: int
    """How many there are; the smallest p-value that these sequences can give is one over this."""
    share_LE: tuple[Floats, Floats]
    """Shares of the assignments of every layer, in each group."""
    difference_LE: Floats
    """First less second, in shares: the effect size."""
    p_LE: Floats
    """Two-sided, for one expert looked at alone."""
    p_adjusted_LE: Floats
    """Adjusted for all experts of all layers by the largest standardised difference (max-T; Westfall and Young 1993)."""
    q_LE: Floats
    """False discovery rate over experts × layers (Benjamini and Hochberg 1995)."""
    jsd_L: Floats
    """Jensen–Shannon divergence between the loads, in bits."""
    jsd_null_L: Floats
    """What it is on average when the groups do not differ; above 0, because samples differ."""
    jsd_p_L: Floats
    jsd_q_L: Floats
    """Over the layers."""

    @property
    def enough(self) -> bool:
        """Whether one expert alone could be found at 5 % false discoveries over experts × layers, with so few sequences."""
        return self.p_LE.size <= 0.05 * self.exchanges

    def verdict(self, *, alpha: float = 0.05) -> str:
        """In words."""
        different = int((self.jsd_q_L <= alpha).sum())
        cells = int((self.p_adjusted_LE <= alpha).sum())
        a, b = self.groups
        if len(self.jsd_p_L) > alpha * self.exchanges:
            return f"not enough: {self.units[0]} and {self.units[1]} sequences cannot show a difference over {len(self.jsd_p_L)} layers"
        few = ""
        if not self.enough:
            few = (
                f"; {self.units[0]} and {self.units[1]} sequences are not enough to find single experts among {self.p_LE.size} by false "
                "discovery rate"
            )
        if different == 0 and cells == 0:
            return f"no difference found between {a} and {b}{few}"
        return f"{a} and {b} are routed differently in {different} of {len(self.jsd_p_L)} layers; {cells} experts differ (max-T){few}"


def compare_groups(
    trace: RoutingTrace, first: str, second: str, *, permutations: int | None = None, seed: int = 0
) -> GroupComparison:
    """How two groups of a trace differ, with their sequences as the unit.

    Args:
        trace: with at least two sequences in each group.
        first: a group.
        second: another; the difference is first less second.
        permutations: exchanges drawn; where there are no more than these in all, each is looked at once. By default 9,999, or 25 for
            each expert of each layer up to 50,000, so that one expert among them can be found by false discovery rate.
        seed: of the draw.

    Raises:
        RouterError: for a group that is not there or has fewer than two sequences.
    """
    a_U, b_U = trace.units_of(first), trace.units_of(second)
    if first == second:
        raise RouterError(f"group {first!r} compared with itself")
    counts_ULE = np.concatenate([trace.counts_ULE[a_U], trace.counts_ULE[b_U]]).astype(np.float64)
    return compare_units(counts_ULE, len(a_U), groups=(first, second), permutations=permutations, seed=seed)


def compare_units(
    counts_ULE: ArrayLike,
    first: int,
    *,
    groups: tuple[str, str] = ("first", "second"),
    permutations: int | None = None,
    seed: int = 0,
) -> GroupComparison:
    """The same for counts at hand: the first so many units against the rest.

    Raises:
        RouterError: for fewer than two units on a side.
    """
    counts = np.asarray(counts_ULE, dtype=np.float64)
    units, layers, experts = counts.shape
    if first < 2 or units - first < 2:
        raise RouterError(
            f"{first} and {units - first} sequences in {groups[0]!r} and {groups[1]!r}: a comparison needs at least two of each"
        )
    draws = permutations if permutations is not None else max(9_999, min(50_000, 25 * layers * experts))
    side_PU, exact = _exchanges(units, first, draws, seed)
    flat = counts.reshape(units, -1)

    def parts() -> Iterator[tuple[Floats, Floats]]:
        """Shares on both sides, [some of P, L, E], in parts of about 50 MiB."""
        rows = max(1, (50 << 20) // (8 * flat.shape[1]))
        for begin in range(0, len(side_PU), rows):
            side = side_PU[begin : begin + rows]
            yield _shares(side @ flat, layers), _shares((1 - side) @ flat, layers)

    share_a, share_b = (shares[0] for shares in next(parts()))  # row 0 is what was seen
    seen_LE = share_a - share_b
    at_least_LE, squares_LE = np.zeros((layers, experts)), np.zeros((layers, experts))
    divergences = []
    for a, b in parts():
        difference = a - b
        at_least_LE += (np.abs(difference) >= np.abs(seen_LE) - 1e-12).sum(0)
        squares_LE += np.square(difference).sum(0)
        divergences.append(_jsd(a, b))
    # Under the null the mean difference is next to zero, so that its root mean square is its spread.
    spread_LE = np.sqrt(squares_LE / len(side_PU))
    spread_LE[spread_LE == 0] = np.inf
    standard_LE = np.abs(seen_LE) / spread_LE
    largest_P = np.concatenate([(np.abs(a - b) / spread_LE).reshape(len(a), -1).max(1) for a, b in parts()])
    p_LE = at_least_LE / len(side_PU)
    below = np.searchsorted(np.sort(largest_P), standard_LE - 1e-12)
    p_adjusted_LE = (len(largest_P) - below) / len(largest_P)
    jsd_PL = np.concatenate(divergences)
    jsd_p_L = (jsd_PL >= jsd_PL[0] - 1e-12).mean(0)
    return GroupComparison(
        groups=groups,
        units=(first, units - first),
        permutations=len(side_PU) if exact else len(side_PU) - 1,
        exact=exact,
        exchanges=comb(units, first),
        share_LE=(share_a, share_b),
        difference_LE=seen_LE,
        p_LE=p_LE,
        p_adjusted_LE=p_adjusted_LE,
        q_LE=false_discovery_rates(p_LE),
        jsd_L=jsd_PL[0],
        jsd_null_L=jsd_PL[1:].mean(0),
        jsd_p_L=jsd_p_L,
        jsd_q_L=false_discovery_rates(jsd_p_L),
    )


def false_discovery_rates(p: ArrayLike) -> Floats:
    """Benjamini and Hochberg's (1995) adjusted p-values, of the same shape."""
    from scipy.stats import false_discovery_control

    values = np.asarray(p, dtype=np.float64)
    return np.asarray(false_discovery_control(values.reshape(-1)), dtype=np.float64).reshape(values.shape)


def bootstrap_interval(
    counts_UE: ArrayLike, metric: Callable[[Floats], float], *, level: float = 0.95, resamples: int = 999, seed: int = 0
) -> tuple[float, float]:
    """An interval for a metric of a layer's load, by drawing sequences with replacement (percentiles; Efron 1979).

    Args:
        counts_UE: the layer's counts in every unit, [U, E].
        metric: of a load [E], such as `gini`.
        level: of confidence.
        resamples: draws.
        seed: of the draws.

    Raises:
        RouterError: for fewer than two units.
    """
    counts = np.asarray(counts_UE, dtype=np.float64)
    if len(counts) < 2:
        raise RouterError(f"{len(counts)} sequences: an interval needs at least two")
    rng = np.random.default_rng(seed)
    draws_RU = rng.multinomial(len(counts), np.full(len(counts), 1 / len(counts)), size=resamples)
    values = [metric(load_E) for load_E in draws_RU @ counts if load_E.sum() > 0]
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def sign_flip_p(differences_UX: ArrayLike, *, permutations: int = 9999, seed: int = 0) -> Floats:
    """Two-sided p-values for means of paired differences, one per column, by changing signs of whole units.

    Args:
        differences_UX: a difference for every unit (row) and quantity (column); NaN where a unit has none.
        permutations: draws of signs; all of them where there are no more.
        seed: of the draw.
    """
    rows = np.asarray(differences_UX, dtype=np.float64)
    rows = np.where(np.isnan(rows), 0.0, rows)
    units = len(rows)
    if 2**units <= permutations:
        signs = 1.0 - 2.0 * ((np.arange(2**units)[:, None] >> np.arange(units)) & 1)
    else:
        signs = np.random.default_rng(seed).choice([-1.0, 1.0], size=(permutations + 1, units))
        signs[0] = 1
    sums = np.abs(signs @ rows)
    result: Floats = (sums >= sums[0] - 1e-12).mean(0)
    return result


def _exchanges(units: int, first: int, permutations: int, seed: int) -> tuple[Floats, bool]:
    """Which units stand on the first side, [P, U]; row 0 as seen. All ways there are, if they are no more than asked for."""
    exact = comb(units, first) <= permutations
    if exact:
        chosen = list(combinations(range(units), first))  # the first of them is 0 ... first - 1
        side = np.zeros((len(chosen), units))
        np.put_along_axis(side, np.array(chosen), 1, axis=1)
        return side, True
    rng = np.random.default_rng(seed)
    side = np.zeros((permutations + 1, units))
    side[0, :first] = 1
    for row in side[1:]:
        row[rng.permutation(units)[:first]] = 1
    return side, False


def _shares(sums_PX: Floats, layers: int) -> Floats:
    """Shares of each layer's assignments, [P, L, E]."""
    sums = sums_PX.reshape(len(sums_PX), layers, -1)
    totals = sums.sum(-1, keepdims=True)
    shares: Floats = np.divide(sums, totals, out=np.zeros_like(sums), where=totals > 0)
    return shares


def _jsd(p_PLE: Floats, q_PLE: Floats) -> Floats:
    """Jensen–Shannon divergence in bits, [P, L]."""

    def entropy(shares: Floats) -> Floats:
        logs = np.log2(shares, out=np.zeros_like(shares), where=shares > 0)
        total: Floats = -(shares * logs).sum(-1)
        return total

    return entropy((p_PLE + q_PLE) / 2) - (entropy(p_PLE) + entropy(q_PLE)) / 2
