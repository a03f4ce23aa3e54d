"""Each part that judges, against labels that nobody here wrote."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

from moe_bench.errors import BenchError
from moe_bench.selftest.row import Row

PARTS = tuple(
    part
    for part in ("answers", "arithmetic", "algebra", "logic", "consistency", "together")
    if find_spec(f"moe_bench.selftest.{part}") is not None
)
"""Answers, read and compared; calculations; equations with letters; facts, rules and simulations; contradictions; all checkers as one."""
SOURCES = (
    "GSM8K (github.com/openai/grade-school-math), ProcessBench (huggingface.co/datasets/Qwen/ProcessBench), PRMBench "
    "(github.com/ssmisya/PRMBench), BIG-Bench-Mistake (github.com/WHGTyen/BIG-Bench-Mistake), and others"
)
"""Where the most important sets are published."""


def run_selftest(data: Path, only: Sequence[str] = PARTS, *, tell: Callable[[str], None] = lambda _: None) -> list[Row]:
    """Every figure that the data allow.

    Args:
        data: a folder with one folder for each set (docs/checkers.md lists them); what is not there is left out.
        only: of `PARTS`.
        tell: called with the name of each part before it begins.

    Raises:
        BenchError: the folder does not exist or holds none of the sets; an unknown part.
    """
    if not data.is_dir():
        raise BenchError(f"{data}: no such folder; the data are {SOURCES}: docs/checkers.md says what goes where")
    rows: list[Row] = []
    for part in only:
        if part not in PARTS:
            raise BenchError(f"part {part!r} is not known; there are {', '.join(PARTS)}")
        tell(part)
        rows += getattr(import_module(f"moe_bench.selftest.{part}"), f"selftest_{part}")(data)
    if not rows:
        raise BenchError(
            f"{data}: holds none of the sets for {', '.join(only)}; the data are {SOURCES}: docs/checkers.md says what goes where"
        )
    return rows


__all__ = ["PARTS", "SOURCES", "Row", "run_selftest"]
