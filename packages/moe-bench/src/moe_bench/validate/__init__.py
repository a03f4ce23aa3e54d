"""Is a set of items fit to judge with: duplicates, leakage, answers that cannot be read, what gives answers away."""

from __future__ import annotations

from moe_bench.validate.report import Finding, Report, validate
from moe_bench.validate.rows import Row, read_rows

__all__ = ["Finding", "Report", "Row", "read_rows", "validate"]
