"""A solution's text divided into steps."""

from __future__ import annotations

import re

_DISPLAY = re.compile(r"\$\$.*?\$\$|\\\[.*?\\\]|\\begin\{(\w+\*?)\}.*?\\end\{\1\}|```.*?```", re.S)
"""Displayed mathematics and code, which a blank line or a full stop inside does not divide."""
_INLINE = re.compile(r"\$[^$\n]*\$|\\\(.*?\\\)", re.S)
_SENTENCE_END = re.compile(r"(?<=[.!?])[\"')\]]*\s+(?=[\"'(\[$\\A-Z0-9])")
_NO_END = re.compile(
    r"^\s*\(?\d{1,2}\.$|(?:^|[\s(])(?:(?-i:[A-Z])|e\.g|i\.e|etc|vs|cf|no|nos|eq|fig|approx|mr|mrs|ms|dr|prof|st|jr|sr|a\.m|p\.m|sq|ft|in|lb|oz)\.$",
    re.I,
)
"""Full stops that end no sentence: initials, the number before a list's entry, abbreviations."""


def split_steps(text: str) -> list[str]:
    """The steps of a solution, in order; nothing but white space is lost.

    Paragraphs where there are several, else lines, else sentences: the division that a writer made goes before one that is made here.
    Displayed formulas and code stay with the text before them.
    """
    for separator in (r"\n\s*\n", r"\n"):
        parts = _split(text, re.compile(separator))
        if len(parts) > 1:
            return parts
    return _split(text, _SENTENCE_END, protect_inline=True)


def _split(text: str, separator: re.Pattern[str], *, protect_inline: bool = False) -> list[str]:
    held = [m.span() for m in _DISPLAY.finditer(text)]
    if protect_inline:
        held += [m.span() for m in _INLINE.finditer(text)]
    parts, begin = list[str](), 0
    for cut in separator.finditer(text):
        inside = any(a < cut.end() and cut.start() < b for a, b in held)
        if inside or (protect_inline and _NO_END.search(text[begin : cut.start()])):
            continue
        if not protect_inline and _DISPLAY.match(text, cut.end()) and text[begin : cut.start()].strip():
            continue
        parts.append(text[begin : cut.start()])
        begin = cut.start()
    parts.append(text[begin:])
    return [part.strip() for part in parts if part.strip()]
