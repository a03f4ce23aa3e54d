"""Comparisons: right numbers, and a refusal of what cannot be compared."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from moe_bench import BenchError, Item, compare_runs, run_items
from moe_bench.cli import main
from moe_bench.compare import verdict
from scripted import Scripted

ITEMS = [Item(prompt=f"Q{n}", target=str(n), task="easy" if n < 30 else "hard") for n in range(60)]


def make_run(folder: Path, right: set[int], *, items=ITEMS, limit: int = 64) -> Path:
    script = {item.prompt: item.target if n in right else "-1" for n, item in enumerate(items)}
    run_items(Scripted(script, limit=limit), items, folder, suite="s", model_name=folder.name)
    return folder


@pytest.fixture
def runs(tmp_path) -> tuple[Path, Path]:
    """A is right on 0-19 and 30-34; B on 0-18 and 30-54: one lost, 20 won."""
    return (
        make_run(tmp_path / "a", {*range(20), *range(30, 35)}),
        make_run(tmp_path / "b", {*range(19), *range(30, 55)}),
    )


def test_numbers_of_a_comparison(runs) -> None:
    c = compare_runs(*runs)
    assert (c.n, c.only_a, c.only_b, c.verdict) == (60, 1, 20, "better")
    assert (c.accuracy_a, c.accuracy_b) == (25 / 60, 44 / 60)
    assert c.p_value == pytest.approx(2 * (1 + 21) / 2**21)
    assert c.ci_low < 19 / 60 < c.ci_high
    easy, hard = c.tasks
    assert (easy.task, easy.verdict, hard.task, hard.verdict) == ("easy", "not enough data", "hard", "better")
    assert hard.p_adjusted == pytest.approx(2 * 2 / 2**20)
    assert compare_runs(runs[1], runs[0]).verdict == "worse"
    assert json.loads(json.dumps(c.to_dict()))["schema"] == "moe-bench/comparison@1"


def test_some_tasks_alone(runs) -> None:
    c = compare_runs(*runs, tasks=["easy"])
    assert (c.n, c.only_a, c.only_b, c.verdict) == (30, 1, 0, "not enough data")
    assert c.detectable is None
    with pytest.raises(BenchError, match="no items of medium"):
        compare_runs(*runs, tasks=["medium"])


def test_verdicts() -> None:
    assert verdict(0.1, 0.01, 0.9, alpha=0.05) == "better"
    assert verdict(-0.1, 0.01, 0.9, alpha=0.05) == "worse"
    assert verdict(0.001, 0.5, 0.01, alpha=0.05) == "equivalent"
    assert verdict(0.02, 0.5, 0.5, alpha=0.05) == "not enough data"


def test_equal_runs_of_many_items_are_equivalent(tmp_path) -> None:
    items = [Item(prompt=f"Q{n}", target=str(n), task="t") for n in range(300)]
    a, b = (make_run(tmp_path / name, set(range(150)), items=items) for name in "ab")
    c = compare_runs(a, b)
    assert (c.verdict, c.p_value, c.detectable) == ("equivalent", 1.0, None)


def test_what_cannot_be_paired_is_refused(tmp_path, runs) -> None:
    other = make_run(tmp_path / "other", set(), items=ITEMS[:-2])
    with pytest.raises(BenchError, match="2 items are only in the first and 0 only in the second"):
        compare_runs(runs[0], other)
    changed = make_run(tmp_path / "changed", set(), items=[*ITEMS[:-1], Item(prompt="Q59", target="60", task="hard")])
    with pytest.raises(BenchError, match="1 items are only in the first and 1 only in the second"):
        compare_runs(runs[0], changed)
    with pytest.raises(BenchError, match="max_new_tokens is 64 in the first and 65"):
        compare_runs(runs[0], make_run(tmp_path / "longer", set(), limit=65))
    header = json.loads((runs[1] / "run.json").read_text())
    (runs[1] / "run.json").write_text(json.dumps({**header, "scorer": 99}))
    with pytest.raises(BenchError, match="versions 2 and 99 of the scorer"):
        compare_runs(*runs)
    lines = (runs[0] / "samples.jsonl").read_text().splitlines(keepends=True)
    (runs[0] / "samples.jsonl").write_text("".join(lines[:-1]))
    with pytest.raises(BenchError, match="59 of its 60 items"):
        compare_runs(*runs)


def invoke(*arguments: object, code: int = 0) -> str:
    result = CliRunner().invoke(main, [str(a) for a in arguments])
    assert result.exit_code == code, result.output
    return result.output


def test_command_compare(runs) -> None:
    assert "better" in invoke("compare", *runs)
    assert "worse" in invoke("compare", runs[1], runs[0], code=1)
    assert json.loads(invoke("compare", *runs, "--json"))["only_b"] == 20
    invoke("compare", runs[0], runs[0], "--require", "better", code=1)
    assert "not a run of moe-bench" in invoke("compare", runs[0], runs[0].parent, code=2)


def test_command_show(runs) -> None:
    assert "Q59" in invoke("show", runs[0], "--failed", "--task", "hard", "-n", 60)
    line = json.loads(invoke("show", runs[0], "--item", ITEMS[3].id[:8], "--json"))
    assert (line["target"], line["correct"]) == ("3", True)
    assert "no item fits" in invoke("show", runs[0], "--item", "zzz", code=2)


def test_commands_suites_and_plan() -> None:
    assert "composition" in invoke("suites")
    assert "change" in json.loads(invoke("suites", "--json"))["suites"]["composition"]
    assert json.loads(invoke("plan", "--items", 200, "--json"))["detectable"] == pytest.approx(0.0877, abs=1e-3)
    assert "points is found" in invoke("plan", "--items", 200)
    assert "no difference can be found" in invoke("plan", "--items", 5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "--model", "x", "-o", "out"], "give either --suite or --data"),
        (["run", "--model", "x", "-o", "out", "--suite", "none"], "'none' is unknown"),
        (["run", "--model", "x", "-o", "out", "--data", "none.jsonl"], "no such file"),
    ],
)
def test_bad_runs_are_one_line_and_code_2(arguments, message: str, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 2
    assert message in result.stderr
    assert result.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
