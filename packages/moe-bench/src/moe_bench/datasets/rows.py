"""The rows of a file, with the place of each for messages."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moe_bench.errors import BenchError


@dataclass(frozen=True, kw_only=True)
class Row:
    """One record of a file."""

    where: str
    """File and number, for messages."""
    number: int
    """From 0."""
    values: Mapping[str, Any]

    def text(self, key: str) -> str:
        """A field as text.

        Raises:
            BenchError: where it is missing or empty.
        """
        value = self.values.get(key)
        if value is None or not str(value).strip():
            raise BenchError(
                f"{self.where}: needs a {key} that is not empty; it has {', '.join(map(str, self.values)) or 'no fields'}"
            )
        return str(value)

    def texts(self, key: str) -> list[str]:
        """A field that is a list of texts.

        Raises:
            BenchError: where it is none.
        """
        value = self.values.get(key)
        if not isinstance(value, list) or not all(isinstance(v, str) for v in value):
            raise BenchError(f"{self.where}: {key} is not a list of texts")
        return value


def read(path: Path, *, under: str = "") -> Iterator[Row]:
    """The records of a JSONL, JSON or CSV file, by its name's end.

    Args:
        path: the file.
        under: the key that holds the list, in a JSON object.

    Raises:
        BenchError: for a file that cannot be read or holds no records.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise BenchError(f"{path}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise BenchError(f"{path}: not UTF-8 text; convert it") from None
    number = 0
    for number, (where, values) in enumerate(_records(path, text, under), start=1):
        if not isinstance(values, dict):
            raise BenchError(f"{where}: expected an object, found a {type(values).__name__}")
        yield Row(where=where, number=number - 1, values=values)
    if not number:
        raise BenchError(f"{path}: holds no record")


def _records(path: Path, text: str, under: str) -> Iterator[tuple[str, Any]]:
    if path.suffix == ".csv":
        for number, record in enumerate(csv.DictReader(text.splitlines()), start=2):
            yield f"{path}:{number}", record
    elif path.suffix == ".json":
        values = _json(text, str(path))
        listed = values.get(under) if under and isinstance(values, dict) else values
        if not isinstance(listed, list):
            raise BenchError(f"{path}: expected a list of records{f' under {under!r}' if under else ''}")
        for number, record in enumerate(listed):
            yield f"{path}, record {number}", record
    else:
        for number, line in enumerate(text.split("\n"), start=1):
            if line.strip():
                yield f"{path}:{number}", _json(line, f"{path}:{number}")


def _json(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise BenchError(f"{where}: not JSON ({error.msg})") from None
