"""Tests with the sequence as the unit: against scipy, under the null, and with planted differences."""

from __future__ import annotations

import os
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from moe_router import RouterError
from moe_router.metrics.load import gini
from moe_router.metrics.significance import (
    bootstrap_interval,
    compare_groups,
    compare_units,
    false_discovery_rates,
    sign_flip_p,
)
from moe_router.summary import summarise_tokens
from moe_router.token_trace import from_routed_experts


def sequences(
    rng, units: int, *, experts: int = 8, layers: int = 4, tokens: int = 100, spread: float = 20.0
) -> np.ndarray:
    """Counts of sequences that each have a load of their own, so that their tokens are not independent."""
    loads = rng.dirichlet(np.full(experts, spread / experts), size=(units, layers))
    return np.stack([[rng.multinomial(tokens, load) for load in row] for row in loads])


def test_exact_p_of_one_expert_is_scipys() -> None:
    rng = np.random.default_rng(0)
    counts = sequences(rng, 9, experts=3, layers=1)
    found = compare_units(counts, 4)
    assert found.exact
    assert found.permutations == found.exchanges == 126

    for e in range(3):
        shares = counts[:, 0, e] / 100  # equal lengths: the pooled share is the mean of shares
        expected = stats.permutation_test(
            (shares[:4], shares[4:]),
            lambda a, b, axis: np.abs(a.mean(axis) - b.mean(axis)),
            vectorized=True,
            alternative="greater",
        )
        assert found.p_LE[0, e] == pytest.approx(expected.pvalue, abs=1e-9)


def test_the_null_is_rejected_as_often_as_it_says_and_by_tokens_far_more_often() -> None:
    rng = np.random.default_rng(1)
    alone, largest, layers, tokens = [], [], [], []
    for trial in range(150):
        counts = sequences(rng, 24)
        found = compare_units(counts, 12, permutations=399, seed=trial)
        alone.append((found.p_LE <= 0.05).mean())
        largest.append((found.p_adjusted_LE <= 0.05).any())
        layers.append((found.jsd_p_L <= 0.05).mean())
        a, b = counts[:12].sum(0), counts[12:].sum(0)
        tokens.append(
            np.mean(
                [
                    [
                        stats.chi2_contingency([[x, 1200 - x], [y, 1200 - y]])[1] <= 0.05
                        for x, y in zip(p, q, strict=True)
                    ]
                    for p, q in zip(a, b, strict=True)
                ]
            )
        )
    assert np.mean(alone) == pytest.approx(0.05, abs=0.015)
    assert np.mean(largest) <= 0.10
    assert np.mean(layers) == pytest.approx(0.05, abs=0.025)
    assert np.mean(tokens) > 0.2


def test_a_planted_difference_is_found_and_sized() -> None:
    rng = np.random.default_rng(12)
    counts = sequences(rng, 40)
    counts[:20, 2, 5] += 25
    found = compare_units(counts, 20, permutations=1999)
    assert found.p_adjusted_LE[2, 5] < 0.01
    assert (found.p_adjusted_LE <= 0.05).sum() <= 3
    assert found.difference_LE[2, 5] == pytest.approx(25 / 125 * (1 - 1 / 8), abs=0.04)
    assert found.jsd_q_L[2] < 0.05
    assert found.jsd_L[2] > 3 * found.jsd_null_L[2]
    assert "routed differently in 1 of 4 layers" in found.verdict()


def test_few_sequences_are_said_to_be_too_few() -> None:
    rng = np.random.default_rng(3)
    found = compare_units(sequences(rng, 13, layers=26, experts=64), 6)
    assert found.exchanges == 1716
    assert not found.enough
    assert "not enough to find single experts among 1664" in found.verdict()
    assert "not enough: 2 and 3 sequences" in compare_units(sequences(rng, 5), 2).verdict()
    with pytest.raises(RouterError, match="at least two of each"):
        compare_units(sequences(rng, 5), 1)


def test_groups_of_a_trace() -> None:
    rng = np.random.default_rng(4)
    requests = [np.argsort(-rng.random((50, 2, 6)), -1)[..., :2] for _ in range(20)]
    for request in requests[:10]:
        request[:25, 1] = [0, 3]
    trace = summarise_tokens(
        from_routed_experts(requests, num_experts=6, layers=2, top_k=2, group=["x"] * 10 + ["y"] * 10)
    )
    found = compare_groups(trace, "x", "y", permutations=999)
    assert found.p_adjusted_LE[1, 0] < 0.05
    assert (found.p_adjusted_LE[0] > 0.05).all()
    with pytest.raises(RouterError, match="no group 'z'"):
        compare_groups(trace, "x", "z")
    with pytest.raises(RouterError, match="with itself"):
        compare_groups(trace, "x", "x")


def test_false_discovery_rates_keep_their_shape() -> None:
    p = np.array([[0.01, 0.04], [0.03, 0.5]])
    np.testing.assert_allclose(false_discovery_rates(p), [[0.04, 0.04 * 4 / 3], [0.04 * 4 / 3, 0.5]])


def test_signs() -> None:
    rng = np.random.default_rng(5)
    rows = rng.normal(size=(10, 2)) + np.array([0, 1.5])
    exact = sign_flip_p(rows)
    for column in range(2):
        expected = stats.permutation_test((rows[:, column],), np.mean, permutation_type="samples", n_resamples=2000)
        assert exact[column] == pytest.approx(expected.pvalue, abs=1e-9)


def test_intervals_cover() -> None:
    rng = np.random.default_rng(6)
    truth = gini(np.linspace(1, 3, 8))
    hits = 0
    for trial in range(100):
        loads = rng.dirichlet(100 * np.linspace(1, 3, 8) / 16, size=60)
        counts = np.array([rng.multinomial(400, load) for load in loads])
        low, high = bootstrap_interval(counts, gini, resamples=299, seed=trial)
        hits += low <= truth <= high
    assert hits >= 85


def esft_units(task: str) -> np.ndarray:
    data = np.load(Path(os.environ["MOE_TEST_DATA"]) / "esft_routing" / "traces.npz")
    index, starts = data[f"{task}_idx"], np.cumsum([0, *data[f"{task}_seqlen"]])
    return np.array([[np.bincount(layer[a:b].ravel(), minlength=64) for layer in index] for a, b in pairwise(starts)])


@pytest.mark.realdata
@pytest.mark.parametrize("task", ["law", "summary"])
def test_random_halves_of_real_sequences_differ_in_five_percent(task: str) -> None:
    """1,664 experts in 120 random halves; a test that counts tokens rejects several times as often."""
    counts = esft_units(task)
    rng = np.random.default_rng(0)
    half = len(counts) // 2
    ours, tokens = [], []
    for trial in range(120):
        shuffled = counts[rng.permutation(len(counts))]
        ours.append((compare_units(shuffled, half, permutations=499, seed=trial).p_LE <= 0.05).mean())
        a, b = shuffled[:half].sum(0), shuffled[half:].sum(0)
        p, q = a / a.sum(-1, keepdims=True), b / b.sum(-1, keepdims=True)
        pooled = (a + b) / (a.sum(-1, keepdims=True) + b.sum(-1, keepdims=True))
        z = (p - q) / np.sqrt(pooled * (1 - pooled) * (1 / a.sum(-1, keepdims=True) + 1 / b.sum(-1, keepdims=True)))
        tokens.append((2 * stats.norm.sf(np.abs(z)) <= 0.05).mean())
    assert np.mean(ours) == pytest.approx(0.05, abs=0.015)
    assert np.mean(tokens) > 0.08


@pytest.mark.realdata
def test_two_real_tasks_differ() -> None:
    law, summary = esft_units("law"), esft_units("summary")
    found = compare_units(np.concatenate([law, summary]), len(law), permutations=1999)
    assert (found.jsd_q_L <= 0.05).all()
    assert (found.p_adjusted_LE <= 0.05).sum() > 300
