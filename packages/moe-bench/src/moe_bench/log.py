"""A run on disk: a header that says what was asked, and one line for each answer.

`run.json` is written once, at the start; `samples.jsonl` only grows. A killed run loses at most the batch it was in.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

from moe_bench import __version__
from moe_bench.answers import SCORER_VERSION
from moe_bench.errors import BenchError
from moe_bench.item import Item

SCHEMA = "moe-bench/run@1"
# A header that differs in one of these answers other questions, or in another way.
_IDENTITY = ("schema", "suite", "model", "items", "settings", "scorer")


def item_set_hash(items: Iterable[Item]) -> str:
    """Hash of a set of items, whatever their order."""
    return hashlib.sha256("\n".join(sorted(item.id for item in items)).encode()).hexdigest()[:16]


def make_header(*, suite: str, model: str, items: Sequence[Item], settings: dict[str, Any]) -> dict[str, Any]:
    """What a run's answers depend on, and where it ran."""
    return {
        "schema": SCHEMA,
        "suite": suite,
        "model": model,
        "items": {"count": len(items), "hash": item_set_hash(items)},
        "settings": settings,
        "scorer": SCORER_VERSION,
        "versions": {
            "python": platform.python_version(),
            "moe-bench": __version__,
            **{name: _version(name) for name in ("torch", "transformers", "peft")},
        },
        "machine": {"platform": platform.platform(), "cpus": os.cpu_count()},
        "git_revision": _git_revision(),
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _git_revision() -> str | None:
    git = shutil.which("git")
    if git is None:
        return None
    found = subprocess.run([git, "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    return found.stdout.strip() or None


def open_run(folder: Path, header: dict[str, Any]) -> set[str]:
    """Begin a run in a folder, or go on with the one there; returns the ids of the items answered already.

    Raises:
        BenchError: when the folder holds a run of other items or settings, naming what differs.
    """
    path = folder / "run.json"
    if path.is_file():
        before = read_header(folder)
        different = [key for key in _IDENTITY if before.get(key) != header[key]]
        if different:
            raise BenchError(f"run {folder}: was begun with another {' and '.join(different)}; choose another folder")
    else:
        if (folder / "samples.jsonl").exists():
            raise BenchError(f"run {folder}: has samples but no run.json; choose another folder")
        with _written(folder):
            folder.mkdir(parents=True, exist_ok=True)
            temporary = folder / ".run.json.tmp"
            try:
                with temporary.open("w", encoding="utf-8") as file:
                    json.dump(header, file, indent=1)
                    file.flush()
                    os.fsync(file.fileno())
                temporary.replace(path)
            finally:
                temporary.unlink(missing_ok=True)
    _drop_torn_line(folder / "samples.jsonl")
    return {sample["id"] for sample in read_samples(folder)}


@contextmanager
def _written(folder: Path) -> Iterator[None]:
    """Say in one line that a run cannot be written; what was there stays."""
    try:
        yield
    except OSError as error:
        raise BenchError(
            f"run {folder}: cannot be written ({error.strerror}); mend that, and the same command goes on where it was"
        ) from error


def _drop_torn_line(path: Path) -> None:
    if not path.is_file():
        return
    content = path.read_bytes()
    whole = content.rfind(b"\n") + 1
    if whole != len(content):
        with path.open("r+b") as file:
            file.truncate(whole)
            os.fsync(file.fileno())


def append_samples(folder: Path, samples: Iterable[dict[str, Any]]) -> None:
    """Add lines to samples.jsonl and put them on the disk."""
    data = "".join(json.dumps(sample, ensure_ascii=False) + "\n" for sample in samples).encode()
    with _written(folder), (folder / "samples.jsonl").open("ab") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


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
    if header.get("schema") != SCHEMA:
        raise BenchError(
            f"run {path}: written as {header.get('schema')}, this version reads {SCHEMA}; upgrade moe-bench"
        )
    return header


def read_samples(folder: Path) -> list[dict[str, Any]]:
    """The answered items of a run; a torn last line is left out.

    Raises:
        BenchError: for a damaged line in the middle.
    """
    path = folder / "samples.jsonl"
    if not path.is_file():
        return []
    samples = []
    for number, line in enumerate(path.read_bytes().split(b"\n")[:-1], start=1):
        try:
            samples.append(json.loads(line))
        except json.JSONDecodeError:
            raise BenchError(f"run {path}:{number}: damaged, not JSON") from None
    return samples
