"""Problems in which things change hands: who has what at the start, and who swaps with whom."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from moe_bench.checkers.rules.conclusion import options

_VERB = r"(?:is \w+ing(?: with)?|[a-z]+s)"
_HOLDS = re.compile(
    rf"\b(?P<who>[A-Z]\w*) (?:now |then |still )?(?P<verb>{_VERB}) (?P<what>[^,.;:\n]+?)(?=,| and [A-Z]\w* {_VERB} |[.;\n]|$)"
)
_SWAP = re.compile(
    r"\b(?P<one>[A-Z]\w*)(?: and |, | & )(?P<other>[A-Z]\w*)\s+(?:then |now |both )?(?:swap|trade|switch|exchange)s?\b"
    r"|\b(?P<one_>[A-Z]\w*) (?:swaps|trades|switches|exchanges)(?: \w+){0,2} with (?P<other_>[A-Z]\w*)"
)
_PLAIN = frozenset(["a", "an", "the", "of", "ball", "present", "book", "position"])


@dataclass(frozen=True, kw_only=True)
class Exchange:
    """A problem of swapped things."""

    start: dict[str, str]
    """What each has at the start."""
    swaps: tuple[tuple[str, str], ...]
    """Who swaps with whom, in order."""
    asked: str | None
    """Whose thing at the end is asked for; None where that does not show."""
    choices: dict[str, str]
    """Lettered options, empty where there are none."""

    @property
    def end(self) -> dict[str, str]:
        """What each has after all swaps."""
        held = dict(self.start)
        for pair in self.swaps:
            held = swapped(held, pair)
        return held

    def person(self, word: str) -> str | None:
        """Whom a name, or an initial that only one has, stands for."""
        if word in self.start:
            return word
        same = [name for name in self.start if len(word) == 1 and name.startswith(word)]
        return same[0] if len(same) == 1 else None

    def thing(self, text: str) -> str | None:
        """Which of the things a text names: all its words belong to that one and to no other; None where that fails."""
        words = _words(text)
        if not words:
            return None
        exact = [thing for thing in self.start.values() if _words(thing) == words]
        found = exact or [thing for thing in self.start.values() if words <= _words(thing)]
        return found[0] if len(set(found)) == 1 else None


def read_exchange(problem: str) -> Exchange | None:
    """The problem, where it is one: at least two have different things, and only they swap. Else None."""
    found = list(_SWAP.finditer(problem))
    if not found:
        return None
    begun, ended = found[0].start(), found[-1].end()
    start: dict[str, str] = {}
    for match in _HOLDS.finditer(problem, 0, begun):
        start.setdefault(match["who"], re.sub(r"^(?:a|an|the) ", "", match["what"].strip()))
    swaps = tuple((m["one"] or m["one_"], m["other"] or m["other_"]) for m in found)
    different = {frozenset(_words(thing)) for thing in start.values()}
    if (
        len(start) < 2
        or len(different) < len(start)
        or any(one == other or not {one, other} <= start.keys() for one, other in swaps)
    ):
        return None
    tail = re.split(r"\bOptions\b", problem[ended:])[0]
    named = [word for word in re.findall(r"[A-Z]\w*", tail) if word in start]
    return Exchange(start=start, swaps=swaps, asked=named[-1] if named else None, choices=options(problem))


def swapped(held: dict[str, str], pair: tuple[str, str]) -> dict[str, str]:
    """Who has what after two have swapped."""
    one, other = pair
    return {**held, one: held[other], other: held[one]}


def stated_swaps(step: str, exchange: Exchange) -> list[tuple[tuple[str, str], tuple[int, int]]]:
    """The swaps that a step speaks of: who with whom, and where it says so."""
    said = []
    for match in _SWAP.finditer(step):
        one = exchange.person(match["one"] or match["one_"])
        other = exchange.person(match["other"] or match["other_"])
        if one and other:
            said.append(((one, other), match.span()))
    return said


def stated_holdings(step: str, exchange: Exchange) -> Iterator[tuple[str, str | None, str, tuple[int, int]]]:
    """What a step says someone has: who, which of the things (None where it is none of them), the words for it, and where."""
    names = [*exchange.start, *(name[0] for name in exchange.start if exchange.person(name[0]))]
    who = "|".join(sorted(map(re.escape, names), key=len, reverse=True))
    pattern = re.compile(
        rf"\b(?P<who>{who})\b\s*(?P<by>[:=]|->|→|(?:now |still |then |would |will )?(?:{_VERB}|have)\b|)\s*(?P<what>[^,.;:=\n()]+)"
    )
    for match in pattern.finditer(step):
        person = exchange.person(match["who"])
        what = re.split(r"\bSo the answer|\band (?=[A-Z]\w*\b)", match["what"])[0].strip()
        thing = exchange.thing(what)
        if person is None or (match["by"] not in {":", "=", "->", "→"} and thing is None):
            continue
        yield person, thing, what, (match.start(), match.start("what") + len(match["what"].rstrip()))


def _words(text: str) -> frozenset[str]:
    words = frozenset(re.findall(r"[a-z0-9]+", text.lower()))
    return words - _PLAIN or words
