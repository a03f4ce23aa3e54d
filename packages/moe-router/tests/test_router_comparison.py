"""Two traces of the same tokens: sizes, intervals and tests over sequences; other tokens are refused."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from moe_router import RouterError
from moe_router.comparison import drift, fingerprint
from moe_router.metrics.drift import flipped_tokens, js_divergence, router_saturation
from moe_router.summary import summarise_tokens
from moe_router.token_trace import TokenTrace, from_routed_experts


def scores(rng, sequences: int = 30, tokens: int = 40) -> np.ndarray:
    return rng.normal(0, 0.5, (sequences, 1, 3, 8)) + rng.gumbel(size=(sequences, tokens, 3, 8))


def traced(values: np.ndarray) -> TokenTrace:
    chosen = np.argsort(-values, -1)[..., :2]
    return from_routed_experts(list(chosen), num_experts=8, layers=3, top_k=2)


def test_sizes_are_those_of_the_plain_functions() -> None:
    rng = np.random.default_rng(0)
    values = scores(rng)
    one, other = traced(values), traced(values + rng.normal(0, 0.3, values.shape))
    rows = drift(summarise_tokens(one), summarise_tokens(other), (one, other))
    for n, row in enumerate(rows):
        a, b = one.experts_TLK[:, n], other.experts_TLK[:, n]
        assert row.flipped_tokens == pytest.approx(flipped_tokens(a, b))
        assert row.router_saturation == pytest.approx(router_saturation(a, b))
        loads = [np.bincount(x.ravel(), minlength=8) for x in (a, b)]
        assert row.js_divergence == pytest.approx(js_divergence(*loads))
        assert row.flipped_interval[0] < row.flipped_tokens < row.flipped_interval[1]
        assert row.saturation_interval[0] < row.router_saturation < row.saturation_interval[1]


def test_noise_is_no_drift_and_a_shift_is() -> None:
    """Noise flips tokens of every layer without moving loads; in layer 1 one expert gains."""
    rng = np.random.default_rng(1)
    rejected, found = [], []
    for _ in range(60):
        values = scores(rng)
        noisy, shifted = (values + rng.normal(0, 0.2, values.shape) for _ in range(2))
        shifted[..., 1, 3] += 0.4
        base = summarise_tokens(traced(values))
        rejected += [row.p_value <= 0.05 for row in drift(base, summarise_tokens(traced(noisy)))]
        found.append(drift(base, summarise_tokens(traced(shifted)))[1].q_value <= 0.05)
    assert np.mean(rejected) <= 0.09
    assert np.mean(found) >= 0.95


def test_the_same_trace_twice() -> None:
    trace = traced(scores(np.random.default_rng(2)))
    for row in drift(summarise_tokens(trace), summarise_tokens(trace), (trace, trace)):
        assert (row.js_divergence, row.p_value, row.q_value, row.flipped_tokens, row.router_saturation) == (
            0,
            1,
            1,
            0,
            1,
        )
    few = traced(scores(np.random.default_rng(2), sequences=3))
    row = drift(summarise_tokens(few), summarise_tokens(few), (few, few))[0]
    assert row.js_interval is row.p_value is row.q_value is row.flipped_interval is None


def test_other_tokens_are_refused() -> None:
    rng = np.random.default_rng(3)
    one = traced(scores(rng))
    sums = summarise_tokens(one)
    longer = summarise_tokens(traced(scores(rng, tokens=41)))
    with pytest.raises(RouterError, match=r"not of the same tokens \(1,200 in 30 sequences, 1,230 in 30\)"):
        drift(sums, longer)
    marked = [replace(sums, metadata={"fingerprint": fingerprint(ids, [3])}) for ids in ([1, 2, 3], [1, 2, 4])]
    assert drift(marked[0], marked[0])
    assert drift(marked[0], sums)  # one of them does not say
    with pytest.raises(RouterError, match="not of the same tokens"):
        drift(*marked)
    ids = np.arange(1200, dtype=np.int32)
    with_ids = [replace(one, token_ids_T=ids), replace(one, token_ids_T=ids[::-1].copy())]
    with pytest.raises(RouterError, match="not of the same tokens"):
        drift(sums, sums, (with_ids[0], with_ids[1]))
    with pytest.raises(RouterError, match="3 layers of 8 experts and 3 of 4 cannot be compared"):
        drift(sums, replace(sums, experts_L=(4, 4, 4), **_first_four(sums)))


def _first_four(sums) -> dict:
    counts = sums.counts_ULE[..., :4].copy()
    counts[..., 0] += (sums.tokens_U * 2)[:, None] - counts.sum(-1)
    return {
        "counts_ULE": counts, "first_ULE": sums.first_ULE[..., :4], "mass_GLE": sums.mass_GLE[..., :4],
        "coactivation_FLEE": sums.coactivation_FLEE[..., :4, :4], "transitions_FLEE": sums.transitions_FLEE[..., :4, :4],
    }  # fmt: skip
