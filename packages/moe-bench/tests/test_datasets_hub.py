"""Sets of the Hub: folders laid out like them, read by the library that reads them there."""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from moe_bench import BenchError
from moe_bench.cli import main
from moe_bench.datasets import load_dataset
from moe_bench.datasets.hub import fetch

pytest.importorskip("datasets")

_CARD = """---
configs:
- config_name: main
  data_files:
  - split: train
    path: train.parquet
  - split: test
    path: test.parquet
- config_name: dated
  data_files:
  - split: test
    path: dated.parquet
---
"""
_ROWS = [
    {"question": f"What is {n} + {n}?", "answer": f"It is {n} + {n} = {2 * n}.\n#### {2 * n}"} for n in range(1, 8)
]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A set of two configs, one with two splits."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    where = tmp_path / "set"
    where.mkdir()
    (where / "README.md").write_text(_CARD)
    datasets.Dataset.from_list(_ROWS[:4]).to_parquet(where / "train.parquet")
    datasets.Dataset.from_list(_ROWS[4:]).to_parquet(where / "test.parquet")
    when = datasets.Dataset.from_dict({"t": [0, 86_400_000], "question": ["a", "b"], "raw": [b"x", b"y"]})
    when.cast_column("t", datasets.Value("timestamp[ms]")).to_parquet(where / "dated.parquet")
    return where


def test_a_split_becomes_a_file_that_is_read_like_any(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "gsm8k.jsonl"
    told: list[tuple[int, int]] = []
    source = fetch(str(folder), out, config="main", split="test", tell=lambda done, of: told.append((done, of)))
    assert [json.loads(line) for line in out.read_text().splitlines()] == _ROWS[4:]
    assert told == [(3, 3)]
    assert (source.rows, source.columns, source.config, source.split) == (3, ("question", "answer"), "main", "test")
    assert source.sha256 == hashlib.sha256(out.read_bytes()).hexdigest()
    beside = json.loads((tmp_path / "gsm8k.jsonl.source.json").read_text())
    assert beside == {"schema": "moe-bench/source@1", **json.loads(json.dumps(source.__dict__))}
    assert [item.target for item in load_dataset(f"gsm8k:{out}")] == ["10", "12", "14"]


def test_a_folder_that_changed_is_read_again(folder: Path, tmp_path: Path) -> None:
    import datasets

    fetch(str(folder), tmp_path / "one.jsonl", config="main", split="train")
    datasets.Dataset.from_list(_ROWS[:1]).to_parquet(folder / "train.parquet")
    assert fetch(str(folder), tmp_path / "two.jsonl", config="main", split="train").rows == 1


def test_columns_and_times(folder: Path, tmp_path: Path) -> None:
    fetch(str(folder), tmp_path / "d.jsonl", config="dated", columns=["question", "t"])
    assert json.loads((tmp_path / "d.jsonl").read_text().splitlines()[1]) == {
        "question": "b",
        "t": "1970-01-02T00:00:00",
    }


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({}, r"Config name is missing.*\['main', 'dated'\]"),
        ({"config": "main"}, "has the splits train, test; say which with --split"),
        ({"config": "main", "split": "validation"}, 'Unknown split "validation"'),
        ({"config": "other", "split": "test"}, "'other' not found"),
        ({"config": "main", "split": "test", "columns": ["prompt"]}, "no column prompt; it has question, answer"),
        ({"config": "dated"}, "column raw holds bytes, which is no text; name the columns to keep"),
    ],
)
def test_what_is_not_there_is_one_line_and_leaves_nothing(
    folder: Path, tmp_path: Path, asked: dict[str, object], message: str
) -> None:
    out = tmp_path / "o.jsonl"
    with pytest.raises(BenchError, match=message) as caught:
        fetch(str(folder), out, **asked)
    assert "\n" not in str(caught.value)
    assert [p.name for p in tmp_path.iterdir() if "o.jsonl" in p.name] == []


def test_a_file_that_is_there_is_kept(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "o.jsonl"
    out.write_text("mine")
    found = CliRunner().invoke(main, ["fetch", str(folder), "--config", "main", "--split", "test", "-o", str(out)])
    assert (found.exit_code, out.read_text()) == (2, "mine")
    assert "is there already" in found.output


def test_the_command_says_how_to_go_on(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "o.jsonl"
    found = CliRunner().invoke(main, ["fetch", str(folder), "--config", "main", "--split", "test", "-o", str(out)])
    assert found.exit_code == 0, found.output
    assert f"3 rows of {folder} (main, test) in {out}" in found.output
    assert f"'jsonl:{out}?prompt=question&target=answer'" in found.output
    assert len(load_dataset(f"jsonl:{out}?prompt=question&target=answer")) == 3


def test_without_the_library_there_is_the_way_to_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(BenchError, match=r"pip install 'moe-bench\[hub\]'"):
        fetch("owner/name", tmp_path / "o.jsonl")


def test_a_set_that_cannot_be_reached_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    found = CliRunner().invoke(main, ["fetch", "nobody/no-such-set", "-o", str(tmp_path / "o.jsonl")])
    assert found.exit_code == 2
    assert found.output.strip().splitlines()[-1].startswith("error: nobody/no-such-set: ")
