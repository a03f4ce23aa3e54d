"""`moe-bench selftest`: rows, bars, exit codes; and, with real data, the figures of the consistency checker."""

from __future__ import annotations

import io
import json
import os
from pathlib import Path

import pytest
from click.testing import CliRunner
from rich.console import Console
from scipy.stats import binomtest

from moe_bench.cli import main
from moe_bench.commands.selftest import render_rows, report
from moe_bench.errors import BenchError
from moe_bench.selftest import Row, run_selftest

DATA = os.environ.get("MOE_TEST_DATA")
with_data = pytest.mark.skipif(DATA is None, reason="MOE_TEST_DATA does not name the folder of real data")


def prmbench(folder: Path, *, original: str) -> None:
    """A set of one item in the form of PRMBench, written here."""
    item = {
        "question": "Find x.",
        "original_process": ["So x = 3.", original],
        "modified_process": ["So x = 3.", "Then x = 5."],
        "error_steps": [2],
        "modified_steps": [2],
        "idx": "one",
    }
    (folder / "prmbench").mkdir()
    (folder / "prmbench" / "a_step_contradiction.jsonl").write_text(json.dumps(item) + "\n", encoding="utf-8")


def test_a_share_has_wilson_s_interval() -> None:
    row = Row.share(checker="c", data="d", metric="m", hits=7, n=50)
    theirs = binomtest(7, 50).proportion_ci(method="wilson")
    assert row.value == 0.14
    assert row.ci == pytest.approx((theirs.low, theirs.high))


@pytest.mark.parametrize(
    ("value", "bar", "at_most", "met"),
    [
        (0.5, None, False, None),
        (0.5, 0.5, False, True),
        (0.4, 0.5, False, False),
        (0.4, 0.5, True, True),
        (0.6, 0.5, True, False),
    ],
)
def test_a_bar_is_reached_from_below_or_from_above(
    value: float, bar: float | None, at_most: bool, met: bool | None
) -> None:
    assert Row(checker="c", data="d", metric="m", value=value, n=1, bar=bar, at_most=at_most).met is met


def test_all_bars_reached_exits_with_zero(tmp_path: Path) -> None:
    prmbench(tmp_path, original="Then 2x = 6.")
    result = CliRunner().invoke(main, ["selftest", "--data", str(tmp_path), "--only", "consistency", "--json"])
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found["schema"] == "moe-bench/selftest@1"
    values = {(row["data"], row["metric"]): row["value"] for row in found["rows"]}
    assert values["PRMBench step contradictions, original solutions", "false alarms"] == 0
    assert values["PRMBench step contradictions", "recall, any wrong step"] == 1
    assert values["PRMBench step contradictions", "PRMScore"] == 1


def test_a_missed_bar_is_named_and_exits_with_one(tmp_path: Path) -> None:
    prmbench(tmp_path, original="Then x = 4.")
    result = CliRunner().invoke(main, ["selftest", "--data", str(tmp_path), "--only", "consistency"])
    assert result.exit_code == 1
    assert "missed: consistency, PRMBench step contradictions, original solutions" in " ".join(result.output.split())


def test_without_data_one_line_says_where_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MOE_TEST_DATA", raising=False)
    result = CliRunner().invoke(main, ["selftest"])
    assert result.exit_code == 2
    assert len(result.output.strip().splitlines()) == 1
    for named in ("--data", "MOE_TEST_DATA", "github.com/openai/grade-school-math", "docs/checkers.md"):
        assert named in result.output


def test_a_folder_without_any_set_or_none_at_all_is_refused(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "nowhere"):
        result = CliRunner().invoke(main, ["selftest", "--data", str(folder), "--only", "consistency"])
        assert result.exit_code == 2
        assert str(folder) in result.output
    with pytest.raises(BenchError, match="part 'poetry' is not known"):
        run_selftest(tmp_path, ["poetry"])


def test_tables_show_figures_bars_notes_and_cases() -> None:
    rows = [
        Row.share(
            checker="c",
            data="set",
            metric="recall",
            hits=1,
            n=4,
            bar=0.5,
            published=0.75,
            source="A. Author 2020",
            disagreements=("x",),
        )
    ]
    console = Console(width=80, record=True, file=io.StringIO())
    render_rows(console, rows, cases=True)
    text = console.export_text()
    for shown in (
        "recall [1]",
        "0.250",
        "≥ 0.5 ✗",
        "0.750",
        "A. Author 2020",
        "set: x",
        "missed: c, set: recall 0.250",
    ):
        assert shown in text
    assert report(rows, cases=False)["rows"][0]["disagreements"] == 1  # type: ignore[index]


@pytest.mark.realdata
@with_data
def test_contradictions_on_real_data() -> None:
    from moe_bench.selftest.consistency import selftest_consistency

    rows = {(row.data, row.metric): row for row in selftest_consistency(Path(str(DATA)))}
    alarms = rows["PRMBench step contradictions, original solutions", "false alarms"]
    assert alarms.n >= 100
    assert alarms.met, alarms.disagreements
    assert rows["PRMBench step contradictions", "recall, any wrong step"].value >= 0.06
    assert rows["PRMBench step contradictions", "PRMScore"].value > 0.5
    assert rows["GSM8K train, gold solutions", "false alarms"].n == 7473
    for data in ("GSM8K train, gold solutions", "GSM8K test, gold solutions"):
        assert rows[data, "false alarms"].value <= 0.005, rows[data, "false alarms"].disagreements
    for subset in ("gsm8k", "math"):
        assert rows[f"ProcessBench {subset}, correct solutions", "false alarms"].value <= 0.01


@pytest.mark.realdata
@with_data
def test_calculations_on_real_data() -> None:
    from moe_bench.selftest.arithmetic import selftest_arithmetic

    rows = {(row.checker, row.data, row.metric): row for row in selftest_arithmetic(Path(str(DATA)))}
    reached = [row for row in rows.values() if row.metric != "F1" and row.bar is not None]
    assert len(reached) == 5
    for row in reached:
        assert row.met, (row.data, row.metric, row.value, row.disagreements[:5])
    # Two aims are missed, 0.25 and 0.7: arithmetic alone sees few of the wrong steps, numbers alone not every wrong turn.
    assert rows["arithmetic", "ProcessBench gsm8k, no reference", "F1"].value > 0.18
    assert rows["reference", "ProcessBench gsm8k, with the worked solution", "F1"].value > 0.62
    assert rows["arithmetic", "ProcessBench gsm8k, no reference", "wrong steps found"].value > 0.1
