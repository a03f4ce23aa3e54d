"""Outputs that are there already, scored as if a model wrote them now."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from moe_bench.errors import BenchError
from moe_bench.models.base import Answer, Request
from moe_bench.observers import NOBODY, Watch

_BATCH = 256


class ReplayModel:
    """A JSONL file of outputs as a model."""

    def __init__(self, path: Path) -> None:
        """Read the file.

        Args:
            path: on every line `output`, and `id` (of the item) or `prompt` (the item's, word for word); `sample` numbers several
                outputs to one item from 0, else they are taken in the order of the file. `tokens`, `ended` and `finish` are kept
                where they are. The samples.jsonl of a run is such a file.

        Raises:
            BenchError: naming the line that is malformed, or says the same as another.
        """
        if not path.is_file():
            raise BenchError(f"outputs {path}: no such file")
        content = path.read_bytes()
        self.path, self._hash = path, hashlib.sha256(content).hexdigest()[:16]
        self._by_key: dict[tuple[str, int], dict[str, Any]] = {}
        try:
            lines = content.decode("utf-8-sig").split("\n")
        except UnicodeDecodeError:
            raise BenchError(f"outputs {path}: not UTF-8 text; convert it") from None
        for number, line in enumerate(lines, start=1):
            if line.strip():
                self._add(line, f"{path}:{number}")
        if not self._by_key:
            raise BenchError(f"outputs {path}: holds no output")

    def _add(self, line: str, where: str) -> None:
        try:
            values = json.loads(line)
        except json.JSONDecodeError as error:
            raise BenchError(f"outputs {where}: not JSON ({error.msg} at column {error.colno})") from None
        if not isinstance(values, dict) or not isinstance(values.get("output"), str):
            raise BenchError(f"outputs {where}: needs an object with an output that is text")
        key = values.get("id") or values.get("prompt")
        if not isinstance(key, str):
            raise BenchError(f"outputs {where}: needs the id or the prompt of its item")
        sample = values.get("sample")
        if sample is None:
            sample = next(n for n in range(len(self._by_key) + 1) if (key, n) not in self._by_key)
        if not isinstance(sample, int) or (key, sample) in self._by_key:
            raise BenchError(
                f"outputs {where}: sample {sample} of this item stands on an earlier line, or is no number"
            )
        self._by_key[key, sample] = values

    @property
    def settings(self) -> dict[str, Any]:
        """The file's content, by hash."""
        return {"decoding": "replayed", "outputs_hash": self._hash}

    def answer(self, requests: Sequence[Request], watch: Watch = NOBODY) -> Iterator[list[Answer]]:  # noqa: ARG002
        """The outputs, in the order of the requests.

        Raises:
            BenchError: where outputs are missing, before any is scored.
        """
        found = [self._find(request) for request in requests]
        missing = [r for r, values in zip(requests, found, strict=True) if values is None]
        if missing:
            raise BenchError(
                f"outputs {self.path}: {len(missing)} of {len(requests)} answers are not in it (first: sample {missing[0].sample} "
                f"of item {missing[0].item}); ask for fewer items or samples, or complete the file"
            )
        for begin in range(0, len(found), _BATCH):
            yield [_answer(begin + i, values or {}) for i, values in enumerate(found[begin : begin + _BATCH])]

    def _find(self, request: Request) -> dict[str, Any] | None:
        by_id = self._by_key.get((request.item, request.sample))
        return by_id if by_id is not None else self._by_key.get((request.prompt, request.sample))


def _answer(position: int, values: dict[str, Any]) -> Answer:
    tokens, finish = values.get("tokens"), str(values.get("finish") or "")
    ended = values.get("ended")
    return Answer(
        position,
        str(values["output"]),
        tokens if isinstance(tokens, int) else None,
        ended if isinstance(ended, bool) else finish != "length",
        finish,
    )
