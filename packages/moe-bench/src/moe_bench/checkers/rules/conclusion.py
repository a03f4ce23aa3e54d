"""Where a step states the final answer, and the options of a question."""

from __future__ import annotations

import re
from dataclasses import dataclass

_ANSWER = re.compile(
    r"\b(?:the )?(?:final )?answer(?: is|:)\s*(?:\*\*)?(?P<answer>[^\n]*?)(?:\*\*)?\s*[.!]?\s*$",
    re.IGNORECASE | re.MULTILINE,
)
_OPTION = re.compile(r"^\s*\(?(?P<letter>[A-Z])\)[ \t]*(?P<text>.+?)\s*\.?\s*$", re.MULTILINE)
_LETTER = re.compile(r"^\(?(?P<letter>[A-Z])\)?(?:[ .:]|$)")


@dataclass(frozen=True, kw_only=True)
class Stated:
    """An answer that a step gives."""

    answer: str
    span: tuple[int, int]
    """Begin and end of the sentence's part that gives it, in characters."""


def stated_answer(step: str) -> Stated | None:
    """What follows "the answer is" in a step, the last time; None where it says no such thing."""
    found = list(_ANSWER.finditer(step))
    if not found or not found[-1]["answer"].strip():
        return None
    return Stated(answer=found[-1]["answer"].strip(), span=found[-1].span())


def options(problem: str) -> dict[str, str]:
    """The text of each lettered option: "(A) red" or "A) red" on a line of its own."""
    return {m["letter"]: m["text"] for m in _OPTION.finditer(problem)}


def chosen(answer: str, choices: dict[str, str]) -> str | None:
    """The letter of the option that an answer names, by letter or by its whole text; None where it names none."""
    match = _LETTER.match(answer.strip())
    if match and match["letter"] in choices:
        return match["letter"]
    same = [letter for letter, text in choices.items() if text.lower().strip(" .") == answer.lower().strip(" .")]
    return same[0] if len(same) == 1 else None
