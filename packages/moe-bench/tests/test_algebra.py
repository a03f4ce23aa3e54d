"""Equations with letters: rewriting that holds or does not, what follows, and sympy's word on it."""

from __future__ import annotations

import pytest
import sympy
from hypothesis import given, settings
from hypothesis import strategies as st

from moe_bench.checkers.algebra import AlgebraChecker
from moe_bench.checkers.algebra.notation import tokenize
from moe_bench.checkers.algebra.parser import parse
from moe_bench.checkers.algebra.points import UnevaluatedError, counterexample, is_identity, value_at
from moe_bench.checkers.algebra.polynomials import Polynomial
from moe_bench.checkers.base import Finding, Status


def found(problem: str, *steps: str) -> list[Finding]:
    return list(AlgebraChecker().check(problem, steps))


def read(text: str) -> Polynomial:
    return parse(tokenize(f"${text}$")[1:-1])


@pytest.mark.parametrize(
    ("problem", "steps", "where"),
    [
        ("", ["So the area is $(x + 2)^2 - 4 = x^2 + 4 - 4 = x^2$."], 0),
        ("", ["The rest is x - x/2 - x/8 = (8x - 4x - x)/8 = x/8."], 0),
        ("", ["We get $\\frac{x^2 - 1}{x - 1} = x - 1 = -(1 - x)$."], 0),
        ("Given that $a + b = 7$.", ["Then $a^2 + 2ab + b^2 = 7 (a + b) = 8a + 7b$."], 0),
        ("", ["From $2x + 3 = 7$ we get $2x = 10$."], 0),
        ("", ["We have $3^{2n} = 9^n = 6^n$."], 0),
    ],
)
def test_rewriting_that_changes_the_expression_is_wrong(problem: str, steps: list[str], where: int) -> None:
    assert [f.step for f in found(problem, *steps) if f.status is Status.INVALID] == [where]


def test_the_reason_is_a_counterexample() -> None:
    (finding,) = (f for f in found("", "It is $x^2 + 2x = x(x + 3) = x (3 + x)$.") if f.status is Status.INVALID)
    assert finding.reason == "at x = 2 the left side is 8, the right side 10"
    assert "It is $x^2 + 2x = x(x + 3) = x (3 + x)$."[slice(*(finding.span or ()))] == "x^2 + 2x = x(x + 3)"


@pytest.mark.parametrize(
    ("problem", "steps"),
    [
        ("", ["The areas agree: $x^2 + 3x = (x + 1)^2$."]),  # an equation, and no link of a chain
        (
            "Given that $a + b = 7$.",
            ["Then $a^2 - ab + b^2 = 49 - 3ab$, that is $a^2 - ab + b^2 = 7^2 - 3ab = 49 - 3ab$."],
        ),
        ("Let $x^2 = x + 1$.", ["So $x^3 = x^2 + x = 2x + 1$."]),
        ("", ["Since $\\omega^3 = 1$, $\\omega^4 + \\omega = \\omega + \\omega = 2\\omega$."]),
        ("", ["If $x > 3$, then $|x - 3| + 1 = x - 3 + 1 = x - 2$."]),
        ("", ["By similar triangles, $\\frac{AB}{BC} = \\frac{AC}{BA} = 2$."]),
        ("", ["Then $\\cos(180^\\circ + x) = -\\cos x = - \\cos (-x)$."]),
        ("Let $f(x) = 2x + 3$.", ["Then $f(x + 1) + x = f(x) + 2 + x = 3x + 5$."]),
        ("", ["Modulo 7, $x + 8 = x + 1 = x + 15 \\pmod{7}$."]),
        ("", ["About $1.33x + 1 = 4x/3 + 1.0 = x + x/3 + 1$."]),
        ("", ["Let x = 3.", "Let x = 5, so 2x = 10."]),
        ("", ["First 5 x (3 + 2) = 5 x 5 = 25."]),
        ("", [""]),
        ("", []),
    ],
)
def test_what_may_hold_raises_no_alarm(problem: str, steps: list[str]) -> None:
    assert [f.reason for f in found(problem, *steps) if f.status is Status.INVALID] == []


@pytest.mark.parametrize(
    ("problem", "steps", "reason"),
    [
        ("", ["Expanding, $2(x + 3) = 2x + 6$."], "both sides are the same whatever the letters are"),
        (
            "",
            ["The sum is $\\frac{1}{a} + \\frac{1}{b} = \\frac{a + b}{ab}$."],
            "both sides are the same whatever the letters are",
        ),
        ("Solve $2x + 3 = 7$.", ["Subtracting, $2x = 4$."], "follows from “2x + 3 = 7” (problem)"),
        (
            "",
            ["We have p + q = 70.", "And p = q + 12.", "So q = 29."],
            "follows from “p + q = 70” (step 1), “p = q + 12” (step 2)",
        ),
        ("", ["The equation is $x^2 - 5x + 6 = 0$.", "So $x = 2$ or $x = 3$."], "solves “x^2 - 5x + 6 = 0” (step 1)"),
    ],
)
def test_what_is_shown_is_valid(problem: str, steps: list[str], reason: str) -> None:
    assert reason in [f.reason for f in found(problem, *steps) if f.status is Status.VALID]


@pytest.mark.parametrize(
    "step",
    [
        "x = 5",
        "So $x = x$.",
        "If x = 3, then y = 4.",
        "The total is $2x + 3 = 7$.",
        "$\\sqrt{x^2} = x$",
        "$|x| = x$",
        "So $x = 4$ solves it.",
    ],
)
def test_what_is_not_shown_is_left_alone(step: str) -> None:
    assert found("", step) == []


@st.composite
def polynomials(draw: st.DrawFn) -> str:
    terms = draw(st.lists(st.tuples(st.integers(-6, 6), st.integers(0, 3), st.integers(0, 2)), min_size=1, max_size=4))
    return " + ".join(f"({c}) x^{n} y^{m}" for c, n, m in terms)


@settings(max_examples=150, deadline=None)
@given(polynomials(), polynomials(), st.integers(0, 2))
def test_identities_are_those_of_sympy(one: str, other: str, kind: int) -> None:
    """Sums, products and quotients written in two ways, and sides that have nothing to do with each other."""
    left, right = [
        (f"({one})({other})", f"({other})({one})"),
        (f"({one})^2 - ({other})^2", f"(({one}) - ({other}))(({one}) + ({other}))"),
        (one, other),
    ][kind]
    x, y = sympy.symbols("x y")
    theirs = sympy.expand(_sympy(left, x, y) - _sympy(right, x, y)) == 0
    assert is_identity(read(left), read(right)) == theirs


def _sympy(text: str, x: sympy.Symbol, y: sympy.Symbol) -> sympy.Expr:
    plain = text.replace("^", "**").replace(") x", ")*x").replace(" y", "*y").replace(")(", ")*(")
    return sympy.sympify(plain, locals={"x": x, "y": y})


@settings(max_examples=60, deadline=None)
@given(st.integers(-5, 5), st.integers(-5, 5), st.integers(1, 4))
def test_a_counterexample_solves_what_is_given(a: int, b: int, c: int) -> None:
    """The point satisfies the given equation, and the sides differ there: sympy puts it in."""
    given_form = read(f"{c} x + y - {abs(a)}")
    left, right = read(f"x^2 + {abs(b)} y"), read(f"x^2 + {abs(b) + 1} y")
    point = counterexample(left, right, [given_form])
    assert point is not None
    x, y = point["x"].real, point["y"].real
    assert abs(c * x + y - abs(a)) < 1e-6
    assert abs(value_at(left, point) - value_at(right, point)) == pytest.approx(abs(y))
    assert counterexample(left, read(f"x^2 + {abs(b)} ({abs(a)} - {c} x)"), [given_form]) is None


def test_angles_of_unknown_measure_are_not_evaluated() -> None:
    with pytest.raises(UnevaluatedError, match="degrees or radians"):
        is_identity(read("\\cos (180 + x)"), read("-\\cos x"))
