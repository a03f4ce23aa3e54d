"""The score of one output of a model on one item."""

from __future__ import annotations

from typing import Any

from moe_bench.answers import SCORER_VERSION, equivalent, extract_answer
from moe_bench.item import Item


def score(item: Item, text: str) -> dict[str, Any]:
    """What stands in a sample about its conclusion: plain values, to be written as JSON.

    Returns:
        `answer` (None where the text states none), `strategy` (how it was found), `correct`, `partial` (credit for a wrong
        answer that is near or in part right; None where there is no measure for it) and `scorer` (its version).
    """
    extraction = extract_answer(text)
    return {
        "answer": extraction.answer,
        "strategy": extraction.strategy,
        "correct": extraction.answer is not None and equivalent(extraction.answer, item.target),
        "partial": None,
        "scorer": SCORER_VERSION,
    }
