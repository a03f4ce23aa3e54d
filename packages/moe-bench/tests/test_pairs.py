"""Several answers to an item, and items that go together: against enumeration, the binary formulas, statsmodels' way, and simulation."""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from moe_bench import BenchError, Item, compare_runs, run_items
from moe_bench.cli import main
from moe_bench.draws import majority, score_of
from moe_bench.pairs import GradedPairs, SinglePairs, clustered_standard_error, pair
from moe_bench.prompting import Prompting
from moe_bench.stats import Discordance, equivalence_p_value
from scripted import Answer


def graded(a: list[float], b: list[float], clusters: list[int] | None = None) -> GradedPairs:
    return GradedPairs(np.array(a), np.array(b), np.array(clusters if clusters is not None else range(len(a))))


def answers(*given: str | None, right: str = "18") -> list[dict[str, object]]:
    return [
        {"id": "x", "answer": g, "kind": "number", "correct": g is not None and float(g) == float(right)} for g in given
    ]


@pytest.mark.parametrize(
    ("given", "mean", "any_right", "most"),
    [
        (["18", "18.0", "7", "7"], 0.5, True, True),  # 18 and 18.0 are one answer, given first
        (["7", "18", "7"], 1 / 3, True, False),
        ([None, None, "18"], 1 / 3, True, True),  # what has no answer has no vote
        ([None, None], 0, False, False),
        (["18"], 1, True, True),
    ],
)
def test_what_several_answers_come_to(given: list[str | None], mean: float, any_right: bool, most: bool) -> None:
    found = answers(*given)
    assert score_of(found, "mean") == pytest.approx(mean)
    assert score_of(found, "any") == any_right
    assert score_of(found, "majority") == majority(found) == most


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from([-1, -0.5, -0.25, 0, 0.25, 0.5, 1]), min_size=1, max_size=9))
def test_sign_flips_are_all_enumerated(differences: list[float]) -> None:
    flips = [
        abs(sum(s * d for s, d in zip(signs, differences, strict=True)))
        for signs in product((1, -1), repeat=len(differences))
    ]
    exact = np.mean([f >= abs(sum(differences)) - 1e-12 for f in flips])
    assert graded([0.0] * len(differences), differences).p_value == pytest.approx(exact)


@settings(max_examples=40, deadline=None)
@given(
    st.tuples(st.integers(1, 40), st.integers(0, 30), st.integers(0, 30), st.integers(0, 40)),
    st.sampled_from([0.02, 0.05, 0.2]),
)
def test_right_and_wrong_is_a_special_case(cells: tuple[int, int, int, int], margin: float) -> None:
    """The graded ways on single answers: the same means, nearly McNemar's p-value and nearly Tango's, where there are enough items."""
    both, only_a, only_b, neither = cells
    table = Discordance(both, only_a, only_b, neither)
    a = [1.0] * both + [1.0] * only_a + [0.0] * only_b + [0.0] * neither
    b = [1.0] * both + [0.0] * only_a + [1.0] * only_b + [0.0] * neither
    ours, theirs = graded(a, b), SinglePairs(table)
    assert ours.means == pytest.approx(theirs.means)
    assert ours.ahead == theirs.ahead
    if table.n >= 40:
        assert ours.equivalence(margin=margin) == pytest.approx(equivalence_p_value(table, margin=margin), abs=0.12)
    assert ours.p_value == pytest.approx(theirs.p_value, abs=0.06)  # 9,999 draws


def test_clustered_error_is_the_plain_one_for_single_items_and_the_sandwich_for_clusters() -> None:
    """Against numpy's standard deviation, and against the cluster-robust variance of a regression on a constant written out."""
    draw = np.random.default_rng(3)
    x = draw.normal(size=50)
    assert clustered_standard_error(x, np.ones(50)) == pytest.approx(x.std(ddof=1) / np.sqrt(50))
    clusters = draw.integers(0, 12, 50)
    sums, sizes = np.bincount(clusters, x, 12), np.bincount(clusters, minlength=12).astype(float)
    rest = x - x.mean()
    meat = sum(float(rest[clusters == c].sum()) ** 2 for c in range(12))
    assert clustered_standard_error(sums, sizes) == pytest.approx(np.sqrt(12 / 11 * meat) / 50)
    with pytest.raises(BenchError, match="at least two"):
        clustered_standard_error(np.ones(1), np.ones(1))


def test_clusters_keep_their_promises_where_items_do_not() -> None:
    """No difference, items of a cluster all alike: at 5 % the clustered test errs in about 5 % of 100 draws, the other in far more."""
    draw = np.random.default_rng(11)
    alike = clustered = covered = 0
    for _ in range(100):
        by_cluster = draw.choice([-1.0, 0.0, 1.0], size=20)
        b = np.repeat(by_cluster, 8) / 2 + 0.5
        a = np.full(160, 0.5)
        alike += graded(a.tolist(), b.tolist()).p_value <= 0.05
        together = graded(a.tolist(), b.tolist(), np.repeat(range(20), 8).tolist())
        clustered += together.p_value <= 0.05
        low, high = together.interval(alpha=0.05)
        covered += low <= 0 <= high
    assert alike > 30
    assert clustered <= 12
    assert covered >= 86


def test_the_detectable_difference_is_detected_in_four_of_five() -> None:
    draw = np.random.default_rng(5)
    base = draw.choice([-0.5, -0.25, 0, 0.25, 0.5], size=200)
    base -= base.mean()
    delta = graded([0.5] * 200, (0.5 + base).tolist()).detectable(alpha=0.05)
    assert delta is not None
    found = [graded([0.5] * 200, (0.5 + delta + draw.choice(base, 200)).tolist()).p_value <= 0.05 for _ in range(80)]
    assert 0.68 <= np.mean(found) <= 0.92


def test_no_difference_anywhere_is_no_certainty() -> None:
    same = graded([0.5] * 30, [0.5] * 30)
    assert (same.p_value, same.detectable(alpha=0.05)) == (1.0, None)
    low, high = same.interval(alpha=0.05)
    assert low < 0 < high
    assert same.equivalence(margin=0.001) > 0.05
    assert graded([0.5] * 40, [0.5] * 40).equivalence(margin=0.05) > 0.05
    assert graded([0.5] * 90, [0.5] * 90).equivalence(margin=0.05) < 0.05


class Drawing:
    """Right in `chances[prompt]` of the draws, which answers differ by their number."""

    def __init__(self, chances: dict[str, float]) -> None:
        self.chances = chances
        self.settings = {"decoding": "drawn", "max_new_tokens": 8}

    def answer(self, requests, watch=None):
        for i, request in enumerate(requests):
            right = (request.sample + 0.5) / 4 < self.chances[request.prompt]
            yield [Answer(i, "The answer is 1." if right else f"The answer is {request.sample + 2}.", 3, True)]


def make_run(folder: Path, chances: list[float], *, samples: int = 4, families: int = 5) -> Path:
    items = [
        Item(prompt=f"Q{n}", target="1", task="t", metadata={"family": f"f{n % families}"}) for n in range(len(chances))
    ]
    model = Drawing({item.prompt: chance for item, chance in zip(items, chances, strict=True)})
    run_items(model, items, folder, suite="s", model_name=folder.name, prompting=Prompting(samples=samples))
    return folder


@pytest.fixture
def drawn(tmp_path: Path) -> tuple[Path, Path]:
    return make_run(tmp_path / "a", [0.25, 0.5] * 20), make_run(tmp_path / "b", [0.5, 0.75] * 20)


def test_runs_with_several_answers_are_compared(drawn: tuple[Path, Path]) -> None:
    c = compare_runs(*drawn)
    assert (c.n, c.answers_a, c.answers_b, c.score, c.test) == (40, 4, 4, "mean", "sign-flip permutation")
    assert (c.accuracy_a, c.accuracy_b, c.only_a, c.only_b) == (0.375, 0.625, 0, 40)
    assert (c.verdict, c.p_value < 0.001) == ("better", True)
    assert compare_runs(*drawn, score="any").difference == 0
    majority_of = compare_runs(*drawn, score="majority")
    assert (majority_of.test, majority_of.accuracy_a, majority_of.accuracy_b) == (
        "exact McNemar",
        1.0,
        1.0,
    )  # first given of 1, 3, 4, 5


def test_the_order_of_the_lines_does_not_matter(drawn: tuple[Path, Path]) -> None:
    before = compare_runs(*drawn, score="majority")
    path = drawn[1] / "samples.jsonl"
    path.write_text("".join(reversed(path.read_text().splitlines(keepends=True))))
    assert compare_runs(*drawn, score="majority").accuracy_b == before.accuracy_b


def test_clusters_by_metadata(drawn: tuple[Path, Path]) -> None:
    c = compare_runs(*drawn, cluster="family")
    assert (c.cluster, c.test) == ("family", "sign-flip permutation")
    assert c.p_value == pytest.approx(2 / 2**5)  # five clusters, all of one sign
    assert c.verdict == "not enough data"
    with pytest.raises(BenchError, match=r"no metadata 'source' to cluster by; it has family"):
        compare_runs(*drawn, cluster="source")


def test_other_numbers_of_answers_are_compared_and_missing_ones_refused(
    tmp_path: Path, drawn: tuple[Path, Path]
) -> None:
    two = make_run(tmp_path / "two", [0.5] * 40, samples=2)
    c = compare_runs(two, drawn[1])
    assert (c.answers_a, c.answers_b) == (2, 4)
    with pytest.raises(BenchError, match="2 and 4 answers to an item; any of more is easier, so compare their means"):
        compare_runs(two, drawn[1], score="any")
    lines = (drawn[0] / "samples.jsonl").read_text().splitlines(keepends=True)
    (drawn[0] / "samples.jsonl").write_text("".join(lines[:-1]))
    with pytest.raises(
        BenchError, match="40 of its 40 items, 4 answers to each, are answered 159 times; finish it first"
    ):
        compare_runs(*drawn)


def test_the_card_says_what_was_compared(drawn: tuple[Path, Path]) -> None:
    found = CliRunner().invoke(main, ["compare", *map(str, drawn), "--cluster", "family"])
    text = " ".join(found.output.replace("│", " ").split())
    assert (
        "37.5 % → 62.5 % right on 40 items by the mean of 4 answers, those of one family together (5 clusters)" in text
    )
    assert "40 items are right more often, 0 less often; 5 clusters cannot give a p-value below 0.062" in text
    values = json.loads(CliRunner().invoke(main, ["compare", *map(str, drawn), "--score", "majority", "--json"]).output)
    assert (values["score"], values["test"]) == ("majority", "exact McNemar")


def test_pairs_are_single_where_items_are_right_or_wrong() -> None:
    a, b = {"x": answers("18"), "y": answers("7")}, {"x": answers("18"), "y": answers("18")}
    assert isinstance(pair(a, b, ["x", "y"]), SinglePairs)
    assert isinstance(pair({"x": answers("18", "7")}, {"x": answers("18")}, ["x"]), GradedPairs)
