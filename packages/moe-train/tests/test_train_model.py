from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM

from moe_train import TrainError
from moe_train.model import choose_device, choose_dtype, embedded_path, load_model, resolve_model

CPU = torch.device("cpu")


def test_the_embedded_model_is_small_and_is_what_its_card_says() -> None:
    import hashlib

    folder = embedded_path()
    card = json.loads((folder / "card.json").read_text())
    assert sum(p.stat().st_size for p in folder.iterdir()) <= 8 * 2**20
    assert hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest() == card["weights_sha256"]
    loaded = load_model("embedded", device=CPU, dtype=torch.float32)
    assert sum(p.numel() for p in loaded.model.parameters()) == card["parameters"]
    assert loaded.moe_layers == loaded.model.config.num_hidden_layers
    text = (folder / "README.md").read_text()
    assert f"{card['parameters']:,}" in text
    assert f"--steps {card['steps']} --seed {card['seed']}" in text


def test_names_that_are_no_model(tmp_path: Path) -> None:
    file = tmp_path / "weights.bin"
    file.touch()
    for name, said in [
        (str(tmp_path / "none"), "no such folder"),
        ("nonsense", "no such folder"),
        (str(file), "is a file"),
        (str(tmp_path), "config.json"),
    ]:
        with pytest.raises(TrainError, match=said) as error:
            resolve_model(name)
        assert name in str(error.value)
    with pytest.raises(TrainError, match=r"or `embedded`"):
        resolve_model("embeded")


def without_a_router(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    del tensors[next(name for name in tensors if name.endswith("gate.weight"))]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def test_folders_that_are_broken(tiny_model: Path, tmp_path: Path) -> None:
    for name, spoil, said in [
        ("json", lambda f: (f / "config.json").write_text("{"), "config.json"),
        ("type", lambda f: (f / "config.json").write_text('{"model_type": "no_such"}'), "cannot load"),
        ("weights", lambda f: (f / "model.safetensors").unlink(), "weights|safetensors"),
        ("layer", without_a_router, "1 of its weights are not in the checkpoint .* would be random"),
        ("tokenizer", lambda f: [(f / n).unlink() for n in ("tokenizer.json", "tokenizer_config.json")], "tokenizer"),
    ]:
        folder = tmp_path / name
        shutil.copytree(tiny_model, folder)
        spoil(folder)
        with pytest.raises(TrainError, match=said) as error:
            load_model(str(folder), device=CPU, dtype=torch.float32)
        assert "\n" not in str(error.value)


def dense(folder: Path, tiny_model: Path) -> Path:
    shutil.copytree(tiny_model, folder)
    vocabulary = json.loads((tiny_model / "config.json").read_text())["vocab_size"]
    config = LlamaConfig(
        vocab_size=vocabulary, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def test_a_dense_model_is_refused_unless_asked_for(tiny_model: Path, tmp_path: Path) -> None:
    folder = dense(tmp_path / "dense", tiny_model)
    with pytest.raises(TrainError, match=r"no MoE layer.*allow_standard_training=true") as error:
        load_model(str(folder), device=CPU, dtype=torch.float32)
    assert "LlamaForCausalLM" in str(error.value), "the diagnosis says what was looked at"
    assert load_model(str(folder), device=CPU, dtype=torch.float32, allow_standard_training=True).moe_layers == 0


def test_choices(monkeypatch: pytest.MonkeyPatch) -> None:
    assert choose_dtype("auto", CPU) == torch.float32
    assert choose_dtype("auto", torch.device("cuda")) == torch.bfloat16
    assert choose_dtype("bfloat16", CPU) == torch.bfloat16
    assert choose_device("cpu") == CPU
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device("auto") == CPU
    with pytest.raises(TrainError, match="cuda"):
        choose_device("cuda")
