"""What is no whole model is refused in one line; transformers alone would load some of it with random weights."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import MixtralForCausalLM
from transformers.utils.logging import disable_progress_bar

from moe_bench import BenchError
from moe_bench.pretrained import load_pretrained, resolve_model
from small_mixtral import small_mixtral, tokenizer_of_bytes

disable_progress_bar()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "whole"
    small_mixtral().save_pretrained(folder)
    tokenizer_of_bytes(template=True).save_pretrained(folder)
    return folder


def weights(change: Callable[[dict[str, Any]], None]) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        tensors = load_file(folder / "model.safetensors")
        change(tensors)
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})

    return spoil


def without_a_layer(tensors: dict[str, Any]) -> None:
    for name in [name for name in tensors if ".layers.1." in name]:
        del tensors[name]


def with_a_smaller_projection(tensors: dict[str, Any]) -> None:
    name = next(name for name in tensors if "q_proj" in name)
    tensors[name] = tensors[name][:8].contiguous()


def cut_short(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])


def of_an_odd_config(folder: Path) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"num_local_experts": "four"}))


def without_tokenizer(folder: Path) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).unlink()


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (weights(without_a_layer), "9 of its weights are not in the checkpoint (first model.layers.1."),
        (weights(with_a_smaller_projection), "q_proj.weight: [8, 32] in the checkpoint, [32, 32] by the config"),
        (cut_short, "transformers cannot load it: "),
        (of_an_odd_config, "num_local_experts"),
        (without_tokenizer, "its tokenizer cannot be loaded"),
        (lambda folder: (folder / "model.safetensors").unlink(), "no weights (*.safetensors) in it"),
        (lambda folder: (folder / "config.json").unlink(), "no config.json in it"),
        (lambda folder: (folder / "config.json").write_text("{"), "config.json is not JSON"),
        (lambda folder: (folder / "config.json").write_text("{}"), "names no model_type"),
        (lambda folder: (folder / "config.json").write_text('{"model_type": "no_such"}'), "no_such"),
    ],
)
def test_a_spoilt_folder(whole: Path, tmp_path: Path, spoil: Callable[[Path], None], said: str) -> None:
    folder = tmp_path / "spoilt"
    shutil.copytree(whole, folder)
    spoil(folder)
    with pytest.raises(BenchError) as error:
        load_pretrained(folder, dtype=torch.float32)
    assert said in str(error.value)
    assert str(error.value).startswith(f"model {folder}: ")
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 480 + len(str(folder))


def test_a_whole_one_is_loaded(whole: Path) -> None:
    model, tokenizer = load_pretrained(whole, dtype=torch.float32)
    assert isinstance(model, MixtralForCausalLM)
    saved = load_file(whole / "model.safetensors")
    assert torch.equal(model.model.embed_tokens.weight, saved["model.embed_tokens.weight"])
    assert tokenizer.chat_template is not None


def test_names_that_are_nothing(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    for name, said in (
        (str(tmp_path / "none"), "no such folder"),
        ("word", "no such folder"),
        (str(file), "is a file"),
    ):
        with pytest.raises(BenchError, match=said):
            resolve_model(name)


@pytest.fixture
def hub() -> Iterator[tuple[str, list[str]]]:
    """A hub that knows one model, `some/model`, and the paths it was asked for."""
    asked: list[str] = []

    class Hub(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            known = self.path == "/api/models/some/model"
            self.send_response(200 if known else 404)
            if not known:
                self.send_header("X-Error-Code", "RepoNotFound")
            body = json.dumps({"id": "some/model"} if known else {"error": "Repository not found"}).encode()
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", asked
    server.shutdown()
    server.server_close()


def resolved(name: str, endpoint: str, home: Path) -> subprocess.CompletedProcess[str]:
    """In a process of its own: the hub's library reads its settings when it is imported."""
    program = "import sys; from moe_bench.pretrained import resolve_model; print(resolve_model(sys.argv[1]))"
    environment = {k: v for k, v in os.environ.items() if k not in ("HF_HUB_OFFLINE", "HF_TOKEN")} | {
        "HF_ENDPOINT": endpoint, "HF_HOME": str(home), "NO_PROXY": "127.0.0.1",
    }  # fmt: skip
    return subprocess.run(
        [sys.executable, "-c", program, name], capture_output=True, text=True, check=False, env=environment, timeout=60
    )


@pytest.mark.slow
def test_the_hub_is_asked_once(hub: tuple[str, list[str]], tmp_path: Path) -> None:
    endpoint, asked = hub
    assert resolved("some/model", endpoint, tmp_path).stdout == "some/model\n"
    unknown = resolved("some/thing", endpoint, tmp_path)
    assert "model some/thing: no such folder, and the hub has none by that name" in unknown.stderr
    about_models = [path for path in asked if path.startswith("/api/models/")]
    assert about_models == ["/api/models/some/model", "/api/models/some/thing"]
    assert "no name that the hub could have" in resolved("so me/thing", endpoint, tmp_path).stderr
    # Nobody listens: said at once, and not after ten attempts.
    silent = resolved("some/model", "http://127.0.0.1:9", tmp_path)
    assert "model some/model: no such folder, and the hub cannot be asked" in silent.stderr
    assert "Retrying" not in silent.stderr
