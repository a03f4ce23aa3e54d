"""Words in order, as far as they are sorted: "a" < ["b" ? "c"] < "d"."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

_TOKEN = re.compile(
    r'\((?P<number>\d+)\)|(?P<sign>[\[\]<>?,])|["“](?P<quoted>[^"”]*)["”]|(?P<word>[^\s\[\]<>?,"“”()]+)'
)

Group = tuple[str, ...]
"""Words whose order among themselves is open; one word is settled."""


@dataclass(frozen=True, kw_only=True)
class Chain:
    """Groups of words, each before the next, with the number before each where there is one."""

    groups: tuple[Group, ...]
    numbers: tuple[int | None, ...]

    @property
    def words(self) -> list[str]:
        """All words, in order."""
        return [word for group in self.groups for word in group]


def read_chain(text: str) -> Chain:
    """The chain that a text writes; words without any sign between them follow each other."""
    groups: list[list[str]] = []
    numbers: list[int | None] = []
    number: int | None = None
    inside = False
    for match in _TOKEN.finditer(text.strip().rstrip(".")):
        word = match["quoted"] if match["quoted"] is not None else match["word"]
        if match["number"]:
            number = int(match["number"])
        elif match["sign"] == "[":
            inside = True
            groups.append([])
            numbers.append(number)
            number = None
        elif match["sign"] == "]":
            inside = False
        elif match["sign"] == "<" and inside:
            # Brackets around an order: ["a" < "b"] is settled all the same.
            groups.append([])
            numbers.append(None)
        elif word is not None and inside:
            groups[-1].append(word)
        elif word is not None:
            groups.append([word])
            numbers.append(number)
            number = None
    return Chain(
        groups=tuple(tuple(g) for g in groups if g), numbers=tuple(n for g, n in zip(groups, numbers, strict=True) if g)
    )


def same(one: Sequence[Group], other: Sequence[Group]) -> bool:
    """Whether two chains say the same: groups alike as sets, in the same order."""
    return [sorted(g) for g in one] == [sorted(g) for g in other]


def refine(order: Sequence[Group], finer: Sequence[Group]) -> tuple[Group, ...]:
    """An order with the group of the same words replaced by a finer chain of them; unchanged where there is no such group."""
    words = sorted(word for group in finer for word in group)
    refined: list[Group] = []
    for group in order:
        refined += list(finer) if sorted(group) == words else [group]
    return tuple(refined)


def written(order: Sequence[Group]) -> str:
    """The order for a reader."""
    return " < ".join(group[0] if len(group) == 1 else f"[{' ? '.join(group)}]" for group in order)


def letter(word: str, position: int) -> str | None:
    """The letter at a 0-based position; None after the word's end."""
    return word[position] if position < len(word) else None


def split_by_letter(words: Sequence[str], position: int) -> tuple[Group, ...]:
    """The order that the letters at one position give; a word that has ended comes first."""
    letters = sorted({letter(w, position) or "" for w in words})
    return tuple(tuple(w for w in words if (letter(w, position) or "") == x) for x in letters)
