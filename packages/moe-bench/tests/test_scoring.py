"""The score of an output on an item, and partial credit."""

from __future__ import annotations

import json
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moe_bench import BenchError, Item
from moe_bench.answers import partial_credit
from moe_bench.answers.partial import BANDS
from moe_bench.answers.structures import overlap_f1
from moe_bench.scoring import score
from moe_bench.tasks import FAMILIES, make_items


def item(target: str, prompt: str = "?", **metadata: object) -> Item:
    return Item(prompt=prompt, target=target, task="t", metadata=metadata)


def test_a_score_is_plain_values() -> None:
    result = score(item("1,200"), "It adds up.\n#### 1200")
    assert json.loads(json.dumps(result)) == {
        "answer": "1200", "kind": "number", "strategy": "hashes", "correct": True, "method": "number", "timed_out": False,
        "partial": {"measure": "numeric distance", "credit": 1.0, "relative_error": 0.0}, "scorer": 2,
    }  # fmt: skip


def test_no_answer() -> None:
    result = score(item("7"), "I do not know")
    assert (result["answer"], result["strategy"], result["correct"], result["method"]) == (None, "none", False, "none")
    assert result["partial"]["credit"] == 0


def test_declared_kind_and_choices() -> None:
    declared = item("b, a", answer_kind="set")
    assert score(declared, "The answer is a, b.")["correct"]
    assert not score(item("b, a"), "The answer is a, b.")["correct"]
    three = item("Unknown", answer_kind="choice", choices=["True", "False", "Unknown"])
    assert score(three, "It cannot be told: unknown.")["correct"]
    assert not score(three, "The answer is True.")["correct"]
    lettered = item("B", answer_kind="choice", choices={"A": "red", "B": "green"})
    assert score(lettered, "The answer is green.")["correct"]
    read = item("(B)", prompt="Which?\nOptions:\n(A) red\n(B) green")
    assert score(read, "So the answer is green.")["correct"]
    with pytest.raises(BenchError, match="answer kind 'nmber'"):
        score(item("7", answer_kind="nmber"), "7")
    with pytest.raises(BenchError, match="choices must be a list of texts"):
        score(item("A", answer_kind="choice", choices="AB"), "A")


@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_the_right_answer_to_a_generated_item_is_right_and_that_to_another_is_not(name: str) -> None:
    items = make_items([name], count_per_family=30, seed=3, split="test")
    for one, other in zip(items, items[1:] + items[:1], strict=True):
        for text in (
            f"{one.solution}\n#### {one.target}",
            f"{one.solution}\nThe answer is {one.target}.",
            rf"\boxed{{{one.target}}}",
        ):
            assert score(one, text)["correct"], (one, text)
        if one.target != other.target:
            assert not score(one, f"{one.solution}\n#### {other.target}")["correct"], (one, other.target)


@given(st.integers(1, 10**6), st.fractions(min_value=0, max_value=3, max_denominator=1000), st.booleans())
def test_numeric_bands(target: int, error: Fraction, above: bool) -> None:
    answer = target * (1 + error if above else 1 - error)
    found = partial_credit(str(answer), str(target))
    assert found is not None
    assert found.credit == max((credit for bound, credit in BANDS if error <= Fraction(str(bound))), default=0.0)
    assert found.relative_error == pytest.approx(float(error))


@given(st.lists(st.sampled_from("abcdef"), max_size=6), st.lists(st.sampled_from("abcdef"), max_size=6))
def test_set_f1_is_the_harmonic_mean_of_precision_and_recall(a: list[str], b: list[str]) -> None:
    left = list(b)
    common = 0
    for part in a:
        if part in left:
            left.remove(part)
            common += 1
    expected = 0.0 if not common else 2 / (len(a) / common + len(b) / common)
    assert overlap_f1(list(a), list(b)) == pytest.approx(expected)


def test_partial_credit_of_lists_words_and_other_units() -> None:
    assert partial_credit("a, c, b", "a, b, d", "list").credit == pytest.approx(2 / 3)  # type: ignore[union-attr]
    assert partial_credit("{1, 2}", "{1, 2, 3, 4}", "set").credit == pytest.approx(2 / 3)  # type: ignore[union-attr]
    assert partial_credit("{1/2, 2}", "{0.5, 2}", "expression").credit == 1  # type: ignore[union-attr]
    assert partial_credit("1.01 km", "1000 m").relative_error == pytest.approx(0.01)  # type: ignore[union-attr]
    assert partial_credit("7 kg", "7 m").credit == 0  # type: ignore[union-attr]
    assert partial_credit("3", "0").credit == 0  # type: ignore[union-attr]
    assert partial_credit(None, "a, b", "list").credit == 0  # type: ignore[union-attr]
    assert partial_credit("red", "blue") is None
    assert partial_credit("(A)", "(B)") is None
