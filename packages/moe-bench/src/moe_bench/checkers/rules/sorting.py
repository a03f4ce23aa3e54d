"""Checks the sorting of words, letter by letter or at once."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence

from moe_bench.checkers.base import Finding, Status
from moe_bench.checkers.rules.conclusion import stated_answer
from moe_bench.checkers.rules.order import Chain, Group, letter, read_chain, refine, same, split_by_letter, written

_TASK = re.compile(r"\bsort\b[^.:\n]*\b(?:alphabetical|words)[^:]*:(?:\s*List:)?\s*(?P<words>[^\n]+)", re.IGNORECASE)
_BARE = re.compile(r"[a-z0-9&'-]+(?:\s+[a-z0-9&'-]+){2,}")
_LETTER = re.compile(r'["“](?P<word>[^"”]+)["”]: ["“](?P<letter>[^"”]*)["”] \((?P<number>\d+)\)')
_PLACE = re.compile(
    r"\b(first|second|third|fourth|fifth|sixth|seventh|eighth|ninth|tenth|eleventh|twelfth) letter", re.IGNORECASE
)
_PLACES = [
    "first",
    "second",
    "third",
    "fourth",
    "fifth",
    "sixth",
    "seventh",
    "eighth",
    "ninth",
    "tenth",
    "eleventh",
    "twelfth",
]
_PART = re.compile(r"\bsort(?: this)? subpart (?P<chain>\[[^\]]*\])")
_NOW = re.compile(r"\bwe now have:? (?P<chain>.*?)(?: for the subpart)?\.?\s*$", re.DOTALL | re.IGNORECASE)
_HENCE = re.compile(r"\bhence,? we have:? (?P<chain>.*?)\.?\s*$", re.DOTALL | re.IGNORECASE)
_SENTENCE = re.compile(r"\S.*?(?:[.](?=\s+[A-Z])|$)", re.DOTALL)


def read_words(problem: str) -> tuple[str, ...] | None:
    """The words to be sorted; None where the problem is not to sort words. A problem of nothing but words is one."""
    match = _TASK.search(problem)
    text = match["words"] if match else problem.strip()
    if match is None and not _BARE.fullmatch(text):
        return None
    words = tuple(w.strip(",.\"'") if match else w for w in re.split(r"[,\s]+", text.strip()))
    return words if len(words) > 1 and all(words) else None


class SortingChecker:
    """Holds the order that the steps have reached, and compares each letter and each order they state with what it must be.

    A step is judged from the order that the steps before it state: after a mistake, what follows from it is valid.
    """

    name = "sorting"
    version = 1

    def solve(self, problem: str) -> str | None:
        """The words in order, with blanks between; None where the problem is not to sort words."""
        words = read_words(problem)
        return " ".join(sorted(words)) if words else None

    def check(self, problem: str, steps: Sequence[str]) -> Iterable[Finding]:
        """Findings on letters, parts, orders and the answer."""
        words = read_words(problem)
        if words is None or (_TASK.search(problem) is None and not any(_LETTER.search(step) for step in steps[:1])):
            return []
        return list(_Sort(words, self.name).findings(steps))


class _Sort:
    def __init__(self, words: Sequence[str], checker: str) -> None:
        self._words = tuple(words)
        self._checker = checker
        self._order: tuple[Group, ...] = (self._words,)
        self._part: tuple[str, ...] = self._words
        self._place = 0
        self._step = 0

    def findings(self, steps: Sequence[str]) -> Iterable[Finding]:
        for number, step in enumerate(steps):
            self._step = number
            for sentence in _SENTENCE.finditer(step):
                # A step may hold several rounds of sorting: each sentence is taken from the order that the one before it left.
                yield from self._sentence(sentence[0], sentence.start())

    def _sentence(self, text: str, begin: int) -> Iterable[Finding]:
        place = _PLACE.search(text)
        if part := _PART.search(text):
            yield from self._take_part(read_chain(part["chain"]), _span(part, "chain", begin), place)
        if place:
            self._place = _PLACES.index(place[1].lower())
        yield from self._letters(text, begin)
        if now := _NOW.search(text):
            yield from self._refined(read_chain(now["chain"]), _span(now, "chain", begin))
        elif hence := _HENCE.search(text):
            yield from self._whole(read_chain(hence["chain"]), _span(hence, "chain", begin))
        if answer := stated_answer(text):
            span = (begin + answer.span[0], begin + answer.span[1])
            yield from self._answer(read_chain(answer.answer).words, span)

    def _take_part(self, chain: Chain, span: tuple[int, int], place: re.Match[str] | None) -> Iterable[Finding]:
        """A part to be sorted next: the first that is open, by the first letter that its words do not share."""
        words = chain.words
        self._part = tuple(words)
        due = next((g for g in self._order if len(g) > 1), None)
        if due is None or not same([due], [self._part]):
            text = written([due]) if due else "nothing"
            yield self._finding(
                False, f"the first part that is open is {text}, the text takes {written([self._part])}", span
            )
            return
        if place:
            at = _PLACES.index(place[1].lower())
            if any(len({letter(w, i) for w in words}) > 1 for i in range(at)):
                yield self._finding(False, f"these words differ before their {place[1]} letter", span)
                return
        yield self._finding(True, f"{written([self._part])} is the first part that is open", span)

    def _letters(self, step: str, begin: int) -> Iterable[Finding]:
        claims = list(_LETTER.finditer(step))
        self._turn_to([m["word"] for m in claims])
        for match in claims:
            word, said, number = match["word"], match["letter"], int(match["number"])
            right = letter(word, self._place)
            if word not in self._words:
                yield self._finding(False, f"{word!r} is not one of the words", _span(match, 0, begin))
            elif right is None:
                # A word that has ended has no letter here; whatever stands for that decides nothing.
                yield self._finding(None, f"{word!r} has no letter {self._place + 1}", _span(match, 0, begin))
            else:
                true = right == said and (not right.isalpha() or number == ord(right) - 96)
                alphabet = f" ({ord(right) - 96})" if right.isalpha() else ""
                yield self._finding(
                    true, f"letter {self._place + 1} of {word!r} is {right!r}{alphabet}", _span(match, 0, begin)
                )
        if claims:
            yield from self._complete(
                [m["word"] for m in claims], self._part, (begin + claims[0].start(), begin + claims[-1].end())
            )

    def _turn_to(self, words: Sequence[str]) -> None:
        """Take an open part as the one that is sorted, where just its words are spoken of without a word on the part."""
        if any(len(group) > 1 and same([group], [tuple(words)]) for group in self._order):
            self._part = tuple(words)

    def _refined(self, chain: Chain, span: tuple[int, int]) -> Iterable[Finding]:
        yield from self._complete(chain.words, self._part, span)
        expected = split_by_letter(self._part, self._place)
        if Counter(chain.words) == Counter(self._part):
            right = same(chain.groups, expected)
            yield self._finding(
                right,
                f"by letter {self._place + 1}: {written(expected)}"
                + ("" if right else f", the text says {written(chain.groups)}"),
                span,
            )
        for group, number in zip(chain.groups, chain.numbers, strict=True):
            first = letter(group[0], self._place)
            if number is not None and first is not None and first.isalpha() and number != ord(first) - 96:
                yield self._finding(
                    False,
                    f"letter {self._place + 1} of {group[0]!r} is number {ord(first) - 96}, the text says {number}",
                    span,
                )
        finer = refine(self._order, chain.groups)
        if same(finer, self._order) and not same([self._part], chain.groups):
            finer = tuple(chain.groups) if len(self._order) == 1 else self._order
        self._order = finer

    def _whole(self, chain: Chain, span: tuple[int, int]) -> Iterable[Finding]:
        """An order of all words, or of a part that was sorted by now."""
        words = Counter(chain.words)
        stated = Counter(w for g in self._order for w in g)
        expected = tuple(g for g in self._order if set(g) <= words.keys())
        if words != stated and not (words < stated and _adjacent(self._order, words)):
            yield from self._complete(chain.words, [w for g in self._order for w in g], span)
            self._order = chain.groups if len(chain.groups) > 1 else self._order
            return
        right = same(chain.groups, expected)
        yield self._finding(
            right, f"so far: {written(expected)}" + ("" if right else f"; the text says {written(chain.groups)}"), span
        )
        if words == stated:
            self._order = chain.groups

    def _complete(self, words: Sequence[str], due: Sequence[str], span: tuple[int, int]) -> Iterable[Finding]:
        """A finding where words are missing or too many."""
        missing, extra = Counter(due) - Counter(words), Counter(words) - Counter(due)
        if missing or extra:
            parts = [
                f"{name} {', '.join(sorted(what))}"
                for name, what in (("missing", missing), ("not among them", extra))
                if what
            ]
            yield self._finding(False, "; ".join(parts), span)

    def _answer(self, words: Sequence[str], span: tuple[int, int]) -> Iterable[Finding]:
        expected: list[str] = []
        for group in self._order:
            expected += sorted(group)
        right = list(words) == expected
        yield self._finding(right, f"in order: {' '.join(expected)}", span)

    def _finding(self, right: bool | None, reason: str, span: tuple[int, int]) -> Finding:
        status = Status.UNCHECKED if right is None else Status.VALID if right else Status.INVALID
        return Finding(step=self._step, status=status, checker=self._checker, reason=reason, span=span)


def _span(match: re.Match[str], group: int | str, begin: int) -> tuple[int, int]:
    return begin + match.start(group), begin + match.end(group)


def _adjacent(order: Sequence[Group], words: Counter[str]) -> bool:
    """Whether the words are whole groups that stand side by side."""
    inside = [i for i, group in enumerate(order) if set(group) <= words.keys()]
    if not inside or sum(len(order[i]) for i in inside) != words.total():
        return False
    return inside == list(range(inside[0], inside[-1] + 1))
