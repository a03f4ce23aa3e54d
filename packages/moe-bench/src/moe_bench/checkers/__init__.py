"""Checkers of reasoning steps: each says valid, invalid or unchecked, with the reason and the place in the text."""

from __future__ import annotations

from moe_bench.checkers.base import Assessment, Checker, Finding, Status, StepVerdict, assess

__all__ = ["Assessment", "Checker", "Finding", "Status", "StepVerdict", "assess"]
