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
    """The option that a text names, as it writes it; None where it names none.

    A marked answer that names several ("A or B"), or none that there is ("none of these"), is the answer as it stands: compared as
    words it equals no single option. Of a text that is not marked, the last sentence counts, or the whole where it is the only
    option that is named.

    Args:
        text: an answer, or a whole output.
        options: texts in the order of their letters, or names; may be empty.
        marked: whether the text was marked as the answer.
    """
    if marked:
        plain = tidy(text)
        if letter_of(plain, options) is not None:
            return plain
        return _only_option(plain, options) or plain
    return _only_option(last_sentence(text), options) or _only_option(text, options)


def last_sentence(text: str) -> str:
    """The last sentence or line of a text."""
    return re.split(r"(?<=[.!?])\s+(?=\S)|\n", text.strip())[-1]


def _only_option(text: str, options: Sequence[str]) -> str | None:
    for pattern in (_IN_BRACKETS, _SAID, _LEADING):
        found = {m[1].upper() for m in pattern.finditer(text)}
        found = {letter for letter in found if not options or ord(letter) - ord("A") < len(options)}
        if found:
            return found.pop() if len(found) == 1 else None
    return _only_label(text, options)


def _only_label(text: str, labels: Sequence[str]) -> str | None:
    named = {name for name, _ in _named(text, labels)}
    return named.pop() if len(named) == 1 else None


def find_label(text: str, labels: Sequence[str], *, marked: bool) -> str | None:
    """The label that a text names: of a marked answer its first; else one that the text begins with and that stands by itself ("Yes,
    because ..."), or the only one that its last sentence names; None where it names none.

    "Is not true" and "is not false" are read as the opposite. Longer labels win over shorter ones within them.
    """
    found = _named(text, labels)
    if not found:
        return None
    if marked:
        return found[0][0]
    name, match = found[0]
    begins = not text[: match.start()].strip(" \t\n*\"'(")
    if begins and re.match(r"\s*[.,!:;*\"')]|\s*\n|\s*$", text[match.end() :]):
        return name
    return _only_label(last_sentence(text), labels)


def _named(text: str, labels: Sequence[str]) -> list[tuple[str, re.Match[str]]]:
    """The labels in a text, in its order."""
    if not labels:
        return []
    longest_first = "|".join(re.escape(label) for label in sorted(labels, key=len, reverse=True))
    pattern = re.compile(rf"(?<![\w'])((?:is|are|was|be)\s+not\s+)?({longest_first})(?![\w'])", re.IGNORECASE)
    found = []
    for match in pattern.finditer(text):
        said = match[2].casefold()
        opposite = _OPPOSITE.get(said) if match[1] else None
        found.append((opposite or next(label for label in labels if label.casefold() == said), match))
    return found


_OPPOSITE = {"true": "false", "false": "true"}


def _words(text: str) -> str:
    return re.sub(r"^(?:the|an?)\s+", "", normalise(tidy(text)))
