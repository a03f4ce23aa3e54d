"""Calculations: expressions drawn at random and written in many ways, phrases one by one, and any text at all."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from moe_bench.checkers.arithmetic import ArithmeticChecker
from moe_bench.checkers.arithmetic.claims import claims
from moe_bench.checkers.arithmetic.comparison import shown
from moe_bench.checkers.arithmetic.measures import claims_of_measure
from moe_bench.checkers.arithmetic.phrases import claims_in_words
from moe_bench.checkers.base import Status, assess
from moe_bench.checkers.reference import locate


def statuses(text: str) -> list[str]:
    return [claim.status.value for claim in claims(text)]


@dataclass(frozen=True)
class Tree:
    """An expression with its value by Python's fractions, and how it is written in three ways."""

    value: Fraction
    plain: str
    latex: str
    signs: str


def number(n: int) -> Tree:
    return Tree(Fraction(n), str(n), str(n), f"{n:,}")


def joined(operator: str, a: Tree, b: Tree) -> Tree:
    values = {
        "+": a.value + b.value,
        "-": a.value - b.value,
        "*": a.value * b.value,
        "/": a.value / b.value if b.value else Fraction(0),
    }
    if operator == "/":
        latex = rf"\frac{{{a.latex}}}{{{b.latex}}}"
    else:
        times = r"\times" if operator == "*" else operator
        latex = rf"\left({a.latex} {times} {b.latex}\right)"
    sign = {"*": "×", "/": "÷", "-": "−"}.get(operator, operator)
    return Tree(values[operator], f"({a.plain} {operator} {b.plain})", latex, f"({a.signs} {sign} {b.signs})")


@st.composite
def trees(draw: st.DrawFn, depth: int = 3) -> Tree:
    if depth == 0 or draw(st.integers(0, 3)) == 0:
        return number(draw(st.integers(0, 2000)))
    a, b = draw(trees(depth=depth - 1)), draw(trees(depth=depth - 1))
    operator = draw(st.sampled_from("+-*/" if b.value else "+-*"))
    return joined(operator, a, b)


@settings(max_examples=200, deadline=None)
@given(trees(), st.sampled_from(["plain", "latex", "signs"]), st.integers(1, 9))
def test_right_results_are_valid_and_others_are_not(tree: Tree, notation: str, off: int) -> None:
    written = getattr(tree, notation)
    assume(
        tree.value.denominator == 1
        and abs(tree.value) < 10**12
        and not written.isdigit()
        and written.replace(",", "") != str(tree.value)
    )
    # A bare fraction with words before it is a share of something, and not claimed to be its own value.
    assume(any(sign in tree.plain for sign in "+-*") or tree.plain.count("/") > 1)
    before, after = (r"So \(", r"\).") if notation == "latex" else ("So ", " in all.")
    assert statuses(f"{before}{written} = {tree.value}{after}") == ["valid"]
    wrong = tree.value + off * (1 if tree.value % 2 else -1)
    (claim,) = claims(f"{before}{written} = {wrong}{after}")
    assert claim.status is Status.INVALID
    assert claim.reason == f"{shown(tree.value)}, the text says {shown(wrong)}"


@settings(max_examples=300, deadline=None)
@given(st.text(alphabet="0123456789 +-*/=()%.,<>^x$\\{}fracabouthalfisdzen\n", max_size=60) | st.text(max_size=60))
def test_any_text_is_read_without_an_error(text: str) -> None:
    for claim in claims(text):
        assert 0 <= claim.begin < claim.end <= len(text)
        assert claim.reason


@pytest.mark.parametrize(
    "text",
    [
        "3 apples * 4 = 12 apples", "The total is 5 hours * $10/hour = $50.", "20% of 50 is 10", "half as much: 50*20% = 10",
        "5/20 = 25%",
        "1,200 + 300 = 1,500", "3 1/2 + 1/2 = 4", "2½ * 2 = 5", r"\(\frac{3}{4} \times 8 = 6\)", r"\[ 2 \cdot 3^2 = 18 \]",
        "10/3 = 3.33",
        "10/3 = 3.3333", "22/7 ≈ 3.14", "2/3 is about 0.67: 2/3 = 0.67", "She has 3 x 4 = 12 pens", "(2)(3) + 1 = 7",
        "3(4 + 5) = 27",
        "48/2 = <<48/2=24>>24 clips", "12 minus 5 is 7", "6 times 7 equals 42", "25 / 1/3 = 75", "100 - 20% = 80", "7 > 5",
        "3 + 4 < 8",
        "$4 (from the last trip) + $2 (half of the rest) = $6", r"\sqrt{16} + 1 = 5", "2^10 = 1024", "-3 - -5 = 2", "12 = 3 * 4",
    ],
)  # fmt: skip
def test_what_is_right(text: str) -> None:
    assert statuses(text).count("valid") >= 1
    assert "invalid" not in statuses(text)


@pytest.mark.parametrize(
    ("text", "span"),
    [
        ("First, 3 apples * 4 = 14 apples.", "3 apples * 4 = 14 apples"), ("20% of 50 is 12", "20% of 50 is 12"),
        ("It costs 4.20 + 9.45 + 1.35 = 14.99 (rounded)", "4.20 + 9.45 + 1.35 = 14.99"), ("10/3 = 3.4", "10/3 = 3.4"),
        (r"\(\frac{3}{4} \times 8 = 7\)", r"\frac{3}{4} \times 8 = 7"), ("5 > 7 is needed", "5 > 7"), ("22/7 ≈ 4.2", "22/7 ≈ 4.2"),
        ("48/2 = <<48/2=25>>24 clips", "48/2=25"), ("2 + 2 = 4 = 5 - 2", "4 = 5 - 2"), ("(9 + 27 - 2) = (34 - 4)",
        "(9 + 27 - 2) = (34 - 4)"),
    ],
)  # fmt: skip
def test_what_is_wrong_and_where(text: str, span: str) -> None:
    wrong = [claim for claim in claims(text) if claim.status is Status.INVALID]
    assert [text[claim.begin : claim.end] for claim in wrong] == [span]


@pytest.mark.parametrize(
    "text",
    [
        "2x + 3 = 7", "26 = 5 + 3x", "The price of 3 pens = 2 * 4", "1/4 of it is equal to $15", "In 8 years = 34 + 8",
        "P(10) = -3 + 2",
        "Day 1 = 5", "Step 2 - 5*3 = 15", "7/2 = 3", "4 pounds - 6 ounces = 58 ounces", "He left at 0900-0130 = 0730 hours",
        "10 + 5 = 15 - 3 = 12",
        "5 thousand a day: 5 * 3 = 15,000", "1/4 + 1/4 = 1/2 of 80", "3/0 = 5", "f(2) = 2 * 3 + 1", "12 x 1 and 1/4 = 15",
        "there are 12 = many",
        r"\log_2 (2^8) = 8", "12 is 5 more than 7", "10^18 + 2 < 2k", "5 dozen * 2 = 120",
    ],
)  # fmt: skip
def test_what_cannot_be_known_is_not_called_wrong(text: str) -> None:
    assert "invalid" not in statuses(text)


def test_errors_count_where_they_are_made_not_where_they_are_carried_on() -> None:
    steps = [
        'This equation can be written as "A + B", where A = (2 * 3 - 4) and B = (1 + 5).',
        "Let's calculate A = (2 * 3 - 4) = (6 - 4) = 3.",
        "Let's calculate B = (1 + 5) = 6.",
        "Then, the final equation is A + B = 3 + 6 = 9. So the answer is 9",
    ]
    found = assess("((2 * 3 - 4) + (1 + 5)) =", steps, [ArithmeticChecker()])
    assert found.first_invalid == 1
    assert [step.status.value for step in found.steps] == ["valid", "invalid", "valid", "valid"]
    steps[1] = "Let's calculate A = (2 * 4 - 4) = (8 - 4) = 4."
    assert assess("((2 * 3 - 4) + (1 + 5)) =", steps, [ArithmeticChecker()]).first_invalid == 1, "A was another part"


PROBLEM = "A pen costs 3 dollars and a book 8. What do 4 pens and 2 books cost?"
SOLUTION = "4 pens cost 4 * 3 = 12 dollars.\n2 books cost 2 * 8 = 16 dollars.\nTogether 12 + 16 = 28 dollars."


@pytest.mark.parametrize(
    ("steps", "first"),
    [
        (["2 books: 2 * 8 = 16", "4 pens: 4 * 3 = 12", "16 + 12 = 28, so the answer is 28."], None),
        (["4 pens: 4 * 3 = 12", "2 books: 2 + 8 = 10", "12 + 10 = 22, so the answer is 22."], 1),
        (["4 pens: 4 * 3 = 14", "2 books: 2 * 8 = 16", "14 + 16 = 30, so the answer is 30."], 0),
        (["A box holds 17 pens", "so the answer is 17."], 0),
        (["4 pens: 4 * 3 = 12", "2 books: 2 * 8 = 16", "So the answer is 16."], 1),
        (["2 pens: 2 * 3 = 6", "4 pens: 6 * 2 = 12", "2 books: 2 + 8 = 10", "12 + 10 = 22"], 2),
        (["2 pens: 2 * 3 = 6", "2 books: 2 * 8 = 16", "6 + 16 = 22"], 0),
        (["Step 9: 4 * 3 = 12", "Step 15: 2 * 8 = 16", "Step 17: 12 + 16 = 27", "So it is 28."], 2),
    ],
)
def test_the_place_of_an_error_with_the_right_solution_at_hand(steps: list[str], first: int | None) -> None:
    assert locate(PROBLEM, steps, answer="28", solution=SOLUTION).first_error == first


def test_sums_in_another_order_are_no_error() -> None:
    solution = "In all 90 + 180 + 900 = 1170."
    steps = ["First 90 + 180 = 270.", "Then 270 + 900 = 1170.", "The answer is 1171."]
    assert locate("Add 90, 180 and 900.", steps, answer="1170", solution=solution).first_error == 2


@pytest.mark.parametrize(
    ("step", "status"),
    [
        ("There are 60 seconds in a minute.", "valid"),
        ("There are 100 minutes in an hour.", "invalid"),
        ("There are 20 days in a month.", "valid"),  # of work
        ("There are 45 days in a month.", "invalid"),
        ("There are 5 classes in a week.", None),
        ("There are 31 days in June.", "invalid"),
        ("February has 29 days.", "valid"),
        ("3 feet = 36 inches", "valid"),
        ("2 hours = 150 minutes", "invalid"),
        ("5 * 2 hours = 10 minutes", None),
        ("He has 3 dozen eggs = 3 * 12 = 36 eggs", "valid"),
        ("Half a dozen plates means 12/3 = 4 plates.", "invalid"),
        ("A dozen is 5 dollars.", None),
        ("4 dozen - 2.5 dozen = 1.5 dozen", None),
        ("Four less than a dozen is 8.", None),
        ("She pays quarterly, which means four times a year.", "valid"),
        ("She pays monthly, which is 10 times a year.", "invalid"),
        ("9 apples is 2 more than 7 apples.", "valid"),
        ("7.5 pounds is half a pound more than 15 pounds.", "invalid"),
        ("3 pounds is 2 dollars more than 1 pound.", None),
        ("0.5 km (or 5 km)", "invalid"),
        ("0.5 km (or 500 m)", None),
    ],
)
def test_measures_and_numbers_in_words(step: str, status: str | None) -> None:
    found = [*claims_of_measure("How many?", step), *claims_in_words(step)]
    assert [claim.status.value for claim in found] == ([] if status is None else [status])


def test_what_the_problem_says_of_a_unit_goes_before_what_is_known() -> None:
    step = "There are 10 minutes in an hour."
    assert [c.status.value for c in claims_of_measure("On their clock an hour has 10 minutes.", step)] == []
    assert [c.status.value for c in claims_of_measure("How many hours?", step)] == ["invalid"]


@pytest.mark.parametrize(
    "step",
    [
        "\\[ 100 = 36 + OP^2 \\]",
        "\\[ 84 = \\frac{1}{2} \\cdot 7 \\cdot h_a \\]",
        "\\[ 2^2 = 1 \\cdot a_3 + 1 \\]",
        "\\[ \\frac{9}{2} \\geq 17abc \\cdot d \\]",
        "255 blinks / 5 minutes = 459 blinks / x minutes",
        "After the discount she paid 900 - 100 = $8.",
        "\\(a = 2012_3 = 2 \\cdot 3^3 + 0 \\cdot 3^2 + 1 \\cdot 3^1 + 2 \\cdot 3^0 = 59\\)",
    ],
)
def test_a_formula_that_goes_on_is_no_result(step: str) -> None:
    findings = list(ArithmeticChecker().check("Find it.", [step]))
    assert [f.reason for f in findings if f.status is Status.INVALID] == []
