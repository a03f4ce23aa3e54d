"""Memory while a benchmark is answered: the observer that moe-bench finds under the name `memory`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

from moe_memprof.errors import MemprofError
from moe_memprof.measure.tracker import MemoryTracker

SCHEMA = "moe-memprof/bench@1"
_GIB = 2**30


class MemoryObserver:
    """The highest memory of the process in each phase: load, prompt (prompts are read), answer (token by token).

    Resident memory is sampled ten times a second and at the borders of every phase. On a GPU torch's allocator gives the true peak
    of its tensors, and what it has reserved.
    """

    protocol = 1

    def __init__(self) -> None:
        self._tracker = MemoryTracker(interval=0.1)
        self._device: dict[str, dict[str, int]] = {}
        self._running = False

    def start(self) -> None:
        """Begin to sample."""
        self._tracker.__enter__()
        self._running = True

    def attach(self, model: Any) -> None:  # noqa: ARG002
        """The process is watched, whatever runs in it."""
        if not self._running:
            self.start()

    def group(self, name: str) -> AbstractContextManager[Any]:  # noqa: ARG002
        """Memory is of a phase and not of a group."""
        return nullcontext()

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Give the samples taken inside to this phase."""
        cuda = _cuda()
        if cuda is not None:
            cuda.reset_peak_memory_stats()
        with self._tracker.phase(name):
            yield
        cuda = _cuda()
        if cuda is not None:
            seen = self._device.setdefault(name, {"allocated": 0, "reserved": 0})
            seen["allocated"] = max(seen["allocated"], int(cuda.max_memory_allocated()))
            seen["reserved"] = max(seen["reserved"], int(cuda.max_memory_reserved()))

    def stop(self) -> None:
        """End sampling."""
        if self._running:
            self._tracker.__exit__(None, None, None)
            self._running = False

    def result(self) -> dict[str, Any]:
        """Peaks in bytes, schema moe-memprof/bench@1.

        Raises:
            MemprofError: when no phase was seen.
        """
        peaks = self._tracker.peaks()
        if not peaks:
            raise MemprofError("no phase was seen, so there is no peak to tell")
        return _complete({"schema": SCHEMA, "resident": peaks, "device": self._device})

    @staticmethod
    def merge(results: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """The results of several sessions or processes as one: the highest peak of any of them."""
        resident: dict[str, int] = {}
        device: dict[str, dict[str, int]] = {}
        for result in results:
            for name, peak in result["resident"].items():
                resident[name] = max(peak, resident.get(name, 0))
            for name, peaks in result["device"].items():
                seen = device.setdefault(name, dict(peaks))
                seen |= {kind: max(peak, seen[kind]) for kind, peak in peaks.items()}
        return _complete({"schema": SCHEMA, "resident": resident, "device": device})


def _complete(result: dict[str, Any]) -> dict[str, Any]:
    """Add words for a terminal."""
    peaks = {name: f"{peak / _GIB:.2f} GiB" for name, peak in result["resident"].items()}
    result["summary"] = ["resident memory at most " + ", ".join(f"{name} {peak}" for name, peak in peaks.items())]
    if result["device"]:
        seen = ", ".join(f"{name} {peaks['allocated'] / _GIB:.2f} GiB" for name, peaks in result["device"].items())
        result["summary"].append(f"tensors on the GPU at most {seen}")
    return result


def _cuda() -> Any:
    """torch.cuda where a GPU is in use, else None."""
    import sys

    torch = sys.modules.get("torch")  # looked up and not imported: without torch in use there is nothing to see
    if torch is None or not torch.cuda.is_available() or not torch.cuda.is_initialized():
        return None
    return torch.cuda
