"""What is asked of a model, how, and what comes back."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from moe_bench.errors import BenchError
from moe_bench.observers import NOBODY, Watch


class Turn(NamedTuple):
    """One message of a conversation."""

    role: str
    """system, user or assistant."""
    text: str


@dataclass(frozen=True, kw_only=True)
class Request:
    """One answer that is asked for."""

    turns: tuple[Turn, ...]
    """The conversation; the last turn is the user's, worked examples stand before it."""
    seed: int = 0
    """Of the random draws of this answer alone; of no use to a greedy one."""
    group: str = ""
    """What observers count it under."""
    item: str = ""
    """Id of the item, by which replayed outputs are found."""
    sample: int = 0
    """Number of the answer among those to the same item."""

    @classmethod
    def of(cls, prompt: str | Request) -> Request:
        """A request for one answer to a bare prompt; a request is returned as it is."""
        return prompt if isinstance(prompt, Request) else cls(turns=(Turn("user", prompt),))

    @property
    def prompt(self) -> str:
        """The text of the last turn."""
        return self.turns[-1].text

    @property
    def hash(self) -> str:
        """sha256 of all turns, 16 hex digits."""
        return hashlib.sha256(json.dumps(self.turns, ensure_ascii=False).encode()).hexdigest()[:16]


def as_text(turns: Sequence[Turn]) -> str:
    """A conversation as plain text, for models without a chat template: a lone prompt as it is, else blank lines between
    examples and a line break after each question, so that an answer begins on a line of its own.
    """
    if len(turns) == 1:
        return turns[0].text
    return "".join(turn.text + ("\n" if turn.role == "user" else "\n\n") for turn in turns)


class Answer(NamedTuple):
    """What a model wrote to one request."""

    position: int
    """Where the request stands in the list that was given."""
    text: str
    tokens: int | None
    """Tokens generated, the end token included; None where a server does not say."""
    ended: bool
    """Whether it ended by itself or with its answer, and was not cut at the limit."""
    finish: str = ""
    """end (the model's end token), answer (its answer was complete), stop (a stop text), length (cut); empty where unknown."""


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How answers are drawn, and where they end."""

    max_new_tokens: int = 256
    temperature: float = 0.0
    """0 takes the likeliest token."""
    top_p: float = 1.0
    """Draw among the likeliest tokens that together have this probability."""
    stop: tuple[str, ...] = ()
    """Texts at which an answer ends, themselves left out."""
    stop_on_answer: bool = True
    """End an answer with the line of its answer mark; see `moe_bench.models.stopping`."""

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            BenchError: naming the first that is out of range.
        """
        if self.max_new_tokens < 1:
            raise BenchError(f"max_new_tokens {self.max_new_tokens} must be at least 1")
        if not self.temperature >= 0:
            raise BenchError(f"temperature {self.temperature} must not be below 0")
        if not 0 < self.top_p <= 1:
            raise BenchError(f"top_p {self.top_p} must be above 0 and at most 1")
        if "" in self.stop:
            raise BenchError("stop: an empty text would end every answer at once")

    @property
    def settings(self) -> dict[str, Any]:
        """For the run's header."""
        values: dict[str, Any] = {"decoding": "sampled" if self.temperature else "greedy"}
        if self.temperature:
            values |= {"temperature": self.temperature, "top_p": self.top_p}
        return values | {
            "max_new_tokens": self.max_new_tokens,
            "stop": list(self.stop),
            "stop_on_answer": self.stop_on_answer,
        }


class Answering(Protocol):
    """Something that answers requests."""

    @property
    def settings(self) -> dict[str, Any]:
        """What the answers depend on, for the run's header; plain values. `decoding` is "greedy", "sampled" or a name."""
        ...

    def answer(self, requests: Sequence[Request], watch: Watch = NOBODY) -> Iterator[list[Answer]]:
        """Answers in any order, some at a time, one to every request.

        Args:
            requests: what is asked.
            watch: told which group is answered, and in which phase.
        """
        ...
