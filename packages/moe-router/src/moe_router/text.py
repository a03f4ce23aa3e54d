"""Text to trace: the records of a JSONL file as token ids."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from moe_router.errors import RouterError


def read_texts(path: Path, *, by: str | None, tokenizer: Any) -> Iterator[tuple[str, list[int]]]:
    """(group, token ids) of every record: `text`, `prompt` and `completion`, or chat `messages`.

    Raises:
        RouterError: naming the file and line, for what is missing or malformed.
    """
    if not path.is_file():
        raise RouterError(f"data {path}: no such file")
    found = False
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip():
            continue
        where = f"data {path}:{number}"
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            raise RouterError(f"{where}: not JSON ({error.msg}); one object to a line") from None
        if by is not None and by not in record:
            raise RouterError(f"{where}: has no field {by!r} to group by")
        found = True
        yield str(record[by]) if by is not None else "all", _ids(record, tokenizer, where)
    if not found:
        raise RouterError(f"data {path}: holds no record")


def _ids(record: Any, tokenizer: Any, where: str) -> list[int]:
    if isinstance(record, dict) and isinstance(record.get("text"), str):
        return list(tokenizer(record["text"])["input_ids"])
    if isinstance(record, dict) and "prompt" in record and "completion" in record:
        turns = [
            {"role": "user", "content": str(record["prompt"])},
            {"role": "assistant", "content": str(record["completion"])},
        ]
    elif isinstance(record, dict) and isinstance(record.get("messages"), list):
        turns = record["messages"]
    else:
        raise RouterError(f"{where}: needs text, prompt and completion, or messages")
    if tokenizer.chat_template is None:
        return list(tokenizer("\n\n".join(str(t["content"]) for t in turns))["input_ids"])
    return list(tokenizer(tokenizer.apply_chat_template(turns, tokenize=False), add_special_tokens=False)["input_ids"])
