"""Steps against facts and rules."""

from __future__ import annotations

import pytest

from moe_bench.checkers.base import Status, assess
from moe_bench.checkers.deduction import DeductionChecker, read_deduction
from moe_bench.logic import Verdict, World
from moe_bench.tasks import FAMILIES, make_items

PROBLEM = (
    "Every wug is a dax. Every dax is red. No red thing is loud. Every fep is quick. Max is a wug. Tim is loud. "
    "Is the following statement true, false, or unknown? {}"
)
V, I, U = Status.VALID, Status.INVALID, Status.UNCHECKED  # noqa: E741


@pytest.mark.parametrize(
    ("step", "status", "reason"),
    [
        ("Max is a wug.", V, "follows from Max is a wug"),
        ("Max is a dax.", V, "Every wug is a dax"),
        ("So Max is red, therefore Max is not loud.", V, "No red thing is loud"),
        ("Since every wug is a dax, Max is a dax.", V, "a premise"),
        ("Every wug is red.", V, "follows from the premises"),
        ("Max is loud.", I, "is refuted, max is not loud follows"),
        ("Max is not a dax.", I, "is refuted"),
        ("Tim is not red, because no red thing is loud.", V, "follows"),
        ("Tim is a wug.", I, "is refuted"),
        ("Max is quick.", U, "neither it nor its contrary follows"),
        ("Max is not a fep.", U, "neither it nor its contrary follows"),
        ("Every fep is red.", U, "no premise"),
        ("Suppose Max is loud.", U, "nothing in it"),
        ("Max might be loud.", U, "nothing in it"),
        ("We love logic 100 %!", U, "nothing in it"),
    ],
)
def test_steps(step: str, status: Status, reason: str) -> None:
    verdict = assess(PROBLEM.format("Max is loud."), [step], [DeductionChecker()]).steps[0]
    assert verdict.status is status
    assert reason in " | ".join(f.reason for f in verdict.findings) or verdict.reason.startswith(reason)


@pytest.mark.parametrize(
    ("statement", "right"), [("Max is red.", "True"), ("Max is loud.", "False"), ("Max is quick.", "Unknown")]
)
def test_answers(statement: str, right: str) -> None:
    for answer in ("True", "False", "Unknown"):
        verdict = assess(PROBLEM.format(statement), [f"So the answer is {answer}."], [DeductionChecker()]).steps[0]
        assert verdict.status is (V if answer == right else I)
    expected = {"True": Verdict.PROVED, "False": Verdict.DISPROVED, "Unknown": Verdict.UNKNOWN}[right]
    assert DeductionChecker().solve(PROBLEM.format(statement)) is expected


def test_lettered_answers() -> None:
    problem = PROBLEM.format("Max is red.") + "\nOptions:\nA) True\nB) False\nC) Unknown"
    verdicts = [
        assess(problem, [f"The answer is {x}."], [DeductionChecker()]).steps[0].status for x in ("A", "(B)", "C")
    ]
    assert verdicts == [V, I, I]


def test_what_stands_on_an_unproved_step_is_unchecked_with_that_step_named() -> None:
    steps = ["Max is a fep.", "Every fep is quick, so Max is quick."]
    found = assess(PROBLEM.format("Max is quick."), steps, [DeductionChecker()])
    finding = found.steps[1].findings[-1]
    assert finding.status is U
    assert "step 1, which is not established" in finding.reason


def test_spans_point_at_the_claim() -> None:
    step = "We know that Max is a wug, so Max is loud."
    findings = assess(PROBLEM.format("Max is loud."), [step], [DeductionChecker()]).steps[0].findings
    assert [step[slice(*f.span)] for f in findings if f.span] == ["Max is a wug", "Max is loud"]


def test_unknown_is_not_false_unless_the_problem_closes_its_world() -> None:
    told = "Every wug is red. Max is a wug. Tim is a dax. Is the following statement true or false? Tim is red."
    assert DeductionChecker().solve(told) is Verdict.UNKNOWN
    closed = "The closed-world assumption holds. " + told
    deduction = read_deduction(closed)
    assert deduction is not None
    assert deduction.world is World.CLOSED
    assert DeductionChecker().solve(closed) is Verdict.DISPROVED
    for text, status in ((told, U), (closed, I)):
        assert assess(text, ["Tim is red."], [DeductionChecker()]).steps[0].status is status


def test_where_classical_logic_and_rules_forwards_differ_the_answer_is_unchecked() -> None:
    problem = "Every wug is red. Max is not red. Is the following statement true, false or unknown? Max is a wug."
    for answer in ("False", "Unknown"):
        assert assess(problem, [f"The answer is {answer}."], [DeductionChecker()]).steps[0].status is U


@pytest.mark.parametrize(
    "problem",
    [
        "Ann has 3 apples and buys 4 more. How many does she have?",
        "Max is a wug. Is the following statement true or false? Max is red.",
        "Every wug is red. It rained for 3 days. Bob went home. Is it true that Max is red?",
        "",
    ],
)
def test_other_problems_are_left_alone(problem: str) -> None:
    assert DeductionChecker().solve(problem) is None
    assert DeductionChecker().check(problem, ["Max is red.", "The answer is 7."]) == []


def test_contradictory_premises_decide_nothing() -> None:
    problem = "Every wug is red. Max is a wug. Max is not red. Is the following statement true or false? Max is red."
    assert DeductionChecker().check(problem, ["Max is red."]) == []


def test_generated_deductions() -> None:
    """The package's own family: its worked steps hold, its answer is valid and the other is not."""
    assert "deduction" in FAMILIES
    for item in make_items(["deduction"], count_per_family=40, seed=3, split="validation"):
        found = assess(item.prompt, [f"The answer is {item.target}."], [DeductionChecker()])
        other = {"yes": "no", "no": "yes"}[item.target]
        wrong = assess(item.prompt, [f"The answer is {other}."], [DeductionChecker()])
        assert (found.steps[0].status, wrong.steps[0].status) == (V, I)
