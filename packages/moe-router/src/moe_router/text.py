"""Text to trace: the records of a JSONL file as tokens."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from moe_router.errors import RouterError
from moe_router.operations.steps import TOKEN_OPERATIONS, operation_types
from moe_router.tokens import LEXICAL, PARTS, POSITIONS, lexical_types, offsets_of, part_types, position_types

TYPES = {"lexical": LEXICAL, "position": POSITIONS, "part": PARTS, "operation": TOKEN_OPERATIONS}
"""Ways to tell tokens apart, and the names of the types."""


class Sample(NamedTuple):
    """One record, tokenized."""

    group: str
    text: str
    ids: list[int]
    prompt_tokens: int
    """Tokens before the completion; 0 where the record has no prompt."""

    def types(self, kind: str, tokenizer: Any) -> NDArray[np.uint8]:
        """The type of every token, as its number among `TYPES[kind]`."""
        if kind == "position":
            return position_types(len(self.ids))
        if kind == "part":
            return part_types(self.prompt_tokens, len(self.ids))
        offsets = offsets_of(tokenizer, self.text, self.ids)
        if kind == "operation":
            return operation_types(self.text, offsets, prompt_tokens=self.prompt_tokens)
        return lexical_types(self.text, offsets)


def lines_of(path: Path, *, what: str) -> list[str]:
    """The lines of a text file.

    Raises:
        RouterError: for one that is missing or is no text.
    """
    if not path.is_file():
        raise RouterError(f"{what} {path}: no such file")
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise RouterError(f"{what} {path}: not text in UTF-8 (byte {error.start}: {error.reason})") from None


def read_texts(path: Path, *, by: str | None, tokenizer: Any) -> Iterator[Sample]:
    """Every record: `text`, `prompt` and `completion`, or chat `messages`, in the model's chat template where it has one.

    Raises:
        RouterError: naming the file and line, for what is missing or malformed.
    """
    found = False
    for number, line in enumerate(lines_of(path, what="data"), start=1):
        if not line.strip():
            continue
        where = f"data {path}:{number}"
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            raise RouterError(f"{where}: not JSON ({error.msg}); one object to a line") from None
        if by is not None and (not isinstance(record, dict) or by not in record):
            raise RouterError(f"{where}: has no field {by!r} to group by")
        sample = _sample(record, tokenizer, where, group=str(record[by]) if by is not None else "all")
        if sample.ids:
            found = True
            yield sample
    if not found:
        raise RouterError(f"data {path}: holds no record with text")


def _sample(record: Any, tokenizer: Any, where: str, *, group: str) -> Sample:
    if isinstance(record, dict) and isinstance(record.get("text"), str):
        return Sample(group, record["text"], list(tokenizer(record["text"])["input_ids"]), 0)
    if isinstance(record, dict) and "prompt" in record and "completion" in record:
        turns = [
            {"role": "user", "content": str(record["prompt"])},
            {"role": "assistant", "content": str(record["completion"])},
        ]
    elif isinstance(record, dict) and isinstance(record.get("messages"), list):
        turns = record["messages"]
    else:
        raise RouterError(f"{where}: needs text, prompt and completion, or messages")
    try:
        if tokenizer.chat_template is None:
            text, before = (
                "\n\n".join(str(t["content"]) for t in turns),
                "\n\n".join(str(t["content"]) for t in turns[:-1]),
            )
            special = True
        else:
            text = tokenizer.apply_chat_template(turns, tokenize=False)
            before = (
                tokenizer.apply_chat_template(turns[:-1], tokenize=False, add_generation_prompt=True)
                if turns[:-1]
                else ""
            )
            special = False
    except (KeyError, TypeError, AttributeError) as error:
        raise RouterError(f"{where}: each message needs role and content ({error})") from None
    ids = list(tokenizer(text, add_special_tokens=special)["input_ids"])
    prompt = len(tokenizer(before, add_special_tokens=special)["input_ids"]) if before else 0
    return Sample(group, text, ids, min(prompt, len(ids)))
