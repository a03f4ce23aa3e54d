"""Running another program and watching what memory it and its children take."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from moe_memprof.errors import MemprofError


@dataclass(frozen=True, kw_only=True)
class ProgramMemory:
    """What a program took."""

    peak: int
    """Highest resident memory of the program and its children together, in bytes."""
    seconds: float
    samples: int
    exit_code: int


def profile_program(command: Sequence[str], *, interval: float = 0.1, path: Path | None = None) -> ProgramMemory:
    """Run a program to its end and sample its resident memory.

    Args:
        command: program and arguments.
        interval: seconds between samples.
        path: file to append the samples to, a JSON line each with t and rss.

    Raises:
        MemprofError: when the program cannot be started.
    """
    started = time.monotonic()
    try:
        running = subprocess.Popen(list(command))
    except OSError as error:
        raise MemprofError(f"program {command[0]}: cannot be started ({error.strerror})") from None
    process, peak, samples = psutil.Process(running.pid), 0, 0
    while running.poll() is None:
        rss = _family_rss(process)
        if rss:
            peak, samples = max(peak, rss), samples + 1
            if path is not None:
                with path.open("a", encoding="utf-8") as file:
                    file.write(json.dumps({"t": time.time(), "rss": rss}) + "\n")
        time.sleep(interval)
    return ProgramMemory(peak=peak, seconds=time.monotonic() - started, samples=samples, exit_code=running.returncode)


def _family_rss(process: psutil.Process) -> int:
    total = 0
    try:
        family = [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return 0
    for member in family:
        try:
            total += member.memory_info().rss
        except psutil.NoSuchProcess:  # it ended in between
            continue
    return total
