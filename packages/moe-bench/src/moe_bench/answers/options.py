"""Choices: lettered options and named labels in a text."""

from __future__ import annotations

import re
from collections.abc import Sequence

from moe_bench.answers.notation import normalise, tidy

_LISTED = re.compile(r"^\s*(?:\(([A-Z])\)|([A-Z])[).:])\s+(\S.*?)\s*$", re.MULTILINE)
_NAMED_LISTED = re.compile(r"^\s*[-*]\s+(\S.*?)\s*$", re.MULTILINE)
_IN_BRACKETS = re.compile(r"\(\s*([A-Za-z])\s*\)")
_SAID = re.compile(r"\b(?:option|choice|answer)\s*(?:is\s*)?:?\s*\(?([A-Z])\b(?![-'’])", re.IGNORECASE)
# At the beginning of an answer or line: "B", "B.", "B) red", "**B**"; not "A dog".
_LEADING = re.compile(r"^[\s*\"'(\[]*([A-Z])(?=[\s*\"'\])]*(?:[).:,;]|$))", re.MULTILINE)


def options_in(prompt: str) -> tuple[str, ...]:
    """The texts of the options that a prompt lists by letter, from (A) on, in order; or of those it lists by dashes under "Options:".

    Empty where it lists none. Of several lists (worked examples before the question) the last counts.
    """
    found: list[str] = []
    for match in _LISTED.finditer(prompt):
        letter = match[1] or match[2]
        if letter == "A":
            found = []
        if letter == chr(ord("A") + len(found)):
            found.append(match[3])
    if len(found) > 1:
        return tuple(found)
    _, marker, tail = prompt.rpartition("Options:")
    named = _NAMED_LISTED.findall(tail) if marker else []
    return tuple(named) if len(named) > 1 else ()


def letter_of(answer: str, options: Sequence[str] = ()) -> str | None:
    """The letter that an answer is, "(B)", "B." and "b" alike, or the letter of the option whose text it is; None for neither."""
    plain = tidy(answer)
    match = re.fullmatch(r"[(\[]?\s*([A-Za-z])\s*[)\].:]?", plain)
    if match is not None:
        return match[1].upper()
    texts = [_words(option) for option in options]
    wanted = _words(plain)
    return chr(ord("A") + texts.index(wanted)) if texts.count(wanted) == 1 else None


def find_option(text: str, options: Sequence[str], *, marked: bool) -> str | None:
    """The option that a text names, as it writes it.

    Args:
        text: an answer, or a whole output.
        options: texts in the order of their letters, or names; may be empty.
        marked: whether the text was marked as the answer: then its first option counts, else its last.
    """
    plain = tidy(text) if marked else text
    if marked and letter_of(plain, options) is not None:
        return plain
    which = 0 if marked else -1
    for pattern in (_IN_BRACKETS, _SAID, _LEADING):
        found = [m[1].upper() for m in pattern.finditer(plain) if _exists(m[1].upper(), options)]
        if found:
            return str(found[which])
    label = find_label(plain, options, marked=marked) if options else None
    if label is None and not options and marked:
        return plain  # named options that nobody listed: compared as words
    return label


def _exists(letter: str, options: Sequence[str]) -> bool:
    return not options or ord(letter) - ord("A") < len(options)


def find_label(text: str, labels: Sequence[str], *, marked: bool) -> str | None:
    """The label that a text names: of a marked answer its first, of a whole text one at its very beginning, else the last.

    "Not true" and the like are read as the opposite. Longer labels win over shorter ones within them.
    """
    ordered = sorted(labels, key=len, reverse=True)
    if not ordered:
        return None
    pattern = re.compile(
        r"(?<![\w'])(not\s+)?(" + "|".join(re.escape(label) for label in ordered) + r")(?![\w'])", re.IGNORECASE
    )
    found = list(pattern.finditer(text))
    if not found:
        return None
    first = found[0]
    leads = first.start() <= len(text) - len(text.lstrip(" \t\n*\"'("))
    match = first if marked or (leads and re.match(r"\s*[.,!:;*\"')]|\s*\n|$", text[first.end() :])) else found[-1]
    said = match[2].casefold()
    name = next(label for label in labels if label.casefold() == said)
    if match[1]:
        return _OPPOSITE.get(said)
    return name


_OPPOSITE = {"true": "false", "false": "true"}


def _words(text: str) -> str:
    return re.sub(r"^(?:the|an?)\s+", "", normalise(tidy(text)))
