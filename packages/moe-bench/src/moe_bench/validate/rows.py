"""The lines of a file of problems, read without refusing what is to be reported."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moe_bench.errors import BenchError

_PROMPT = ("prompt", "question", "problem", "input", "instruction")
_TARGET = ("target", "answer", "output", "completion", "response")
_SOLUTION = ("solution", "reference")


@dataclass(frozen=True, kw_only=True)
class Row:
    """One problem as it stands in a file."""

    line: int
    """From 1."""
    prompt: str
    target: str
    """The right answer alone; of GSM8K's answers, what stands behind `####`."""
    solution: str = ""
    task: str = ""
    kind: str = ""
    """Kind of answer that the line states; empty where it is told from the answer."""
    choices: tuple[str, ...] = ()


def read_rows(path: Path) -> list[Row]:
    """The rows of a JSONL file: items, or records of training (`prompt`/`completion`, `question`/`answer`, chat `messages`).

    Raises:
        BenchError: for a file that cannot be read, a line that is no JSON object or has no prompt.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except OSError as error:
        raise BenchError(f"{path}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise BenchError(f"{path}: not UTF-8 text; convert it") from None
    rows = [_row(line, f"{path}:{n}", n) for n, line in enumerate(lines, start=1) if line.strip()]
    if not rows:
        raise BenchError(f"{path}: holds no line")
    return rows


def _row(line: str, where: str, number: int) -> Row:
    try:
        values = json.loads(line)
    except json.JSONDecodeError as error:
        raise BenchError(f"{where}: not JSON ({error.msg}); one object to a line") from None
    if not isinstance(values, dict):
        raise BenchError(f"{where}: expected an object, found a {type(values).__name__}")
    if isinstance(values.get("messages"), list):
        values = _of_messages(values["messages"])
    prompt = next((values[key] for key in _PROMPT if isinstance(values.get(key), str)), None)
    if prompt is None:
        raise BenchError(
            f"{where}: no text under {', '.join(_PROMPT)} or messages; it has {', '.join(values) or 'nothing'}"
        )
    target = next((str(values[key]) for key in _TARGET if isinstance(values.get(key), (str, int, float))), "")
    solution = next((values[key] for key in _SOLUTION if isinstance(values.get(key), str)), "")
    if "####" in target:
        solution, _, target = target.rpartition("####")
    metadata = values.get("metadata") if isinstance(values.get("metadata"), dict) else {}
    stated: dict[str, Any] = {**values, **(metadata or {})}
    choices = stated.get("choices")
    return Row(
        line=number, prompt=prompt, target=target.strip(), solution=solution.strip(), task=str(stated.get("task", "")),
        kind=str(stated.get("answer_kind", "")), choices=tuple(map(str, choices)) if isinstance(choices, list) else (),
    )  # fmt: skip


def _of_messages(messages: list[Any]) -> dict[str, Any]:
    said = [m for m in messages if isinstance(m, dict) and isinstance(m.get("content"), str)]
    asked = "\n".join(m["content"] for m in said if m.get("role") in ("user", "system"))
    answered = [m["content"] for m in said if m.get("role") == "assistant"]
    return {"prompt": asked, "target": answered[-1] if answered else ""}
