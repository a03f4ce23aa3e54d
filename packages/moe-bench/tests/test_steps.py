"""Division of solutions into steps."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moe_bench.steps import split_steps


@pytest.mark.parametrize(
    ("text", "steps"),
    [
        ("", []),
        ("  \n ", []),
        ("One.", ["One."]),
        ("First line\nSecond line\n#### 4", ["First line", "Second line", "#### 4"]),
        ("Para one. Still one.\n\nPara two.", ["Para one. Still one.", "Para two."]),
        ("She has 3.5 kg. He has 2 kg. So 5.5 kg.", ["She has 3.5 kg.", "He has 2 kg.", "So 5.5 kg."]),
        ("We use e.g. Euler's formula. It holds.", ["We use e.g. Euler's formula.", "It holds."]),
        ("1. Add them. 2. Halve it.", ["1. Add them.", "2. Halve it."]),
        ("Let $x = 1. Y$ be so. Then done.", ["Let $x = 1. Y$ be so.", "Then done."]),
        ("We get\n\n\\[ x\n\n= 2 \\]\n\nDone.", ["We get\n\n\\[ x\n\n= 2 \\]", "Done."]),
        ("Mr. Tan paid 5. He left.", ["Mr. Tan paid 5.", "He left."]),
        ("Is it 4? Yes. \\boxed{4}", ["Is it 4?", "Yes.", "\\boxed{4}"]),
    ],
)
def test_divisions(text: str, steps: list[str]) -> None:
    assert split_steps(text) == steps


@given(st.text(alphabet="aB1. \n$\\[]?!()", max_size=80))
def test_nothing_but_white_space_is_lost(text: str) -> None:
    steps = split_steps(text)
    assert re.sub(r"\s", "", "".join(steps)) == re.sub(r"\s", "", text)
    assert all(step == step.strip() and step for step in steps)
