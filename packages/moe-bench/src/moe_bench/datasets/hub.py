"""Sets of the Hugging Face Hub, written out once as a file that everything else reads, with where each came from beside it."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import date, datetime, time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moe_bench.errors import BenchError
from moe_bench.log import replace_text

if TYPE_CHECKING:
    from datasets import Dataset

SCHEMA = "moe-bench/source@1"
_AT = re.compile(r"@([0-9a-f]{40})/")
"""The revision in the address of a file of the Hub."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where a file came from."""

    set: str
    """OWNER/NAME, or the folder."""
    config: str | None
    split: str
    revision: str | None
    """Commit of the Hub's repository; None for a folder."""
    rows: int
    columns: tuple[str, ...]
    sha256: str
    """Of the file."""
    datasets: str
    """Version of the library that read it."""


def fetch(
    name: str,
    out: Path,
    *,
    config: str | None = None,
    split: str | None = None,
    revision: str | None = None,
    columns: Sequence[str] = (),
    tell: Callable[[int, int], None] = lambda _done, _of: None,
) -> Source:
    """Write a split of a set to a JSONL file, and to `OUT.source.json` where it came from.

    Args:
        name: OWNER/NAME on the Hub, or a folder laid out like one.
        out: the file; it must not exist.
        config: of the sets that have several.
        split: needed where there are several.
        revision: branch, tag or commit; None takes the newest.
        columns: which to keep; none keeps all.
        tell: called with rows that are written, and all.

    Raises:
        BenchError: the library is missing, the set, config, split or column does not exist or cannot be reached, the file exists, or a
            column holds what JSON cannot.
    """
    if out.exists():
        raise BenchError(f"{out}: is there already; choose another file, or remove it")
    # A folder's files may have changed since they were read last, and no cache tells.
    fresh = tempfile.TemporaryDirectory() if Path(name).is_dir() else contextlib.nullcontext()
    with fresh as cache:
        data = _load(name, config, split, revision, cache)
        unknown = [column for column in columns if column not in data.column_names]
        if unknown:
            raise BenchError(f"{name}: no column {unknown[0]}; it has {', '.join(data.column_names)}")
        if columns:
            data = data.select_columns(list(columns))
        digest = _write(data, out, name, tell)
    import datasets

    found = _AT.search(" ".join(map(str, (data.info.download_checksums or {}))))
    source = Source(
        set=name, config=data.info.config_name, split=str(data.split), revision=found[1] if found else None, rows=len(data),
        columns=tuple(data.column_names), sha256=digest, datasets=datasets.__version__,
    )  # fmt: skip
    replace_text(out.with_name(f"{out.name}.source.json"), json.dumps({"schema": SCHEMA, **asdict(source)}, indent=1))
    return source


def _load(name: str, config: str | None, split: str | None, revision: str | None, cache: str | None) -> Dataset:
    try:
        import datasets
    except ImportError as error:
        raise BenchError("sets of the Hub are read by the library datasets: pip install 'moe-bench[hub]'") from error
    try:
        found = datasets.load_dataset(name, config, split=split, revision=revision, cache_dir=cache)
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        raise BenchError(f"{name}: {' '.join(str(error).split('Example of usage')[0].split())}") from error
    if isinstance(found, datasets.DatasetDict):
        if len(found) > 1:
            raise BenchError(f"{name}: has the splits {', '.join(found)}; say which with --split")
        found = next(iter(found.values()))
    if not isinstance(found, datasets.Dataset) or not len(found):
        raise BenchError(f"{name}: holds no rows")
    return found


def _write(data: Dataset, out: Path, name: str, tell: Callable[[int, int], None]) -> str:
    """Write the rows, whole or not at all; the hash of the file."""
    temporary, digest = out.with_name(f".{out.name}.tmp"), hashlib.sha256()
    try:
        with temporary.open("wb") as file:
            for number, row in enumerate(data):
                line = (json.dumps({k: _plain(v, name, k) for k, v in row.items()}, ensure_ascii=False) + "\n").encode()
                digest.update(line)
                file.write(line)
                if number % 1000 == 999 or number + 1 == len(data):
                    tell(number + 1, len(data))
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(out)
    except OSError as error:
        raise BenchError(f"{out}: {error.strerror or error}") from error
    finally:
        temporary.unlink(missing_ok=True)
    return digest.hexdigest()


def _plain(value: Any, name: str, column: str) -> Any:
    if isinstance(value, dict):
        return {k: _plain(v, name, column) for k, v in value.items()}
    if isinstance(value, list):
        return [_plain(v, name, column) for v in value]
    if isinstance(value, (datetime, date, time)):
        return value.isoformat()
    if value is None or isinstance(value, (str, int, float, bool)):
        return value
    raise BenchError(
        f"{name}: column {column} holds {type(value).__name__}, which is no text; name the columns to keep"
    )
