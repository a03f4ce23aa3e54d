"""Rows: what is said of places against all permutations."""

from __future__ import annotations

from itertools import permutations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moe_bench.checkers.base import Status, assess
from moe_bench.checkers.rules.rows import RowChecker
from moe_bench.logic import Verdict
from moe_bench.logic.ordering import read_row

COLOURS = ("red", "blue", "green", "white", "black")
ORDINALS = ("second", "third", "fourth", "fifth")
NUMBER = {3: "three", 4: "four", 5: "five"}
Said = tuple[str, int, int, int]


@st.composite
def problems(draw: st.DrawFn) -> tuple[str, list[str], set[tuple[str, ...]]]:
    """A problem that one row satisfies, its books, and every row that does, by trying all."""
    books = list(COLOURS[: draw(st.integers(3, 5))])
    true = draw(st.permutations(books))
    said, kept = [], set(permutations(books))
    for _ in range(draw(st.integers(1, 6))):
        one, other = draw(st.permutations(books))[:2]
        at, there = true.index(one), true.index(other)
        kind = draw(st.sampled_from(["side", "left", "right", "end"]))
        if kind == "side":
            said.append(f"The {one} book is to the {'left' if at < there else 'right'} of the {other} book.")
            kept = {row for row in kept if (row.index(one) < row.index(other)) == (at < there)}
            continue
        n = at if kind != "right" else len(books) - 1 - at
        if kind == "end" and at not in (0, len(books) - 1):
            continue
        if kind == "end":
            said.append(f"The {one} book is the {'leftmost' if at == 0 else 'rightmost'}.")
        elif n == 0:
            continue
        else:
            said.append(f"The {one} book is the {ORDINALS[n - 1]} from the {kind}.")
        kept = {row for row in kept if row.index(one) == at}
    listed = ", ".join(f"a {book} book" for book in books[:-1]) + f", and a {books[-1]} book"
    return f"On a shelf, there are {NUMBER[len(books)]} books: {listed}. {' '.join(said)}", books, kept


@settings(max_examples=200, deadline=None)
@given(problems())
def test_rows_are_those_of_all_permutations(problem: tuple[str, list[str], set[tuple[str, ...]]]) -> None:
    text, books, kept = problem
    row = read_row(text)
    if row is None:
        assert text.rstrip().endswith("book.")  # nothing was said
        return
    assert {tuple(name.removesuffix(" book") for name in found) for found in row.rows} == kept
    for book in books:
        place = row.read(f"The {book} book is the leftmost.")
        assert place is not None
        first = {found[0] == book for found in kept}
        expected = {(True,): Verdict.PROVED, (False,): Verdict.DISPROVED}.get(tuple(first), Verdict.UNKNOWN)
        assert row.decide(place) is expected


CARS = (
    "There are three cars: a bus, a van, and a tram. The van is newer than the bus. The tram is the {}.\n"
    "Options:\n(A) The bus is the oldest\n(B) The van is the oldest"
)


@pytest.mark.parametrize(
    ("said", "option"), [("newest", "(A)"), ("second-newest", "(A)"), ("oldest", None), ("second-oldest", "(A)")]
)
def test_the_option_that_must_hold(said: str, option: str | None) -> None:
    assert RowChecker().solve(CARS.format(said)) == option


@pytest.mark.parametrize(
    "text",
    [
        "There are three runners: Ann, Bob, and Cy. Ann finished first. Bob finished last.",
        "There are three runners: Ann, Bob, and Cy. Ann finished above Cy. Bob finished second-to-last. Bob finished below Ann.",
        "There are three toys: Ann, Bob, and Cy. Ann is more expensive than Cy. Cy is the cheapest. Bob is the second-most expensive.",
        "There are three people: Ann, Bob, and Cy. Ann is taller than Cy. Cy is the shortest. Bob is shorter than Ann.",
        "There are three boxes: Ann, Bob, and Cy. Ann is heavier than Bob. Cy is the lightest.",
    ],
)
def test_pairs_of_ends(text: str) -> None:
    row = read_row(text)
    assert row is not None
    assert len(row.rows) == 1
    assert set(row.rows[0]) == {"Ann", "Bob", "Cy"}
    assert row.rows[0][0] == "Ann" or "Cy is the third" in text


@pytest.mark.parametrize(
    "text",
    [
        "Ann is taller than Bob.",
        "There are two boxes: Ann and Bob. Ann is heavier than Bob. It rained.",
        "There are two boxes: Ann and Bob. Ann is heavier than Bob. Bob is heavier than Ann.",
        "There are two boxes: Ann and Bob. Ann is heavier than Bob. Bob is older than Ann.",
        "There are two boxes: Ann and Bob. Ann is heavier than Zed.",
    ],
)
def test_what_is_no_row_is_left_alone(text: str) -> None:
    assert read_row(text) is None
    assert RowChecker().solve(text) is None
    assert RowChecker().check(text, ["Ann is heavier than Bob."]) == []


def test_steps_about_rows() -> None:
    problem = CARS.format("newest")
    steps = [
        "(1) The van is newer than the bus.",
        'So we get the following ordering: "(oldest) bus van tram (newest)".',
        'So we get the following ordering: "(newest) tram bus van (oldest)".',
        "The van is the newest.",
        "So the answer is (B).",
    ]
    verdicts = [step.status for step in assess(problem, steps, [RowChecker()]).steps]
    assert verdicts == [Status.VALID, Status.VALID, Status.INVALID, Status.INVALID, Status.INVALID]


def test_what_may_be_is_unchecked() -> None:
    problem = "There are three cars: a bus, a van, and a tram. The van is newer than the bus."
    steps = ['"(oldest) bus van tram (newest)"', "The tram is the newest.", '"(oldest) van bus tram (newest)"']
    verdicts = [step.status for step in assess(problem, steps, [RowChecker()]).steps]
    assert verdicts == [Status.UNCHECKED, Status.UNCHECKED, Status.INVALID]
