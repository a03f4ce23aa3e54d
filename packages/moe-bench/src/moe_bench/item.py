"""One problem and its right answer."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from moe_bench.errors import BenchError


@dataclass(frozen=True, kw_only=True)
class Item:
    """A problem, keyed by its content."""

    prompt: str
    target: str
    """The right answer alone, without the way to it."""
    task: str
    """What kind of problem it is; results are shown by task."""
    operation: str = ""
    """The reasoning operation it exercises, where known."""
    solution: str = ""
    """Worked steps, where known."""
    metadata: Mapping[str, Any] = field(default_factory=dict)

    @property
    def id(self) -> str:
        """The content hash: sha256 of prompt and target, 16 hex digits."""
        return hashlib.sha256(f"{self.prompt}\0{self.target}".encode()).hexdigest()[:16]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, one line of a JSONL file."""
        return {"id": self.id, **asdict(self), "metadata": dict(self.metadata)}


def load_items(path: Path) -> list[Item]:
    """The items of a JSONL file: `prompt` and `target` on every line; `task`, `operation` and `solution` where there are.

    Raises:
        BenchError: naming the file and line, for a missing or empty file, a malformed line, a missing field, or an item that
            stands twice.
    """
    if not path.is_file():
        raise BenchError(f"items {path}: no such file")
    items: dict[str, Item] = {}
    try:
        # Not splitlines(): a JSON text may hold U+2028 and its like. Some editors begin a file with a byte-order mark.
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except UnicodeDecodeError:
        raise BenchError(f"items {path}: not UTF-8 text; convert it") from None
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        item = _item(line, f"{path}:{number}", default_task=path.stem)
        if item.id in items:
            raise BenchError(f"items {path}:{number}: the same prompt and target stand on an earlier line; remove one")
        items[item.id] = item
    if not items:
        raise BenchError(f"items {path}: holds no item")
    return list(items.values())


def _item(line: str, where: str, *, default_task: str) -> Item:
    try:
        values = json.loads(line)
    except json.JSONDecodeError as error:
        raise BenchError(
            f"items {where}: not JSON ({error.msg} at column {error.colno}); one object to a line"
        ) from None
    if not isinstance(values, dict):
        raise BenchError(f"items {where}: expected an object, found a {type(values).__name__}")
    for key in ("prompt", "target"):
        value = values.get(key)
        if not isinstance(value, (str, int, float)) or not str(value).strip():
            raise BenchError(f"items {where}: needs a {key} that is not empty, has {', '.join(values) or 'no fields'}")
    known = {"prompt", "target", "task", "operation", "solution", "id", "metadata"}
    nested = values.get("metadata") if isinstance(values.get("metadata"), dict) else {}
    return Item(
        prompt=str(values["prompt"]),
        target=str(values["target"]),
        task=str(values.get("task") or default_task),
        operation=str(values.get("operation", "")),
        solution=str(values.get("solution", "")),
        metadata={**(nested or {}), **{k: v for k, v in values.items() if k not in known}},
    )
