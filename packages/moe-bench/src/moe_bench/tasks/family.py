"""What a task family is: a generator of problems whose worked solution and answer are right by construction."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random


@dataclass(frozen=True, kw_only=True)
class Problem:
    """One generated problem."""

    prompt: str
    solution: str
    """The worked steps, one to a line; the last line does not repeat the answer."""
    answer: str
    choices: tuple[str, ...] = ()
    """What the answer is one of, where the question is a choice: texts in the order of their letters, or names."""
    distractors: int = 0
    """Statements in the problem that its answer does not need."""


@dataclass(frozen=True, kw_only=True)
class Family:
    """A kind of problem."""

    name: str
    operation: str
    """The reasoning operation it exercises most: calculate, transform, deduce, compare or cases."""
    description: str
    generate: Callable[[Random], Problem]
    """Draws one problem; every random choice comes from the generator it is given."""


@dataclass(frozen=True, kw_only=True)
class LevelledFamily:
    """A kind of problem that comes in levels of difficulty."""

    name: str
    operation: str
    """The reasoning operation it exercises most; also the name of its suite."""
    description: str
    answer_kind: str
    """How its answers are looked for and compared; one of `moe_bench.answers.KINDS`."""
    levels: tuple[str, ...]
    """What the problems of each level are like, the easiest (level 1) first."""
    generate: Callable[[Random, int], Problem]
    """Draws one problem of a level, counted from 1; every random choice comes from the generator it is given."""


NAMES = (
    "Ana",
    "Ben",
    "Cara",
    "Dan",
    "Eva",
    "Finn",
    "Gia",
    "Hugo",
    "Ida",
    "Jon",
    "Kim",
    "Leo",
    "Mia",
    "Ned",
    "Ola",
    "Pia",
)
THINGS = ("pens", "cups", "books", "apples", "stamps", "shells", "cards", "eggs", "rings", "beads", "keys", "nuts")
