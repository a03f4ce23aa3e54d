"""Checks the order of things in a row: statements about places, whole rows, and the option chosen."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from moe_bench.checkers.base import Finding, Status
from moe_bench.checkers.rules.conclusion import chosen, options, stated_answer
from moe_bench.logic.lexicon import sentences
from moe_bench.logic.ordering import Row, read_row
from moe_bench.logic.terms import Verdict

_WRITTEN = re.compile(r"\((?P<from>\w+)\) (?P<things>[^()\"?]+) \((?P<to>\w+)\)")


class RowChecker:
    """Tries every row that the problem allows: what holds in all is valid, what holds in none is invalid, the rest is unchecked."""

    name = "rows"
    version = 1

    def solve(self, problem: str) -> str | None:
        """The one option that must hold, as "(A)"; None where the problem is of another kind or decides no single option."""
        row = read_row(problem)
        if row is None:
            return None
        held = [
            letter
            for letter, text in options(problem).items()
            if (place := row.read(text)) and row.decide(place) is Verdict.PROVED
        ]
        return f"({held[0]})" if len(held) == 1 else None

    def check(self, problem: str, steps: Sequence[str]) -> Iterable[Finding]:
        """Findings on places, on rows written from end to end, and on the answer."""
        row = read_row(problem)
        return list(self._findings(row, options(problem), steps)) if row else []

    def _findings(self, row: Row, choices: dict[str, str], steps: Sequence[str]) -> Iterable[Finding]:
        for number, step in enumerate(steps):
            for begin, end, sentence in sentences(step):
                text = re.sub(r"^(?:\(\d+\)|so|therefore|thus|hence|then),?\s*", "", sentence, flags=re.IGNORECASE)
                statement = re.split(r":\s*\"", text)[0]
                if place := row.read(statement):
                    yield self._decided(number, row.decide(place), statement, (begin, end))
            for match in _WRITTEN.finditer(step):
                finding = self._whole(number, row, match)
                if finding:
                    yield finding
            answer = stated_answer(step)
            letter = chosen(answer.answer, choices) if answer else None
            if answer and letter and (place := row.read(choices[letter])):
                yield self._decided(number, row.decide(place), choices[letter], answer.span)

    def _decided(self, number: int, verdict: Verdict, text: str, span: tuple[int, int]) -> Finding:
        status = {Verdict.PROVED: Status.VALID, Verdict.DISPROVED: Status.INVALID, Verdict.UNKNOWN: Status.UNCHECKED}[
            verdict
        ]
        where = {Verdict.PROVED: "in every", Verdict.DISPROVED: "in no", Verdict.UNKNOWN: "in some, not in every"}[
            verdict
        ]
        reason = f"{text!r} holds {where} row that the problem allows"
        return Finding(step=number, status=status, checker=self.name, reason=reason, span=span)

    def _whole(self, number: int, row: Row, match: re.Match[str]) -> Finding | None:
        """A row with every thing in it, by whole names or by a word that only one has."""
        words = match["things"].split()
        things: list[str] = []
        while words:
            for length in range(len(words), 0, -1):
                name = " ".join(words[:length])
                found = [t for t in row.things if t == name] or [t for t in row.things if name in t.split()]
                if len(found) == 1:
                    things.append(found[0])
                    words = words[length:]
                    break
            else:
                return None
        if sorted(things) != sorted(row.things):
            return None
        first = row.read(f"The {things[0]} is the {match['from']}") or row.read(
            f"The {things[0]} is the {match['from']}most"
        )
        if first is None:
            return None
        written = tuple(reversed(things)) if first.end else tuple(things)
        possible = written in row.rows
        status = Status.INVALID if not possible else Status.VALID if len(row.rows) == 1 else Status.UNCHECKED
        example = row.rows[0][:: -1 if first.end else 1]
        reason = (
            f"the problem allows {len(row.rows)} row{'s' if len(row.rows) > 1 else ''}, such as {', '.join(example)}"
        )
        return Finding(step=number, status=status, checker=self.name, reason=reason, span=match.span())
