"""Label steps by hand, at the terminal."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console

from moe_router.errors import RouterError
from moe_router.operations.classifier import OperationClassifier
from moe_router.operations.steps import steps_of
from moe_router.operations.vocabulary import OPERATIONS

KEYS = dict(zip("sprktdmavc", OPERATIONS, strict=True))
"""The key of every operation."""


def read_steps(path: Path) -> Iterator[str]:
    """The steps of a file of text, or of the `step`, `steps`, `completion` or `text` of every record of a JSONL file.

    Raises:
        RouterError: for what is missing or malformed.
    """
    if not path.is_file():
        raise RouterError(f"steps {path}: no such file")
    text = path.read_text(encoding="utf-8")
    if path.suffix != ".jsonl":
        yield from (line.strip() for line in text.splitlines() if line.strip())
        return
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
            held = next(record[name] for name in ("step", "steps", "completion", "text") if name in record)
        except (json.JSONDecodeError, TypeError, StopIteration):
            raise RouterError(f"steps {path}:{number}: needs an object with step, steps, completion or text") from None
        if isinstance(held, list):
            yield from map(str, held)
        else:
            yield from (str(held)[start:end] for start, end in steps_of(str(held)))


def annotate(steps: Iterator[str], labels: Path, classifier: OperationClassifier, console: Console) -> int:
    """Ask for the operation of every step that is not labelled yet; each answer is on disk before the next question.

    Returns:
        How many were labelled.
    """
    done = set()
    if labels.is_file():
        done = {json.loads(line)["text"] for line in labels.read_text(encoding="utf-8").splitlines() if line.strip()}
    console.print(
        "  ".join(f"[bold]{key}[/] {name}" for key, name in KEYS.items()) + "  [bold]-[/] skip  [bold]q[/] quit"
    )
    given = 0
    with labels.open("a", encoding="utf-8") as file:
        for step in dict.fromkeys(steps):
            if step in done:
                continue
            guess = classifier.probabilities([step])[0]
            best = int(guess.argmax())
            console.print(f"\n{step}", markup=False, highlight=False)
            answer = _ask(console, f"{OPERATIONS[best]} ({guess[best]:.0%})? enter to accept")
            if answer == "q":
                break
            if answer == "-":
                continue
            file.write(json.dumps({"text": step, "operation": KEYS.get(answer, OPERATIONS[best])}) + "\n")
            file.flush()
            os.fsync(file.fileno())
            given += 1
    return given


def _ask(console: Console, question: str) -> str:
    while True:
        try:
            answer = console.input(f"{question} > ").strip().lower()
        except EOFError:
            return "q"
        if answer in ("", "-", "q", *KEYS):
            return answer
        console.print(f"one of {' '.join(KEYS)}, - or q")
