"""For moe-bench: the operation of reasoning that each item exercises most, by the classifier of steps."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from moe_router.operations.classifier import classify
from moe_router.operations.steps import steps_of

_AROUND = {"setup", "plan", "conclude"}
"""Operations that nearly every solution has, and that tell little of an item."""


def operations(prompts: Sequence[str], solutions: Sequence[str]) -> list[str]:
    """For each item the most frequent operation of its worked steps, those around the work left out; of its prompt where it has none.

    Args:
        prompts: of the items.
        solutions: worked, or empty.
    """
    divided = []
    for prompt, solution in zip(prompts, solutions, strict=True):
        text = solution or prompt
        divided.append([text[begin:end] for begin, end in steps_of(text)] or [text])
    every = classify([step for steps in divided for step in steps])
    found, at = [], 0
    for steps in divided:
        counts = Counter(every[at : at + len(steps)])
        at += len(steps)
        work = Counter({name: n for name, n in counts.items() if name not in _AROUND}) or counts
        found.append(work.most_common(1)[0][0])
    return found
