"""Which experts work together: on one token, from layer to layer, and on tokens that follow one another.

Shapes: T tokens, E experts, K experts per token, F folds of whole sequences, U units of them.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from moe_router.errors import RouterError
from moe_router.metrics.jackknife import jackknife
from moe_router.metrics.significance import false_discovery_rates
from moe_router.metrics.specialization import mutual_information
from moe_router.trace import RoutingTrace

Floats = NDArray[np.float64]


def coactivation(pairs_EE: ArrayLike, counts_E: ArrayLike) -> Floats:
    """Share of an expert's tokens that also go to another, N(i, j) / N(i), [E, E]; rows sum to k − 1, zero where unused.

    All pairs of a token count, as in Muennighoff et al. 2024 (arXiv 2409.02060, section 5.2).

    Args:
        pairs_EE: tokens that went to both; symmetric.
        counts_E: tokens that went to each.
    """
    pairs, counts = np.asarray(pairs_EE, dtype=np.float64), np.asarray(counts_E, dtype=np.float64)
    result: Floats = np.divide(pairs, counts[:, None], out=np.zeros_like(pairs), where=counts[:, None] > 0)
    return result


def coactivation_lift(pairs_EE: ArrayLike) -> Floats:
    """How many times more often two experts share a token than their numbers of pairs alone make likely, [E, E]; NaN on the diagonal.

    The expectation draws pairs with these totals and no expert twice: pairs of i times pairs of j over all pairs, brought to the same
    sum off the diagonal.

    Raises:
        RouterError: when no two experts ever shared a token, as with top-1.
    """
    pairs = np.asarray(pairs_EE, dtype=np.float64)
    if pairs.sum() == 0:
        raise RouterError("no two experts shared a token: top-1 routing has no co-activation")
    share = pairs.sum(1) / pairs.sum()
    expected = np.outer(share, share)
    np.fill_diagonal(expected, 0)
    expected *= pairs.sum() / expected.sum()
    result: Floats = np.divide(pairs, expected, out=np.full_like(pairs, np.nan), where=expected > 0)
    return result


def adjacent_rank_coactivation(ranked_TK: ArrayLike, *, num_experts: int) -> NDArray[np.int64]:
    """Tokens by the experts of neighbouring ranks, first and second, second and third ..., [E, E]; from the heavier to the lighter.

    The variant that looks at ranks next to one another only; `RoutingTrace.coactivation_LEE` counts all pairs.

    Args:
        ranked_TK: experts of every token, the heaviest first; `num_experts` or more for an idle slot.
        num_experts: E.
    """
    ranked = np.asarray(ranked_TK, dtype=np.int64)
    before, after = ranked[:, :-1].reshape(-1), ranked[:, 1:].reshape(-1)
    used = (before < num_experts) & (after < num_experts)
    keys = before[used] * num_experts + after[used]
    counts: NDArray[np.int64] = np.bincount(keys, minlength=num_experts**2).reshape(num_experts, num_experts)
    return counts


class Transition(NamedTuple):
    """From a layer's first choice to the next layer's."""

    probability_EE: Floats
    """p(next | this); rows sum to 1, or are zero for an expert that was never first."""
    information_bits: float
    """What the one tells of the other."""


def transition(counts_EE: ArrayLike) -> Transition:
    """Transition matrix between the first choices of consecutive layers.

    Args:
        counts_EE: tokens by first choice in a layer and in the next.

    Raises:
        RouterError: when there is no token.
    """
    counts = np.asarray(counts_EE, dtype=np.float64)
    information = mutual_information(counts)
    totals = counts.sum(1, keepdims=True)
    return Transition(np.divide(counts, totals, out=np.zeros_like(counts), where=totals > 0), information)


class Information(NamedTuple):
    """What the first choice in a layer tells of the one in the next."""

    bits: float
    """Corrected for what finite samples of whole sequences seem to tell; it may fall below 0 where there is nothing."""
    low: float
    high: float
    """95 % interval over folds of sequences (jackknife); NaN where there are fewer than six."""


def transition_information(counts_FEE: ArrayLike) -> Information:
    """Mutual information of first choices in consecutive layers (Shannon 1948), with whole sequences as the unit.

    Args:
        counts_FEE: tokens by first choice in a layer and in the next, in folds of sequences.

    Raises:
        RouterError: when there is no token.
    """
    found = jackknife(counts_FEE, mutual_information)
    low, high = found.interval()
    return Information(float(found.corrected), float(low), float(high))


class Repetition(NamedTuple):
    """How often a token's first choice is its predecessor's."""

    share: float
    expected: float
    """Were tokens to choose independently with the same load: Σ p²."""
    pairs: int
    low: float
    high: float
    """95 % interval of `share − expected` over sequences (bootstrap); NaN with fewer than five units."""


def repetition(trace: RoutingTrace, layer: int) -> Repetition:
    """Share of tokens whose first choice is that of the token before, in the same sequence (Jiang et al. 2024, arXiv 2401.04088, table 5).

    Raises:
        RouterError: when no token followed another.
    """
    pairs = int(trace.pairs_U.sum())
    if pairs == 0:
        raise RouterError("no two tokens of a sequence were recorded one after the other")
    sums_UX = np.column_stack([trace.repeats_UL[:, layer], trace.pairs_U, trace.first_ULE[:, layer]]).astype(np.float64)

    def share_and_expected(sums_RX: Floats) -> tuple[Floats, Floats]:
        p_RE = sums_RX[:, 2:] / sums_RX[:, 2:].sum(1, keepdims=True)
        return sums_RX[:, 0] / sums_RX[:, 1], np.square(p_RE).sum(1)

    share, expected = share_and_expected(sums_UX.sum(0, keepdims=True))
    low = high = float("nan")
    units = len(sums_UX)
    if units >= 5:
        draws_RU = np.random.default_rng(0).multinomial(units, np.full(units, 1 / units), size=999)
        sums_RX = draws_RU @ sums_UX
        drawn = share_and_expected(sums_RX[sums_RX[:, 1] > 0])
        low, high = np.quantile(drawn[0] - drawn[1], [0.025, 0.975])
    return Repetition(float(share[0]), float(expected[0]), pairs, float(low), float(high))


class Edge(NamedTuple):
    """Two experts of one layer that work together."""

    layer: int
    first: int
    second: int
    tokens: int
    lift: float
    low: float
    high: float
    """95 % interval of the lift over folds of sequences; NaN where there are too few."""
    q: float
    """False discovery rate of a lift other than 1, over all pairs of all layers; NaN as above."""


def collaboration_graph(
    trace: RoutingTrace, *, min_lift: float = 1.5, min_tokens: int = 20, max_q: float = 0.05
) -> list[Edge]:
    """Pairs of experts that share tokens more often than their loads make likely, the strongest first.

    The logarithm of each lift gets an error by leaving out one fold of sequences at a time, a t-test against 0, and the false discovery
    rate over every pair of every layer that was looked at. Without sequences enough all pairs above the limits are given, untested.

    Args:
        trace: with co-activation.
        min_lift: how many times more often.
        min_tokens: on at least so many tokens, below which a lift means little.
        max_q: leave out pairs whose false discovery rate is above.

    Raises:
        RouterError: for a trace without co-activation.
    """
    if trace.coactivation_LEE is None:
        raise RouterError("this trace has no co-activation: it is not kept for layers of more than 512 experts")
    found: list[Edge] = []
    p_values: list[float] = []
    assert trace.coactivation_FLEE is not None
    for layer, pairs_EE in enumerate(trace.coactivation_LEE):
        if pairs_EE.sum() == 0:
            continue
        lift_EE = coactivation_lift(pairs_EE)
        logs = jackknife(trace.coactivation_FLEE[:, layer], _log_lift)
        low_EE, high_EE = (np.exp(limit) for limit in logs.interval())
        p_EE = logs.p_value()
        # Only pairs with tokens enough to say anything count as looked at.
        for i, j in np.argwhere(np.triu(pairs_EE >= min_tokens, 1)):
            lift, low, high = (float(x[i, j]) for x in (lift_EE, low_EE, high_EE))
            found.append(Edge(layer, int(i), int(j), int(pairs_EE[i, j]), lift, low, high, float("nan")))
            p_values.append(float(p_EE[i, j]))
    tested = [n for n, p in enumerate(p_values) if not np.isnan(p)]
    if tested:
        rates = false_discovery_rates([p_values[n] for n in tested])
        for n, q in zip(tested, rates.tolist(), strict=True):
            found[n] = found[n]._replace(q=q)
    edges = [edge for edge in found if edge.lift >= min_lift and not edge.q > max_q]
    return sorted(edges, key=lambda edge: -edge.lift)


def _log_lift(pairs_EE: Floats) -> Floats:
    with np.errstate(divide="ignore"):
        return np.log(np.maximum(coactivation_lift(pairs_EE), 1e-9))
