"""Intervals over folds of sequences, against plain formulas, under the null, and with planted dependence."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from moe_router.metrics.collaboration import collaboration_graph, repetition, transition_information
from moe_router.metrics.jackknife import jackknife
from moe_router.metrics.specialization import mutual_information
from moe_router.summary import summarise_tokens
from moe_router.token_trace import from_routed_experts


def test_the_jackknife_of_a_mean_is_the_textbooks() -> None:
    values = np.random.default_rng(0).normal(3, 1, 12)
    found = jackknife(np.column_stack([values, np.ones(12)]), lambda s: s[0] / s[1])
    assert found.corrected == pytest.approx(values.mean())
    assert found.error == pytest.approx(stats.sem(values))
    expected = stats.ttest_1samp(values, 2.5)
    assert found.p_value(null=2.5) == pytest.approx(expected.pvalue)
    low, high = expected.confidence_interval()
    assert found.interval() == (pytest.approx(low), pytest.approx(high))


def test_too_few_folds_give_no_interval() -> None:
    found = jackknife(np.ones((8, 2)) * (np.arange(8) < 5)[:, None], lambda s: s.sum())
    assert found.folds == 5
    assert found.value == 10
    assert np.isnan(found.error)


def test_independent_choices_tell_nothing_though_the_plain_figure_says_so() -> None:
    """Few tokens over many cells seem to tell some bits (Miller 1955); leaving folds out takes that back."""
    rng = np.random.default_rng(1)
    plain, corrected, covered = [], [], []
    for _ in range(100):
        folds = rng.multinomial(60, np.full(64, 1 / 64), size=8).reshape(8, 8, 8)
        plain.append(mutual_information(folds.sum(0)))
        found = transition_information(folds)
        corrected.append(found.bits)
        covered.append(found.low <= 0 <= found.high)
    assert np.mean(plain) > 0.05
    assert abs(np.mean(corrected)) < 0.01
    assert np.mean(covered) >= 0.9


def routed(rng, sequences: int, *, tokens: int = 200, shared: float = 0.0):
    """Top-2 of eight experts in one layer; in a share of the tokens of every sequence experts 2 and 5 go together."""
    requests = []
    for _ in range(sequences):
        taste = rng.normal(0, 0.7, 8)  # sequences differ, and so their tokens are not independent
        chosen = np.argsort(-(taste + rng.gumbel(size=(tokens, 1, 8))), -1)[..., :2]
        chosen[: int(shared * tokens), 0] = [2, 5]
        requests.append(chosen)
    return summarise_tokens(from_routed_experts(requests, num_experts=8, layers=1, top_k=2))


def test_pairs_that_share_tokens_have_an_interval_and_a_rate() -> None:
    trace = routed(np.random.default_rng(2), 40, shared=0.1)
    edge = collaboration_graph(trace)[0]
    assert (edge.first, edge.second) == (2, 5)
    assert 1 < edge.low < edge.lift < edge.high
    assert edge.q < 0.01
    few = collaboration_graph(routed(np.random.default_rng(2), 3, shared=0.1))
    assert (few[0].first, few[0].second) == (2, 5)
    assert np.isnan(few[0].q)
    assert np.isnan(few[0].low)


def test_pairs_without_preference_are_rarely_called_so() -> None:
    """At 5 % false discoveries over 28 pairs, whatever the limit on the lift."""
    rng = np.random.default_rng(3)
    any_found = [bool(collaboration_graph(_even(rng), min_lift=1.0)) for _ in range(60)]
    assert np.mean(any_found) <= 0.12


def _even(rng):
    requests = [np.argsort(-rng.random((120, 1, 8)), -1)[..., :2] for _ in range(16)]
    return summarise_tokens(from_routed_experts(requests, num_experts=8, layers=1, top_k=2))


def test_repetition_has_an_interval_over_sequences() -> None:
    rng = np.random.default_rng(4)
    even = repetition(_even(rng), 0)
    assert even.low <= 0 <= even.high
    sticky = [np.repeat(np.argsort(-rng.random((60, 1, 8)), -1)[..., :2], 2, axis=0) for _ in range(16)]
    found = repetition(summarise_tokens(from_routed_experts(sticky, num_experts=8, layers=1, top_k=2)), 0)
    assert 0.2 < found.low < found.share - found.expected < found.high
    alone = repetition(summarise_tokens(from_routed_experts(sticky[:2], num_experts=8, layers=1, top_k=2)), 0)
    assert np.isnan(alone.low)
