"""Which experts work together: on one token, from layer to layer, and on tokens that follow one another.

Shapes: T tokens, E experts, K experts per token.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from moe_router.errors import RouterError
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


class Repetition(NamedTuple):
    """How often a token's first choice is its predecessor's."""

    share: float
    expected: float
    """Were tokens to choose independently with the same load: Σ p²."""
    pairs: int


def repetition(trace: RoutingTrace, layer: int) -> Repetition:
    """Share of tokens whose first choice is that of the token before, in the same sequence (Jiang et al. 2024, arXiv 2401.04088, table 5).

    Raises:
        RouterError: when no token followed another.
    """
    pairs = int(trace.pairs_U.sum())
    if pairs == 0:
        raise RouterError("no two tokens of a sequence were recorded one after the other")
    first_E = trace.first_ULE[:, layer].sum(0)
    p = first_E / first_E.sum()
    return Repetition(float(trace.repeats_UL[:, layer].sum() / pairs), float((p**2).sum()), pairs)


class Edge(NamedTuple):
    """Two experts of one layer that work together."""

    layer: int
    first: int
    second: int
    tokens: int
    lift: float


def collaboration_graph(trace: RoutingTrace, *, min_lift: float = 1.5, min_tokens: int = 20) -> list[Edge]:
    """Pairs of experts that share tokens more often than their loads make likely, the strongest first.

    Args:
        trace: with co-activation.
        min_lift: how many times more often.
        min_tokens: on at least so many tokens, below which a lift means little.

    Raises:
        RouterError: for a trace without co-activation.
    """
    if trace.coactivation_LEE is None:
        raise RouterError("this trace has no co-activation: it is not kept for layers of more than 512 experts")
    edges = []
    for layer, pairs_EE in enumerate(trace.coactivation_LEE):
        if pairs_EE.sum() == 0:
            continue
        lift_EE = coactivation_lift(pairs_EE)
        for i, j in np.argwhere(np.triu((lift_EE >= min_lift) & (pairs_EE >= min_tokens), 1)):
            edges.append(Edge(layer, int(i), int(j), int(pairs_EE[i, j]), float(lift_EE[i, j])))
    return sorted(edges, key=lambda edge: -edge.lift)
