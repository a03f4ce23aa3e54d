"""Checks who has what while things are swapped."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from moe_bench.checkers.base import Finding, Status
from moe_bench.checkers.rules.conclusion import chosen, stated_answer
from moe_bench.checkers.rules.exchange import Exchange, read_exchange, stated_holdings, stated_swaps, swapped

_END = re.compile(r"\b(?:at|in) the end\b|\bfinally has\b|\bends? up\b", re.IGNORECASE)
_BEGIN = re.compile(r"\b(?:at|in) the (?:start|beginning)\b|\binitial", re.IGNORECASE)


class TrackingChecker:
    """Replays the swaps of a problem beside the solution's.

    A step is judged from the state that the steps before it state: after a mistake, what follows from it is valid.
    """

    name = "tracking"
    version = 1

    def solve(self, problem: str) -> str | None:
        """The right option as "(A)", or the thing itself where there are no options; None where the problem is of another kind."""
        exchange = read_exchange(problem)
        if exchange is None or exchange.asked is None:
            return None
        thing = exchange.end[exchange.asked]
        if not exchange.choices:
            return thing
        right = [letter for letter, text in exchange.choices.items() if exchange.thing(text) == thing]
        return f"({right[0]})" if len(right) == 1 else None

    def check(self, problem: str, steps: Sequence[str]) -> Iterable[Finding]:
        """Findings on every swap, every statement of who has what, and the answer."""
        exchange = read_exchange(problem)
        return list(_Replay(exchange, self.name).findings(steps)) if exchange else []


class _Replay:
    def __init__(self, exchange: Exchange, checker: str) -> None:
        self._exchange = exchange
        self._checker = checker
        self._held = dict(exchange.start)
        self._done = 0
        self._begun = False

    def findings(self, steps: Sequence[str]) -> Iterable[Finding]:
        for number, step in enumerate(steps):
            yield from self._step(number, step)
            answer = stated_answer(step)
            if answer:
                yield from self._answer(number, answer.answer, answer.span)

    def _step(self, number: int, step: str) -> Iterable[Finding]:
        claims = list(stated_holdings(step, self._exchange))
        moves = stated_swaps(step, self._exchange)
        for pair, span in moves:
            yield from self._move(number, pair, span)
        if not moves and claims and not _END.search(step) and not self._is_start(step, claims):
            self._advance()
        self._begun = self._begun or bool(moves or claims)
        stated: dict[str, str] = {}
        for person, thing, words, span in claims:
            expected = self._held[person]
            if thing is None:
                reason = f"{words!r} is none of the things that are swapped"
                yield self._finding(number, Status.UNCHECKED, reason, span)
                continue
            stated[person] = thing
            right = thing == expected
            reason = f"{person} has {expected} at this point" + ("" if right else f", the text says {thing}")
            yield self._finding(number, Status.VALID if right else Status.INVALID, reason, span)
        self._held.update(stated)

    def _is_start(self, step: str, claims: Sequence[tuple[str, str | None, str, tuple[int, int]]]) -> bool:
        if self._begun:
            return False
        return bool(_BEGIN.search(step)) or all(thing == self._exchange.start[person] for person, thing, _, _ in claims)

    def _move(self, number: int, pair: tuple[str, str], span: tuple[int, int]) -> Iterable[Finding]:
        swaps = self._exchange.swaps
        if self._done >= len(swaps):
            yield self._finding(number, Status.INVALID, f"the problem has {len(swaps)} swaps, this is one more", span)
            self._held = swapped(self._held, pair)
            return
        due = swaps[self._done]
        right = set(pair) == set(due)
        reason = f"swap {self._done + 1} is of {due[0]} and {due[1]}" + (
            "" if right else f", the text says {pair[0]} and {pair[1]}"
        )
        yield self._finding(number, Status.VALID if right else Status.INVALID, reason, span)
        self._held = swapped(self._held, pair)
        self._done += 1

    def _advance(self) -> None:
        if self._done < len(self._exchange.swaps):
            self._held = swapped(self._held, self._exchange.swaps[self._done])
            self._done += 1

    def _answer(self, number: int, answer: str, span: tuple[int, int]) -> Iterable[Finding]:
        while self._done < len(self._exchange.swaps):
            self._advance()
        asked = self._exchange.asked
        if asked is None:
            return
        letter = chosen(answer, self._exchange.choices)
        thing = self._exchange.thing(self._exchange.choices[letter] if letter else answer)
        if thing is None:
            return
        right = thing == self._held[asked]
        reason = f"{asked} has {self._held[asked]} at the end" + ("" if right else f", the answer is {thing}")
        yield self._finding(number, Status.VALID if right else Status.INVALID, reason, span)

    def _finding(self, step: int, status: Status, reason: str, span: tuple[int, int]) -> Finding:
        return Finding(step=step, status=status, checker=self._checker, reason=reason, span=span)
