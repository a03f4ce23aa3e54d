"""All checkers of steps as one, as `moe-bench check` runs them."""

from __future__ import annotations

from pathlib import Path

from moe_bench.checkers.registry import make_checkers
from moe_bench.selftest.consistency import prmbench
from moe_bench.selftest.row import Row
from moe_bench.selftest.solutions import gsm8k_gold, processbench


def selftest_together(data: Path) -> list[Row]:
    """PRMBench's step contradictions and ProcessBench's first wrong steps by whatever checker finds them, and the false alarms of all."""
    checkers, name = make_checkers(), "all checkers"
    return [
        *prmbench(data / "prmbench", checkers, name),
        *processbench(data, checkers, name),
        *gsm8k_gold(data / "gsm8k", checkers, name),
    ]
