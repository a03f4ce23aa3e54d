"""A run on disk: a header that says what was asked, and one line for each answer.

`run.json` is written once, at the start; `samples.jsonl` only grows. A killed run loses at most the batch it was in. Several
processes write a file each in `parts/`, which the first of them puts into samples.jsonl.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from moe_bench.errors import BenchError
from moe_bench.header import READABLE, SCHEMA, item_set_hash, make_header

__all__ = [
    "SCHEMA", "Key", "append_samples", "collect_parts", "item_set_hash", "key_of", "locked", "make_header", "open_run",
    "part_of", "read_header", "read_samples", "replace_text",
]  # fmt: skip

# A header that differs in one of these answers other questions, or in another way.
_IDENTITY = ("schema", "suite", "model", "items", "settings", "scorer")
_SAMPLES = "samples.jsonl"


class Key(NamedTuple):
    """Which answer a line holds."""

    item: str
    """Id of the item: the hash of its prompt and target."""
    sample: int
    """Number of the answer among those to the same item."""


def key_of(sample: Mapping[str, Any]) -> Key:
    """Which answer a line of samples.jsonl holds."""
    return Key(sample["id"], sample.get("sample", 0))


def open_run(folder: Path, header: dict[str, Any]) -> set[Key]:
    """Begin a run in a folder, or go on with the one there; returns which answers are there already.

    Raises:
        BenchError: when the folder holds a run of other items or settings, naming what differs.
    """
    path = folder / "run.json"
    if path.is_file():
        _refuse_another(folder, read_header(folder), header)
    else:
        if (folder / _SAMPLES).exists():
            raise BenchError(f"run {folder}: has samples but no run.json; choose another folder")
        with _written(folder):
            folder.mkdir(parents=True, exist_ok=True)
            replace_text(path, json.dumps(header, indent=1))
    _drop_torn_line(folder / _SAMPLES)
    return {key_of(sample) for sample in read_samples(folder)}


def _refuse_another(folder: Path, before: dict[str, Any], header: dict[str, Any]) -> None:
    different = [key for key in _IDENTITY if before.get(key) != header[key]]
    if not different:
        return
    told = ""
    if "settings" in different:
        a, b = before.get("settings", {}), header["settings"]
        names = sorted(k for k in {*a, *b} if a.get(k) != b.get(k))
        told = " (" + ", ".join(f"{k}: {a.get(k)!r} there, {b.get(k)!r} now" for k in names)[:300] + ")"
    raise BenchError(f"run {folder}: was begun with another {' and '.join(different)}{told}; choose another folder")


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep other commands out of a run's folder; the lock goes with the process, however that ends.

    Raises:
        BenchError: when another command is at work there.
    """
    if sys.platform == "win32":  # a folder cannot be locked there
        yield
        return
    import fcntl

    with _written(folder):
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BenchError(
                f"run {folder}: another command is writing to it; wait for it, or choose another folder"
            ) from None
        except OSError:
            pass  # a file system without locks
        yield
    finally:
        os.close(descriptor)


@contextmanager
def _written(folder: Path) -> Iterator[None]:
    """Say in one line that a run cannot be written; what was there stays."""
    try:
        yield
    except OSError as error:
        raise BenchError(
            f"run {folder}: cannot be written ({error.strerror}); mend that, and the same command goes on where it was"
        ) from error


def replace_text(path: Path, text: str) -> None:
    """Write a file at once: a stop leaves the old one, none or the new."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _drop_torn_line(path: Path) -> None:
    if not path.is_file():
        return
    content = path.read_bytes()
    whole = content.rfind(b"\n") + 1
    if whole != len(content):
        with path.open("r+b") as file:
            file.truncate(whole)
            os.fsync(file.fileno())


def append_samples(folder: Path, samples: Iterable[dict[str, Any]], *, part: str = "") -> None:
    """Add lines to samples.jsonl, or to a part of it, and put them on the disk."""
    data = "".join(json.dumps(sample, ensure_ascii=False) + "\n" for sample in samples).encode()
    path = folder / (part or _SAMPLES)
    with _written(folder):
        path.parent.mkdir(exist_ok=True)
        with path.open("ab") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())


def part_of(rank: int, world: int) -> str:
    """The file of one of several processes, within the run's folder."""
    return f"parts/{rank}-of-{world}.jsonl"


def collect_parts(folder: Path, order: Mapping[Key, int]) -> None:
    """Put what the parts hold into samples.jsonl, in this order, and remove them.

    Safe to be killed at any point: parts go only when all of them is there, and what is there already is not put there again.
    """
    parts = sorted((folder / "parts").glob("*.jsonl"))
    for path in parts:
        _drop_torn_line(path)
    there = {key_of(sample) for sample in read_samples(folder)}
    found = {key_of(sample): sample for path in parts for sample in _read_lines(path)}
    new = sorted((key for key in found if key not in there), key=lambda key: order.get(key, len(order)))
    if new:
        append_samples(folder, [found[key] for key in new])
    with _written(folder):
        for path in parts:
            path.unlink()
        with suppress(OSError):
            (folder / "parts").rmdir()


def read_header(folder: Path) -> dict[str, Any]:
    """A run's header.

    Raises:
        BenchError: when the folder is not a run, or one of a newer major version.
    """
    path = folder / "run.json"
    if not path.is_file():
        raise BenchError(f"run {folder}: no run.json in it, so it is not a run of moe-bench")
    try:
        header: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError:
        raise BenchError(f"run {path}: damaged, not JSON") from None
    if header.get("schema") not in READABLE:
        raise BenchError(
            f"run {path}: written as {header.get('schema')}, this version reads {' and '.join(READABLE)}; upgrade moe-bench"
        )
    return header


def read_samples(folder: Path) -> list[dict[str, Any]]:
    """The answers of a run; a torn last line is left out.

    Raises:
        BenchError: for a damaged line in the middle.
    """
    return list(_read_lines(folder / _SAMPLES))


def _read_lines(path: Path) -> Iterator[dict[str, Any]]:
    if not path.is_file():
        return
    for number, line in enumerate(path.read_bytes().split(b"\n")[:-1], start=1):
        try:
            yield json.loads(line)
        except json.JSONDecodeError:
            raise BenchError(f"run {path}:{number}: damaged, not JSON") from None
