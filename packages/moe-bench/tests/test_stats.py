"""The statistics against scipy, statsmodels' published values, enumeration and known tables."""

from __future__ import annotations

import json
import math
import os
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from moe_bench import BenchError
from moe_bench.pairs import clustered_standard_error
from moe_bench.stats import (
    Discordance,
    discordance,
    equivalence_p_value,
    equivalence_power,
    holm,
    mcnemar_exact,
    minimum_detectable_difference,
    paired_difference_interval,
    wilson_interval,
)


@given(st.integers(1, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_against_scipy(case: tuple[int, int]) -> None:
    successes, n = case
    theirs = stats.binomtest(successes, n).proportion_ci(method="wilson")
    assert wilson_interval(successes, n) == pytest.approx((theirs.low, theirs.high), abs=1e-12)


@given(st.integers(0, 9), st.integers(0, 9))
@settings(max_examples=60)
def test_mcnemar_against_enumeration(only_a: int, only_b: int) -> None:
    """All sign flips of the discordant pairs: the share at least as unlikely as what was seen."""
    m = only_a + only_b
    seen = math.comb(m, only_b)
    flips = [sum(signs) for signs in product((0, 1), repeat=m)] if m <= 12 else None
    if flips is None:
        return
    extreme = sum(math.comb(m, b) <= seen for b in flips) / 2**m
    assert mcnemar_exact(Discordance(5, only_a, only_b, 3)) == pytest.approx(min(1.0, extreme))


def test_newcombe_against_its_published_example() -> None:
    """Newcombe 1998, table III, method 10: e, f, g, h = 36, 12, 2, 0 has the interval 0.0569 to 0.3404."""
    low, high = paired_difference_interval(Discordance(both=36, only_a=2, only_b=12, neither=0))
    assert (low, high) == pytest.approx((0.0569, 0.3404), abs=5e-5)


def test_newcombe_covers_in_a_simulation() -> None:
    """At least 93 % of 2,000 intervals on 60 pairs contain the true difference, near the edge too."""
    rng = np.random.default_rng(0)
    for cells in ((0.05, 0.02, 0.30, 0.63), (0.80, 0.02, 0.10, 0.08)):
        tables = rng.multinomial(60, cells, size=2000)
        truth = cells[2] - cells[1]
        hits = [
            low <= truth <= high for low, high in (paired_difference_interval(Discordance(*t)) for t in tables.tolist())
        ]
        assert 0.93 <= np.mean(hits) <= 1.0


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_by_its_definition(p: list[float]) -> None:
    adjusted = holm(p)
    order = np.argsort(p, kind="stable")
    for rank, i in enumerate(order):
        by_hand = max(min(1.0, (len(p) - k) * p[j]) for k, j in enumerate(order[: rank + 1]))
        assert adjusted[i] == pytest.approx(by_hand)


def test_equivalence_follows_the_margin() -> None:
    same = Discordance(both=450, only_a=5, only_b=5, neither=40)
    assert equivalence_p_value(same, margin=0.05) < 0.001
    assert equivalence_p_value(same, margin=0.005) > 0.05
    assert equivalence_p_value(Discordance(8, 1, 1, 2), margin=0.05) > 0.05  # too few to show anything
    assert equivalence_p_value(Discordance(400, 0, 60, 40), margin=0.05) > 0.99
    with pytest.raises(BenchError, match="above 0"):
        equivalence_p_value(same, margin=0)


def test_equivalence_is_tangos_published_example() -> None:
    """Lens disinfection, 44 patients of whom one differs, margin 0.1: Z = 1.709, p = 0.044 (Tango 1998)."""
    assert equivalence_p_value(Discordance(43, 1, 0, 0), margin=0.1) == pytest.approx(stats.norm.sf(1.709), abs=2e-4)


@pytest.mark.parametrize("margin", [0.02, 0.05, 0.1])
def test_equivalence_is_claimed_at_the_margin_hardly_more_often_than_it_may(margin: float) -> None:
    """The exact probability, over all tables, that a difference of the margin itself is called equivalent at 5 %."""
    highest = 0.0
    for n in (24, 40, 66, 96, 150):
        for behind in (0.0, 0.01, 0.03):
            chance = 0.0
            for only_a, only_b in product(range(n + 1), repeat=2):
                if only_a + only_b > n or stats.binom.pmf(only_b, n, margin + behind) < 1e-7:
                    continue
                if equivalence_p_value(Discordance(n - only_a - only_b, only_a, only_b, 0), margin=margin) <= 0.05:
                    cells = [only_a, only_b, n - only_a - only_b]
                    chance += stats.multinomial.pmf(cells, n, [behind, margin + behind, 1 - margin - 2 * behind])
            highest = max(highest, chance)
    assert highest < 0.075


@pytest.mark.parametrize(("n", "discordant"), [(200, 0.2), (500, 0.1), (100, 0.5)])
def test_planned_power_is_reached_in_a_simulation(n: int, discordant: float) -> None:
    """The uncorrected test's planned power is 80 %; the exact test, being conservative, reaches 70 to 82 %."""
    delta = minimum_detectable_difference(n, discordant=discordant)
    assert delta is not None
    cells = [1 - discordant, (discordant - delta) / 2, (discordant + delta) / 2]
    tables = np.random.default_rng(1).multinomial(n, cells, size=3000)
    power = np.mean([mcnemar_exact(Discordance(int(t[0]), int(t[1]), int(t[2]), 0)) <= 0.05 for t in tables])
    assert 0.70 <= power <= 0.82


@pytest.mark.parametrize(("n", "discordant"), [(60, 0.0), (200, 0.1), (400, 0.2), (300, 1.0)])
def test_power_of_equivalence_is_what_a_simulation_shows(n: int, discordant: float) -> None:
    cells = [1 - discordant, discordant / 2, discordant / 2]
    tables = np.random.default_rng(3).multinomial(n, cells, size=2000)
    shown = [equivalence_p_value(Discordance(int(t[0]), int(t[1]), int(t[2]), 0), margin=0.05) <= 0.05 for t in tables]
    assert equivalence_power(n, discordant=discordant, margin=0.05) == pytest.approx(np.mean(shown), abs=0.04)
    with pytest.raises(BenchError, match="nothing can be planned"):
        equivalence_power(n, discordant=discordant, margin=0)


def test_no_difference_can_be_planned_from_hardly_any_disagreement() -> None:
    assert minimum_detectable_difference(40, discordant=1 / 40) is None
    with pytest.raises(BenchError, match="nothing can be planned"):
        minimum_detectable_difference(10, discordant=0)


def test_bad_pairs_are_refused() -> None:
    with pytest.raises(BenchError, match="equally long"):
        discordance([1, 0], [1])
    with pytest.raises(BenchError, match="not a proportion"):
        wilson_interval(3, 2)


def test_discordance_counts() -> None:
    assert discordance([1, 1, 0, 0, 1], [1, 0, 1, 0, 1]) == (2, 1, 1, 1)
    assert discordance([1, 1, 0, 0, 1], [1, 0, 1, 0, 1]).n == 5


@pytest.mark.realdata
def test_against_statsmodels_values_of_real_models() -> None:
    folder = Path(os.environ["MOE_TEST_DATA"])
    golden = json.loads((folder / "golden_ab_gsm8k.json").read_text())
    rows = [json.loads(line) for line in (folder / "gsm8k" / "example_model_solutions.jsonl").read_text().splitlines()]
    correct = {name: [row[name]["is_correct"] for row in rows] for name in golden["models"]}
    for name, values in golden["models"].items():
        assert sum(correct[name]) == values["correct"]
        assert wilson_interval(values["correct"], golden["n"]) == pytest.approx(tuple(values["wilson95"]), abs=1e-12)
    for pair, values in golden["pairs"].items():
        b, a = pair.split(" minus ")
        table = discordance(correct[a], correct[b])
        assert (table.only_a, table.only_b) == (values["a_only"], values["b_only"])
        assert mcnemar_exact(table) == pytest.approx(values["mcnemar_exact_p"], rel=1e-9)
        differences = np.subtract(correct[b], correct[a], dtype=float)
        error = clustered_standard_error(differences, np.ones(len(differences)))
        assert error == pytest.approx(values["se_paired"], rel=1e-9)
        low, high = paired_difference_interval(table)
        assert low < values["diff"] < high
        assert (high - low) / 2 == pytest.approx(
            1.96 * values["se_paired"], rel=0.03
        )  # n is large: the normal interval is near
