"""All checkers of steps as one, as `moe-bench check` runs them."""

from __future__ import annotations

from pathlib import Path

from moe_bench.checkers.registry import make_checkers
from moe_bench.selftest.consistency import prmbench
from moe_bench.selftest.row import Row


def selftest_together(data: Path) -> list[Row]:
    """PRMBench's step contradictions by whatever checker finds them."""
    return list(prmbench(data / "prmbench", make_checkers(), "all checkers"))
