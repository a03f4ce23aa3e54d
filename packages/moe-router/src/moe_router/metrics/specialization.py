"""Which experts belong to what: to domains, to kinds of token, to words.

Shapes: G groups (domains), C token types, V vocabulary, E experts, F folds of sequences.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from moe_router.errors import RouterError
from moe_router.metrics.significance import false_discovery_rates, sign_flip_p

Floats = NDArray[np.float64]


def domain_specialization(counts_GE: ArrayLike, *, top_k: int) -> Floats:
    """Share of a domain's tokens that are routed to an expert, N(expert, domain) / N(domain), [G, E]; k / E when even.

    Muennighoff et al. 2024 (OLMoE, arXiv 2409.02060, section 5.3); a token counts for each of its k experts, so that a row sums to k.

    Args:
        counts_GE: assignments of one layer.
        top_k: experts per token.

    Raises:
        RouterError: for a group without tokens.
    """
    counts = _counts(counts_GE)
    totals = counts.sum(1, keepdims=True)
    if (totals == 0).any():
        raise RouterError(f"group {int(np.flatnonzero(totals[:, 0] == 0)[0])} has no tokens in this layer")
    shares: Floats = top_k * counts / totals
    return shares


def specialization_score(counts_GE: ArrayLike) -> Floats:
    """1 − H(domain | expert) / log G for every expert, [E]: 0 when it serves all domains alike, 1 when one alone; NaN if it serves none.

    Each domain weighs the same, however long its text: the probabilities are of a domain's share to the expert among the shares of all.
    Entropy: Shannon (1948).
    """
    shares = domain_specialization(counts_GE, top_k=1)
    if len(shares) < 2:
        raise RouterError("specialisation needs at least two groups")
    with np.errstate(invalid="ignore", divide="ignore"):
        p_GE = shares / shares.sum(0, keepdims=True)
        entropy_E = -np.where(p_GE > 0, p_GE * np.log(p_GE), 0).sum(0)
    score: Floats = np.where(shares.sum(0) > 0, 1 - entropy_E / np.log(len(shares)), np.nan)
    return score


class Focus(NamedTuple):
    """The domain an expert serves most."""

    group_E: NDArray[np.int64]
    lift_E: Floats
    """Its share of that domain's tokens over its mean share of a domain's."""


def expert_focus(counts_GE: ArrayLike) -> Focus:
    """For every expert the domain that uses it most, and how many times more than the average domain does; NaN if none uses it."""
    shares = domain_specialization(counts_GE, top_k=1)
    mean_E = shares.mean(0)
    with np.errstate(invalid="ignore", divide="ignore"):
        lift_E = np.where(mean_E > 0, shares.max(0) / mean_E, np.nan)
    return Focus(shares.argmax(0), lift_E)


def vocabulary_specialization(
    token_ids_T: ArrayLike, experts_TK: ArrayLike, *, num_experts: int, at_least: int = 10
) -> Floats:
    """Mean over the words an expert sees of N(expert, word) / N(word), words weighed by their use of it, [E]; NaN where unused.

    Muennighoff et al. 2024 (arXiv 2409.02060, section 5.4): 1 when every word it sees goes to it always.

    Args:
        token_ids_T: what every token is.
        experts_TK: the experts it went to; entries of `num_experts` or more are idle slots.
        num_experts: E.
        at_least: words seen fewer times are left out.
    """
    ids, experts = np.asarray(token_ids_T), np.asarray(experts_TK, dtype=np.int64)
    words, word_T, seen_V = np.unique(ids, return_inverse=True, return_counts=True)
    used = experts < num_experts
    keys = (word_T[:, None] * num_experts + np.minimum(experts, num_experts - 1))[used]
    counts_VE = (
        np.bincount(keys, minlength=len(words) * num_experts).reshape(len(words), num_experts).astype(np.float64)
    )
    counts_VE = counts_VE[seen_V >= at_least]
    rate_VE = counts_VE / seen_V[seen_V >= at_least][:, None]
    totals = counts_VE.sum(0)
    mean: Floats = np.divide((counts_VE * rate_VE).sum(0), totals, out=np.full(num_experts, np.nan), where=totals > 0)
    return mean


def normalised_pmi(counts_CE: ArrayLike) -> Floats:
    """Affinity of token types and experts, log(p(c, e) / p(c) p(e)) / −log p(c, e), [C, E] (Bouma 2009).

    0 when independent, 1 when one never goes without the other, −1 when they never meet; NaN for a type or expert that does not occur.
    """
    p_CE = _counts(counts_CE)
    p_CE = p_CE / max(p_CE.sum(), 1)
    expected = p_CE.sum(1, keepdims=True) * p_CE.sum(0, keepdims=True)
    with np.errstate(divide="ignore", invalid="ignore"):
        values = np.log(p_CE / expected) / -np.log(p_CE)
    values = np.where(p_CE > 0, values, -1.0)
    values = np.where(p_CE >= 1, 1.0, values)
    result: Floats = np.where(expected > 0, values, np.nan)
    return result


def mutual_information(counts_XE: ArrayLike) -> float:
    """How many bits a domain, token type or previous expert tells of the expert: Σ p(x, e) log2(p(x, e) / p(x) p(e)) (Shannon 1948).

    Estimated from counts it is biased upwards by about (rows − 1)(columns − 1) / (2 N ln 2) bits (Miller 1955); not corrected here.
    """
    p = _counts(counts_XE)
    p = p / p.sum()
    expected = p.sum(1, keepdims=True) * p.sum(0, keepdims=True)
    used = p > 0
    return float(max(0.0, (p[used] * np.log2(p[used] / expected[used])).sum()))


class Affinity(NamedTuple):
    """How token types and the experts of a layer go together."""

    npmi_CE: Floats
    difference_CE: Floats
    """Share of the type's assignments that go to the expert, less the share of all other types': the effect size."""
    p_CE: Floats
    """By changing signs of whole folds of sequences."""
    q_CE: Floats
    """False discovery rate over the table."""
    folds: int


def type_affinity(counts_FCE: ArrayLike, *, seed: int = 0) -> Affinity:
    """Affinity of token types and experts in one layer, with sequences as the unit.

    In every fold of sequences the share of a type's assignments is compared with that of all other types; the signs of these differences
    are as likely one way as the other when a type has nothing to do with an expert.

    Args:
        counts_FCE: assignments by fold of sequences, token type and expert.
        seed: of the draw of signs.

    Raises:
        RouterError: for fewer than five folds with tokens, whose signs cannot give a p-value below 5 %.
    """
    counts = np.asarray(counts_FCE, dtype=np.float64)
    counts = counts[counts.sum((1, 2)) > 0]
    if len(counts) < 6:
        raise RouterError(
            f"not enough: {len(counts)} sequences cannot show that token types and experts go together; record at least 6"
        )
    own = counts.sum(2, keepdims=True)
    others_FCE = counts.sum(1, keepdims=True) - counts
    other = others_FCE.sum(2, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        difference_FCE = np.where((own > 0) & (other > 0), counts / own - others_FCE / other, np.nan)
    _, types, experts = counts.shape
    p_CE = sign_flip_p(difference_FCE.reshape(len(counts), -1), seed=seed).reshape(types, experts)
    with np.errstate(invalid="ignore"):
        present = ~np.isnan(difference_FCE)
        mean_CE = np.where(present, difference_FCE, 0).sum(0) / np.maximum(present.sum(0), 1)
    return Affinity(normalised_pmi(counts.sum(0)), mean_CE, p_CE, false_discovery_rates(p_CE), len(counts))


def _counts(counts_XE: ArrayLike) -> Floats:
    counts = np.asarray(counts_XE, dtype=np.float64)
    if counts.ndim != 2 or (counts < 0).any() or counts.sum() == 0:
        raise RouterError("expected a table of counts, none negative and not all zero")
    return counts
