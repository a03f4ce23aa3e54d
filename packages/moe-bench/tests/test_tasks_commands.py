"""Levels on the command line: what `suites` lists and shows, what `run --level` asks, how the report divides it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from rich.console import Console

from moe_bench.cli import main
from moe_bench.log import read_header, read_samples
from moe_bench.prompting import worked
from moe_bench.report import render_run
from moe_bench.tasks import FAMILIES, LEVELLED, SUITES, make_items, split_of


def invoke(*arguments: object, code: int = 0) -> str:
    result = CliRunner().invoke(main, [str(a) for a in arguments])
    assert result.exit_code == code, result.output
    return result.output


def replayed(folder: Path, suite: str, *, wrong_from: int = 9, level: int | None = None, per_task: int = 10) -> Path:
    """Outputs that are worked solutions below a level, and an unlikely number from it on."""
    items = make_items(SUITES[suite], count_per_family=per_task, seed=0, split="test", level=level)
    lines = [{"id": i.id, "output": worked(i) if i.metadata["level"] < wrong_from else "#### 987654"} for i in items]
    path = folder / "outputs.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_suites_lists_everything() -> None:
    text = invoke("suites")
    for name in (*SUITES, *FAMILIES, *LEVELLED):
        assert name in text
    values = json.loads(invoke("suites", "--json"))
    assert values["schema"] == "moe-bench/suites@1"
    assert values["suites"] == {k: list(v) for k, v in SUITES.items()}
    assert values["families"].keys() == {*FAMILIES, *LEVELLED}
    assert values["families"]["suspects"]["levels"] == list(LEVELLED["suspects"].levels)
    assert "examples" not in values


def test_suites_shows_levels_and_examples() -> None:
    assert "level 4: a bracket" in invoke("suites", "linear_equation")
    one = json.loads(invoke("suites", "algebra", "--examples", 2, "--level", 3, "--json"))
    assert list(one["suites"]) == ["algebra"]
    assert [e["task"] for e in one["examples"]] == [f for f in SUITES["algebra"] for _ in range(2)]
    assert {e["metadata"]["level"] for e in one["examples"]} == {3}
    assert all(split_of(e["id"]) == "train" for e in one["examples"]), "test items are not shown"
    shown = invoke("suites", "linear_equation", "--examples", 2, "--level", 2)
    for item in make_items(["linear_equation"], count_per_family=2, seed=0, level=2):
        assert item.prompt in shown
        assert item.solution.splitlines()[-1] in shown
    assert {e["task"] for e in json.loads(invoke("suites", "comparison", "--examples", 1, "--json"))["examples"]} == {
        *SUITES["comparison"], "comparison",
    }, "a suite and a family of the same name are both shown"  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("suites", "algebr"), "did you mean algebra?"),
        (("suites", "algebra", "--level", 2), "goes with --examples"),
        (("suites", "algebra", "--level", 9, "--examples", 1), "has levels 1 to 5, not 9"),
        (("run", "--suite", "composition", "--level", 1, "--outputs", "x", "-o", "y"), "has no levels"),
        (("run", "--data", "x", "--level", 1, "--outputs", "x", "-o", "y"), "--level goes with --suite"),
    ],
)
def test_mistakes_are_one_line(arguments: tuple[object, ...], said: str) -> None:
    text = invoke(*arguments, code=2)
    assert said in text
    assert len(text.splitlines()) == 1


def test_a_run_of_one_level(tmp_path: Path) -> None:
    outputs = replayed(tmp_path, "algebra", level=2)
    text = invoke(
        "run",
        "--suite",
        "algebra",
        "--level",
        2,
        "--per-task",
        10,
        "--outputs",
        outputs,
        "-o",
        tmp_path / "r",
        "--json",
    )
    assert json.loads(text.splitlines()[-1])["accuracy"] == 1  # after the progress, which goes to stderr
    samples = read_samples(tmp_path / "r")
    assert len(samples) == 30
    assert {s["metadata"]["level"] for s in samples} == {2}
    assert read_header(tmp_path / "r")["suite"] == "algebra, level 2"


def test_the_report_divides_by_operation_and_level(tmp_path: Path) -> None:
    outputs = replayed(tmp_path, "reasoning", wrong_from=4, per_task=5)
    invoke("run", "--suite", "reasoning", "--per-task", 5, "--outputs", outputs, "-o", tmp_path / "r", "--json")
    console = Console(record=True, width=160)
    render_run(console, read_header(tmp_path / "r"), read_samples(tmp_path / "r"))
    lines = console.export_text().split("right, by operation and level")[1].splitlines()
    rows = {line.split()[0]: line.split()[1:7] for line in lines if line.strip()}
    assert rows["operation"][:4] == ["level", "1", "level", "2"]
    for operation in {f.operation for f in LEVELLED.values()} | {"all"}:
        assert rows[operation][:5] == ["100%", "100%", "100%", "0%", "0%"], rows[operation]


def test_runs_without_levels_have_no_such_table() -> None:
    console = Console(record=True, width=100)
    render_run(
        console, {"model": "m", "suite": "s"}, [{"id": "1", "task": "t", "correct": True, "ended": True, "tokens": 5}]
    )
    assert "level" not in console.export_text()
