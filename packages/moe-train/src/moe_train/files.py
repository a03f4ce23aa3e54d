"""Writing so that a kill or a full disk leaves either the old content or the new, never half of it."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from moe_train.errors import TrainError

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn a failed write below into one clear line.

    Raises:
        TrainError: when the disk is full, or `path` cannot be written.
    """
    try:
        yield
    except TrainError:
        raise
    except Exception as error:  # the serialisers wrap the cause in errors of their own
        cause = _os_error(error)
        if cause is None:
            raise
        if cause.errno in _FULL:
            free = shutil.disk_usage(_existing(path)).free
            raise TrainError(
                f"{path}: no space left to write it ({free / 2**20:.0f} MiB free); free some and `moe-train resume`: "
                "everything up to the last checkpoint is kept"
            ) from error
        raise TrainError(f"{path}: cannot be written ({cause.strerror})") from error


def _os_error(error: BaseException | None) -> OSError | None:
    while error is not None:
        if isinstance(error, OSError) and error.errno is not None:
            return error
        if any(
            text in str(error) for text in ("No space left on device", "File too large", "os error 28", "os error 27")
        ):
            return OSError(errno.ENOSPC, "no space left")
        error = error.__cause__ or error.__context__
    return None


def _existing(path: Path) -> Path:
    while not path.exists():
        path = path.parent
    return path


def write_text(path: Path, text: str) -> None:
    """Replace a file's content at once."""
    temporary = path.with_name(f".{path.name}.tmp")
    with disk_errors(path):
        try:
            with temporary.open("w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Replace a JSON file's content at once."""
    write_text(path, json.dumps(values, indent=1) + "\n")


def write_folder(path: Path, fill: Callable[[Path], None]) -> None:
    """Make a folder with everything `fill` writes into it, or none of it; an older one at `path` is replaced.

    An unfinished `.NAME.tmp` that a kill left behind is cleared first.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    with disk_errors(path):
        try:
            temporary.mkdir(parents=True)
            fill(temporary)
            for file in temporary.rglob("*"):
                if file.is_file():
                    with file.open("rb") as handle:
                        os.fsync(handle.fileno())
            if path.exists():
                shutil.rmtree(path)
            temporary.replace(path)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def write_tensors(path: Path, values: Any) -> None:
    """`torch.save`, through a file of Python's: torch's own says of a full disk only that a position is unexpected."""
    import torch

    with path.open("wb") as file:
        torch.save(values, file)


def append_line(path: Path, values: Mapping[str, Any]) -> None:
    """Add one JSON object as a line and flush it to the system."""
    with disk_errors(path), path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(values) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file of a run.

    Raises:
        TrainError: when the file is not there or damaged.
    """
    try:
        values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise TrainError(f"{path}: no such file") from None
    except (json.JSONDecodeError, UnicodeDecodeError):
        raise TrainError(f"{path}: damaged, not JSON") from None
    return values


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """Every complete line of a JSONL file; a torn last line, as a kill leaves it, is left out."""
    if not path.is_file():
        return []
    return [json.loads(line) for line in path.read_bytes().split(b"\n")[:-1] if line.strip()]


def keep_lines(path: Path, keep: Callable[[dict[str, Any]], bool]) -> None:
    """Drop the lines of a JSONL file that `keep` refuses, and a torn last one."""
    if path.is_file():
        write_text(path, "".join(json.dumps(line) + "\n" for line in read_jsonl(path) if keep(line)))
