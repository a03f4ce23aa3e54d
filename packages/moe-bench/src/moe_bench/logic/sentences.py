"""Reads controlled English: facts, rules and statements, in the present tense, with "and", "or", "not", "if", "all" and "no".

Grammar, in short (NP a name or "the" and a noun; things, people and "someone" stand for anything; the commas of lists are "and"):

    sentence := "if" clauses ["then"] clauses | ("all" | "every" | "each" | "any" | "no") class phrase | plural-class phrase
              | ("everyone" | ...) ["who" phrase] phrase | NP phrase
    class    := adjectives ("things" | "people") | noun | class "who" phrase
    clauses  := clause (("and" | "or") clause)*          -- a clause may leave out the subject, or subject and "is"
    clause   := (NP | "someone" | pronoun) phrase
    phrase   := "is" ["not"] complement | "does" "not" verb [object] | verb [object]
    object   := NP | pronoun; any other object, and every complement, is one predicate as a whole

What the grammar does not give is refused, never guessed at: tenses, modals, "some", "most", "only", numbers, mixed "and" and "or".
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from moe_bench.logic.lexicon import (
    ANYTHING,
    AUXILIARIES,
    COPULAS,
    EVERY,
    INDEFINITE,
    plural_looking,
    sentences,
    tokens,
    verb_stem,
)
from moe_bench.logic.phrases import ANY, ARTICLES, Phrases, UnreadableError
from moe_bench.logic.terms import Literal, Rule


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What was read of a text."""

    rules: tuple[Rule, ...]
    unread: tuple[str, ...]
    """Sentences that are not in the language."""

    @property
    def coverage(self) -> float:
        """Share of the sentences that were read; 0 for an empty text."""
        read = len({rule.text for rule in self.rules})
        return read / (read + len(self.unread)) if read + len(self.unread) else 0.0


class Reader:
    """Reads sentences that share their words: build it from the whole text.

    Args:
        texts: premises, and the statements that will be read.
    """

    def __init__(self, texts: Iterable[str]) -> None:
        self._words = Phrases(texts)

    def text(self, text: str) -> Reading:
        """Every sentence of a text: its rules, or that it is not in the language."""
        rules: list[Rule] = []
        unread = []
        for _, _, sentence in sentences(text):
            try:
                rules += self.rules(sentence)
            except UnreadableError:
                unread.append(sentence)
        return Reading(rules=tuple(rules), unread=tuple(unread))

    def statement(self, sentence: str) -> Literal:
        """The one thing that a sentence says of named things.

        Raises:
            UnreadableError: it says something else, or is not in the language.
        """
        rules = self.rules(sentence)
        if len(rules) != 1 or not rules[0].is_fact:
            raise UnreadableError("not one statement about named things")
        return rules[0].head[0]

    def rules(self, sentence: str) -> list[Rule]:
        """What a sentence says, as rules; a fact is a rule without body.

        Raises:
            UnreadableError: it is not in the language.
        """
        words = [w.lower() for w in tokens(sentence.strip().rstrip("."))]
        if not words:
            raise UnreadableError("no words")
        if any(not re.fullmatch(r"[A-Za-z][\w'/-]*|,", w) for w in words):
            raise UnreadableError("numbers or signs")
        if words[0] == "if":
            return self._conditional(words[1:], sentence)
        return self._general(words, sentence)

    # Sentences ------------------------------------------------------------------------------------------------------------------

    def _conditional(self, words: list[str], text: str) -> list[Rule]:
        if words.count("then") == 1:
            at = words.index("then")
            before, after = words[:at], words[at + 1 :]
        elif words.count(",") == 1:
            at = words.index(",")
            before, after = words[:at], words[at + 1 :]
        else:
            raise UnreadableError("no one place where the conclusion begins")
        before = before[:-1] if before and before[-1] == "," else before
        if "either" in before:
            # Both at once may be meant or not: as a condition the two readings give different rules.
            raise UnreadableError("'either' in a condition")
        joint, conditions = self._clauses(before, None)
        subjects = {c.arguments[0] for c in conditions}
        subject = ANY if ANY in subjects else subjects.pop() if len(subjects) == 1 else None
        joined, conclusions = self._clauses(after, subject)
        if ANY in {a for c in conclusions for a in c.arguments} and ANY not in {
            a for c in conditions for a in c.arguments
        }:
            raise UnreadableError("the conclusion is about something new")
        bodies = [(c,) for c in conditions] if joint == "or" else [tuple(conditions)]
        heads = [tuple(conclusions)] if joined == "or" else [(c,) for c in conclusions]
        return [Rule(body, head, text) for body in bodies for head in heads]

    def _general(self, words: list[str], text: str) -> list[Rule]:
        quantifier = words[0]
        if quantifier in EVERY or quantifier == "no":
            body, phrase = self._class(words[1:])
        elif quantifier in INDEFINITE and quantifier.startswith(("every", "any")):
            body, phrase = self._relative([], words[1:])
        elif quantifier in ARTICLES:
            at = self._first(words, COPULAS)
            body, phrase = self._described(words[1:at]), words[at:]
        elif (at := self._first(words, {"are", "aren't", "do", "don't"})) and self._words.is_generic(words[:at]):
            body, phrase = self._described(words[:at]), words[at:]
        else:
            joint, said = self._clauses(words, None)
            if any(v for literal in said for v in literal.variables):
                raise UnreadableError("nobody in particular")
            return [Rule((), tuple(said), text)] if joint == "or" else [Rule((), (literal,), text) for literal in said]
        joint, said = self._clauses(phrase, ANY)
        if quantifier == "no":
            if len(said) > 1:
                raise UnreadableError("no, of several things")
            said = [said[0].negated]
        heads = [tuple(said)] if joint == "or" else [(literal,) for literal in said]
        return [Rule(tuple(body), head, text) for head in heads]

    # Classes --------------------------------------------------------------------------------------------------------------------

    def _class(self, words: list[str]) -> tuple[list[Literal], list[str]]:
        """What a class demands of its members, and the phrase that follows it."""
        if "who" in words or "that" in words:
            at = min(words.index(w) for w in ("who", "that") if w in words)
            return self._relative(self._described(words[:at]), words[at:])
        for at, word in enumerate(words):
            if at and (word in COPULAS or word in AUXILIARIES):
                return self._described(words[:at]), words[at:]
            if self._words.singular(word) in ANYTHING and at + 1 < len(words) and words[at + 1] not in COPULAS:
                return self._described(words[: at + 1]), words[at + 1 :]
        at = next((i for i, w in enumerate(words) if i and verb_stem(w) != w and not plural_looking(words[0])), 0)
        if not at:
            raise UnreadableError("no verb")
        return self._described(words[:at]), words[at:]

    def _relative(self, body: list[Literal], words: list[str]) -> tuple[list[Literal], list[str]]:
        """A relative clause, whose end must show: one "is" or "does" that cannot belong to it."""
        if not words or words[0] not in {"who", "that"}:
            return body, words
        rest = words[1:]
        ends = [i for i, w in enumerate(rest) if i and (w in COPULAS or w in AUXILIARIES)]
        if len(ends) != 1:
            raise UnreadableError("the end of the relative clause does not show")
        joint, inside = self._clauses(rest[: ends[0]], ANY)
        if joint == "or":
            raise UnreadableError("alternatives in a relative clause")
        return [*body, *inside], rest[ends[0] :]

    def _described(self, words: list[str]) -> list[Literal]:
        """A class as what holds of its members: "red, cold things", "wumpuses"."""
        if not words:
            raise UnreadableError("no class")
        if self._words.singular(words[-1]) in ANYTHING:
            parts = [part for part in _split(words[:-1], {",", "and"}) if part]
            # "young people" are people who are young; in "dogs loved by young people" the people are but a part of the phrase.
            if all(len(part) == 1 for part in parts):
                return [Literal(self._words.phrase(part), (ANY,)) for part in parts]
        return [Literal(self._words.phrase(words), (ANY,))]

    # Clauses --------------------------------------------------------------------------------------------------------------------

    def _clauses(self, words: list[str], subject: str | None) -> tuple[str, list[Literal]]:
        """Clauses joined by one connective, and that connective; each may lean on the subject and verb of the one before."""
        words = ["and" if w == "but" else w for w in words if w not in {"both", "either"}]
        joints = {w for w in words if w in {"and", "or"}}
        if len(joints) > 1:
            raise UnreadableError("both 'and' and 'or'")
        joint = next(iter(joints), "and")
        said: list[Literal] = []
        copula = False
        parts = [part for part in _split(words, {joint, ","}) if part]
        if not parts:
            raise UnreadableError("nothing said")
        for number, part in enumerate(parts):
            named, phrase = self._words.subject(part, subject, said)
            if not phrase and number + 1 < len(parts) and named is not None and not said:
                raise UnreadableError("several subjects")
            subject = named if named is not None else subject
            if subject is None:
                raise UnreadableError(f"no subject in {' '.join(part)!r}")
            if phrase and (phrase[0] in COPULAS or phrase[0] in AUXILIARIES or not copula or named is not None):
                said.append(self._words.verb(phrase, subject, said))
                copula = phrase[0] in COPULAS
            elif self._leans(phrase):
                said.append(self._words.complement(phrase, subject, True))
            else:
                said.append(self._words.verb(phrase, subject, said))
        if joint == "or" and any(not literal.positive for literal in said):
            raise UnreadableError("the reach of 'not' before 'or' does not show")
        return joint, said

    def _leans(self, phrase: list[str]) -> bool:
        """Whether a part without subject goes on a list after "is": no verb form stands at its head."""
        return bool(phrase) and (verb_stem(phrase[0]) == phrase[0] or len(phrase) == 1)

    @staticmethod
    def _first(words: Sequence[str], wanted: Iterable[str]) -> int:
        """Place of the first wanted word after the first of all; 0 where there is none."""
        wanted = set(wanted)
        return next((i for i, w in enumerate(words) if i and w in wanted), 0)


def _split(words: Sequence[str], at: set[str]) -> list[list[str]]:
    parts: list[list[str]] = [[]]
    for word in words:
        if word in at:
            parts.append([])
        else:
            parts[-1].append(word)
    return parts
