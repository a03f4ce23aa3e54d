"""Memory over time, sampled by a thread."""

from __future__ import annotations

import contextlib
import json
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import psutil

from moe_memprof.errors import MemprofError


class MemoryTracker:
    """Samples the process's resident memory, and torch's on the GPU where there is one, while the context is open.

    Every sample is a JSON line with t (seconds since the epoch), phase, rss and device_allocated (bytes, null without a
    GPU). Lines are flushed as they are written, so a kill loses at most the last. When the file can no longer be written
    (a full disk), the samples go on without it: measuring never stops what is measured.
    """

    def __init__(self, path: Path | None = None, *, interval: float = 0.25) -> None:
        """Prepare to sample.

        Args:
            path: the file to append to; None keeps only the peaks.
            interval: seconds between samples.
        """
        if interval <= 0:
            raise MemprofError(f"interval: must be above 0 seconds, got {interval}")
        self.path, self.interval = path, interval
        self._phase = ""
        self._peaks: dict[str, int] = {}
        self._device_peaks: dict[str, int] = {}
        self._process = psutil.Process()
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._file: IO[str] | None = None

    def __enter__(self) -> MemoryTracker:
        if self.path is not None:
            self._file = self.path.open("a", encoding="utf-8")
        self._stop.clear()
        self.sample()
        self._thread = threading.Thread(target=self._loop, name="moe-memprof", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        self.sample()
        with contextlib.suppress(OSError):
            if self._file is not None:
                self._file.close()
        self._file = None

    def _loop(self) -> None:
        while not self._stop.wait(self.interval):
            self.sample()

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Label the samples taken inside."""
        before, self._phase = self._phase, name
        self.sample()
        try:
            yield
        finally:
            self.sample()
            self._phase = before

    def sample(self) -> None:
        """Take one sample now."""
        with self._lock:
            rss, device = int(self._process.memory_info().rss), _device_allocated()
            self._peaks[self._phase] = max(rss, self._peaks.get(self._phase, 0))
            if device is not None:
                self._device_peaks[self._phase] = max(device, self._device_peaks.get(self._phase, 0))
            if self._file is not None:
                line: dict[str, Any] = {"t": time.time(), "phase": self._phase, "rss": rss, "device_allocated": device}
                try:
                    self._file.write(json.dumps(line) + "\n")
                    self._file.flush()
                except OSError:
                    full, self._file = self._file, None
                    with contextlib.suppress(OSError):
                        full.close()

    def peaks(self) -> dict[str, int]:
        """Highest resident memory seen in each phase, in bytes; samples outside a phase are left out."""
        return {name: peak for name, peak in self._peaks.items() if name}

    def device_peaks(self) -> dict[str, int]:
        """Highest memory of torch's tensors on the GPU seen in each phase, in bytes; empty without a GPU."""
        return {name: peak for name, peak in self._device_peaks.items() if name}


def _device_allocated() -> int | None:
    torch = sys.modules.get("torch")  # looked up and not imported: without torch in use there is nothing to see
    cuda: Any = getattr(
        torch, "cuda", None
    )  # while another thread is in the middle of importing torch, parts of it are missing
    if not hasattr(cuda, "is_initialized") or not cuda.is_available() or not cuda.is_initialized():
        return None
    return int(cuda.memory_allocated())
