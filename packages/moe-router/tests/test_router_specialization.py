"""Specialisation and collaboration against plain loops over tokens."""

from __future__ import annotations

import math
import os
from pathlib import Path

import numpy as np
import pytest

from moe_router import RouterError
from moe_router.metrics.collaboration import (
    adjacent_rank_coactivation,
    coactivation,
    coactivation_lift,
    collaboration_graph,
    repetition,
    transition,
)
from moe_router.metrics.drift import flipped_tokens, router_saturation
from moe_router.metrics.specialization import (
    domain_specialization,
    expert_focus,
    mutual_information,
    normalised_pmi,
    specialization_score,
    type_affinity,
    vocabulary_specialization,
)
from moe_router.summary import summarise_tokens
from moe_router.token_trace import TokenTrace, from_routed_experts


@pytest.fixture
def trace() -> TokenTrace:
    rng = np.random.default_rng(2)
    requests = []
    for n in (30, 20, 25, 40):
        scores = rng.random((n, 3, 6)) + np.linspace(0, 0.6, 6)
        requests.append(np.argsort(-scores, -1)[..., :2])
    return from_routed_experts(requests, num_experts=6, layers=3, top_k=2, group=["x", "x", "y", "y"])


def test_collaboration_by_hand(trace) -> None:
    summed = summarise_tokens(trace)
    for layer in range(3):
        pairs, counts = np.zeros((6, 6)), np.zeros(6)
        for a, b in trace.experts_TLK[:, layer].tolist():
            pairs[a, b] += 1
            pairs[b, a] += 1
            counts[a] += 1
            counts[b] += 1
        share = coactivation(summed.coactivation_LEE[layer], summed.layer_counts(layer))
        np.testing.assert_allclose(share, pairs / counts[:, None])
        np.testing.assert_allclose(share.sum(1), 1)
        lift = coactivation_lift(summed.coactivation_LEE[layer])
        assert np.isnan(np.diag(lift)).all()
        ordered = adjacent_rank_coactivation(trace.ranked(slice(0, 115), layer), num_experts=6)
        assert (ordered + ordered.T == pairs).all()
        first = trace.experts_TLK[:, layer, 0].tolist()
        inside = [t for a, b in zip(trace.starts_N, trace.starts_N[1:], strict=False) for t in range(a + 1, b)]
        assert repetition(summed, layer).share == pytest.approx(np.mean([first[t] == first[t - 1] for t in inside]))
    probability, information = transition(summed.transitions_LEE[0])
    chain = list(zip(trace.experts_TLK[:, 0, 0].tolist(), trace.experts_TLK[:, 1, 0].tolist(), strict=True))
    assert probability[5, 4] == pytest.approx(sum(c == (5, 4) for c in chain) / sum(a == 5 for a, _ in chain))
    entropy = [
        -sum(n / 115 * math.log2(n / 115) for n in np.unique(x, return_counts=True, axis=0)[1])
        for x in ([a for a, _ in chain], [b for _, b in chain], chain)
    ]
    assert information == pytest.approx(entropy[0] + entropy[1] - entropy[2])


def test_three_ranks_have_two_neighbours() -> None:
    counts = adjacent_rank_coactivation([[3, 1, 2], [3, 1, 9]], num_experts=4)
    assert counts[3, 1] == 2
    assert counts[1, 2] == 1
    assert counts.sum() == 3


def test_a_planted_pair_is_an_edge() -> None:
    rng = np.random.default_rng(0)
    scores = rng.random((2000, 1, 8))
    chosen = np.argsort(-scores, -1)[..., :2]
    chosen[:200, 0] = [2, 5]
    edges = collaboration_graph(summarise_tokens(from_routed_experts([chosen], num_experts=8, layers=1, top_k=2)))
    assert (edges[0].first, edges[0].second) == (2, 5)
    assert edges[0].lift > 2
    assert len(edges) == 1


def test_specialisation_at_its_limits() -> None:
    alone = [[10, 0, 5], [0, 40, 20]]  # the second domain's text is four times as long
    np.testing.assert_allclose(specialization_score(alone), [1, 1, 0], atol=1e-12)
    np.testing.assert_allclose(domain_specialization(alone, top_k=2).sum(1), 2)
    focus = expert_focus(alone)
    assert focus.group_E.tolist()[:2] == [0, 1]
    np.testing.assert_allclose(focus.lift_E, [2, 2, 1])
    assert np.isnan(specialization_score([[1, 0], [1, 0]])[1])
    with pytest.raises(RouterError, match="group 1 has no tokens"):
        domain_specialization([[1, 2], [0, 0]], top_k=1)


def test_vocabulary_by_hand() -> None:
    ids = [7] * 10 + [8] * 10 + [9] * 3
    experts = [[0]] * 10 + [[0]] * 5 + [[1]] * 5 + [[2]] * 3
    got = vocabulary_specialization(ids, experts, num_experts=4)
    assert got[0] == pytest.approx((10 * 1 + 5 * 0.5) / 15)
    assert got[1] == pytest.approx(0.5)
    assert np.isnan(got[2:]).all()  # a word seen three times, and an expert never used


def test_pmi_and_information() -> None:
    together = normalised_pmi([[5, 0], [0, 5]])
    np.testing.assert_allclose(together, [[1, -1], [-1, 1]])
    np.testing.assert_allclose(normalised_pmi([[2, 4], [3, 6]]), np.zeros((2, 2)), atol=1e-12)
    assert mutual_information([[5, 0], [0, 5]]) == pytest.approx(1)
    assert mutual_information([[2, 4], [3, 6]]) == pytest.approx(0, abs=1e-12)
    with pytest.raises(RouterError, match="not all zero"):
        mutual_information([[0, 0]])


def test_type_affinity_finds_what_is_planted_and_nothing_else() -> None:
    rng = np.random.default_rng(3)
    counts = np.stack([rng.multinomial(300, np.full(8, 1 / 8), size=5) for _ in range(20)]).astype(float)
    nothing = type_affinity(counts)
    assert (nothing.q_CE <= 0.05).sum() <= 1
    counts[:, 2, 3] += 30
    found = type_affinity(counts)
    assert found.q_CE[2, 3] < 0.01
    assert found.npmi_CE[2].argmax() == 3
    assert found.difference_CE[2, 3] == pytest.approx(30 / 330, abs=0.03)
    with pytest.raises(RouterError, match="not enough: 5 sequences"):
        type_affinity(counts[:5])


def test_saturation_and_flips() -> None:
    before = [[0, 1], [2, 3], [4, 5]]
    after = [[1, 0], [2, 5], [0, 1]]
    assert router_saturation(before, after) == pytest.approx((1 + 0.5 + 0) / 3)
    assert flipped_tokens(before, after) == pytest.approx(2 / 3)
    assert router_saturation(before, before) == 1
    with pytest.raises(RouterError, match=r"\(3, 2\) and \(2, 2\)"):
        router_saturation(before, after[:2])


def esft(task: str) -> TokenTrace:
    """A real trace of DeepSeek's MoE, published with ESFT."""
    data = np.load(Path(os.environ["MOE_TEST_DATA"]) / "esft_routing" / "traces.npz")
    experts, weights, lengths = (data[f"{task}_{name}"] for name in ("idx", "w", "seqlen"))
    return TokenTrace(
        model="deepseek-moe",
        layers=tuple(f"layer {n}" for n in range(1, 27)),
        experts_L=(64,) * 26,
        top_k_L=(6,) * 26,
        groups=(task,),
        experts_TLK=experts.transpose(1, 0, 2).astype(np.uint8),
        weights_TLK=weights.transpose(1, 0, 2).astype(np.float16),
        starts_N=np.cumsum([0, *lengths]),
        group_N=np.zeros(len(lengths), dtype=np.int32),
    )


@pytest.mark.realdata
def test_repetition_of_the_law_traces() -> None:
    summed = summarise_tokens(esft("law"))
    assert summed.sequences_G.tolist() == [33]
    found = [100 * repetition(summed, layer).share for layer in (0, 12, 25)]
    assert found == pytest.approx([5.7, 24.1, 15.5], abs=0.06)
    assert all(repetition(summed, n).share > repetition(summed, n).expected for n in range(26))
