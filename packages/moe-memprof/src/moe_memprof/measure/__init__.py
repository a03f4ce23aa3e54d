"""Measuring what a program really takes; `measure_step` needs torch."""

from moe_memprof.measure.limit import limit_memory
from moe_memprof.measure.step import StepMemory, measure_step
from moe_memprof.measure.tracker import MemoryTracker

__all__ = ["MemoryTracker", "StepMemory", "limit_memory", "measure_step"]
