"""A second opinion: the model's real code run on tensors without data, counting what would be allocated. Needs torch."""

from moe_memprof.traced.opinion import traced_estimate
from moe_memprof.traced.report import render_traced, trace_with_progress
from moe_memprof.traced.result import Traced

__all__ = ["Traced", "render_traced", "trace_with_progress", "traced_estimate"]
