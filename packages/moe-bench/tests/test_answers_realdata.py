"""Extraction and equivalence against what others graded and labelled. `moe-bench selftest` prints the same rows."""

from __future__ import annotations

import os
import time
from functools import cache
from pathlib import Path

import pytest

from moe_bench.answers.expressions import math_verify_version
from moe_bench.selftest.answers import selftest_answers
from moe_bench.selftest.row import Row

pytestmark = [
    pytest.mark.realdata,
    pytest.mark.skipif("MOE_TEST_DATA" not in os.environ, reason="MOE_TEST_DATA does not name the folder of real data"),
]
with_library = pytest.mark.skipif(math_verify_version() is None, reason="the extra `math` is not installed")


@cache
def rows() -> dict[str, Row]:
    return {row.data: row for row in selftest_answers(Path(os.environ["MOE_TEST_DATA"]))}


def test_gsm8k_grades_of_four_models() -> None:
    row = rows()["GSM8K sample outputs"]
    assert row.n == 5276
    assert row.value >= 0.998, row.disagreements


def test_gsm8k_grades_take_seconds() -> None:
    from moe_bench.selftest.answers import gsm8k_samples

    begun = time.process_time()
    assert len(list(gsm8k_samples(Path(os.environ["MOE_TEST_DATA"]) / "gsm8k"))) == 1
    assert time.process_time() - begun < 10


def test_processbench_labels_of_gsm8k_answers() -> None:
    row = rows()["ProcessBench final answers, gsm8k"]
    assert row.n >= 200
    assert row.value >= 0.99, row.disagreements


@with_library
def test_processbench_labels_without_those_that_are_wrong() -> None:
    row = rows()["ProcessBench final answers, both, without wrong labels"]
    assert row.n >= 250
    assert row.value >= 0.99, rows()["ProcessBench final answers, both"].disagreements


@with_library
@pytest.mark.parametrize("way", ["in the worker", "as in a run"])
def test_math_verify_s_own_cases(way: str) -> None:
    row = rows()[f"math-verify's cases, {way}"]
    assert row.n >= 126
    assert row.value >= 250 / 252, row.disagreements


@with_library
def test_inspect_s_cases() -> None:
    row = rows()["Inspect's mathematics cases"]
    assert row.n == 33
    assert not row.disagreements


@pytest.mark.parametrize("mode", ["cot", "direct"])
def test_codex_on_bbh_has_the_published_average(mode: str) -> None:
    average = rows()[f"BBH outputs ({mode}), Codex's average"]
    assert average.n == 6511
    assert average.published is not None
    assert abs(average.value - average.published) < 0.002
    plain = rows()[f"BBH outputs ({mode}), with the plain rule"]
    assert plain.value >= 0.999, plain.disagreements
