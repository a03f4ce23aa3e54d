"""Brackets, walks, boolean expressions and truthfulness against simulations by other means."""

from __future__ import annotations

import re
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moe_bench.checkers.base import Checker, Status, assess
from moe_bench.checkers.deduction import DeductionChecker
from moe_bench.checkers.rules import RULE_CHECKERS, solve
from moe_bench.checkers.rules.boolean import BooleanChecker, value_of
from moe_bench.checkers.rules.brackets import BracketChecker
from moe_bench.checkers.rules.navigation import NavigationChecker
from moe_bench.checkers.rules.truthfulness import TruthChecker

PAIRS = ("()", "[]", "{}", "<>")
balanced = st.recursive(
    st.just(""), lambda inner: st.builds(lambda p, a, b: p[0] + a + p[1] + b, st.sampled_from(PAIRS), inner, inner)
)


def first(problem: str, steps: list[str], checker: Checker) -> int | None:
    return assess(problem, steps, [checker]).first_invalid


# Brackets -----------------------------------------------------------------------------------------------------------------------


def bracket_problem(signs: str) -> str:
    return f"Complete the rest of the sequence, making sure that the parentheses are closed properly. Input: {' '.join(signs)}"


@settings(max_examples=150, deadline=None)
@given(balanced.filter(bool), st.data())
def test_brackets(text: str, data: st.DataObject) -> None:
    cut = data.draw(st.integers(1, len(text)))
    problem, missing = bracket_problem(text[:cut]), solve(bracket_problem(text[:cut]))
    assert missing is not None
    whole = text[:cut] + missing.replace(" ", "")
    rest = whole
    while any(p in rest for p in PAIRS):
        for p in PAIRS:
            rest = rest.replace(p, "")
    assert rest == ""
    assert len(missing.split()) == sum(1 if s in "([{<" else -1 for s in text[:cut])
    rows, stack = ["0: empty stack"], ""
    for number, sign in enumerate(text[:cut]):
        stack = stack + sign if sign in "([{<" else stack[:-1]
        rows.append(f"{number + 1}: {sign} ; stack: {' '.join(stack) or 'empty'}")
    rows.append(f'Now, we have reached the end. The final stack is "{" ".join(stack)}".')
    rows.append(f"So the answer is {missing}." if missing else "Nothing is left.")
    found = assess(problem, rows, [BracketChecker()])
    assert found.first_invalid is None, [s.reason for s in found.steps]
    spoiled = data.draw(st.integers(1, cut))
    extra = data.draw(st.sampled_from("([{<"))
    bad = rows[spoiled].replace("stack: ", f"stack: {extra} ").replace(" empty", "")
    assert first(problem, [*rows[:spoiled], bad, *rows[spoiled + 1 :]], BracketChecker()) == spoiled


def test_crossing_brackets_have_no_completion() -> None:
    assert BracketChecker().solve(bracket_problem("([)")) is None
    assert BracketChecker().check(bracket_problem("([)"), ["The answer is ]"]) == []


def test_bracket_rows_out_of_step() -> None:
    problem = bracket_problem("(<")
    assert first(problem, ["1: ( ; stack: (", "2: [ ; stack: ( ["], BracketChecker()) == 1
    assert first(problem, ["1: ( ; stack: (", "2: < ; stack: ( <", "3: > ; stack: ("], BracketChecker()) == 2
    assert first(problem, ["So the answer is ) >."], BracketChecker()) == 0


# Walks --------------------------------------------------------------------------------------------------------------------------

TURNS = {"forward": 1, "backward": -1, "left": 1j, "right": -1j}
steps_ = st.builds(
    lambda n, w: (f"Take {n} step{'s' if n > 1 else ''} {w}.", n * TURNS[w], 1),
    st.integers(1, 9),
    st.sampled_from(list(TURNS)),
)
turns = st.sampled_from([("Turn left.", 0, 1j), ("Turn right.", 0, -1j), ("Turn around.", 0, -1)])


@settings(max_examples=150, deadline=None)
@given(st.lists(steps_ | turns, min_size=1, max_size=8), st.data())
def test_walks(moves: list[tuple[str, complex, complex]], data: st.DataObject) -> None:
    """Places as complex numbers, the direction as a factor."""
    problem = "If you follow these instructions, do you return to the starting point? " + " ".join(m[0] for m in moves)
    axes = {1j: "positive y-axis", -1j: "negative y-axis", 1: "positive x-axis", -1: "negative x-axis"}
    at, facing, rows = 0j, 1j, ["We start at the origin (0, 0), facing the positive y-axis."]
    for words, step, turn in moves:
        at, facing = at + facing * step, facing * turn
        rows.append(f"({len(rows)}) {words[:-1]}: ({int(at.real)}, {int(at.imag)}), facing the {axes[facing]}.")
    answer = "Yes" if at == 0 else "No"
    assert solve(problem) == answer
    rows.append(f"So the answer is {answer}.")
    found = assess(problem, rows, [NavigationChecker()])
    assert [s.status for s in found.steps] == [Status.VALID] * len(rows), [s.reason for s in found.steps]
    spoiled = data.draw(st.integers(1, len(moves)))
    bad = re.sub(r"\((-?\d+), ", lambda m: f"({int(m[1]) + 1}, ", rows[spoiled])
    assert first(problem, [*rows[:spoiled], bad, *rows[spoiled + 1 :]], NavigationChecker()) == spoiled
    assert (
        first(problem, [*rows[:-1], f"So the answer is {'No' if at == 0 else 'Yes'}."], NavigationChecker())
        == len(rows) - 1
    )


def test_an_instruction_that_is_not_the_next() -> None:
    problem = "If you follow these instructions, do you return to the starting point? Take 2 steps. Turn around."
    assert first(problem, ["Take 3 steps: (0, 3)."], NavigationChecker()) == 0


# Boolean expressions ------------------------------------------------------------------------------------------------------------

expressions = st.recursive(
    st.sampled_from(["True", "False"]),
    lambda e: (
        st.builds("not {}".format, e)
        | st.builds("( {} )".format, e)
        | st.builds("{} {} {}".format, e, st.sampled_from(["and", "or"]), e)
    ),
    max_leaves=8,
)


@settings(max_examples=300, deadline=None)
@given(expressions, expressions)
def test_boolean_expressions_have_python_s_values(one: str, other: str) -> None:
    value, second = eval(one), eval(other)
    assert value_of(one) is value
    assert solve(f"{one} is") == str(value)
    step = f"Z = {one} = {other}"
    assert (first(f"{one} is", [step], BooleanChecker()) == 0) is (value != second)
    assert first(f"{one} is", [f"So the answer is {not value}."], BooleanChecker()) == 0
    assert assess(f"{one} is", [f"So the answer is {value}."], [BooleanChecker()]).steps[0].status is Status.VALID


@pytest.mark.parametrize(
    ("steps", "wrong"),
    [
        (
            [
                '"Z = not True and ( False or True ) = A and B" where "A = not True" and "B = False or True".',
                "B = False or True = True.",
                "Z = A and B = False and True = False.",
            ],
            None,
        ),
        (['"A = not True" and "B = False or True".', "B = False or True = False."], 1),
        (['"A = not True" and "B = False or True".', "Z = A and B = True and True = True."], 1),
        (["A = not not ( B ) = True", "Z = C and D"], None),
    ],
)
def test_letters_stand_for_what_they_were_set_to(steps: list[str], wrong: int | None) -> None:
    assert first("not True and ( False or True ) is", steps, BooleanChecker()) == wrong


def test_what_is_no_expression() -> None:
    for text in ("", "True True", "( True", "not", "A", "x > 3"):
        assert value_of(text) is None
    assert BooleanChecker().solve("Is it True that cats fly?") is None


# Truthfulness -------------------------------------------------------------------------------------------------------------------

PEOPLE = ("Ann", "Bob", "Cleo", "Dan", "Eve")
SAID = {True: "tells the truth", False: "lies"}


@settings(max_examples=150, deadline=None)
@given(st.permutations(PEOPLE), st.booleans(), st.lists(st.booleans(), min_size=4, max_size=4), st.data())
def test_truthfulness(people: list[str], known: bool, praised: list[bool], data: st.DataObject) -> None:
    """Against every assignment that agrees with all that is said."""
    said = list(zip(people[1:], people, praised, strict=False))
    told = [f"{people[0]} {SAID[known]}.", *(f"{a} says {b} {SAID[p]}." for a, b, p in said)]
    problem = f"Question: {' '.join(told)} Does {people[-1]} tell the truth?"
    fits = []
    for values in product([True, False], repeat=len(people)):
        honest = dict(zip(people, values, strict=True))
        if honest[people[0]] == known and all(honest[a] == (honest[b] == p) for a, b, p in said):
            fits.append(honest)
    (honest,) = fits
    assert solve(problem) == ("Yes" if honest[people[-1]] else "No")
    rows = [f"(1) {people[0]} {SAID[known]}."]
    for a, b, p in said:
        rows.append(
            f"({len(rows) + 1}) {a} says {b} {SAID[p]}. Since we know that {b} {SAID[honest[b]]}, {a} {SAID[honest[a]]}."
        )
    found = assess(problem, rows, [TruthChecker()])
    assert [s.status for s in found.steps] == [Status.VALID] * len(rows), [s.reason for s in found.steps]
    spoiled = data.draw(st.integers(1, len(rows) - 1))
    a = people[spoiled]
    bad = rows[spoiled].removesuffix(f"{a} {SAID[honest[a]]}.") + f"{a} {SAID[not honest[a]]}."
    assert first(problem, [*rows[:spoiled], bad, *rows[spoiled + 1 :]], TruthChecker()) == spoiled


def test_words_put_in_a_mouth() -> None:
    problem = "Ann lies. Bob says Ann lies. Does Bob tell the truth?"
    assert first(problem, ["Bob says Ann tells the truth."], TruthChecker()) == 0
    assert first(problem, ["If Ann lies then Bob tells the truth.", "So the answer is No."], TruthChecker()) == 1


def test_circles_are_left_open() -> None:
    problem = "Ann says Bob tells the truth. Bob says Ann tells the truth. Does Bob tell the truth?"
    assert TruthChecker().solve(problem) is None
    assert assess(problem, ["The answer is Yes."], [TruthChecker()]).first_invalid is None


# All together -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "problem",
    [
        "",
        "Natalia sold 48 clips in April. How many did she sell?",
        "Is the statement true? Cats sleep.",
        "Let $f(x) = (x+1)$. Find $f(2)$.",
    ],
)
def test_other_problems_are_left_alone(problem: str) -> None:
    assert solve(problem) is None
    steps = ["Ann has 3 apples.", "1: ( ; stack: (", "A = True = False", "The answer is 7."]
    assert not [f for checker in RULE_CHECKERS for f in checker.check(problem, steps)]


def test_names_are_unique() -> None:
    assert len({checker.name for checker in RULE_CHECKERS}) == len(RULE_CHECKERS)
    assert all(checker.version >= 1 for checker in RULE_CHECKERS)


def test_expressions_that_are_too_deep_or_long_are_left_alone() -> None:
    assert value_of("( " * 5000 + "True" + " )" * 5000) is None
    assert value_of("not " * 5001 + "True") is False
    assert BooleanChecker().check("True is", ["( " * 5000, " " * 20000, "True = " * 3000]) is not None


_WORDS = """
Ann Bob and swap , . : ; ( ) [ ] { } < > "cat" "c" (3) ? We now have Hence, we have sort this subpart second
letter 1: stack: = A True not or lies says tells the truth if then is are newest bus (oldest) (newest) Max wug
red every so The answer is (A) (0, 0) Take 2 steps facing
"""
PROBLEMS = (
    "Ann has a red ball, Bob has a blue ball. Ann and Bob swap balls. At the end Bob has",
    "Sort the following words alphabetically: List: cat bird ant",
    bracket_problem("(<["),
    "If you follow these instructions, do you return to the starting point? Take 2 steps. Turn around.",
    "not ( True ) and False is",
    "Ann lies. Bob says Ann lies. Does Bob tell the truth?",
    "There are three cars: a bus, a van, and a tram. The van is newer than the bus. The tram is the newest.",
    "Every wug is red. Max is a wug. Is the following statement true, false, or unknown? Max is red.",
)


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from(PROBLEMS),
    st.lists(st.lists(st.sampled_from(_WORDS.split()), max_size=25).map(" ".join), min_size=1, max_size=4),
)
def test_any_words_are_judged_or_left_alone(problem: str, steps: list[str]) -> None:
    for checker in (*RULE_CHECKERS, DeductionChecker()):
        for finding in checker.check(problem, steps):
            assert 0 <= finding.step < len(steps)
            assert finding.checker == checker.name
            assert finding.reason
            if finding.span:
                assert 0 <= finding.span[0] <= finding.span[1] <= len(steps[finding.step])
