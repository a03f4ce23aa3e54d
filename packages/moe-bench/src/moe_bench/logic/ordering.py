"""Things in a row: what is said of their places, and every row that agrees with it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from moe_bench.logic.terms import Verdict

MOST = 8
"""As many things as rows are tried for: 8! = 40,320."""
_ENDS = (
    ("left", "right"),
    ("new", "old"),
    ("young", "old"),
    ("expensive", "cheap"),
    ("first", "last"),
    ("above", "below"),
    ("tall", "short"),
    ("long", "short"),
    ("heavy", "light"),
    ("big", "small"),
    ("large", "small"),
    ("fast", "slow"),
    ("high", "low"),
    ("early", "late"),
    ("strong", "weak"),
    ("rich", "poor"),
    ("hot", "cold"),
)
_ORDINALS = ["first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth"]
_ORDINAL = "|".join(_ORDINALS)
_NUMBERS = ["two", "three", "four", "five", "six", "seven", "eight"]
_FROM = re.compile(rf"^(?:is|are) the (?P<nth>{_ORDINAL}) from the (?P<end>\w+)$")
_END = re.compile(rf"^(?:is|are) the (?:(?P<nth>{_ORDINAL})-)?(?P<end>\w+?)(?:most|est)$")
_MOST = re.compile(rf"^(?:is|are) the (?:(?P<nth>{_ORDINAL})[- ])?(?P<how>most|least) (?P<end>\w+)$")
_PLACE = re.compile(rf"^(?:finished|finishes|came|is|are) (?P<nth>{_ORDINAL}|last)(?P<last>-to-last)?$")
_SIDE = re.compile(r"^(?:is|are) to the (?P<end>left|right) of (?P<other>.+)$")
_RANK = re.compile(
    r"^(?:finished|finishes|came|is|are) (?P<end>above|below|before|after|ahead of|behind) (?P<other>.+)$"
)
_MORE = re.compile(r"^(?:is|are) (?:(?P<how>more|less) (?P<plain>\w+)|(?P<end>\w+?)er) than (?P<other>.+)$")
_SAME = {"before": "above", "ahead of": "above", "after": "below", "behind": "below", "first": "above", "last": "below"}
_LIST = re.compile(rf"\b(?:{'|'.join(_NUMBERS)}) [^:.\n]*: (?P<things>[^.\n]+)\.")


@dataclass(frozen=True, kw_only=True)
class Place:
    """A thing's place, counted from one end (0-based), or that it stands nearer to that end than another."""

    thing: str
    pair: int
    """Which pair of ends it speaks of."""
    end: int
    """0 for the first end of the pair, 1 for the second."""
    place: int | None = None
    other: str | None = None

    def holds(self, row: Sequence[str]) -> bool:
        """Whether it is so in a row that begins at the pair's first end."""
        at = row.index(self.thing)
        if self.place is not None:
            return at == (len(row) - 1 - self.place if self.end else self.place)
        there = row.index(self.other or "")
        return at > there if self.end else at < there


@dataclass(frozen=True, kw_only=True)
class Row:
    """A problem about things in a row."""

    things: tuple[str, ...]
    said: tuple[Place, ...]
    rows: tuple[tuple[str, ...], ...]
    """Every row that agrees with all that is said."""
    pair: int

    def decide(self, place: Place) -> Verdict:
        """Whether a statement holds in every row that is possible, in none, or in some."""
        held = {place.holds(row) for row in self.rows}
        if place.pair != self.pair or held == {True, False}:
            return Verdict.UNKNOWN
        return Verdict.PROVED if held == {True} else Verdict.DISPROVED

    def read(self, sentence: str) -> Place | None:
        """What a sentence says of a place in this row; None where it says nothing of the kind."""
        return _read(sentence, self.things, self.pair)


def read_row(problem: str) -> Row | None:
    """The problem, where it is one: it lists the things, and every sentence after the list is about their places. Else None.

    Also None where no row agrees with what is said, or there are more than `MOST` things.
    """
    listed = _LIST.search(problem)
    if listed is None:
        return None
    things = tuple(_bare(thing) for thing in re.split(r",\s*(?:and\s+)?|\s+and\s+", listed["things"]))
    if not 2 <= len(set(things)) == len(things) <= MOST:
        return None
    body = re.split(r"\bOptions\b|\bWhich\b|\n\s*\n", problem[listed.end() :])[0]
    sentences = [s.strip() for s in body.split(".") if s.strip()]
    for pair in range(len(_ENDS)):
        said = [_read(sentence, things, pair) for sentence in sentences]
        if said and all(said):
            found = tuple(place for place in said if place)
            rows = tuple(_rows(things, found))
            return Row(things=things, said=found, rows=rows, pair=pair) if rows else None
    return None


def _read(sentence: str, things: Sequence[str], pair: int) -> Place | None:
    text = sentence.strip().rstrip(".")
    thing = _named(text, things)
    if thing is None:
        return None
    rest = re.sub(r"^the\s+", "", text, flags=re.IGNORECASE)[len(thing) :].strip()
    if (m := _FROM.match(rest)) or (m := _END.match(rest)):
        return _placed(thing, m["end"], pair, m["nth"])
    if m := _MOST.match(rest):
        return _placed(thing, m["end"], pair, m["nth"], turned=m["how"] == "least")
    if m := _PLACE.match(rest):
        last = m["nth"] == "last" or bool(m["last"])
        return _placed(thing, "below" if last else "above", pair, "first" if m["nth"] == "last" else m["nth"])
    if (m := _SIDE.match(rest)) or (m := _RANK.match(rest)) or (m := _MORE.match(rest)):
        word = m["end"] or m["plain"]
        other = _named(m["other"], things)
        end = _end(_SAME.get(word, word), pair)
        if other is None or end is None or other == thing or _bare(m["other"]) != other:
            return None
        turned = "how" in m.groupdict() and m["how"] == "less"
        return Place(thing=thing, pair=pair, end=1 - end if turned else end, other=other)
    return None


def _placed(thing: str, word: str, pair: int, nth: str | None, *, turned: bool = False) -> Place | None:
    end = _end(word, pair)
    if end is None:
        return None
    return Place(thing=thing, pair=pair, end=1 - end if turned else end, place=_ORDINALS.index(nth) if nth else 0)


def _end(word: str, pair: int) -> int | None:
    """Which end of the pair a word's stem names; the stem may have lost an "e" or doubled its last letter, or end in "i" for "y"."""
    for number, end in enumerate(_ENDS[pair]):
        if word in {end, end[:-1] + "i" if end.endswith("y") else end, end + end[-1], end.removesuffix("e")}:
            return number
    return None


def _named(text: str, things: Sequence[str]) -> str | None:
    """The thing that a text begins with."""
    bare = _bare(text)
    found = [t for t in things if re.match(rf"{re.escape(t)}\b", bare, re.IGNORECASE)]
    return max(found, key=len) if found else None


def _bare(text: str) -> str:
    return re.sub(r"^(?:an?|the)\s+", "", text.strip().rstrip("."), flags=re.IGNORECASE)


def _rows(things: Sequence[str], said: Sequence[Place], begun: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Every row that agrees, built from the first end; a comparison is tried as soon as its nearer thing is placed."""
    if len(begun) == len(things):
        if all(place.holds(begun) for place in said):
            yield begun
        return
    for thing in things:
        if thing in begun:
            continue
        following = (*begun, thing)
        early = (p for p in said if p.other is not None and thing in (p.thing, p.other))
        nearer = (((p.other if p.end else p.thing) in following) for p in early)
        if all(nearer):
            yield from _rows(things, said, following)
