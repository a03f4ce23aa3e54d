"""The prover and the rule checkers against formal and human labels. `moe-bench selftest` prints the same rows."""

from __future__ import annotations

import json
import os
from functools import cache
from pathlib import Path

import pytest

from moe_bench.checkers.base import assess
from moe_bench.checkers.deduction import DeductionChecker
from moe_bench.checkers.rules import RULE_CHECKERS
from moe_bench.selftest.logic import selftest_logic
from moe_bench.selftest.row import Row

pytestmark = [
    pytest.mark.realdata,
    pytest.mark.skipif("MOE_TEST_DATA" not in os.environ, reason="MOE_TEST_DATA does not name the folder of real data"),
]
BBH = (
    "boolean_expressions dyck_languages logical_deduction_three_objects logical_deduction_five_objects logical_deduction_seven_objects "
    "navigate tracking_shuffled_objects_three_objects tracking_shuffled_objects_five_objects tracking_shuffled_objects_seven_objects "
    "web_of_lies word_sorting"
)


@cache
def rows() -> dict[tuple[str, str], Row]:
    return {(row.data, row.metric): row for row in selftest_logic(Path(os.environ["MOE_TEST_DATA"]))}


def test_prontoqa_is_all_decided_and_right() -> None:
    assert rows()["ProntoQA", "coverage"].value == 1.0
    row = rows()["ProntoQA", "accuracy on what is in the language"]
    assert row.n >= 250
    assert row.value == 1.0, row.disagreements


def test_proofwriter() -> None:
    assert rows()["ProofWriter, open world", "coverage"].value >= 0.95
    row = rows()["ProofWriter, open world", "accuracy on what is in the language"]
    assert row.n >= 280
    assert row.value >= 0.99, row.disagreements


@pytest.mark.parametrize("data", ["ProntoQA", "ProofWriter, open world"])
def test_every_decided_statement_has_a_proof_that_replays(data: str) -> None:
    row = rows()[data, "proofs that replay"]
    assert row.n >= 190
    assert row.value == 1.0


def test_prontoqa_explanations_hold_and_denied_ones_do_not() -> None:
    assert rows()["ProntoQA explanations", "steps called valid"].value == 1.0
    alarms = rows()["ProntoQA explanations", "false alarms"]
    assert alarms.value == 0.0, alarms.disagreements
    assert rows()["ProntoQA explanations, last line denied", "recall"].value == 1.0


@pytest.mark.parametrize("task", ["word_sorting", "tracking_shuffled_objects"])
def test_mistakes_are_located(task: str) -> None:
    row = rows()[f"BIG-Bench-Mistake {task}", "mistake location, exact"]
    assert row.n >= 150
    assert row.value >= 0.9, row.disagreements


@pytest.mark.parametrize("data", [*(f"BBH {task}" for task in BBH.split()), "LogicalDeduction"])
def test_final_answers_are_decided_and_right(data: str) -> None:
    assert rows()[data, "coverage"].value >= 0.99
    row = rows()[data, "accuracy on what was decided"]
    assert row.n >= 248
    assert row.value == 1.0, row.disagreements


@pytest.mark.parametrize("data", ["FOLIO train", "FOLIO dev"])
def test_folio_says_little_and_says_how_little(data: str) -> None:
    assert 0.2 < rows()[data, "premises in the language"].value < 1
    row = rows()[data, "accuracy on what is proved or refuted"]
    assert row.value >= 0.9, row.disagreements


def test_problems_of_another_kind_have_no_findings() -> None:
    path = Path(os.environ["MOE_TEST_DATA"]) / "gsm8k" / "test.jsonl"
    for row in map(json.loads, path.read_text(encoding="utf-8").splitlines()):
        steps = row["answer"].split("\n")
        found = assess(row["question"], steps, [*RULE_CHECKERS, DeductionChecker()])
        assert found.first_invalid is None, (row["question"], found)


def test_a_folder_without_data_gives_no_rows(tmp_path: Path) -> None:
    assert selftest_logic(tmp_path) == []
