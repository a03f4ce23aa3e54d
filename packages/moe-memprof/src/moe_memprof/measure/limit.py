"""Keeping a process within a share of the GPU, so that a run is tried in the memory that another card has."""

from __future__ import annotations

from moe_memprof.errors import MemprofError


def limit_memory(fraction: float, *, device: int = 0) -> int:
    """Let torch's allocator take no more than this share of a GPU; beyond it, it raises torch.OutOfMemoryError.

    Args:
        fraction: above 0 and at most 1.
        device: number of the GPU.

    Returns:
        The bytes that are left to the process.

    Raises:
        MemprofError: without torch, without a GPU, or for a fraction that is none.
    """
    if not 0 < fraction <= 1:
        raise MemprofError(f"memory fraction: must be above 0 and at most 1, got {fraction}")
    try:
        import torch
    except ImportError:
        raise MemprofError("limiting memory needs torch; pip install 'moe-memprof[torch]'") from None
    if not torch.cuda.is_available():
        raise MemprofError(
            "memory fraction: torch sees no GPU; on a CPU limit the process by ulimit -v or a control group"
        )
    torch.cuda.set_per_process_memory_fraction(fraction, device)
    return int(torch.cuda.get_device_properties(device).total_memory * fraction)
