"""Contradictions between steps: what is found, what is left alone, and the proofs against another solver."""

from __future__ import annotations

import time
from fractions import Fraction
from itertools import pairwise

import pytest
import sympy
from hypothesis import given, settings
from hypothesis import strategies as st

from moe_bench.checkers.algebra.notation import tokenize
from moe_bench.checkers.algebra.parser import UnreadableError, parse
from moe_bench.checkers.algebra.system import Relation, System
from moe_bench.checkers.base import Finding, Status, assess
from moe_bench.checkers.consistency import ConsistencyChecker


def found(problem: str, *steps: str) -> list[Finding]:
    return list(ConsistencyChecker().check(problem, steps))


def contradicted(problem: str, *steps: str) -> list[tuple[int, int | None]]:
    return [(f.step, f.against) for f in found(problem, *steps)]


@pytest.mark.parametrize(
    ("problem", "steps", "where"),
    [
        ("", ["Solving, x = 3.", "We use x = 5 below."], (1, 0)),
        ("", ["So $a + b = 10$ and $a = 4$.", "It follows that $b = 5$."], (1, 0)),
        ("", ["We know $x = 3$.", "Since $x > 5$, the root is real."], (1, 0)),
        ("", ["Here $n \\geq 10$.", "Also $n < 4$."], (1, 0)),
        ("", ["The sum gives $2x + 4 = 10$.", "Hence $2x = 14$."], (1, 0)),
        ("", ["From $x = 4$.", "We get $x^2 = 20$."], (1, 0)),
        ("", ["We have $y = \\sqrt{2}$.", "That is $y = 3$."], (1, 0)),
        ("Given that $x + y = 7$, find $y$.", ["Here $x = 2$.", "So $y = 4$."], (1, 0)),
        ("Let $f(x) = 2x + 3$. Find $f(2)$.", ["We have $f(2) = 8$."], (0, None)),
        ("", ["The area of the garden is 24 square feet.", "The area of the garden is 30 square feet."], (1, 0)),
        ("", ["\\[ \\text{Monthly rent} = 5 \\times 30 = 150 \\]", "\\[ \\text{Monthly rent} = 140 \\]"], (1, 0)),
        ("", ["The number n is even.", "So n is odd."], (1, 0)),
        ("", ["Socrates is mortal.", "Therefore, Socrates is not mortal."], (1, 0)),
        ("", ["All cats are mammals.", "Some cats are not mammals."], (1, 0)),
        ("", ["No bird is a fish.", "Some birds are fish."], (1, 0)),
        ("", ["Ann is taller than Bo.", "Bo is taller than Cy.", "So Cy is taller than Ann."], (2, 1)),
        ("Ann is older than Bo.", ["Bo is older than Ann."], (0, None)),
        (
            "",
            ["The red book is to the left of the blue book.", "The blue book is to the left of the red book."],
            (1, 0),
        ),
        ("", ["The answer is 5.", "We check it.", "The answer is 6."], (2, 0)),
        ("", ["We compute 7 * 8 = 56.", "# Answer\n\n52"], (1, 0)),
    ],
)
def test_contradictions_are_found_and_placed(problem: str, steps: list[str], where: tuple[int, int | None]) -> None:
    findings = found(problem, *steps)
    assert [(f.step, f.against) for f in findings] == [where]
    assert findings[0].status is Status.INVALID
    span = findings[0].span
    assert span is not None
    assert 0 <= span[0] < span[1] <= len(steps[where[0]])


@pytest.mark.parametrize(
    ("problem", "steps"),
    [
        ("", ["If x = 3 then y = 2.", "If x = 5 then y = 4."]),
        ("", ["Case 1: $x = 3$.", "Case 2: $x = 5$."]),
        ("", ["We try $n = 4$.", "We try $n = 5$."]),
        ("", ["So $x = 2$ or $x = -2$.", "Take $x = -2$."]),
        ("", ["$x^2 = 4$, giving $x = 2$.", "And $x = -2$."]),
        ("", ["$x = \\pm 3$.", "The larger is $x = 3$."]),
        ("", ["Let $x = 3$, so $x^2 = 9$.", "Now let $x = 5$, so $x^2 = 25$."]),
        ("", ["We have u = 5.", "Adding 50, u = 5 + 50."]),
        ("", ["$x_1 = 3$.", "$x_2 = 5$."]),
        ("", ["x is not 3, so $x \\neq 3$.", "Then x = 5."]),
        ("", ["x = 0.33", "x = 1/3"]),
        ("", ["$x \\approx 1.41$", "$x^2 = 2$"]),
        ("Two circles have $x^2 + y^2 = 4$ and $x^2 + y^2 = 9$.", ["The radii are 2 and 3."]),
        ("", ["Tom has 5 apples.", "Now Tom has 8 apples."]),
        ("", ["The price per day is 5 dollars.", "The price per week is 35 dollars."]),
        ("", ["In June, the river is 15 feet deep.", "In July, the river is 45 feet deep."]),
        ("", ["She has 12 pens left.", "She has 7 pens left."]),
        ("", ["Is n even?", "n is odd."]),
        ("", ["Ann is taller than Bo.", "Ann is older than Bo.", "Bo is heavier than Ann."]),
        ("", ["He is taller than Bo.", "Bo is taller than him."]),
        ("", ["In section 1, 10 = x.", "The number of spaces in section 2 = x + 200."]),
        ("", ["7 * 8 = 56.", "The answer is 56."]),
        ("", ["7 * 8 = 56 dollars.", "The answer is $\\boxed{56}$."]),
        ("", ["The share is 1/4 = 0.25.", "The answer is 25%."]),
        ("", ["\\[ \\text{Area} = \\pi r^2 = \\pi (6)^2 \\]", "\\[ \\text{Area} = \\pi r^2 = \\pi (8)^2 \\]"]),
        (
            "",
            [
                "Expected value = Starting value * Growth = 5 * 2 = 10",
                "Expected value = Starting value * Growth = 8 * 2 = 16",
            ],
        ),
        ("", ["Testing $x = 1$: no.", "Testing $x = -1$: yes."]),
        ("", []),
        ("", [""]),
    ],
)
def test_what_changes_or_is_supposed_is_left_alone(problem: str, steps: list[str]) -> None:
    assert found(problem, *steps) == []


def test_nothing_is_called_valid() -> None:
    assessment = assess("", ["x = 3", "x = 3", "the answer is 3"], [ConsistencyChecker()])
    assert {step.status for step in assessment.steps} == {Status.UNCHECKED}


def test_the_reason_names_what_it_follows_from() -> None:
    (finding,) = found("We know that $p + q = 70$.", "We have $p = q + 12$.", "Hence $p = 29$.")
    assert finding.reason == "“p = 29” cannot hold together with “p + q = 70” (problem), “p = q + 12” (step 1)"


@pytest.mark.parametrize(
    ("text", "sympy_text"),
    [
        ("2x + 3", "2*x + 3"),
        ("\\frac{1}{2}(x + y)^2", "(x + y)**2/2"),
        ("3xy - 4x^{2}", "3*x*y - 4*x**2"),
        ("5 \\cdot 3 x", "15*x"),
        ("-(x - 4)", "4 - x"),
        ("|3 - 7| x", "4*x"),
        ("4! x", "24*x"),
        ("\\sqrt{16} + x", "4 + x"),
        ("1,200x", "1200*x"),
        ("x^3 / 6", "x**3/6"),
        ("2^{10} x", "1024*x"),
    ],
)
def test_expressions_are_read_as_sympy_has_them(text: str, sympy_text: str) -> None:
    ours = parse(tokenize(f"${text}$")[1:-1])
    theirs = sympy.Poly(sympy.sympify(sympy_text), *sympy.symbols("x y"))
    for x, y in ((2, 3), (-5, 7), (11, -4)):
        values = {"x": number(x), "y": number(y)}
        assert ours.substitute(values).constant == Fraction(str(theirs.eval((x, y))))


def number(value: int) -> object:
    from moe_bench.checkers.algebra.polynomials import number as polynomial

    return polynomial(value)


@pytest.mark.parametrize("text", ["1/2x", "58_9", "x 3", "3 4", "(x", "f^{-1}(2)", "\\frac12", "", "x +", "9!!!!"])
def test_what_has_several_readings_or_none_is_not_read(text: str) -> None:
    with pytest.raises(UnreadableError):
        parse([t for t in tokenize(f"${text}$") if t.kind != "edge"], {"f"})


_COEFFICIENTS = st.lists(st.integers(-4, 4), min_size=3, max_size=3)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(_COEFFICIENTS, st.integers(-9, 9)), min_size=1, max_size=5))
def test_linear_systems_contradict_exactly_when_sympy_finds_no_solution(rows: list[tuple[list[int], int]]) -> None:
    names = ("a", "b", "c")
    system = System()
    agreed: list[sympy.Expr] = []
    symbols = sympy.symbols(names)
    for step, (coefficients, right) in enumerate(rows):
        text = " + ".join(f"({c}) * {n}" for c, n in zip(coefficients, names, strict=True))
        relation = Relation(
            left=parse(tokenize(text)),
            relation="=",
            right=parse(tokenize(str(abs(right)))).scaled(Fraction(-1 if right < 0 else 1)),
            rounded=False,
            step=step,
            span=(0, 1),
            text=text,
        )
        expression = sum(c * s for c, s in zip(coefficients, symbols, strict=True)) - right
        solvable = sympy.linsolve([*agreed, expression], *symbols) != sympy.S.EmptySet
        conflict = system.add(relation)
        assert (conflict is None) == solvable
        if conflict is None:
            agreed.append(expression)
        else:
            # What is named as the reason is reason enough.
            named = [
                sum(c * s for c, s in zip(rows[r.step][0], symbols, strict=True)) - rows[r.step][1]
                for r in conflict.relations
            ]
            assert sympy.linsolve(named, *symbols) == sympy.S.EmptySet


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(st.sampled_from("abcdmn"), st.integers(-20, 20), min_size=2, max_size=6), st.data())
def test_true_statements_never_contradict(values: dict[str, int], data: st.DataObject) -> None:
    names = sorted(values)
    steps = []
    for _ in range(6):
        p, q = data.draw(st.sampled_from(names)), data.draw(st.sampled_from(names))
        k = data.draw(st.integers(1, 5))
        total = k * values[p] + values[q]
        form = data.draw(st.sampled_from(["sum", "product", "value", "bound"]))
        if form == "sum":
            steps.append(f"We see that ${k}{p} + {q} = {total}$.")
        elif form == "product":
            steps.append(f"Then ${p} \\cdot {q} = {values[p] * values[q]}$.")
        elif form == "value":
            steps.append(f"Hence ${p} = {values[p]}$.")
        else:
            steps.append(f"So ${p} {'<' if values[p] < k else '>='} {k}$.")
    assert found("", *steps) == []


@settings(max_examples=60, deadline=None)
@given(st.permutations(["Ann", "Bo", "Cy", "Dee", "Eve"]), st.data())
def test_orders_of_a_true_ranking_never_close_and_a_turned_one_does(people: list[str], data: st.DataObject) -> None:
    steps = [f"{a} is taller than {b}." for a, b in pairwise(people)]
    shuffled = data.draw(st.permutations(steps))
    assert found("", *shuffled) == []
    i, j = sorted(data.draw(st.lists(st.integers(0, 4), min_size=2, max_size=2, unique=True)))
    assert [f.step for f in found("", *shuffled, f"{people[j]} is taller than {people[i]}.")] == [4]
    assert [f.step for f in found("", *shuffled, f"{people[i]} is shorter than {people[j]}.")] == [4]


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.text(alphabet="abxyf123.,=<>+-*/^_(){}[]|!$\\ \nthe is not all some if $\\frac", max_size=120), max_size=4
    )
)
def test_any_text_is_read_without_error_and_spans_lie_within(steps: list[str]) -> None:
    for finding in found("Find x.", *steps):
        assert 0 <= finding.step < len(steps)
        if finding.span is not None:
            assert 0 <= finding.span[0] <= finding.span[1] <= len(steps[finding.step])


@pytest.mark.parametrize(
    "text",
    [
        "the " * 4000,
        "x = " * 2000,
        "(" * 3000 + "x" + ")" * 3000 + " = 3",
        "$x^{2^{2^{2^{99}}}} = 1$ " * 20,
        "\\frac{1}{" * 500 + "x" + "}" * 500 + " = 3",
        "a is " * 2000 + "b",
        "is taller than " * 1000,
        " ".join(f"x_{i} + x_{i + 1} = {i}." for i in range(300)),
        "the total is " * 1500 + "5",
        "9" * 5000 + " = x",
        "= 3" * 3000,
    ],
)
def test_long_and_nested_texts_take_no_time(text: str) -> None:
    begun = time.process_time()
    found("", text, text)
    assert time.process_time() - begun < 10


def test_an_equation_of_sines_is_no_definition_of_the_sine() -> None:
    problem = "In the triangle $\\sin A = 2 \\cos A$."
    assert contradicted(problem, "We found $\\cos A = \\frac{1}{3}$.", "So $\\sin A = \\frac{1}{5}$.") == [(1, 0)]


def test_thousands_may_be_set_apart_by_spaces() -> None:
    assert found("", "The price is $80 000 + $20 000 = $100 000.", "#### 100,000") == []
    (finding,) = found("", "The price is $80 000 + $20 000 = $100 000.", "#### 120,000")
    assert "120,000" in finding.reason
