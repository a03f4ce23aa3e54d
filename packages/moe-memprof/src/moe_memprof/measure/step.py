"""The peak of live tensor bytes during a call, from torch's own allocator events."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from moe_memprof.errors import MemprofError


@dataclass(frozen=True, kw_only=True)
class StepMemory:
    """Live tensor bytes around one call, relative to its start."""

    peak: int
    """Highest above the start."""
    end: int
    """At the end, above the start: what the call left behind."""
    device: str
    """cpu or cuda."""


def measure_step(call: Callable[[], object]) -> StepMemory:
    """Run a call and measure how far the live tensor bytes rose above where they were.

    On a GPU these are the allocator's own statistics. On a CPU they are summed from the allocation and release events that
    torch's profiler records; memory that torch does not allocate itself (numpy, the libraries') is not in it.

    Raises:
        MemprofError: when torch is not installed.
    """
    try:
        import torch
    except ImportError:
        raise MemprofError("measuring needs torch; pip install 'moe-memprof[torch]'") from None
    if torch.cuda.is_available() and torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.synchronize()
        start = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        call()
        torch.cuda.synchronize()
        return StepMemory(
            peak=torch.cuda.max_memory_allocated() - start, end=torch.cuda.memory_allocated() - start, device="cuda"
        )
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        call()
    return _from_events(profiler)


def _from_events(profiler: object) -> StepMemory:
    results = profiler.profiler.kineto_results  # type: ignore[attr-defined]
    events = [e for e in results.events() if e.name() == "[memory]" and e.device_type().name == "CPU"]
    if not events:
        return StepMemory(peak=0, end=0, device="cpu")
    events.sort(key=lambda e: e.start_ns())
    live = peak = 0
    for event in events:
        live += event.nbytes()
        peak = max(peak, live)
    return StepMemory(peak=peak, end=live, device="cpu")
