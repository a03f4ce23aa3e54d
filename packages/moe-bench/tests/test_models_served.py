"""A server over real HTTP: what it is asked, what of its moods is waited out, and what is said of the rest."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from moe_bench import BenchError, Item, run_items
from moe_bench.cli import main
from moe_bench.log import read_samples
from moe_bench.models import Request, Sampling, ServedModel, Turn
from moe_bench.models import transport as transport_module
from moe_bench.prompting import Prompting

ITEMS = [Item(prompt=f"What is {n} + 1?", target=str(n + 1), task="t") for n in range(20)]
Reply = tuple[int, dict[str, str], Any]


class Server:
    """Completions by arithmetic, with moods that a test sets."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []
        self.times: list[float] = []
        self.headers: list[dict[str, str]] = []
        self.mood: Callable[[int], Reply | None] = lambda _: None
        self.at_once = self.most_at_once = 0
        self.lock = threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with outer.lock:
                    number = len(outer.asked)
                    outer.asked.append({"path": self.path, **body})
                    outer.times.append(time.monotonic())
                    outer.headers.append(dict(self.headers))
                    outer.at_once += 1
                    outer.most_at_once = max(outer.most_at_once, outer.at_once)
                status, headers, reply = outer.mood(number) or (200, {}, outer.answer(body))
                with outer.lock:
                    outer.at_once -= 1
                data = reply if isinstance(reply, bytes) else json.dumps(reply).encode()
                self.send_response(status)
                for name, value in {"Content-Length": str(len(data)), **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_: Any) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}/v1"
        threading.Thread(target=self.http.serve_forever, daemon=True).start()

    @staticmethod
    def answer(body: dict[str, Any]) -> dict[str, Any]:
        question = (body["messages"][-1]["content"] if "messages" in body else body["prompt"]).strip().splitlines()[-1]
        number = int(question.split()[2])
        text = f"{number}+1={number + 1}\n#### {number + 1}\nQuestion: and now?"
        choice = {"finish_reason": "length"} | (
            {"message": {"content": text}} if "messages" in body else {"text": text}
        )
        return {"choices": [choice], "usage": {"completion_tokens": 9}}


@pytest.fixture
def server() -> Iterator[Server]:
    found = Server()
    yield found
    found.http.shutdown()
    found.http.server_close()


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport_module, "_FIRST_WAIT", 0.02)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


def answers(model: ServedModel, items: list[Item] = ITEMS) -> dict[str, str]:
    requests = Prompting().requests(items)
    return {items[a.position].id: a.text for batch in model.answer(requests) for a in batch}


def test_every_item_once_at_the_same_time(server: Server, tmp_path) -> None:
    def slow(_: int) -> None:
        time.sleep(0.03)

    server.mood = slow
    model = ServedModel(server.url, "m", concurrency=4)
    summary = run_items(model, ITEMS, tmp_path / "r", suite="s", model_name="m")
    assert (summary.correct, len(server.asked)) == (20, 20)
    assert 2 <= server.most_at_once <= 4
    sample = read_samples(tmp_path / "r")[0]
    # What stands behind the answer's line is cut, so that the texts are those a local model ends there.
    assert (sample["output"], sample["finish"], sample["tokens"]) == ("0+1=1\n#### 1", "answer", 9)
    assert server.asked[0] == {
        "path": "/v1/chat/completions", "model": "m", "max_tokens": 256, "temperature": 0.0,
        "messages": [{"role": "user", "content": "What is 0 + 1?"}],
    }  # fmt: skip


def test_draws_stops_and_plain_text(server: Server) -> None:
    sampling = Sampling(temperature=0.7, top_p=0.9, stop=("Q:",), max_new_tokens=7)
    turns = (
        Turn("system", "S"),
        Turn("user", "What is 0 + 0?"),
        Turn("assistant", "0"),
        Turn("user", "What is 1 + 1?"),
    )
    request = Request(turns=turns, seed=2**40 + 5)
    ((answer,),) = ServedModel(server.url, "m", sampling=sampling, chat=False).answer([request])
    assert answer.text == "1+1=2\n#### 2"
    assert server.asked[0] == {
        "path": "/v1/completions", "model": "m", "max_tokens": 7, "temperature": 0.7, "top_p": 0.9, "seed": 5,
        "stop": ["Q:"], "prompt": "S\n\nWhat is 0 + 0?\n0\n\nWhat is 1 + 1?\n",
    }  # fmt: skip


@pytest.mark.parametrize("status", [429, 500, 502, 503, 529])
def test_what_passes_is_waited_out(server: Server, status: int) -> None:
    server.mood = lambda n: (status, {}, {"error": {"message": "busy"}}) if n % 3 == 1 else None
    assert len(answers(ServedModel(server.url, "m", concurrency=3))) == 20
    assert len(server.asked) > 20


@pytest.mark.parametrize("form", ["seconds", "date"])
def test_retry_after_holds_for_all(server: Server, form: str) -> None:
    wait = "1" if form == "seconds" else formatdate(time.time() + 2, usegmt=True)
    server.mood = lambda n: (429, {"Retry-After": wait}, {}) if n == 3 else None
    begun = time.monotonic()
    assert len(answers(ServedModel(server.url, "m", concurrency=2), ITEMS[:8])) == 8
    assert time.monotonic() - begun > 0.9
    # Requests already on their way may come within a moment of it; then nobody comes until it is over.
    late = [t for t in server.times if t > server.times[3] + 0.2]
    assert min(late) > server.times[3] + 0.9


def test_requests_per_minute(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []
    monkeypatch.setattr(transport_module.Transport, "_wait", lambda _, seconds: waited.append(seconds))
    assert len(answers(ServedModel(server.url, "m", concurrency=1, per_minute=5), ITEMS[:12])) == 12
    # The sixth is a minute after the first, the eleventh two.
    assert [round(w / 60) for w in waited] == [0] * 5 + [1] * 5 + [2] * 2


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        (
            (401, {}, {"error": {"message": "bad key sk-secret"}}),
            "401 .bad key \\*\\*\\*.; the key in MY_KEY is not accepted",
        ),
        ((404, {}, {"detail": "Not Found"}), "404 .Not Found.; does the address end with /v1, and is 'm' the name"),
        ((400, {}, {"error": "context too long"}), "400 for item .* .context too long"),
        ((429, {}, {"error": {"code": "insufficient_quota", "message": "pay"}}), "429, too many requests .pay"),
        ((429, {"Retry-After": "99999"}, {}), "asks to wait 99999 s"),
        ((200, {}, {"hello": 1}), "something that is no completion"),
        ((200, {}, b"<html>"), "something that is no completion .<html>.; does the address end with /v1"),
    ],
)
def test_what_does_not_pass_is_one_line(
    server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path, reply: Reply, said: str
) -> None:
    monkeypatch.setenv("MY_KEY", "sk-secret")
    server.mood = lambda _: reply
    with pytest.raises(BenchError, match=said) as error:
        run_items(ServedModel(server.url, "m", key_variable="MY_KEY"), ITEMS, tmp_path / "r", suite="s", model_name="m")
    assert "\n" not in str(error.value)
    assert len(server.asked) == 1, "it was not tried again, nor with the other items"
    assert server.headers[0]["Authorization"] == "Bearer sk-secret"
    assert "sk-secret" not in str(error.value)
    assert all("sk-secret" not in path.read_text() for path in tmp_path.rglob("*") if path.is_file())


def test_it_goes_on_where_it_was_given_up(server: Server, tmp_path) -> None:
    server.mood = lambda n: (500, {}, {"error": "down"}) if n > 9 else None
    model = ServedModel(server.url, "m", concurrency=2, retries=2)
    with pytest.raises(BenchError, match=r"500 for item .* .down.; tried 3 times. The same command goes on"):
        run_items(model, ITEMS, tmp_path / "r", suite="s", model_name="m")
    there = len(read_samples(tmp_path / "r"))
    assert 8 <= there <= 10
    server.mood = lambda _: None
    summary = run_items(model, ITEMS, tmp_path / "r", suite="s", model_name="m")
    assert (summary.answered_before, summary.correct) == (there, 20)


def test_nobody_there_too_slow_and_no_address(server: Server) -> None:
    begun = time.monotonic()
    with pytest.raises(BenchError, match=r"127.0.0.1:9/v1: cannot be reached .*is it running there"):
        answers(ServedModel("http://127.0.0.1:9/v1", "m"))
    assert time.monotonic() - begun < 5
    server.mood = lambda _: time.sleep(0.5)  # type: ignore[assignment, return-value]
    with pytest.raises(BenchError, match=r"no answer within 0.1 s; give it longer.*tried 2 times"):
        answers(ServedModel(server.url, "m", timeout=0.1, retries=1))
    with pytest.raises(BenchError, match="must begin with http"):
        ServedModel("localhost:8000", "m")
    with pytest.raises(BenchError, match="concurrency"):
        ServedModel("http://localhost", "m", concurrency=0)


def test_the_command(server: Server, tmp_path) -> None:
    from click.testing import CliRunner

    data = tmp_path / "items.jsonl"
    data.write_text("".join(json.dumps({"prompt": i.prompt, "target": i.target}) + "\n" for i in ITEMS))
    arguments = ["run", "--server", server.url, "--model", "m", "--data", str(data), "-o", str(tmp_path / "r")]
    result = CliRunner().invoke(main, [*arguments, "--json"])
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout.splitlines()[-1])["correct"] == 20
    refused = CliRunner().invoke(main, [*arguments, "--adapter", "x"])
    assert (refused.exit_code, "--adapter goes with a local model" in refused.output) == (2, True)
