"""Words: sentences and tokens, number of nouns, persons of verbs, and which words carry the grammar."""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import pairwise

COPULAS = {"is": True, "are": True, "isn't": False, "aren't": False}
"""Forms of "to be" in the present, and whether they affirm."""
AUXILIARIES = {"does": True, "do": True, "doesn't": False, "don't": False}
EVERY = frozenset({"all", "each", "every", "any"})
INDEFINITE = frozenset(
    {"someone", "something", "somebody", "anyone", "anything", "anybody", "everyone", "everything", "everybody"}
)
PRONOUNS = frozenset({"it", "they", "he", "she", "them", "him", "her"})
ANYTHING = frozenset({"thing", "person", "one", "body"})
"""Nouns that say nothing of what they stand for (singular)."""
_RESERVED = """
some most many few several only unless except than because since when while who that which whose whom if then either neither nor both or
and but not never will would can could may might must should shall all every each no any there was were been be am does doesn't do don't
cannot can't won't however although though until before after so therefore thus
"""
RESERVED = frozenset(re.findall(r"\S+", _RESERVED)) | frozenset(COPULAS)
"""Words that no plain phrase may contain: they would change what it says."""

_IRREGULAR = {
    "people": "person",
    "persons": "person",
    "men": "man",
    "women": "woman",
    "children": "child",
    "mice": "mouse",
    "geese": "goose",
    "feet": "foot",
    "teeth": "tooth",
    "wolves": "wolf",
    "leaves": "leaf",
    "lives": "life",
    "wives": "wife",
    "knives": "knife",
}
_VERBS = {"has": "have", "goes": "go", "does": "do", "is": "be"}
_SENTENCE = re.compile(r"[^.!?;\n]+(?:[.!?;\n]|$)")
_WORD = re.compile(r"[A-Za-z0-9][\w'’/$%-]*|,|[^\s\w]")


def sentences(text: str) -> list[tuple[int, int, str]]:
    """Begin, end and text of each sentence, without its full stop."""
    found = []
    for match in _SENTENCE.finditer(text):
        raw = match.group()
        body = raw.strip().rstrip(".!?;").strip()
        if body:
            begin = match.start() + raw.index(body)
            found.append((begin, begin + len(body), body))
    return found


def tokens(sentence: str) -> list[str]:
    """Words, commas and other signs, as they stand."""
    return [word.replace("’", "'") for word in _WORD.findall(sentence)]


def plural_looking(word: str) -> bool:
    """Whether a word has the form of a plural."""
    return word in _IRREGULAR or (len(word) > 3 and word.endswith("s") and not word.endswith(("ss", "us", "is", "'s")))


def verb_stem(word: str) -> str:
    """The base form of a verb in the present."""
    if word in _VERBS:
        return _VERBS[word]
    if word.endswith("ies") and len(word) > 4:
        return word[:-3] + "y"
    if word.endswith(("ches", "shes", "xes", "sses", "zzes", "oes")):
        return word[:-2]
    return word[:-1] if word.endswith("s") and not word.endswith("ss") else word


class Nouns:
    """Singulars of the nouns of one text: what it uses in the singular somewhere decides between two readings of a plural."""

    def __init__(self, texts: Iterable[str]) -> None:
        self._seen: set[str] = set()
        for text in texts:
            words = [w.lower() for w in tokens(text)]
            marked = pairwise(words)
            self._seen |= {b for a, b in marked if a in {"a", "an", "each", "every", "is", "not"}}

    def singular(self, word: str) -> str:
        """The singular of a plural; any other word as it is."""
        if word in _IRREGULAR:
            return _IRREGULAR[word]
        if not plural_looking(word):
            return word
        shorter = [word[:-1]]
        if word.endswith("ies"):
            shorter = [word[:-3] + "y", word[:-1]]
        elif word.endswith(("uses", "sses", "xes", "zes", "ches", "shes")):
            shorter = [word[:-2], word[:-1]]
        return next((s for s in shorter if s in self._seen), shorter[0])
