"""Checks who tells the truth when people speak of one another."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from moe_bench.checkers.base import Finding, Status
from moe_bench.checkers.rules.conclusion import stated_answer

_TRUE = r"tells the truth|is telling the truth|is truthful|is honest"
_FALSE = r"lies|is lying|is a liar|does not tell the truth|doesn't tell the truth"
_CLAIM = re.compile(
    rf"(?:\b(?P<speaker>[A-Z]\w*) (?:says|claims|states)(?: that)? )?\b(?P<who>[A-Z]\w*) (?:(?P<true>{_TRUE})|(?P<false>{_FALSE}))\b"
)
_ASKED = re.compile(r"\b(?:Does|Is) (?P<who>[A-Z]\w*) (?:tell the truth|telling the truth|truthful)\b")
_IF = re.compile(r"\bif\s+$", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class Testimony:
    """Who is known to tell the truth or to lie, who says what of whom, and who is asked for."""

    known: dict[str, bool]
    says: dict[str, tuple[str, bool]]
    """Of each speaker, whom he speaks of and whether he calls him truthful."""
    asked: str | None

    def truthful(self) -> dict[str, bool]:
        """Everybody who is settled: a speaker tells the truth just where what he says is so, and the other way round."""
        settled = dict(self.known)
        before = -1
        while len(settled) != before:
            before = len(settled)
            for speaker, (other, praised) in self.says.items():
                if other in settled:
                    settled.setdefault(speaker, settled[other] == praised)
                elif speaker in settled:
                    settled[other] = settled[speaker] == praised
        return settled


def read_testimony(problem: str) -> Testimony | None:
    """The problem, where it is of this kind: somebody's truthfulness is asked for, and each speaks once. Else None."""
    asked = _ASKED.search(problem)
    known: dict[str, bool] = {}
    says: dict[str, tuple[str, bool]] = {}
    for match in _CLAIM.finditer(problem):
        said = match["true"] is not None
        if match["speaker"] is None:
            if known.setdefault(match["who"], said) != said:
                return None
        elif says.setdefault(match["speaker"], (match["who"], said)) != (match["who"], said):
            return None
    return Testimony(known=known, says=says, asked=asked["who"]) if asked and says else None


class TruthChecker:
    """Works out who tells the truth beside the solution; a step is judged from what the steps before it state."""

    name = "truthfulness"
    version = 1

    def solve(self, problem: str) -> str | None:
        """The answer, "Yes" or "No"; None where the problem is of another kind or leaves it open."""
        testimony = read_testimony(problem)
        value = testimony.truthful().get(testimony.asked or "") if testimony else None
        return None if value is None else "Yes" if value else "No"

    def check(self, problem: str, steps: Sequence[str]) -> Iterable[Finding]:
        """Findings on what is said to be said, on who lies, and on the answer."""
        testimony = read_testimony(problem)
        return list(self._findings(testimony, steps)) if testimony else []

    def _findings(self, testimony: Testimony, steps: Sequence[str]) -> Iterable[Finding]:
        truth = testimony.truthful()
        stated: dict[str, bool] = {}
        for number, step in enumerate(steps):
            for match in _CLAIM.finditer(step):
                who, said = match["who"], match["true"] is not None
                if match["speaker"]:
                    yield from self._testified(number, testimony, match, said)
                elif not _IF.search(step[: match.start()]):
                    value = self._expected(who, testimony, truth, stated)
                    if value is not None:
                        reason = f"{who} {'tells the truth' if value else 'lies'}"
                        yield self._finding(number, said == value, reason, match.span())
                    stated[who] = said
            answer = stated_answer(step)
            word = answer.answer.lower().strip(". ") if answer else ""
            value = self._expected(testimony.asked or "", testimony, truth, stated)
            if answer and word in {"yes", "no"} and value is not None:
                reason = f"{testimony.asked} {'tells the truth' if value else 'lies'}"
                yield self._finding(number, (word == "yes") == value, reason, answer.span)

    def _testified(self, number: int, testimony: Testimony, match: re.Match[str], said: bool) -> Iterable[Finding]:
        actual = testimony.says.get(match["speaker"])
        if actual is not None:
            right = actual == (match["who"], said)
            reason = f"{match['speaker']} says that {actual[0]} {'tells the truth' if actual[1] else 'lies'}"
            yield self._finding(number, right, reason, match.span())

    @staticmethod
    def _expected(who: str, testimony: Testimony, truth: dict[str, bool], stated: dict[str, bool]) -> bool | None:
        if who in stated:
            return stated[who]
        if who in testimony.known or who not in testimony.says:
            return truth.get(who)
        other, praised = testimony.says[who]
        value = stated.get(other, truth.get(other))
        return truth.get(who) if value is None else value == praised

    def _finding(self, step: int, right: bool, reason: str, span: tuple[int, int]) -> Finding:
        status = Status.VALID if right else Status.INVALID
        return Finding(step=step, status=status, checker=self.name, reason=reason, span=span)
