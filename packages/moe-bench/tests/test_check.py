"""`moe-bench check`: what it reads, prints and exits with."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from moe_bench.cli import main

WRONG = {"problem": "Find y.", "steps": ["So x = 3 and y = 4.", "We use x = 5."], "id": "w"}
FINE = {"question": "Find y.", "steps": ["So x = 3.", "Hence y = 4."]}


def run(*arguments: str, stdin: str | None = None) -> Result:
    return CliRunner().invoke(main, ["check", *arguments], input=stdin)


def lines(path: Path, *rows: object) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def test_an_invalid_step_is_shown_with_reason_and_place_and_exits_with_one(tmp_path: Path) -> None:
    result = run(lines(tmp_path / "s.jsonl", WRONG), "--only", "consistency")
    assert result.exit_code == 1
    text = " ".join(result.output.replace("│", " ").split())
    assert "“x = 5” cannot hold together with “x = 3” (step 1) (consistency)" in text
    assert "step 2 is the first invalid one (0 valid, 1 invalid, 1 unchecked of 2 steps)" in text


def test_nothing_invalid_exits_with_zero_and_says_that_unchecked_may_be_wrong(tmp_path: Path) -> None:
    result = run(lines(tmp_path / "s.jsonl", FINE), "--only", "consistency")
    assert result.exit_code == 0
    assert "what is unchecked may still be wrong" in " ".join(result.output.replace("│", " ").split())


def test_json_has_every_step_with_its_findings(tmp_path: Path) -> None:
    result = run(lines(tmp_path / "s.jsonl", WRONG, FINE), "--only", "consistency", "--json")
    assert result.exit_code == 1
    report = json.loads(result.output)
    assert report["schema"] == "moe-bench/check@1"
    assert report["checkers"] == {"consistency": 2}
    first, second = report["solutions"]
    assert (first["name"], first["first_invalid"], second["first_invalid"]) == ("w", 1, None)
    (finding,) = first["steps"][1]["findings"]
    begin, end = finding["span"]
    assert WRONG["steps"][1][begin:end] == "x = 5"  # type: ignore[index]
    assert finding["against"] == 0
    assert [s["status"] for s in first["steps"]] == ["unchecked", "invalid"]


def test_several_solutions_are_counted_and_wrong_ones_can_be_shown_alone(tmp_path: Path) -> None:
    path = lines(tmp_path / "s.jsonl", FINE, WRONG, FINE)
    result = run(path, "--only", "consistency", "--wrong")
    assert "1 of 3 solutions have an invalid step" in result.output
    assert result.output.count("╭") == 1


def test_standard_input_and_samples_of_a_run(tmp_path: Path) -> None:
    sample = json.dumps({"id": "a", "prompt": "Find x.", "output": "So x = 3.\n\nThen x = 5."})
    result = run("-", "--only", "consistency", "--json", stdin=sample + "\n")
    assert result.exit_code == 1
    assert len(json.loads(result.output)["solutions"][0]["steps"]) == 2


def test_all_checkers_together_judge_a_calculation() -> None:
    result = run(
        "--problem",
        "A pen costs 3 dollars. What do 4 pens cost?",
        "--solution",
        "4 pens cost 4 * 3 = 14 dollars.",
        "--json",
    )
    report = json.loads(result.output)
    assert result.exit_code == 1
    assert {"arithmetic", "consistency", "deduction"} <= set(report["checkers"])
    assert any(f["checker"] == "arithmetic" for f in report["solutions"][0]["steps"][0]["findings"])


def test_square_brackets_in_a_step_are_text_not_markup() -> None:
    result = run("--problem", "p [red]", "--solution", "the list [1, 2] and [bold] stay", "--only", "consistency")
    assert result.exit_code == 0
    assert "[bold]" in result.output
    assert "[red]" in result.output


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "is empty"),
        ("{", "s.jsonl:1: not JSON"),
        ("[1]", "s.jsonl:1: not a JSON object"),
        ('{"steps": ["a"]}', "s.jsonl:1: no problem"),
        ('{"problem": "p"}', "s.jsonl:1: no solution"),
        ('{"problem": "p", "steps": "a"}', '"steps" is not a list of texts'),
        ('{"problem": "p", "steps": [1]}', '"steps" is not a list of texts'),
    ],
)
def test_bad_input_is_one_line_and_exit_code_two(tmp_path: Path, content: str, said: str) -> None:
    path = tmp_path / "s.jsonl"
    path.write_text(content, encoding="utf-8")
    result = run(str(path), "--only", "consistency")
    assert result.exit_code == 2
    assert said in result.output
    assert len(result.output.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "give either a FILE"),
        (["--problem", "p"], "give either a FILE"),
        (["nowhere.jsonl"], "cannot be read"),
        (["--solution", "x", "--nli", "no-such-model"], "is not installed"),
        (["--solution", "x", "--nli", "no-such-model", "--only", "rules"], "is left out"),
    ],
)
def test_calls_that_cannot_work_say_why(arguments: list[str], said: str) -> None:
    result = run(*arguments)
    assert result.exit_code == 2
    assert said in result.output


def test_a_file_of_another_encoding_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "s.jsonl"
    path.write_bytes(b"\xff\xfe{")
    assert run(str(path)).exit_code == 2


def test_with_the_right_solution_at_hand(tmp_path: Path) -> None:
    row = {
        "problem": "A pen costs 3 dollars and a book 8. What do 4 pens and 2 books cost?", "target": "28",
        "steps": ["4 pens: 4 * 3 = 12", "2 books: 2 + 8 = 10", "12 + 10 = 22, so the answer is 22."],
        "reference": "4 pens cost 4 * 3 = 12. 2 books cost 2 * 8 = 16. Together 12 + 16 = 28.",
    }  # fmt: skip
    path = lines(tmp_path / "s.jsonl", row)
    shown = run(path, "--reference", "--only", "arithmetic")
    assert shown.exit_code == 0, "the verdicts are another thing: every equation holds"
    assert "goes wrong in step 2: 10, to which the worked solution does not come" in " ".join(shown.output.split())
    (entry,) = json.loads(run(path, "--reference", "--json").output)["solutions"]
    assert entry["with_reference"]["first_error"] == 1
    without = run(lines(tmp_path / "none.jsonl", FINE), "--reference")
    assert without.exit_code == 2
    assert "no line has both" in without.output
