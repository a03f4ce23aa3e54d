"""Extraction and equivalence, by hand and against graded answers of real models."""

from __future__ import annotations

import json
import os
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moe_bench.answers import as_number, equivalent, extract_answer


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


@pytest.mark.realdata
def test_agrees_with_the_authors_grades_of_four_models() -> None:
    """OpenAI's graded solutions of four models to GSM8K: at least 99.8 % of 5,276 grades reproduced."""
    path = Path(os.environ["MOE_TEST_DATA"]) / "gsm8k" / "example_model_solutions.jsonl"
    wrong, total = [], 0
    for line in path.read_text().splitlines():
        row = json.loads(line)
        gold = extract_answer(row["ground_truth"]).answer
        for model in ("6b_finetuning", "6b_verification", "175b_finetuning", "175b_verification"):
            found = extract_answer(row[model]["solution"]).answer
            correct = found is not None and equivalent(found, gold)
            total += 1
            if correct != row[model]["is_correct"]:
                wrong.append((model, row["question"][:40], found, gold, row[model]["is_correct"]))
    assert total == 5276
    assert len(wrong) <= 0.002 * total, wrong
