"""The parts of a sentence: names, subjects, verbs with their objects, complements."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from moe_bench.logic.lexicon import (
    ANYTHING,
    AUXILIARIES,
    COPULAS,
    EVERY,
    INDEFINITE,
    PRONOUNS,
    RESERVED,
    Nouns,
    plural_looking,
    sentences,
    tokens,
    verb_stem,
)
from moe_bench.logic.terms import Literal

ANY = "?x"
"""The variable that "someone" and classes bring in."""
ARTICLES = frozenset({"a", "an"})
_LONGEST = 8
_OWN = {"his": "their", "her": "their", "its": "their", "he/she": "they"}
_PREPOSITIONS = frozenset(
    ["in", "on", "at", "of", "to", "for", "with", "from", "by", "about", "into", "over", "under", "near", "as"]
)


class UnreadableError(ValueError):
    """A sentence that the grammar does not give; the message says what stood in the way."""


class Phrases:
    """Reads parts of sentences, knowing the names and nouns of the whole text.

    Args:
        texts: premises, and the statements that will be read.
    """

    def __init__(self, texts: Iterable[str]) -> None:
        texts = list(texts)
        self._nouns = Nouns(texts)
        self._names: set[str] = set()
        self._entities: set[tuple[str, ...]] = set()
        for text in texts:
            for _, _, sentence in sentences(text):
                self._collect(tokens(sentence))

    def singular(self, word: str) -> str:
        """The singular of a plural; any other word as it is."""
        return self._nouns.singular(word)

    def subject(self, words: list[str], subject: str | None, said: Sequence[Literal]) -> tuple[str | None, list[str]]:
        """The subject at the head of a clause, None where there is none, and the rest."""
        first = words[0]
        if first in INDEFINITE:
            return ANY, words[1:]
        if first in PRONOUNS:
            return subject if subject and not said else self.antecedent(said), words[1:]
        if first in ARTICLES and words[1:2] and words[1] in ANYTHING:
            return ANY, words[2:]
        if self._nouns.singular(first) in ANYTHING and first != "one":
            return ANY, words[1:]
        found = self._noun_phrase(words)
        if found:
            return found[0], words[found[1] :]
        return None, words

    def antecedent(self, said: Sequence[Literal]) -> str:
        """What a pronoun stands for: something, where it was spoken of, else the only thing that was."""
        subjects = dict.fromkeys(literal.arguments[0] for literal in said)
        if ANY in subjects:
            return ANY
        if len(subjects) != 1:
            raise UnreadableError("a pronoun that may stand for several things")
        return next(iter(subjects))

    def _noun_phrase(self, words: Sequence[str]) -> tuple[str, int] | None:
        """A named thing at the head of the words, and how many words it takes."""
        start = 1 if words[0] == "the" else 0
        for length in (3, 2, 1):
            if tuple(words[start : start + length]) in self._entities and len(words) >= start + length:
                return " ".join(words[start : start + length]), start + length
        if start:
            return None
        length = 0
        while length < len(words) and words[length] in self._names:
            length += 1
        return (" ".join(words[:length]), length) if length else None

    def is_generic(self, words: list[str]) -> bool:
        """Whether the words before a plural verb are a class ("red things", "wumpuses"), not names or pronouns."""
        if words[0] == "the" or tuple(words) in self._entities or words[0] in self._names:
            return False
        return plural_looking(words[-1]) and not any(w in PRONOUNS or w in INDEFINITE for w in words)

    def verb(self, words: list[str], subject: str, said: Sequence[Literal]) -> Literal:
        """What a phrase that begins with a verb says of its subject; `said` is what pronouns may stand for.

        Raises:
            UnreadableError: the phrase is not in the language.
        """
        if not words:
            raise UnreadableError("no verb")
        first, rest = words[0], words[1:]
        if first in COPULAS:
            return self.complement(rest, subject, COPULAS[first])
        positive = True
        if first in AUXILIARIES:
            positive = AUXILIARIES[first]
            if rest[:1] == ["not"]:
                positive, rest = False, rest[1:]
            if not rest:
                raise UnreadableError("no verb")
            first, rest = rest[0], rest[1:]
        if first in RESERVED or first in _PREPOSITIONS or first in ARTICLES or first == "the":
            raise UnreadableError(f"no verb at {first!r}")
        return self._object(verb_stem(first), rest, subject, positive, said)

    def _object(self, verb: str, words: list[str], subject: str, positive: bool, said: Sequence[Literal]) -> Literal:
        if words and words[0] in PRONOUNS and len(words) == 1:
            return Literal(verb, (subject, self.antecedent(said)), positive)
        found = self._noun_phrase(words) if words else None
        if found and found[1] == len(words):
            return Literal(verb, (subject, found[0]), positive)
        if words[:1] == ["the"] and 1 < len(words) < 4 and not any(w in _PREPOSITIONS or w in RESERVED for w in words):
            return Literal(verb, (subject, " ".join(words[1:])), positive)
        return Literal(f"to {verb} {self.phrase(words)}" if words else f"to {verb}", (subject,), positive)

    def complement(self, words: list[str], subject: str, positive: bool) -> Literal:
        """What follows "is" (`positive`) or "is not".

        Raises:
            UnreadableError: the complement is not in the language.
        """
        if words[:1] == ["not"]:
            positive, words = not positive, words[1:]
        if "than" in words:
            at = words.index("than")
            found = self._noun_phrase(words[at + 1 :]) if words[at + 1 :] else None
            if found is None or found[1] != len(words) - at - 1:
                raise UnreadableError("compared with no named thing")
            return Literal(f"{self.phrase(words[:at])} than", (subject, found[0]), positive)
        if words[:1] == ["the"]:
            raise UnreadableError("'is the' says that two names are one")
        return Literal(self.phrase(words), (subject,), positive)

    def phrase(self, words: Sequence[str]) -> str:
        """A phrase as the name of one predicate: without article, in the singular."""
        words = list(words[1:]) if words and words[0] in ARTICLES else list(words)
        if not 0 < len(words) <= _LONGEST:
            raise UnreadableError("a phrase too long or empty")
        wrong = [w for w in words if w in RESERVED or w in PRONOUNS - {"her"} or w == ","]
        if wrong:
            raise UnreadableError(f"{wrong[0]!r} inside a phrase")
        return " ".join(self._nouns.singular(_OWN.get(w, w)) for w in words)

    def _collect(self, words: list[str]) -> None:
        """Learn names: what is capitalised inside a sentence, or begins one before a verb; "the" and what stands before a verb."""
        for i, word in enumerate(words):
            inner = i > 0 and words[i - 1] not in {".", ":", '"'}
            known = word.lower() in RESERVED | EVERY | INDEFINITE | PRONOUNS | ARTICLES | {"the", "i"} or len(word) < 2
            if word[:1].isupper() and not known and (inner or self._subject_like(words)):
                self._names.add(word.lower())
        lowered = [w.lower() for w in words]
        for i, word in enumerate(lowered):
            if word != "the":
                continue
            for length in (1, 2):
                following = lowered[i + 1 + length : i + 2 + length]
                noun = tuple(lowered[i + 1 : i + 1 + length])
                if len(noun) == length and following and _finite(following[0]) and not _finite_form(noun[-1]):
                    self._entities.add(noun)
                    break

    @staticmethod
    def _subject_like(words: Sequence[str]) -> bool:
        """Whether a sentence begins with a name: a verb in the singular follows, and no plural "are" after that."""
        if len(words) < 2 or plural_looking(words[0].lower()):
            return False
        if words[1] in {"is", "isn't", "does", "doesn't"}:
            return True
        return _finite_form(words[1]) and not (words[2:3] and (words[2] in COPULAS or words[2] in AUXILIARIES))


def _finite(word: str) -> bool:
    return word in COPULAS or word in AUXILIARIES or _finite_form(word)


def _finite_form(word: str) -> bool:
    """Whether a word has the form of a verb in the third person (or of a plural)."""
    return verb_stem(word) != word and word.isalpha()
