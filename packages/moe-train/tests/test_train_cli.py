"""The commands: what a newcomer types, and what is said when it is wrong."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result

from moe_train import __version__
from moe_train.cli import main


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    monkeypatch.chdir(tmp_path)
    return lambda *arguments: CliRunner().invoke(main, [str(a) for a in arguments])


def refused(result: Result, *said: str) -> None:
    """One line on stderr, exit code 2, and no run begun."""
    assert result.exit_code == 2, result.output
    lines = [line for line in result.stderr.splitlines() if line]
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("error: ")
    for text in said:
        assert text in lines[0]
    assert not Path("runs").exists()


GOOD = '{"prompt": "What is 1 + 1?", "completion": "2"}\n'


class TestBadInput:
    def test_missing_data(self, call: Any) -> None:
        refused(call("run", "data.path=none.jsonl"), "data none.jsonl: no such file")

    def test_malformed_line(self, call: Any) -> None:
        Path("d.jsonl").write_text(GOOD + '{"prompt": \n')
        refused(call("run", "data.path=d.jsonl"), "data d.jsonl:2: not JSON", "column")

    def test_unknown_key(self, call: Any) -> None:
        refused(call("run", "trainin.steps=3"), "trainin: unknown key; did you mean training?")

    def test_missing_configuration(self, call: Any) -> None:
        refused(call("run", "none.yaml"), "config none.yaml: no such file")

    def test_two_configurations(self, call: Any) -> None:
        refused(call("run", "a.yaml", "b.yaml"), "a.yaml and b.yaml: expected one CONFIG")

    def test_unknown_model(self, call: Any) -> None:
        refused(call("run", "model=mixtrall"), "model mixtrall: no such folder", "embedded")

    @pytest.mark.slow
    def test_a_model_that_is_neither_here_nor_on_the_hub(self, tmp_path: Path) -> None:
        """In a process of its own, as the hub's address is read on import; nobody listens at this one."""
        done = subprocess.run(
            [sys.executable, "-m", "moe_train", "run", "model=runs/modle"],
            cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60,
            env=os.environ | {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HUB_OFFLINE": "0"},
        )  # fmt: skip
        assert done.returncode == 2
        (line,) = done.stderr.splitlines()
        assert line.startswith("error: model runs/modle: no such folder, and the hub cannot be asked")
        assert not list(tmp_path.iterdir())

    def test_a_missing_deepspeed_file_is_found_before_anything_is_loaded(self, call: Any) -> None:
        refused(call("run", "training.deepspeed=none.json"), "training.deepspeed: none.json: no such file")

    def test_a_folder_that_is_no_model(self, call: Any, tmp_path: Path) -> None:
        (tmp_path / "empty").mkdir()
        refused(call("run", "model=empty"), "model empty:", "config.json")

    def test_too_long_a_sample(self, call: Any, tiny_model: Path) -> None:
        lines = [
            json.dumps({"prompt": f"What is {i}?", "completion": "word " * (1 + 60 * (i == 17))}) for i in range(40)
        ]
        Path("d.jsonl").write_text("\n".join(lines))
        result = call("run", "data.path=d.jsonl", f"model={tiny_model}", "data.max_length=40", "data.held_out=0.2")
        refused(result, "data d.jsonl:18:", "over data.max_length=40", "data.too_long=drop")

    def test_test_items_among_the_training_data(self, call: Any, tiny_model: Path) -> None:
        Path("d.jsonl").write_text(
            "".join(json.dumps({"prompt": f"p{i}", "completion": "c"}) + "\n" for i in range(40))
        )
        Path("t.jsonl").write_text("".join(json.dumps({"prompt": f"p{i}", "target": "c"}) + "\n" for i in range(40)))
        result = call("run", "data.path=d.jsonl", f"model={tiny_model}", "evaluation.path=t.jsonl", "data.held_out=0.2")
        refused(result, "test items are also trained on", "d.jsonl:")

    def test_unknown_task(self, call: Any) -> None:
        refused(call("run", "data.tasks={no_such: 10}"), "data.tasks: ", "no_such")

    def test_a_run_that_needs_more_memory_than_there_is(self, call: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("moe_train.memory._memory_now", lambda loaded: (1000, None))
        refused(call("run"), "memory: the run needs", "evaluation.batch_size")

    def test_a_run_that_exists(self, call: Any, tmp_path: Path) -> None:
        (tmp_path / "out" / "mine").mkdir(parents=True)
        refused(call("run", "output=out", "name=mine"), "exists already", "moe-train resume out/mine")

    def test_resuming_and_judging_what_is_no_run(self, call: Any, tmp_path: Path) -> None:
        (tmp_path / "x").mkdir()
        refused(call("resume", "x"), "run x: no config.yaml in it")
        refused(call("evaluate", "x"), "run x: no config.yaml in it")
        (tmp_path / "x" / "config.yaml").write_text("seed: 0\n")
        refused(call("evaluate", "x"), "run x: not finished; `moe-train resume x`")


class TestConfig:
    def test_validate(self, call: Any) -> None:
        assert call("config", "validate").output == "valid\n"
        Path("c.yaml").write_text("training: {steps: 0}\n")
        refused(call("config", "validate", "c.yaml"), "config (c.yaml): ", "training.steps")

    def test_show_is_a_configuration(self, call: Any) -> None:
        shown = call("config", "show", "training.steps=3").output
        assert yaml.safe_load(shown)["training"]["steps"] == 3
        Path("c.yaml").write_text(shown)
        assert call("config", "show", "c.yaml").output == shown
        # A file may stand anywhere among the keys.
        assert yaml.safe_load(call("config", "show", "seed=9", "c.yaml").output)["seed"] == 9

    def test_schema(self, call: Any) -> None:
        said = call("config", "schema").output
        assert "training.micro_batch_tokens" in said
        assert "training" in json.loads(call("config", "schema", "--json").output)["properties"]

    def test_own_data_takes_nothing_from_the_quickstart(self, call: Any) -> None:
        shown = yaml.safe_load(call("config", "show", "data.path=mine.jsonl").output)
        assert shown["data"]["tasks"] == {}
        assert shown["evaluation"]["tasks"] == []


class TestPlan:
    def test_says_what_would_happen_and_writes_nothing(self, call: Any, tmp_path: Path) -> None:
        result = call("plan")
        assert result.exit_code == 0, result.output
        for said in ("Memory plan", "What trains", "attention", "experts", "no prompt is on both sides"):
            assert said in result.output
        assert not list(tmp_path.iterdir())

    def test_json(self, call: Any) -> None:
        result = call("plan", "--json")
        values = json.loads(result.stdout)
        assert values["proof"]["holds"] is True
        assert values["fits"] is True
        phases = values["memory"]["estimate"]["phases"]
        assert all(sum(part["bytes"] for part in phase["parts"]) == phase["peak"] for phase in phases)

    def test_too_little_memory_is_exit_code_1(self, call: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("moe_train.memory._memory_now", lambda loaded: (1000, None))
        assert call("plan").exit_code == 1


def test_version_and_help(call: Any) -> None:
    assert __version__ in call("--version").output
    said = call("--help").output
    for command in ("run", "resume", "plan", "evaluate", "config"):
        assert command in said
