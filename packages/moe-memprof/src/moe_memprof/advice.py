"""Suggestions drawn from where the bytes are."""

from __future__ import annotations

from moe_memprof.plan import Estimate
from moe_memprof.report import size
from moe_memprof.search import candidates, changed
from moe_memprof.spec import RunSpec

WORTH = 0.03
"""Share of the peak below which a change is not worth a line."""


def advice(spec: RunSpec, made: Estimate, *, budget: int | None, most: int = 3) -> list[str]:
    """What would save most, one sentence each, most first; each is estimated, not guessed.

    Changes that alter what is learned are left to `fit`.
    """
    from moe_memprof.errors import MemprofError
    from moe_memprof.estimate import estimate

    found: list[tuple[int, str]] = []
    for change in candidates(spec):
        if not change.learns_the_same:
            continue
        try:
            saved = made.peak - estimate(changed(spec, change.set)).peak
        except MemprofError:
            continue
        if saved > WORTH * made.peak:
            found.append((saved, f"{change.name} (--set {change.set}) would save {size(saved)}: {change.why}"))
    lines = [line for _, line in sorted(found, key=lambda f: -f[0])[:most]]
    if budget is not None and made.peak > budget:
        lines.append("moe-memprof fit with the same options finds the cheapest changes under which it fits")
    return lines
