"""A whole short run, proof included, on fourteen architectures."""

from __future__ import annotations

import io
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from moe_train import RunConfig, Screen, start
from moe_train.files import read_json, read_jsonl
from moe_train.model import embedded_path
from tiny_models import build

ARCHITECTURES = [
    "deepseek_v3",
    "dots1",
    "ernie4_5_moe",
    "glm4_moe",
    "gpt_oss",
    "granitemoe",
    "jamba",
    "lfm2_moe",
    "minimax",
    "mixtral",
    "olmoe",
    "phimoe",
    "qwen2_moe",
    "qwen3_moe",
]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_run_of_each_architecture(architecture: str, config_for: Callable[..., RunConfig], tmp_path: Path) -> None:
    folder = tmp_path / architecture
    vocabulary = read_json(embedded_path() / "config.json")["vocab_size"]
    model = build(architecture, vocab_size=vocabulary, eos_token_id=4)
    model.save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(embedded_path() / name, folder / name)
    screen = Screen(Console(file=io.StringIO()))
    outcome = start(config_for(f"model={folder}", "training.steps=2", "training.gradient_checkpointing=true"), screen)
    proof = read_json(outcome.run / "proof.json")
    rows = {c["component"]: c for c in proof["components"]}
    assert proof["holds"]
    for component in ("attention", "experts"):
        row = rows[component]
        assert row["matched"] == row["adapted"] == row["gradient_nonzero"] > 0, component
    assert rows["router"]["trainable_parameters"] == 0
    assert proof["experts_with_gradient"] == proof["experts_reached"] > 0
    layers = len(read_jsonl(outcome.run / "metrics.jsonl")[0]["load_entropy"])
    assert rows["experts"]["tensors"] >= 2 * layers
