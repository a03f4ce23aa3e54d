"""Swaps: what holds is called valid, a state that is changed is found where it was changed."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moe_bench.checkers.base import Status, assess
from moe_bench.checkers.rules import RULE_CHECKERS, solve
from moe_bench.checkers.rules.exchange import read_exchange
from moe_bench.checkers.rules.tracking import TrackingChecker
from moe_bench.tasks import make_items

PEOPLE = ("Ann", "Bob", "Cleo", "Dan", "Eve")
BALLS = ("red", "blue", "green", "white", "pink")
STYLES = ("{a} and {b} swap balls: {state}.", "{a} swaps balls with {b}. Now {state}.", "{state}")


@st.composite
def solutions(draw: st.DrawFn) -> tuple[str, list[str], list[dict[str, str]]]:
    """A problem, its worked steps in one of the usual styles, and the state after each."""
    n = draw(st.integers(3, 5))
    people, balls = PEOPLE[:n], draw(st.permutations(BALLS))[:n]
    order = list(balls)
    swaps = draw(st.lists(st.permutations(range(n)).map(lambda p: (p[0], p[1])), min_size=1, max_size=5))
    style = draw(st.sampled_from(STYLES))
    colon = style != STYLES[1]
    states, steps = [dict(zip(people, order, strict=True))], []
    for a, b in swaps:
        order[a], order[b] = order[b], order[a]
        states.append(dict(zip(people, order, strict=True)))
        steps.append(written(style, people[a], people[b], states[-1], colon))
    told = ", ".join(f"{p} has a {c} ball" for p, c in states[0].items())
    moves = " ".join(f"Then, {people[a]} and {people[b]} swap balls." for a, b in swaps)
    choices = "\n".join(f"({'ABCDE'[i]}) {ball} ball" for i, ball in enumerate(balls))
    asked = draw(st.sampled_from(people))
    problem = f"They play a game: {told}. {moves} At the end of the game, {asked} has the\nOptions:\n{choices}"
    letter = "ABCDE"[balls.index(states[-1][asked])]
    return problem, [written(STYLES[2], "", "", states[0], True), *steps, f"So the answer is ({letter})."], states


def written(style: str, a: str, b: str, state: dict[str, str], colon: bool) -> str:
    told = ", ".join(f"{p}: {c}" if colon else f"{p} has {c}" for p, c in state.items())
    return style.format(a=a, b=b, state=told)


@settings(max_examples=150, deadline=None)
@given(solutions())
def test_worked_swaps_are_valid_and_solved(made: tuple[str, list[str], list[dict[str, str]]]) -> None:
    problem, steps, _ = made
    found = assess(problem, steps, [TrackingChecker()])
    assert [s.status for s in found.steps] == [Status.VALID] * len(steps), [s.reason for s in found.steps]
    assert f"So the answer is {solve(problem)}." == steps[-1]


@settings(max_examples=150, deadline=None)
@given(solutions(), st.data())
def test_a_changed_state_is_found_where_it_was_changed(made, data: st.DataObject) -> None:
    problem, steps, states = made
    at = data.draw(st.integers(1, len(states) - 1))
    one, other = data.draw(st.permutations(list(states[at])))[:2]
    a, b = states[at][one], states[at][other]
    swapped = {a: b, b: a}
    words = steps[at].split(" ")
    spoiled = [w.replace(w.strip(".,"), swapped.get(w.strip(".,"), w.strip(".,"))) for w in words]
    found = assess(problem, [*steps[:at], " ".join(spoiled), *steps[at + 1 :]], [TrackingChecker()])
    assert found.first_invalid == at


PROBLEM = (
    "Ann gets The Odyssey, Bob gets Catch-22, and Cleo gets Moby Dick. "
    "First, Ann and Bob swap books. Then, Bob and Cleo swap books. At the end, Bob has"
)


@pytest.mark.parametrize(
    ("steps", "first"),
    [
        (
            [
                "A: Odyssey, B: Catch, C: Moby Dick",
                "A: Catch, B: Odyssey, C: Moby Dick",
                "A: Catch, B: Moby Dick, C: Odyssey",
            ],
            None,
        ),
        (
            [
                "Ann and Bob swap: Ann: Catch-22, Bob: The Odyssey.",
                "Bob and Cleo swap: Bob: Moby Dick, Cleo: The Odyssey.",
            ],
            None,
        ),
        (["Ann and Cleo swap: Ann: Moby Dick."], 0),
        (["Ann and Bob swap.", "Bob and Cleo swap.", "Ann and Bob swap."], 2),
        (["Ann and Bob swap.", "Bob and Cleo swap.", "So the answer is The Odyssey."], 2),
        (["Ann and Bob swap.", "So the answer is Moby Dick."], None),
    ],
)
def test_ways_of_writing(steps: list[str], first: int | None) -> None:
    assert assess(PROBLEM, steps, [TrackingChecker()]).first_invalid == first


def test_after_a_mistake_what_follows_from_it_is_valid() -> None:
    steps = [
        "Ann and Bob swap: Ann: Catch-22, Bob: Moby Dick, Cleo: The Odyssey.",
        "Bob and Cleo swap: Bob: The Odyssey, Cleo: Moby Dick.",
    ]
    found = assess(PROBLEM, steps, [TrackingChecker()])
    assert [s.status for s in found.steps] == [Status.INVALID, Status.VALID]
    assert "Bob has The Odyssey at this point, the text says Moby Dick" in found.steps[0].reason


def test_a_thing_nobody_has_is_unchecked() -> None:
    finding = assess(PROBLEM, ["Ann and Bob swap.", "Ann: Ulysses"], [TrackingChecker()]).steps[1].findings[0]
    assert finding.status is Status.UNCHECKED


@pytest.mark.parametrize(
    "problem",
    [
        "Ann has 3 apples. Bob has 4. They swap. How many does Ann have?",
        "Ann and Bob swap seats.",
        "Ann has a ball, Bob has a ball. Ann and Bob swap balls. Who has what?",
        "Ann has a red ball and Bob has a blue ball. Ann and Zoe swap balls.",
        "Traders swap goods in the market.",
    ],
)
def test_other_problems_are_left_alone(problem: str) -> None:
    assert read_exchange(problem) is None
    assert not [f for c in RULE_CHECKERS for f in c.check(problem, ["Ann has a red ball.", "The answer is 4."])]


def test_generated_tracking_items() -> None:
    for item in make_items(["tracking"], count_per_family=40, seed=5, split="validation"):
        assert TrackingChecker().solve(item.prompt) == item.target
