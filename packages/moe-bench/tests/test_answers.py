"""Extraction and exact equivalence, by hand and by properties. Against grades of others: test_answers_realdata.py."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moe_bench import BenchError
from moe_bench.answers import KINDS, as_number, check_kind, equivalent, extract_answer, infer_kind, judge, normalise
from moe_bench.answers.notation import tidy
from moe_bench.answers.options import options_in
from moe_bench.answers.quantities import as_quantity


@pytest.mark.parametrize(
    ("text", "answer", "strategy"),
    [
        ("2+2=4\nThe answer is 4.", "4", "stated"),
        ("The answer is 3. No: the answer is 18.5 dollars.", "18.5 dollars", "stated"),
        ("So the final answer: **yes**", "yes", "stated"),
        ("The answer is 1, 2, 3.\n", "1, 2, 3", "stated"),
        ("... <<3*4=12>>12\n#### 1,200", "1,200", "hashes"),
        (r"Hence \boxed{\frac{1}{2}} and done", r"\frac{1}{2}", "boxed"),
        (r"\boxed{1} then \boxed{2}", "2", "boxed"),
        ("She has 5 and then 1,250 left", "1,250", "last number"),
        ("It is -3", "-3", "last number"),
        ("no idea", None, "none"),
        (r"an open \boxed{12", "12", "last number"),
        ("", None, "none"),
    ],
)
def test_extraction(text: str, answer: str | None, strategy: str) -> None:
    assert extract_answer(text) == (answer, strategy)


@pytest.mark.parametrize(
    ("answer", "target"),
    [
        ("1,200", "1200"), ("$18", "18"), ("18.0", "18"), ("0.5", "1/2"),
        ("1/2", "0.50"), ("12%", "12"), ("12%", "0.12"), (" Yes. ", "yes"),
        ("18 dollars", "18"), ("3, 5, 8", "3,5,8"), ("-3", "-3.0"), ("7 cm", "7 cm"), ("red", "Red"),
    ],
)  # fmt: skip
def test_equivalent(answer: str, target: str) -> None:
    assert equivalent(answer, target)


@pytest.mark.parametrize(
    ("answer", "target"),
    [
        ("12", "120"),
        ("1/2", "2"),
        ("yes", "no"),
        ("3, 5", "3, 5, 8"),
        ("5, 3", "3, 5"),
        ("7 m", "7 cm"),
        ("1/0", "1"),
        ("", "0"),
        ("18 x 2", "18"),
    ],
)
def test_not_equivalent(answer: str, target: str) -> None:
    assert not equivalent(answer, target)


@given(st.integers(-(10**9), 10**9))
def test_every_integer_equals_its_grouped_and_decimal_forms(n: int) -> None:
    for form in (f"{n:,}", f"{n}.0", f"{n}.00", f" {n} ", f"{n}."):
        assert as_number(form) == Fraction(n)
        assert equivalent(form, str(n))
    assert not equivalent(str(n), str(n + 1))
    assert extract_answer(f"first 12, then 7\n#### {n:,}").answer == f"{n:,}"


@given(st.text(max_size=80))
def test_extraction_never_fails(text: str) -> None:
    answer, strategy = extract_answer(text)
    assert (answer is None) == (strategy == "none")


@pytest.mark.parametrize(
    ("kind", "text", "answer", "strategy"),
    [
        ("number", "So it is 3 * 4 = 12 apples in 3 bags. The answer is 12 apples.", "12 apples", "stated"),
        ("number", "**Final Answer:** The final answer is $143$. I hope it is correct.", "$143$", "stated"),
        ("number", "The answer is x = 3 + 4 = 7", "7", "stated"),
        ("number", "14 + 20 = 34 hours. So she spends 34 hours in 4 weeks.", "34", "last result"),
        ("number", "14 + 20 = 34 hours. So she rests on 2 days.", "2", "last number"),
        ("number", "The answer is not known.\nThere were 5 of them", "5", "last number"),
        ("number", "18 is the answer.", "18", "stated"),
        ("number", r"\boxed{200} in the first half. Final answer: 255", "255", "stated"),
        ("choice", "So the answer is (B).", "(B)", "stated"),
        ("choice", "I choose option C, since it is red.", "C", "option"),
        ("choice", "B. The red one", "B", "option"),
        ("choice", "A dog is an animal.", None, "none"),
        ("choice", "The answer is (A) or (B).", "(A) or (B)", "stated"),
        ("choice", r"Therefore \boxed{\text{D}}", "D", "boxed"),
        ("boolean", "Yes, because every cat is an animal. No dog is.", "yes", "yes/no"),
        ("boolean", "It is a bird. So it is not true.", "false", "yes/no"),
        ("boolean", "True or false? Hard to tell, true or false.", None, "none"),
        ("boolean", "The answer is: **No**", "no", "stated"),
        ("list", "Sorted: done.\napple, pear, plum", "apple, pear, plum", "last line"),
        ("text", "Monday", "Monday", "whole text"),
        ("text", "It was cold. Nobody came.", None, "none"),
        ("expression", r"we get $x=1$ and so $\frac{2}{3}$.", r"\frac{2}{3}", "math"),
        ("expression", r"The final answer is $28 \%$", r"$28 \%$", "stated"),
        ("expression", r"$\boxed{1}$ and $\boxed{2}$", "1, 2", "boxed"),
        ("expression", r"\boxed{1} is one and, much later, \boxed{2}", "2", "boxed"),
        ("expression", r"with $d = \frac{90}{n}$. Therefore there are 12 of them.", "12", "last number"),
    ],
)  # fmt: skip
def test_extraction_by_kind(kind: str, text: str, answer: str | None, strategy: str) -> None:
    assert extract_answer(text, kind) == (answer, strategy)


def test_an_option_may_be_named_by_its_text() -> None:
    options = ("the patient", "the specialist")
    found = extract_answer("So the answer is the specialist.", "choice", options=options)
    assert equivalent(found.answer or "", "(B)", "choice", options=options)
    assert not equivalent(found.answer or "", "(A)", "choice", options=options)
    named = extract_answer("All of this makes it invalid.", "choice", options=("valid", "invalid"))
    assert named == ("invalid", "option")


def test_options_are_read_from_a_prompt() -> None:
    example = "Which?\nOptions:\n(A) one\n(B) two\nAnswer: (A)\n\n"
    assert options_in(example + "And here?\n(A) red\n(B) green\n(C) blue") == ("red", "green", "blue")
    assert options_in("Is it?\nOptions:\n- valid\n- invalid") == ("valid", "invalid")
    assert options_in("What is 2 + 2?") == ()


@pytest.mark.parametrize(
    ("target", "kind"),
    [
        ("18", "number"), ("$1,200.50", "number"), ("3 cm", "number"), ("12%", "number"), ("1 1/2", "number"),
        ("(B)", "choice"), ("C", "choice"), ("yes", "boolean"), ("False", "boolean"), ("red", "text"), ("] ]", "text"),
        ("Ann, Bob, Carl", "list"), (r"\frac{\pi}{2}", "expression"), ("x^2 + 1", "expression"), ("[0, 1)", "expression"),
    ],
)  # fmt: skip
def test_the_target_tells_its_kind(target: str, kind: str) -> None:
    assert infer_kind(target) == kind


def test_a_kind_that_there_is_not() -> None:
    with pytest.raises(BenchError, match=r"answer kind 'nubmer' is not one of .*did you mean number"):
        check_kind("nubmer", "item x")


@pytest.mark.parametrize(
    ("answer", "target", "kind"),
    [
        ("1 1/2", "1.5", "number"), (r"1\frac{1}{2}", "3/2", "number"), (r"\frac12", "0.5", "number"), ("2½", "2.5", "number"),
        (r"1.5 \times 10^3", "1500", "number"), ("1.5e3", "1,500", "number"), ("2 million", "2,000,000", "number"),
        ("1 000", "1000", "number"), (r"\$15,\!000", "15000", "number"), ("1,5", "1.5", "number"),
        ("£5", "5 pounds", "number"),
        ("1.5 km", "1500 m", "number"), ("90 minutes", "1.5 hours", "number"), ("500 cents", "$5", "number"),
        ("60 mph", "60 miles per hour", "number"), (r"15\text{ cm}^2", "15 cm^2", "number"),
        ("2 square feet", "288 square inches", "number"),
        ("7 red apples", "7 apples", "number"), (r"74^\circ", "74 degrees", "number"), ("0.333333", "1/3", "number"),
        ("x = 5", "5", "number"), ("−4", "-4", "number"),
        ("(1, 2)", "(1.0, 4/2)", "expression"), ("{3, 1, 2}", "{1,2,3}", "expression"), ("[0, 1)", "[0,1)", "expression"),
        (r"\begin{pmatrix} 1/2 & 1 \\ 0 & 2\end{pmatrix}", r"\begin{pmatrix}0.5&1\\0&2\end{pmatrix}", "expression"),
        (r"\text{(C)}", r"\text{C}", "expression"), (r"(-\infty,-8)\cup (8,\infty)", r"(8,\infty) \cup (-\infty,-8)", "expression"),
        ("b, a", "a, b", "set"), ("{a, b}", "b and a", "set"), ("apple, pear", "apple pear", "list"),
        ("the patient", "Patient", "text"), ("(b)", "B", "choice"), ("True", "yes", "boolean"),
    ],
)  # fmt: skip
def test_equivalent_by_kind(answer: str, target: str, kind: str) -> None:
    assert equivalent(answer, target, kind)
    assert equivalent(target, answer, kind)


@pytest.mark.parametrize(
    ("answer", "target", "kind"),
    [
        ("3*6", "18", "number"), ("9 + 9", "18", "number"), ("1.5 km", "1500 cm", "number"), ("5 kg", "5 m", "number"),
        ("$5", "€5", "number"), ("7 apples", "7 pears", "number"), ("0.33", "1/3", "number"), ("0.333334", "1/3", "number"),
        ("5x", "5", "number"), ("5 or 6", "5", "number"), ("2 3", "23", "number"), ("1 1/0", "1", "number"),
        ("(1, 2)", "(2, 1)", "expression"), ("[0, 1]", "[0, 1)", "expression"), ("{1, 2}", "{1, 2, 3}", "expression"),
        ("a, b", "b, a", "list"), ("a, b", "a", "set"),
        ("valid", "invalid", "text"), ("(A) or (B)", "(A)", "choice"), ("no", "true", "boolean"),
        ("unknown", "false", "boolean"),
    ],
)  # fmt: skip
def test_not_equivalent_by_kind(answer: str, target: str, kind: str) -> None:
    assert not equivalent(answer, target, kind)
    assert not equivalent(target, answer, kind)


_RATIONALS = st.fractions(min_value=-(10**6), max_value=10**6, max_denominator=9999)
_KINDS = st.sampled_from(KINDS)
_ANSWERS = st.one_of(
    st.text(alphabet="0123456789abx ,.()/$%{}[]-", min_size=1, max_size=14),
    _RATIONALS.map(str),
    st.lists(_RATIONALS.map(str), min_size=2, max_size=4).map(lambda parts: "(" + ", ".join(parts) + ")"),
)


@given(_RATIONALS)
def test_every_form_of_a_fraction_is_the_same_number(q: Fraction) -> None:
    sign, a, b = "-" if q < 0 else "", abs(q).numerator, abs(q).denominator
    forms = [
        f"{sign}{a}/{b}",
        rf"{sign}\frac{{{a}}}{{{b}}}",
        rf"${sign}\dfrac{{{a}}}{{{b}}}$",
        f"{q * 100}%" if b == 1 else f"{sign}{a} / {b}",
    ]
    if a > b > 1:
        forms += [f"{sign}{a // b} {a % b}/{b}", rf"{sign}{a // b}\frac{{{a % b}}}{{{b}}}"]
    for form in forms:
        assert as_number(form) == q, form
        assert equivalent(form, str(q), "number")
        assert not equivalent(form, str(q + Fraction(1, 7)), "number") or "%" in form


@given(st.decimals(allow_nan=False, allow_infinity=False, min_value=-(10**9), max_value=10**9, places=4))
def test_decimals_round_trip(d: object) -> None:
    value = Fraction(str(d))
    for form in (f"{d:f}", f"{d:,f}", f"${d:,f}".replace("$-", "-$"), f"{d:f} dollars"):
        quantity = as_quantity(form)
        assert quantity is not None, form
        assert quantity.value == value, form


@settings(deadline=None, max_examples=300)
@given(_ANSWERS, _ANSWERS, _KINDS)
def test_equivalence_is_reflexive_and_where_it_is_exact_symmetric(a: str, b: str, kind: str) -> None:
    if normalise(tidy(a)):
        assert judge(a, a, kind).correct
    there, back = judge(a, b, kind), judge(b, a, kind)
    if "math-verify" not in (there.method, back.method):  # which is not symmetric, and says so
        assert there.correct == back.correct


@given(st.text(max_size=80), _KINDS)
def test_extraction_by_kind_never_fails(text: str, kind: str) -> None:
    answer, strategy = extract_answer(text, kind)
    assert (answer is None) == (strategy == "none")
