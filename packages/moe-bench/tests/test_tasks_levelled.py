"""Every levelled family: levels, worked steps that the checkers accept, answers that the scorer finds, balance, splits."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from moe_bench import BenchError
from moe_bench.answers import KINDS
from moe_bench.checkers.base import assess
from moe_bench.checkers.registry import make_checkers
from moe_bench.item import Item
from moe_bench.prompting import worked
from moe_bench.scoring import score
from moe_bench.steps import split_steps
from moe_bench.tasks import FAMILIES, LEVELLED, SUITES, make_items, split_of

ITEMS: dict[str, list[Item]] = {}


def items_of(name: str) -> list[Item]:
    """400 items of a family, over its levels."""
    if name not in ITEMS:
        ITEMS[name] = make_items([name], count_per_family=400, seed=11)
    return ITEMS[name]


@pytest.mark.parametrize("name", LEVELLED)
def test_items_are_distinct_labelled_and_spread_over_levels(name: str) -> None:
    family, items = LEVELLED[name], items_of(name)
    assert len(family.levels) >= 5
    assert family.answer_kind in KINDS
    assert len({i.id for i in items}) == len({i.prompt for i in items}) == 400, "no prompt twice"
    assert Counter(i.metadata["level"] for i in items) == {n: 400 // len(family.levels) for n in range(1, 6)}
    assert [i.metadata["level"] for i in items[:6]] == [1, 2, 3, 4, 5, 1], "in turn, so that a limit keeps all levels"
    for item in items:
        assert item.operation == family.operation
        assert item.metadata["answer_kind"] == family.answer_kind
        assert item.metadata["steps"] == len(item.solution.splitlines()) >= 1
        assert "None" not in item.prompt
        assert "  " not in item.prompt
        assert item.prompt == item.prompt.strip()
        assert split_of(item.id) == "train"


@pytest.mark.parametrize("name", LEVELLED)
def test_higher_levels_take_more_steps_or_more_reading(name: str) -> None:
    by_level = {n: [i for i in items_of(name) if i.metadata["level"] == n] for n in range(1, 6)}
    sizes = {
        n: sum(len(i.prompt.split()) / 10 + len(i.solution.split()) / 5 for i in items) / len(items)
        for n, items in by_level.items()
    }
    assert all(sizes[n + 1] >= 0.9 * sizes[n] for n in range(1, 5)), sizes
    assert sizes[5] > 1.3 * sizes[1], sizes


@pytest.mark.parametrize("name", LEVELLED)
def test_the_checkers_find_nothing_wrong_in_worked_solutions(name: str) -> None:
    checkers = make_checkers()
    for item in items_of(name)[:100]:
        assessment = assess(item.prompt, split_steps(worked(item)), checkers)
        assert assessment.first_invalid is None, (item, assessment)


@pytest.mark.parametrize("name", LEVELLED)
def test_the_scorer_finds_the_answer_and_no_other(name: str) -> None:
    items = items_of(name)[:150]
    for one, other in zip(items, items[1:] + items[:1], strict=True):
        for text in (
            worked(one),
            f"{one.solution}\nThe answer is {one.target}.",
            rf"So the answer is \boxed{{{one.target}}}.",
            one.target,
        ):
            assert score(one, text)["correct"], (one, text, score(one, text))
        if one.target != other.target:
            assert not score(one, f"{one.solution}\n#### {other.target}")["correct"], (one, other.target)
        for choice in one.metadata.get("choices", ()):
            named = score(one, f"The answer is {choice}.")["correct"]
            assert named == score(one, f"#### {choice}")["correct"]
        if "choices" in one.metadata:
            assert sum(score(one, f"#### {c}")["correct"] for c in one.metadata["choices"]) == 1


@pytest.mark.parametrize("name", [n for n, f in LEVELLED.items() if f.answer_kind in ("boolean", "choice")])
def test_no_answer_is_a_safe_guess(name: str) -> None:
    """At most 55 % of the items have one answer, one place among the choices, or the first or last of them, by chance 3 in 1000 more."""
    family, items = LEVELLED[name], items_of(name)
    bound = 0.55 * 400 + 2.75 * (400 * 0.55 * 0.45) ** 0.5
    answers = Counter(i.target for i in items)
    assert answers.most_common(1)[0][1] <= bound, answers
    assert len(answers) > 1
    for level in range(1, 6):
        of_level = [i for i in items if i.metadata["level"] == level]
        n = len(of_level)
        most = Counter(i.target for i in of_level).most_common(1)[0][1]
        assert most <= 0.55 * n + 2.75 * (n * 0.25) ** 0.5, level
    if family.answer_kind == "choice":
        chance = sum(1 / len(i.metadata["choices"]) for i in items) / 400
        for place in (0, -1):
            share = _place_share(items, place)
            assert abs(share - chance) <= 3.5 * (chance * (1 - chance) / 400) ** 0.5, (place, share, chance)


def _place_share(items: list[Item], place: int) -> float:
    """Share of the items whose answer stands at a place among the choices, as the scorer reads them."""
    return sum(score(i, f"#### {i.metadata['choices'][place]}")["correct"] for i in items) / len(items)


@pytest.mark.parametrize("name", LEVELLED)
def test_there_are_items_for_a_test_at_every_level(name: str) -> None:
    for level in range(1, len(LEVELLED[name].levels) + 1):
        items = make_items([name], count_per_family=40, seed=0, split="test", level=level)
        assert {i.metadata["level"] for i in items} == {level}
        assert all(split_of(i.id) == "test" for i in items)
        assert items == make_items([name], count_per_family=40, seed=0, split="test", level=level)


def test_there_are_two_hundred_at_every_level() -> None:
    for name, family in LEVELLED.items():
        for level in range(1, len(family.levels) + 1):
            assert len(make_items([name], count_per_family=200, seed=2, level=level)) == 200


def test_suites_hold_the_families_of_their_operation_and_no_item_twice() -> None:
    assert set(SUITES["all"]) == set(FAMILIES), "what an embedded model was trained on"
    assert not FAMILIES.keys() & LEVELLED.keys()
    assert set(SUITES["reasoning"]) == set(LEVELLED)
    for operation in {f.operation for f in LEVELLED.values()}:
        assert set(SUITES[operation]) == {n for n, f in LEVELLED.items() if f.operation == operation}
    assert {LEVELLED[n].operation for n in SUITES["ladder"]} == {f.operation for f in LEVELLED.values()}
    assert all(LEVELLED[n].answer_kind != "boolean" for n in SUITES["ladder"]), (
        "a guess must not be right half of the time at every level"
    )
    items = make_items(SUITES["reasoning"], count_per_family=25, seed=0, split="test")
    assert len({i.id for i in items}) == len(items) == 25 * len(LEVELLED)


def fingerprint(items: list[Item]) -> str:
    return hashlib.sha256("".join(i.prompt + i.target + i.solution for i in items).encode()).hexdigest()[:16]


def test_the_families_without_levels_are_as_they_were() -> None:
    """moe-train's embedded model was trained on them: the fingerprint is of version 0.1.0."""
    assert fingerprint(make_items(FAMILIES, count_per_family=30, seed=3)) == "96f6cb545a9c3d04"


def test_items_do_not_depend_on_the_order_of_hashing() -> None:
    program = (
        "from moe_bench.tasks import LEVELLED, make_items; from test_tasks_levelled import fingerprint; "
        "print(fingerprint(make_items(LEVELLED, count_per_family=5, seed=3)))"
    )
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent), "PYTHONHASHSEED": "77"}
    other = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert other.stdout.strip() == fingerprint(make_items(LEVELLED, count_per_family=5, seed=3))


def test_a_level_that_is_not_there_is_refused() -> None:
    with pytest.raises(BenchError, match="has levels 1 to 5, not 6"):
        make_items(["linear_equation"], count_per_family=1, seed=0, level=6)
    with pytest.raises(BenchError, match="'addition': has no levels"):
        make_items(["addition"], count_per_family=1, seed=0, level=1)
