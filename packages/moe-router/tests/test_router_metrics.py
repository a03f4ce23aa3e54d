"""The metrics against scipy, against plain loops, and at their limits."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.distance import jensenshannon
from scipy.stats import entropy, variation

from moe_router import RouterError
from moe_router.metrics.drift import domain_divergence, js_divergence, total_variation
from moe_router.metrics.load import (
    coefficient_of_variation,
    dead_experts,
    dominant_experts,
    gini,
    load_fractions,
    max_violation,
    normalised_entropy,
)

loads = st.lists(st.integers(0, 1000), min_size=2, max_size=20).filter(any)


@given(loads)
def test_against_scipy_and_plain_loops(load: list[int]) -> None:
    f = np.array(load) / sum(load)
    assert normalised_entropy(load) == pytest.approx(entropy(f, base=len(f)), abs=1e-12)
    assert coefficient_of_variation(load) == pytest.approx(variation(f), abs=1e-12)
    assert max_violation(load) == pytest.approx(max(load) / np.mean(load) - 1, abs=1e-12)
    assert gini(load) == pytest.approx(sum(abs(a - b) for a in f for b in f) / (2 * len(f)), abs=1e-12)
    assert dead_experts(load) == [i for i, n in enumerate(load) if n == 0]
    assert dominant_experts(load, factor=2) == [
        i for i, n in enumerate(load) if n >= 2 * np.mean(load) - 1e-9 * np.mean(load)
    ]


@given(st.integers(2, 30))
def test_limits(experts: int) -> None:
    even, one = np.full(experts, 7), np.eye(experts)[0]
    assert [normalised_entropy(even), gini(even), coefficient_of_variation(even), max_violation(even)] == pytest.approx(
        [1, 0, 0, 0]
    )
    assert normalised_entropy(one) == 0
    assert gini(one) == pytest.approx((experts - 1) / experts)
    assert coefficient_of_variation(one) == pytest.approx(np.sqrt(experts - 1))
    assert max_violation(one) == pytest.approx(experts - 1)


@given(
    st.integers(2, 12).flatmap(
        lambda n: st.tuples(*[st.lists(st.integers(0, 99), min_size=n, max_size=n).filter(any)] * 2)
    )
)
def test_divergence_against_scipy(pair) -> None:
    p, q = pair
    assert js_divergence(p, q) == pytest.approx(jensenshannon(p, q, base=2) ** 2, abs=1e-9)
    assert js_divergence(p, q) == pytest.approx(js_divergence(q, p), abs=1e-12)
    assert total_variation(p, q) == pytest.approx(np.abs(np.array(p) / sum(p) - np.array(q) / sum(q)).sum() / 2)


def test_disjoint_loads_are_one_bit_apart() -> None:
    assert js_divergence([1, 0], [0, 5]) == pytest.approx(1.0)
    assert total_variation([1, 0], [0, 5]) == 1.0


@pytest.mark.parametrize("load", [[], [0, 0], [1, -1], [[1, 2]]])
def test_what_is_no_load_is_refused(load) -> None:
    with pytest.raises(RouterError, match="none negative"):
        load_fractions(load)


def test_loads_of_different_length_are_refused() -> None:
    with pytest.raises(RouterError, match="2 and 3 experts"):
        js_divergence([1, 2], [1, 2, 3])


def test_domain_divergence_of_two_is_the_pairs() -> None:
    assert domain_divergence([[3, 1, 0], [0, 2, 7]]) == pytest.approx(js_divergence([3, 1, 0], [0, 2, 7]))
    assert domain_divergence(np.eye(4)) == pytest.approx(2.0)
    with pytest.raises(RouterError, match="at least two"):
        domain_divergence([[1, 2]])


@pytest.mark.realdata
@pytest.mark.parametrize(("model", "bits", "tolerance"), [("olmoe", 0.50, 0.005), ("mistral", 0.009, 0.0005)])
def test_domain_divergence_of_published_counts(model: str, bits: float, tolerance: float) -> None:
    """At layer 15 OLMoE's five domains use different experts, Mixtral's hardly do (counts by OLMoE's authors)."""
    path = Path(os.environ["MOE_TEST_DATA"]) / "olmoe_routing" / "olmoe_mixtral_expert_counts.json"
    counts = json.loads(path.read_text())["counts"][model]
    loads = [layers["15"] for domain, layers in sorted(counts.items()) if domain != "tulu"]
    assert len(loads) == 5
    assert domain_divergence(loads) == pytest.approx(bits, abs=tolerance)
