"""Outputs that are there already."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from moe_bench import BenchError, Item, compare_runs, run_items
from moe_bench.cli import main
from moe_bench.log import read_header, read_samples
from moe_bench.models import ReplayModel
from moe_bench.prompting import Prompting

ITEMS = [Item(prompt=f"What is {n} + 1?", target=str(n + 1), task="t") for n in range(6)]


def write(path: Path, lines: list[dict[str, object]]) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_outputs_by_id_and_by_prompt(tmp_path) -> None:
    lines: list[dict[str, object]] = [
        {"id": item.id, "output": f"#### {item.target}", "tokens": 3, "finish": "length"} for item in ITEMS[:3]
    ]
    lines += [{"prompt": item.prompt, "output": "#### 0"} for item in ITEMS[3:]]
    model = ReplayModel(write(tmp_path / "o.jsonl", lines))
    summary = run_items(model, ITEMS, tmp_path / "run", suite="s", model_name="m")
    assert (summary.items, summary.correct) == (6, 3)
    samples = {s["id"]: s for s in read_samples(tmp_path / "run")}
    assert (samples[ITEMS[0].id]["tokens"], samples[ITEMS[0].id]["ended"]) == (3, False)
    assert (samples[ITEMS[5].id]["tokens"], samples[ITEMS[5].id]["ended"]) == (None, True)
    assert read_header(tmp_path / "run")["settings"]["decoding"] == "replayed"


def test_a_run_replayed_is_the_run(tmp_path) -> None:
    """Its samples.jsonl is such a file, and scores the same; several answers to an item keep their numbers."""
    lines = [
        {"id": i.id, "sample": n, "output": f"#### {i.target if n else 0}"} for n in reversed(range(3)) for i in ITEMS
    ]
    prompting = Prompting(samples=3)
    model = ReplayModel(write(tmp_path / "o.jsonl", lines))
    summary = run_items(model, ITEMS, tmp_path / "a", suite="s", model_name="m", prompting=prompting)
    assert (summary.items, summary.answers, summary.correct) == (6, 18, 12)
    again = ReplayModel(tmp_path / "a" / "samples.jsonl")
    run_items(again, ITEMS, tmp_path / "b", suite="s", model_name="m", prompting=prompting)
    without = [[{k: v for k, v in s.items() if k != "seconds"} for s in read_samples(tmp_path / n)] for n in "ab"]
    assert without[0] == without[1]
    found = compare_runs(tmp_path / "a", tmp_path / "b")
    assert (found.answers_a, found.accuracy_a, found.difference) == (3, 2 / 3, 0.0)
    unnumbered = [{"prompt": i.prompt, "output": f"#### {n}"} for n in range(3) for i in ITEMS]
    run_items(
        ReplayModel(write(tmp_path / "u.jsonl", unnumbered)), ITEMS, tmp_path / "c", suite="s", model_name="m",
        prompting=prompting,
    )  # fmt: skip
    assert {(s["sample"], s["output"]) for s in read_samples(tmp_path / "c")} == {(n, f"#### {n}") for n in range(3)}


def test_what_is_missing_is_said_before_anything_is_scored(tmp_path) -> None:
    model = ReplayModel(write(tmp_path / "o.jsonl", [{"id": ITEMS[0].id, "output": "1"}]))
    with pytest.raises(BenchError, match=f"5 of 6 answers are not in it .first: sample 0 of item {ITEMS[1].id}"):
        run_items(model, ITEMS, tmp_path / "run", suite="s", model_name="m")
    assert read_samples(tmp_path / "run") == []


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "holds no output"),
        (b"{\n", ":1: not JSON"),
        (b'{"id": "a"}', "an output that is text"),
        (b'{"output": "a"}', "needs the id or the prompt"),
        (b'{"id": "a", "output": "b", "sample": 0}\n{"id": "a", "output": "b", "sample": 0}', ":2: sample 0"),
        (b"\xff", "not UTF-8"),
    ],
)
def test_bad_files(tmp_path, content: bytes, said: str) -> None:
    (tmp_path / "o.jsonl").write_bytes(content)
    with pytest.raises(BenchError, match=said):
        ReplayModel(tmp_path / "o.jsonl")
    with pytest.raises(BenchError, match="no such file"):
        ReplayModel(tmp_path / "none.jsonl")


def test_the_command(tmp_path) -> None:
    items = tmp_path / "items.jsonl"
    items.write_text("".join(json.dumps({"prompt": i.prompt, "target": i.target}) + "\n" for i in ITEMS))
    outputs = write(tmp_path / "o.jsonl", [{"id": i.id, "output": f"#### {i.target}"} for i in ITEMS])
    arguments = ["run", "--outputs", str(outputs), "--data", str(items), "-o", str(tmp_path / "r")]
    result = CliRunner().invoke(main, [*arguments, "--json"])
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout.splitlines()[-1])["accuracy"] == 1
    shown = CliRunner().invoke(main, arguments)
    assert "not said" in shown.output
    for more, said in (
        (["--server", "http://x/v1"], "either --server or --outputs"),
        (["--observe", "nonsense"], "observer 'nonsense' is not installed"),
        (["--few-shot", "2"], "name a file of worked examples"),
    ):
        refused = CliRunner().invoke(main, [*arguments, *more])
        assert refused.exit_code == 2
        assert said in refused.output
