"""Each part that judges, against labels that nobody here wrote."""

from __future__ import annotations

from moe_bench.selftest.row import Row

__all__ = ["Row"]
