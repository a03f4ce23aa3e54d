from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml

from moe_bench.tasks import SUITES
from moe_train import TrainError
from moe_train.config import RunConfig, config_keys, dump_config, load_config, quickstart_values
from moe_train.prepare import prepare

MINIMAL = {"data": {"path": "a.jsonl"}}


def test_later_sources_win(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("data: {path: a.jsonl, max_length: 99}\ntraining: {steps: 7, batch_size: 3}\n")
    config = load_config(file, ["training.steps=9", "name=n"])
    assert (config.training.steps, config.training.batch_size, config.data.max_length, config.name) == (9, 3, 99, "n")
    assert config.training.learning_rate == RunConfig.model_validate(MINIMAL).training.learning_rate


def test_dump_reads_back(tmp_path: Path) -> None:
    config = load_config(None, ["seed=3"], base=quickstart_values())
    file = tmp_path / "config.yaml"
    file.write_text(dump_config(config))
    assert load_config(file) == config


def test_threads_are_torchs_unless_given(config_for: Callable[..., RunConfig]) -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        prepare(config_for("threads=2"))
        assert torch.get_num_threads() == 2
        prepare(config_for())
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_the_quickstart_judges_everything_the_model_can_do() -> None:
    config = load_config(None, base=quickstart_values())
    assert config.evaluation.tasks == SUITES["composition"], "what it has never seen"
    # Of all that it was built on, so that nothing can be forgotten unseen; and a little of each is rehearsed.
    assert set(config.evaluation.retained_tasks) == set(SUITES["foundation"])
    assert set(config.data.tasks) == set(SUITES["all"])


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["training.learning_rat=1"], "training.learning_rat: unknown key; did you mean training.learning_rate?"),
        (["learning_rate=1"], "learning_rate: unknown key; did you mean training.learning_rate?"),
        (["zzz=1"], "zzz: unknown key"),
        (["training.steps=0"], "training.steps: input should be greater than or equal to 1, got 0"),
        (["training.steps=many"], "training.steps"),
        (["data.too_long=cut"], "data.too_long"),
        (["lora.attention=false", "lora.experts=false"], "nothing would train"),
        (["data.tasks.change=10"], "keep one"),
        (["nonsense"], "expected key=value"),
        (["=3"], "expected key=value"),
        (["name=[1"], "not valid YAML"),
        (["data.path=null"], "nothing to train on"),
    ],
)
def test_mistakes_are_named(overrides: list[str], said: str) -> None:
    with pytest.raises(TrainError) as error:
        load_config(None, overrides, base=MINIMAL)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_all_mistakes_at_once() -> None:
    with pytest.raises(TrainError, match=r"warmup.*stepz") as error:
        load_config(None, ["training.stepz=1", "training.warmup=2"], base=MINIMAL)
    assert "; " in str(error.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [("a: [1", "line"), ("- 1", "expected `key: value` lines, found a list"), ("\tx: 1", "not valid YAML")],
)
def test_files_that_are_no_configuration(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(text)
    with pytest.raises(TrainError, match=r"c\.yaml") as error:
        load_config(file)
    assert said in str(error.value)


def test_missing_and_empty_files(tmp_path: Path) -> None:
    with pytest.raises(TrainError, match="no such file"):
        load_config(tmp_path / "none.yaml")
    (tmp_path / "empty.yaml").write_text("")
    assert load_config(tmp_path / "empty.yaml", base=MINIMAL) == RunConfig.model_validate(MINIMAL)


def test_every_key_is_explained() -> None:
    assert all(config_keys().values())
    assert "training.steps" in config_keys()
    flat = yaml.safe_load(dump_config(RunConfig.model_validate(MINIMAL)))
    assert {key.split(".")[0] for key in config_keys()} == set(flat)
