"""Where answers end."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moe_bench.answers import extract_answer
from moe_bench.models.stopping import Cut, answer_end, find_cut


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("2+2=4\n#### 4\nQuestion: next", "2+2=4\n#### 4"),
        ("2+2=4\n#### 4", None),  # the line may go on: 42
        ("#### \n", None),
        (r"so \boxed{\frac{1}{2}} holds" + "\nand", r"so \boxed{\frac{1}{2}} holds"),
        (r"so \boxed{1" + "\n", None),
        ("The answer is 4.\nWait, no", None),
        (r"<think>\boxed{3}" + "\n", None),
        ("<think>#### 3\n</think>\nfive\n#### 5\n\n", "<think>#### 3\n</think>\nfive\n#### 5"),
        ("no mark\n\n", None),
        (r"\boxed{1} or rather \boxed{2}" + "\nmore", r"\boxed{1} or rather \boxed{2}"),
    ],
)
def test_the_line_of_the_mark(text: str, kept: str | None) -> None:
    end = answer_end(text)
    assert (None if end is None else text[:end]) == kept


@given(st.text(alphabet="#4\\boxed{}\n <think>/", max_size=40), st.text(alphabet="#5\n \\boxed{}", max_size=20))
def test_what_follows_cannot_move_the_end(text: str, more: str) -> None:
    end = answer_end(text)
    if end is not None and "think" not in text:
        assert answer_end(text + more) == end
        assert text[end] == "\n"
        assert extract_answer(text[:end]).strategy != "none"


def test_stop_texts_and_marks() -> None:
    text = "a\n#### 1\nQ: b"
    assert find_cut(text, stop=(), on_answer=False) is None
    assert find_cut(text, stop=("Q:",), on_answer=False) == Cut(9, "stop")
    assert find_cut(text, stop=("Q:",), on_answer=True) == Cut(8, "answer")
    assert find_cut(text, stop=("####",), on_answer=True) == Cut(2, "stop")
