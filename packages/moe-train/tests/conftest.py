from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import MixtralConfig, MixtralForCausalLM
from transformers.utils.logging import disable_progress_bar

from moe_train.config import RunConfig, load_config
from moe_train.model import embedded_path

# Two threads on a busy machine are slower than one, and sums then come out in one order.
torch.set_num_threads(1)
disable_progress_bar()  # as the command does for itself


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Mixtral of 2 layers and 4 experts with the embedded model's tokenizer: for everything that does not need skill."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    torch.manual_seed(0)
    vocabulary = json.loads((embedded_path() / "config.json").read_text())["vocab_size"]
    config = MixtralConfig(
        vocab_size=vocabulary,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        num_local_experts=4,
        num_experts_per_tok=2,
        pad_token_id=0,
        bos_token_id=None,
        eos_token_id=4,
        tie_word_embeddings=True,
    )
    MixtralForCausalLM(config).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(embedded_path() / name, folder / name)
    return folder


@pytest.fixture(scope="session")
def blocks_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Mixtral whose sizes blocks of 64 divide, with the embedded model's tokenizer."""
    folder = tmp_path_factory.mktemp("models") / "blocks"
    torch.manual_seed(0)
    vocabulary = json.loads((embedded_path() / "config.json").read_text())["vocab_size"]
    config = MixtralConfig(
        vocab_size=vocabulary, hidden_size=64, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=2, num_local_experts=4, num_experts_per_tok=2, pad_token_id=0, bos_token_id=None,
        eos_token_id=4, tie_word_embeddings=True,
    )  # fmt: skip
    MixtralForCausalLM(config).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(embedded_path() / name, folder / name)
    return folder


@pytest.fixture
def sums(tmp_path: Path) -> Path:
    """A JSONL file of 120 sums."""
    path = tmp_path / "sums.jsonl"
    lines = [{"prompt": f"What is {a} + {b}?", "completion": f"{a}+{b}={a + b}"} for a in range(12) for b in range(10)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@pytest.fixture
def config_for(tiny_model: Path, sums: Path, tmp_path: Path) -> Callable[..., RunConfig]:
    """Makes a small configuration on the sums; arguments are `key=value` overrides."""

    def make(*overrides: str) -> RunConfig:
        base = {
            "name": "test",
            "output": str(tmp_path / "runs"),
            "model": str(tiny_model),
            "device": "cpu",
            "data": {"path": str(sums), "max_length": 64},
            "training": {"steps": 6, "batch_size": 8, "learning_rate": 0.01, "checkpoint_every": 2},
        }
        return load_config(None, overrides, base=base)

    return make
