"""Specialisation against chance, with whole sequences changing groups."""

from __future__ import annotations

import numpy as np
import pytest

from moe_router import RouterError
from moe_router.metrics.drift import domain_divergence
from moe_router.metrics.groups import specialization
from moe_router.metrics.specialization import specialization_score
from moe_router.summary import summarise_tokens
from moe_router.token_trace import from_routed_experts


def trace(rng, *, groups: int = 3, sequences: int = 8, tokens: int = 40, planted: float = 0.0):
    """Each sequence has a taste of its own; in layer 1 the first group likes expert 4 as well."""
    requests, names = [], []
    for group in range(groups):
        for _ in range(sequences):
            scores = rng.normal(0, 0.6, (1, 2, 6)) + rng.gumbel(size=(tokens, 2, 6))
            scores[:, 1, 4] += planted * (group == 0)
            requests.append(np.argsort(-scores, -1)[..., :2])
            names.append(f"g{group}")
    return summarise_tokens(from_routed_experts(requests, num_experts=6, layers=2, top_k=2, group=names))


def test_scores_are_those_of_the_plain_functions() -> None:
    one = trace(np.random.default_rng(0))
    found = specialization(one, permutations=19)
    for layer in range(2):
        np.testing.assert_allclose(found.score_LE[layer], specialization_score(one.counts_GLE[:, layer]))
        assert found.bits_L[layer] == pytest.approx(domain_divergence(one.counts_GLE[:, layer]))


def test_without_a_difference_experts_look_specialised_and_are_not_called_so() -> None:
    rng = np.random.default_rng(1)
    any_expert, layers, excess = [], [], []
    for n in range(60):
        found = specialization(trace(rng), permutations=199, seed=n)
        any_expert.append((found.p_adjusted_LE <= 0.05).any())
        layers.append((found.q_L <= 0.05).any())
        excess.append(float((found.score_LE - found.chance_LE).mean()))
    assert np.mean(any_expert) <= 0.12
    assert np.mean(layers) <= 0.12
    assert abs(np.mean(excess)) < 0.01
    assert found.chance_LE.min() > 0.002  # by chance alone


def test_a_planted_preference_is_found() -> None:
    found = specialization(trace(np.random.default_rng(2), planted=3.0), permutations=499)
    assert found.p_adjusted_LE[1, 4] < 0.01
    assert found.score_LE[1, 4] > 3 * found.chance_LE[1, 4]
    assert found.q_L[1] < 0.05 < found.q_L[0]


def test_one_group_is_refused() -> None:
    with pytest.raises(RouterError, match="at least two groups"):
        specialization(trace(np.random.default_rng(0), groups=1))
    with pytest.raises(RouterError, match="two sequences or more"):
        specialization(trace(np.random.default_rng(0), sequences=1))
