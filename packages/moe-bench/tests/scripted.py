"""A model that answers from a script, for tests that are about everything but the model."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple


class Answer(NamedTuple):
    position: int
    text: str
    tokens: int
    ended: bool


class Scripted:
    """Answers prompt p with `The answer is {script[p]}.`, a batch at a time."""

    def __init__(self, script: dict[str, str], *, batch_size: int = 3, delay: float = 0.0, limit: int = 64) -> None:
        self.script, self.batch_size, self.delay, self.limit = script, batch_size, delay, limit

    @property
    def settings(self) -> dict[str, Any]:
        return {"decoding": "script", "max_new_tokens": self.limit}

    def answer(self, requests: Sequence[Any], watch: Any = None) -> Iterator[list[Answer]]:
        for begin in range(0, len(requests), self.batch_size):
            time.sleep(self.delay)
            batch = range(begin, min(begin + self.batch_size, len(requests)))
            yield [Answer(i, f"The answer is {self.script[requests[i].prompt]}.", 5, True) for i in batch]
