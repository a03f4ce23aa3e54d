"""Answering through an OpenAI-compatible server: vLLM, llama.cpp, SGLang, Ollama, TGI, or a hosted one."""

from __future__ import annotations

import os
import queue
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from moe_bench.errors import BenchError
from moe_bench.models.base import Answer, Request, Sampling, as_text
from moe_bench.models.stopping import find_cut
from moe_bench.models.transport import Transport
from moe_bench.observers import NOBODY, Watch

if TYPE_CHECKING:
    import httpx


class ServedModel:
    """A model behind the chat completions (or completions) interface of a server."""

    def __init__(
        self,
        url: str,
        model: str,
        *,
        sampling: Sampling | None = None,
        concurrency: int = 8,
        per_minute: int | None = None,
        timeout: float = 300.0,
        retries: int = 6,
        chat: bool = True,
        key_variable: str = "OPENAI_API_KEY",
    ) -> None:
        """Name the server; nothing is sent yet.

        Args:
            url: up to and with /v1: `http://localhost:8000/v1`.
            model: as the server calls it.
            sampling: `stop_on_answer` cuts what the server wrote after the answer, which it cannot be told to leave out.
            concurrency: requests on their way at the same time.
            per_minute: requests begun in any minute, at most; None for no limit of our own. What the server says (429,
                Retry-After) is kept to in any case.
            timeout: seconds without an answer after which a request is tried again.
            retries: further attempts for a request that failed in a way that may pass.
            chat: False sends the conversation as text to /completions, for models without a chat template.
            key_variable: environment variable with the API key; it is sent, and stands in no file or message.

        Raises:
            BenchError: for a url that is none, or values out of range.
        """
        if not url.startswith(("http://", "https://")):
            raise BenchError(f"server {url}: must begin with http:// or https://, for example http://localhost:8000/v1")
        if concurrency < 1 or retries < 0 or timeout <= 0 or (per_minute is not None and per_minute < 1):
            raise BenchError(
                "server: concurrency and requests per minute start at 1, retries at 0, the timeout above 0"
            )
        self.url, self.model, self.chat = url.rstrip("/"), model, chat
        self.sampling, self.concurrency = sampling or Sampling(), concurrency
        self._options = {"timeout": timeout, "retries": retries, "per_minute": per_minute}
        self._key_variable = key_variable

    @property
    def settings(self) -> dict[str, Any]:
        """What the answers depend on. How the server batches and rounds is not known; `seed` is sent, it may be ignored."""
        return {
            **self.sampling.settings,
            "server": self.url,
            "interface": "chat/completions" if self.chat else "completions",
            "chat_template": self.chat,
        }

    def answer(self, requests: Sequence[Request], watch: Watch = NOBODY) -> Iterator[list[Answer]]:  # noqa: ARG002
        """Answers as they arrive.

        Raises:
            BenchError: in one line, when the server cannot be reached, refuses the key, does not know the model or the request, or
                keeps failing; answers that arrived before are handed on first.
        """
        transport = Transport(
            self.url,
            key=os.environ.get(self._key_variable) or None,
            key_variable=self._key_variable,
            connections=self.concurrency,
            **self._options,  # type: ignore[arg-type]
        )
        done: queue.SimpleQueue[Future[Answer]] = queue.SimpleQueue()
        pool = ThreadPoolExecutor(self.concurrency, thread_name_prefix="moe-bench-served")
        try:
            # The first answer alone: what is wrong with the address, the key or the model is said once.
            if requests:
                yield [self._one(transport, 0, requests[0])]
            for position in range(1, len(requests)):
                pool.submit(self._one, transport, position, requests[position]).add_done_callback(done.put)
            left = len(requests) - 1
            while left > 0:
                arrived = [done.get()]
                while not done.empty():
                    arrived.append(done.get())
                left -= len(arrived)
                failed = next((e for e in (f.exception() for f in arrived) if e is not None), None)
                answers = [f.result() for f in arrived if f.exception() is None]
                if answers:
                    yield answers
                if failed is not None:
                    raise failed
        finally:
            transport.give_up()
            pool.shutdown(wait=True, cancel_futures=True)
            transport.close()

    def _one(self, transport: Transport, position: int, request: Request) -> Answer:
        sampling = self.sampling
        body: dict[str, Any] = {
            "model": self.model,
            "max_tokens": sampling.max_new_tokens,
            "temperature": sampling.temperature,
        }
        if sampling.temperature:
            body |= {"top_p": sampling.top_p, "seed": request.seed % 2**31}
        if sampling.stop:
            body["stop"] = list(sampling.stop)
        if self.chat:
            body["messages"] = [{"role": turn.role, "content": turn.text} for turn in request.turns]
        else:
            body["prompt"] = as_text(request.turns)
        path = "/chat/completions" if self.chat else "/completions"
        reply = transport.post(path, body, what=f"item {request.item or position}", model=self.model)
        return self._read(position, reply)

    def _read(self, position: int, reply: httpx.Response) -> Answer:
        try:
            values = reply.json()
            choice = values["choices"][0]
            text = choice["message"]["content"] if self.chat else choice["text"]
            reason = choice.get("finish_reason")
            tokens = (values.get("usage") or {}).get("completion_tokens")
        except (ValueError, KeyError, IndexError, TypeError, AttributeError):
            raise BenchError(
                f"server {self.url}: answered something that is no completion ({' '.join(reply.text.split())[:200]}); "
                "does the address end with /v1?"
            ) from None
        text, finish = text or "", {"stop": "end", "length": "length"}.get(str(reason), str(reason or ""))
        cut = find_cut(text, stop=self.sampling.stop, on_answer=self.sampling.stop_on_answer)
        if cut is not None:
            text, finish = text[: cut.at], cut.why if finish == "length" else finish
        return Answer(position, text.strip(), tokens if isinstance(tokens, int) else None, finish != "length", finish)
