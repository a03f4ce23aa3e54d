"""The patterns of a solution, each alone."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from moe_bench.checkers.quality import quality
from moe_bench.cli import main
from moe_bench.tasks import FAMILIES, make_items

PROBLEM = "A pen costs 3 dollars and a book 8. What do 4 pens and 2 books cost?"
GOOD = [
    "4 pens cost 4 * 3 = 12 dollars.",
    "2 books cost 2 * 8 = 16 dollars.",
    "Together they cost 12 + 16 = 28 dollars.",
]


def test_a_good_solution_has_all_of_them() -> None:
    found = quality(PROBLEM, GOOD)
    assert (found.states_operation, found.uses_earlier, found.not_redundant, found.score) == (1, 1, 1, 1)


@pytest.mark.parametrize(
    ("steps", "pattern", "value"),
    [
        ([GOOD[0], "Books: 16.", GOOD[2]], "states_operation", pytest.approx(2 / 3)),
        ([GOOD[0], GOOD[1], "Together they cost 13 + 17 = 30 dollars."], "uses_earlier", 0.5),
        ([*GOOD, GOOD[0]], "not_redundant", pytest.approx(2 / 3)),
        ([GOOD[0], "So 4 pens cost 4 * 3 = 12 dollars."], "not_redundant", 0.0),
        ([GOOD[0], "5 pens cost 5 * 3 = 15 dollars."], "not_redundant", 1.0),
    ],
)
def test_each_pattern_alone(steps: list[str], pattern: str, value: object) -> None:
    assert getattr(quality(PROBLEM, steps), pattern) == value


def test_what_does_not_apply_counts_for_nothing() -> None:
    found = quality("Is Max red?", ["Max is a wug."])
    assert (found.states_operation, found.uses_earlier, found.not_redundant, found.score) == (None, None, None, None)


def test_worked_solutions_score_high_and_shuffled_repetitions_lower() -> None:
    items = make_items(FAMILIES, count_per_family=5, seed=0, split="test")
    many = [(item.prompt, item.solution.splitlines()) for item in items if len(item.solution.splitlines()) > 1]
    good = [s for prompt, steps in many if (s := quality(prompt, steps).score) is not None]
    twice = [s for prompt, steps in many if (s := quality(prompt, [*steps, *steps]).score) is not None]
    assert sum(good) / len(good) > 0.75
    assert sum(twice) / len(twice) < sum(good) / len(good) - 0.1


def test_the_command_reports_it_apart_from_the_verdicts() -> None:
    arguments = ["check", "--problem", PROBLEM, "--solution", "\n".join(GOOD), "--json"]
    (entry,) = json.loads(CliRunner().invoke(main, arguments).output)["solutions"]
    assert entry["quality"] == {"states_operation": 1.0, "uses_earlier": 1.0, "not_redundant": 1.0, "score": 1.0}
