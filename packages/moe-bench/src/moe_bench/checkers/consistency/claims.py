"""Claims in words that exclude each other: X is P and X is not P; X is even and X is odd; all A are B and some A are not B."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from moe_bench.checkers.algebra.statements import SUPPOSES, split_sentences, word_set
from moe_bench.checkers.base import Finding, Status

_OPPOSITES = {
    frozenset(pair.split("/"))
    for pair in word_set(
        "even/odd positive/negative prime/composite true/false possible/impossible rational/irrational increasing/decreasing "
        "parallel/perpendicular valid/invalid finite/infinite acute/obtuse convergent/divergent guilty/innocent alive/dead "
        "open/closed empty/full equal/unequal consistent/inconsistent divisible/indivisible divergent/convergent "
        "defined/undefined reducible/irreducible convex/concave likely/unlikely bounded/unbounded"
    )
}
_OPPOSITE = {a: b for pair in _OPPOSITES for a in pair for b in pair if a != b}
_CLAIM = re.compile(
    r"^(?:(?:so|thus|hence|therefore|also|and|since|because|but|clearly|note that|we (?:know|see|find|conclude|have|get) that|"
    r"this (?:means|implies|shows|tells us) that|it follows that|which means that|i (?:know|see) that|\(?\d+\)|\d+\.)(?!\w)\W*)*"
    r"(?P<subject>(?:[\w$\\^{}()'’/-]+\s+){1,5}?)(?P<verb>is|are|was|were|has|have|can|does|do|will)\s+"
    r"(?P<no>not\s+|n['’]t\s+|never\s+)?(?P<predicate>[\w$\\^{}()'’/+*=-]+(?:\s+[\w$\\^{}()'’/+*=-]+){0,6})\s*[.;!]?\s*$",
    re.I,
)
_QUANTIFIER = re.compile(
    r"^(?P<q>all|every|each|no|some|not all|not every|at least one|most|any|none of the|all of the|some of the)\s+(?P<kind>.+)$",
    re.I,
)
_VAGUE = word_set(
    "he she it they this that these those there who which what i we you one result answer value here now both either neither case"
    " statement expression equation only first second third last next another other most"
)
_CHANGING = re.compile(
    r"\b(?:now|then|still|already|longer|currently|initially|before|after|today|yesterday|tomorrow|only|first|second|case|about|almost|when|while|until)\b",
    re.I,
)


@dataclass(frozen=True, kw_only=True)
class _Claim:
    subject: str
    quantifier: str
    """"" for one thing, else "all", "no", "some" or "some not"."""
    predicate: str
    holds: bool
    step: int
    span: tuple[int, int]
    text: str


def contradictions_of_claims(problem: str, steps: Sequence[str]) -> Iterator[Finding]:
    """A finding for every claim in words that excludes one of the problem or of an earlier step in its scope.

    "All A are B" and "no A is B" count as excluding each other: who says both of something that does not exist is rare.
    """
    given = [c for _, s, at in split_sentences(problem, -1) for c in _claims(s, -1, at)]
    scope = list(given)
    for number, step in enumerate(steps):
        for _, sentence, at in split_sentences(step, number):
            if SUPPOSES.search(sentence):
                scope = list(given)
                continue
            for claim in _claims(sentence, number, at):
                other = next((c for c in scope if c.step != number and _exclude(c, claim)), None)
                if other is None:
                    scope.append(claim)
                    continue
                where = "the problem" if other.step < 0 else f"step {other.step + 1}"
                yield Finding(
                    step=number,
                    status=Status.INVALID,
                    checker="consistency",
                    reason=f"“{claim.text}” where {where} says “{other.text}”",
                    span=claim.span,
                    against=other.step if other.step >= 0 else None,
                )


def _claims(sentence: str, step: int, offset: int) -> Iterator[_Claim]:
    found = _CLAIM.match(sentence)
    if found is None or SUPPOSES.search(sentence) or _CHANGING.search(sentence):
        return
    subject, quantifier = _singular(found["subject"]), ""
    holds = found["no"] is None
    counted = _QUANTIFIER.match(found["subject"].strip())
    if counted:
        quantifier, holds = _quantified(counted["q"].lower(), holds)
        subject = _singular(counted["kind"])
        if not quantifier:
            return
    predicate = _singular(found["predicate"])
    if not subject or not predicate or set(subject.split()) & _VAGUE or re.search(r"\bn?or\b", predicate):
        return
    yield _Claim(
        subject=f"{subject} {'has' if found['verb'].lower() in {'has', 'have'} else ''}".strip(),
        quantifier=quantifier,
        predicate=predicate,
        holds=holds,
        step=step,
        span=(offset + found.start("subject"), offset + found.end("predicate")),
        text=" ".join(sentence[found.start("subject") : found.end("predicate")].split()),
    )


def _quantified(word: str, holds: bool) -> tuple[str, bool]:
    """One of all, no, some and some not, each with a predicate that holds."""
    if word in {"all", "every", "each", "any", "all of the"}:
        # "All A are not B" is read both ways; it is left alone.
        return ("all", True) if holds else ("", True)
    if word in {"no", "none of the"}:
        return ("no", True) if holds else ("", True)
    if word in {"not all", "not every"}:
        return ("some not", True) if holds else ("", True)
    if word in {"some", "at least one", "some of the"}:
        return ("some", True) if holds else ("some not", True)
    return "", True


_EXCLUDED = {frozenset(p) for p in (("all", "no"), ("all", "some not"), ("no", "some"))}


def _exclude(a: _Claim, b: _Claim) -> bool:
    if a.subject != b.subject:
        return False
    if a.quantifier or b.quantifier:
        return a.predicate == b.predicate and frozenset({a.quantifier, b.quantifier}) in _EXCLUDED
    if a.predicate == b.predicate:
        return a.holds != b.holds
    return a.holds and b.holds and _opposed(a.predicate, b.predicate)


def _opposed(a: str, b: str) -> bool:
    """The same words but for one, which is the opposite."""
    x, y = a.split(), b.split()
    if len(x) != len(y):
        return False
    different = [(p, q) for p, q in zip(x, y, strict=True) if p != q]
    return len(different) == 1 and _OPPOSITE.get(different[0][0]) == different[0][1]


def _singular(text: str) -> str:
    """In lower case, without articles and endings of the plural."""
    words = [w for w in re.sub(r"[$\\]", "", text.lower()).split() if w not in {"the", "a", "an"}]
    if len(words) == 2 and words[0] in {"number", "integer", "variable"} and len(words[1]) == 1:
        words = words[1:]
    return " ".join(w[:-1] if len(w) > 3 and w.endswith("s") and not w.endswith("ss") else w for w in words)
