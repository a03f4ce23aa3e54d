"""Headers over HTTP: huggingface_hub against a small server of this test."""

from __future__ import annotations

import json
import struct
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

constants = pytest.importorskip("huggingface_hub.constants")

from moe_memprof.architectures.headers import read_hub  # noqa: E402
from moe_memprof.errors import MemprofError  # noqa: E402

HEADER = json.dumps({"lm_head.weight": {"dtype": "BF16", "shape": [3, 2], "data_offsets": [0, 12]}}).encode()
FILES = {"/one/model/resolve/main/model.safetensors": struct.pack("<Q", len(HEADER)) + HEADER + bytes(12)}


class Hub(BaseHTTPRequestHandler):
    asked: list[str]

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.answer(body=True)

    def answer(self, *, body: bool) -> None:
        found = FILES.get(self.path)
        asked = self.headers.get("Range")
        if found is None:
            self.send_response(404)
            self.send_header("X-Error-Code", "EntryNotFound" if "one/model" in self.path else "RepoNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        data = found
        if asked:
            first, last = (int(n) for n in asked.removeprefix("bytes=").split("-"))
            data = found[first : last + 1]
            self.send_response(206)
        else:
            self.send_response(200)
        self.send_header("ETag", '"1"')
        self.send_header("X-Repo-Commit", "0" * 40)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if body:
            self.wfile.write(data)

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(constants, "ENDPOINT", address)
    template = address + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    yield
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_model_on_the_hub(hub: None) -> None:
    found = read_hub("one/model")
    assert [(t.name, t.shape, t.dtype, t.role) for t in found.tensors] == [
        ("lm_head.weight", (3, 2), "bfloat16", "embedding")
    ]
    assert found.bytes == 12


@pytest.mark.parametrize("name", ["no/model", "a name that cannot be", "one/model@"])
def test_a_model_that_is_not_there(hub: None, name: str) -> None:
    with pytest.raises(MemprofError) as caught:
        read_hub(name)
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)


def test_no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", "http://127.0.0.1:9/{repo_id}/{revision}/{filename}")
    with pytest.raises(MemprofError, match="check the name"):
        read_hub("one/model")
