"""Orders that close into a ring: A before B, B before C, C before A; Ann taller than Bo and Bo taller than Ann."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from moe_bench.checkers.algebra.statements import SUPPOSES, split_sentences, word_set
from moe_bench.checkers.base import Finding, Status

_PAIRS = (
    ("height", "taller higher", "shorter lower"),
    ("age", "older elder", "younger newer"),
    ("weight", "heavier", "lighter"),
    ("speed", "faster quicker", "slower"),
    ("size", "larger bigger greater", "smaller"),
    ("time", "later", "earlier sooner"),
    ("temperature", "hotter warmer", "colder cooler"),
    ("wealth", "richer wealthier", "poorer"),
    ("strength", "stronger", "weaker"),
    ("distance", "farther further", "nearer closer"),
    ("length", "longer", ""),
    ("width", "wider broader", "narrower"),
    ("brightness", "brighter", "darker"),
    ("difficulty", "harder", "easier"),
    ("quality", "better", "worse"),
    ("price", "costlier pricier", "cheaper"),
    ("depth", "deeper", "shallower"),
)
_COMPARATIVES = {
    w: (name, sign) for name, up, down in _PAIRS for words, sign in ((up, 1), (down, -1)) for w in words.split()
}
_PLACES = {
    "before": ("sequence", -1), "after": ("sequence", 1), "left of": ("left to right", -1), "right of": ("left to right", 1),
    "above": ("height of place", 1), "below": ("height of place", -1), "north of": ("north", 1), "south of": ("north", -1),
    "east of": ("east", 1), "west of": ("east", -1), "ahead of": ("sequence", -1), "behind": ("sequence", 1),
}  # fmt: skip
_THING = r"(?:[Tt]he\s+)?[A-Za-z][\w'’-]*(?:\s+(?!than\b|is\b|was\b|are\b|and\b|but\b)[a-z][\w'’-]*){0,2}"
_COMPARED = re.compile(
    rf"(?P<a>{_THING}?)\s+(?:is|was|are|were|finished|finishes|comes|came|arrived|arrives|runs|ran|costs|cost|sits|sat|stands|stood)\s+"
    rf"(?:to\s+the\s+|directly\s+|immediately\s+|just\s+|much\s+|even\s+|somewhere\s+|somewhat\s+|sitting\s+|standing\s+)*"
    rf"(?:(?P<word>{'|'.join(_COMPARATIVES)}|(?P<more>more|less)\s+(?P<adjective>[a-z]{{4,}}))\s+than|(?P<place>{'|'.join(_PLACES)}))\s+"
    rf"(?P<b>{_THING})\s*(?=[.,;:!)]|$|\s(?:and|but|so|because|since|which|who)\b)",
)
_PRONOUNS = word_set(
    "he she it they this that these those there who which what i we you him her them one ones result answer value number both all each"
    " everyone everything nobody anyone someone another other mine yours ours"
)
_SHIFTS = re.compile(
    r"\b(?:not|never|now|then|next|later on|no longer|used to|by\s+\d+|times|today|tomorrow|yesterday|swap\w*|move\w*)\b|n['’]t\b",
    re.I,
)


@dataclass(frozen=True, kw_only=True)
class _Edge:
    low: str
    high: str
    step: int
    span: tuple[int, int]
    text: str


def contradictions_of_order(problem: str, steps: Sequence[str]) -> Iterator[Finding]:
    """A finding for every comparison that closes a ring with those of the problem and of earlier steps in its scope."""
    given: dict[str, list[_Edge]] = {}
    for _, sentence, at in split_sentences(problem, -1):
        if not _SHIFTS.search(sentence) and not re.search(r"\bif\b|\?|\bor\b", sentence, re.I):
            for scale, edge in _edges(sentence, -1, at):
                given.setdefault(scale, []).append(edge)
    scope = {scale: list(edges) for scale, edges in given.items()}
    for number, step in enumerate(steps):
        for _, sentence, at in split_sentences(step, number):
            if SUPPOSES.search(sentence) or _SHIFTS.search(sentence):
                scope = {scale: list(edges) for scale, edges in given.items()}
                continue
            for scale, edge in _edges(sentence, number, at):
                edges = scope.setdefault(scale, [])
                path = _path(edges, edge.high, edge.low)
                if path is None:
                    edges.append(edge)
                elif any(e.step != number for e in path):
                    said = ", ".join(f"“{e.text}” ({'problem' if e.step < 0 else f'step {e.step + 1}'})" for e in path)
                    yield Finding(
                        step=number,
                        status=Status.INVALID,
                        checker="consistency",
                        reason=f"“{edge.text}” closes a ring with {said}",
                        span=edge.span,
                        against=max((e.step for e in path if 0 <= e.step < number), default=None),
                    )


def _edges(sentence: str, step: int, offset: int) -> Iterator[tuple[str, _Edge]]:
    for found in _COMPARED.finditer(sentence):
        a, b = _thing(found["a"]), _thing(found["b"])
        if a is None or b is None or a == b:
            continue
        if found["place"]:
            scale, sign = _PLACES[found["place"]]
        elif found["more"]:
            scale, sign = found["adjective"], 1 if found["more"] == "more" else -1
        else:
            scale, sign = _COMPARATIVES[found["word"]]
        yield (
            scale,
            _Edge(
                low=b if sign > 0 else a,
                high=a if sign > 0 else b,
                step=step,
                span=(offset + found.start("a"), offset + found.end("b")),
                text=" ".join(sentence[found.start("a") : found.end("b")].split()),
            ),
        )


def _thing(text: str) -> str | None:
    words = [w for w in text.lower().split() if w not in {"the", "a", "an"}]
    return None if not words or any(w in _PRONOUNS for w in words) else " ".join(words)


def _path(edges: Sequence[_Edge], begin: str, end: str) -> list[_Edge] | None:
    """The shortest way up from begin to end."""
    ways: list[tuple[str, list[_Edge]]] = [(begin, [])]
    seen = {begin}
    for place, way in ways:
        if place == end:
            return way
        for edge in edges:
            if edge.low == place and edge.high not in seen:
                seen.add(edge.high)
                ways.append((edge.high, [*way, edge]))
    return None
