"""What observers found, beside the answers of a run: `observed/<name>.json`, and a picture where they draw one.

Every session of every process leaves a part; a session that was killed leaves none, which shows in the number of answers.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from moe_bench.errors import BenchError
from moe_bench.log import replace_text
from moe_bench.observers import Watch

SCHEMA = "moe-bench/observed@1"
_FOLDER, _PARTS = "observed", "parts"


def keep(run: Path, watch: Watch, *, answers: int, rank: int) -> None:
    """Write what this session's observers found.

    Args:
        run: the run's folder.
        watch: the observers, stopped.
        answers: that were generated while they watched.
        rank: of the process.

    Raises:
        BenchError: when an observer has no result, or one that is no JSON.
    """
    folder = run / _FOLDER / _PARTS
    folder.mkdir(parents=True, exist_ok=True)
    for name, result in watch.results().items():
        try:
            text = json.dumps({"answers": answers, "rank": rank, "result": result}, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise BenchError(f"observer {name}: its result is no JSON ({error})") from None
        replace_text(folder / f"{name}-{time.time_ns()}-{rank}.json", text)


def join(run: Path, watch: Watch, *, answers: int) -> None:
    """Put the parts of all sessions and processes together, and let the observers draw them.

    Args:
        run: the run's folder.
        watch: the observers of the run.
        answers: that the run has by now.
    """
    folder = run / _FOLDER
    for name, observer in watch.observers.items():
        parts = [json.loads(p.read_text("utf-8")) for p in sorted((folder / _PARTS).glob(f"{name}-*.json"))]
        if not parts:
            continue
        joined = _joined(observer, [part["result"] for part in parts])
        picture, reason = folder / f"{name}.svg", "its parts cannot be joined"
        if joined is not None:
            reason = _draw(observer, joined, picture)
        values = {
            "schema": SCHEMA,
            "observer": name,
            "answers": sum(part["answers"] for part in parts),
            "of": answers,
            "result": joined,
            "parts": parts if joined is None else len(parts),
            "picture": picture.name if not reason else None,
            "no_picture": reason,
        }
        replace_text(folder / f"{name}.json", json.dumps(values))


def read_observed(run: Path) -> dict[str, dict[str, Any]]:
    """What was observed during a run, by the observer's name; empty where nothing was."""
    found = {path.stem: json.loads(path.read_text("utf-8")) for path in sorted((run / _FOLDER).glob("*.json"))}
    for name, values in found.items():
        if values.get("schema") != SCHEMA:
            raise BenchError(f"run {run}: observed/{name}.json is {values.get('schema')}, this version reads {SCHEMA}")
    return found


def _joined(observer: Any, results: list[dict[str, Any]]) -> dict[str, Any] | None:
    if len(results) == 1:
        return results[0]
    merge = getattr(observer, "merge", None)
    return None if merge is None else dict(merge(results))


def _draw(observer: Any, result: Mapping[str, Any], path: Path) -> str:
    """Why there is no picture; empty where there is one."""
    plot = getattr(observer, "plot", None)
    if plot is None:
        return "this observer draws none"
    try:
        plot(result, path)
    except ImportError as error:
        return f"cannot be drawn: {error}"
    return ""
