"""Expressions compared by math-verify in a process that can be killed.

The process is started at the first comparison, kept for the next, killed when one takes too long, and started anew. A comparison
that was cut off is never "equal".
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

TIME_LIMIT_S = 5.0
"""Processor seconds for one comparison."""
_START_LIMIT_S = 120.0
_MEMORY = 4 * 1024**3
# Wall seconds for each second of processor time before a worker that gets no processor is given up too.
_PATIENCE = 6.0


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What came of comparing two expressions."""

    equal: bool
    """Never true of one that was not finished."""
    timed_out: bool = False
    error: str = ""
    """Why there is no verdict, where there is none: "timed out", the name of what was raised, "worker ended"."""
    parsed: tuple[bool, bool] = (False, False)
    """Whether target and answer were read as mathematics; else they were compared as strings."""


@cache
def math_verify_version() -> str | None:
    """The installed math-verify's version; None where the extra `math` is not installed."""
    if find_spec("math_verify") is None or find_spec("sympy") is None:
        return None
    return metadata.version("math-verify")


class ExpressionJudge:
    """A worker process and the way to it. May be used from several threads, one comparison at a time."""

    def __init__(self, *, time_limit_s: float = TIME_LIMIT_S) -> None:
        self.time_limit_s = time_limit_s
        self.restarts = 0
        """How often a worker had to be replaced."""
        self._process: subprocess.Popen[str] | None = None
        self._owner = 0
        self._replies: queue.Queue[str] = queue.Queue()
        self._lock = threading.Lock()

    def compare(self, target: str, answer: str, options: Mapping[str, Any] | None = None) -> Comparison:
        """Whether an answer means the same as a target, by math-verify (which is not symmetric: the target comes first).

        Args:
            target: the right answer, with its math marks (`$...$`).
            answer: the given one.
            options: `notations` ("latex", "expr"), `float_rounding`, `strict`, `set_relation`, as math-verify has them.
        """
        request = json.dumps({"target": target, "answer": answer, "options": dict(options or {})})
        with self._lock:
            for attempt in (1, 2):  # a worker that died between two comparisons is replaced once
                try:
                    process = self._started()
                    assert process.stdin is not None
                    process.stdin.write(request + "\n")
                    process.stdin.flush()
                except OSError:
                    self.close()
                    if attempt == 2:
                        return Comparison(equal=False, error="worker ended")
                    continue
                return self._reply(process)
        raise AssertionError("not reached")

    def _reply(self, process: subprocess.Popen[str]) -> Comparison:
        try:
            line = self._replies.get(timeout=self.time_limit_s * _PATIENCE)
        except queue.Empty:
            self.close()
            self.restarts += 1
            return Comparison(equal=False, timed_out=True, error="timed out")
        if not line:
            code = process.wait()
            self.close()
            self.restarts += 1
            timed_out = code == -getattr(signal, "SIGPROF", 0) and code != 0
            return Comparison(
                equal=False, timed_out=timed_out, error="timed out" if timed_out else f"worker ended ({code})"
            )
        reply = json.loads(line)
        if "error" in reply:
            return Comparison(equal=False, error=reply["error"])
        return Comparison(equal=reply["equal"], parsed=(reply["parsed"][0], reply["parsed"][1]))

    def _started(self) -> subprocess.Popen[str]:
        process = self._process
        if process is not None and process.poll() is None and self._owner == os.getpid():
            return process
        if self._owner == os.getpid():
            self.close()
        replies: queue.Queue[str] = queue.Queue()
        # -P: the folder of the file is not put on the path, where its neighbours could be taken for other modules.
        command = [
            sys.executable,
            "-P",
            str(Path(__file__).with_name("worker.py")),
            str(self.time_limit_s),
            str(_MEMORY),
        ]
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            encoding="utf-8",
            # What sympy does may depend on the order of sets; a score must not.
            env={**os.environ, "PYTHONHASHSEED": "0"},
        )
        threading.Thread(target=_forward, args=(process, replies), daemon=True).start()
        self._process, self._owner, self._replies = process, os.getpid(), replies
        try:
            ready = replies.get(timeout=_START_LIMIT_S)
        except queue.Empty:
            ready = ""
        if not ready:
            self.close()
            raise OSError("the process that compares expressions did not start")
        return process

    def close(self) -> None:
        """End the worker; the next comparison starts another."""
        process, self._process = self._process, None
        if process is None or self._owner != os.getpid():
            return
        process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):  # what was left to write has no reader
                    stream.close()


def _forward(process: subprocess.Popen[str], replies: queue.Queue[str]) -> None:
    """Put the worker's lines into a queue, and an empty one at its end: reading with a time limit, on every platform."""
    assert process.stdout is not None
    try:
        for line in process.stdout:
            replies.put(line)
    except ValueError:  # closed under the reader
        pass
    replies.put("")


@cache
def shared_judge() -> ExpressionJudge:
    """The worker that all comparisons of this program share; ended with the program."""
    judge = ExpressionJudge()
    atexit.register(judge.close)
    return judge
