r"""Where an answer ends, though the model may write on.

An answer mark is `####` with something behind it, or a closed `\boxed{}`; the answer is complete with the line that holds
it. "The answer is" is no mark to stop at: it is written in passing as well. Nothing stops inside an open `<think>`.
"""

from __future__ import annotations

import re
from typing import NamedTuple

_MARK = re.compile(r"####[ \t]*\S|\\boxed\s*\{")
_THINK, _THOUGHT = "<think>", "</think>"


class Cut(NamedTuple):
    """Where a text is to be cut, and why."""

    at: int
    """Characters that are kept."""
    why: str
    """answer or stop."""


def answer_end(text: str) -> int | None:
    """Where the line of the first answer mark ends; None as long as it is not complete."""
    begin = text.rfind(_THOUGHT)
    if begin < 0 and _THINK in text:
        return None
    for mark in _MARK.finditer(text, max(begin, 0)):
        boxed = mark[0].endswith("{")
        end = _closing(text, mark.end()) if boxed else mark.end()
        if end is None:
            continue
        line = text.find("\n", end)
        return None if line < 0 else line
    return None


def _closing(text: str, begin: int) -> int | None:
    depth = 1
    for position in range(begin, len(text)):
        depth += {"{": 1, "}": -1}.get(text[position], 0)
        if depth == 0:
            return position + 1
    return None


def find_cut(text: str, *, stop: tuple[str, ...], on_answer: bool) -> Cut | None:
    """The first place at which a text is to be cut: where a stop text begins, or the answer's line ends."""
    cuts = [Cut(at, "stop") for at in (text.find(s) for s in stop) if at >= 0]
    end = answer_end(text) if on_answer else None
    if end is not None:
        cuts.append(Cut(end, "answer"))
    return min(cuts, default=None)
