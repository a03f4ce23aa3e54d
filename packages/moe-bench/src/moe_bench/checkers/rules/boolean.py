"""Checks boolean expressions: "not", "and", "or", brackets, and chains of equal expressions."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from moe_bench.checkers.base import Finding, Status
from moe_bench.checkers.rules.conclusion import stated_answer

_TASK = re.compile(
    r"^\s*(?:evaluate:?\s*)?(?P<expression>(?:\b(?:not|and|or|True|False)\b|[()\s])+?)\s*(?:\bis\b|=)?\s*\??\s*$"
)
_TOKEN = re.compile(r"\s*(not\b|and\b|or\b|True\b|False\b|[A-Z]\b|\(|\))")
_RUN = re.compile(r"(?:(?:not|and|or|True|False|[A-Z])\b|[()])(?:\s*(?:(?:not|and|or|True|False|[A-Z])\b|[()=]))*")
_DEEPEST = 100
"""As many brackets inside one another as are followed."""


def value_of(expression: str, names: Mapping[str, bool] | None = None) -> bool | None:
    """The value of an expression: "not" binds before "and", "and" before "or". None where it is none, or has a name without value."""
    tokens: list[str] = []
    at = 0
    text = expression.rstrip()
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None:
            return None
        tokens.append(match[1])
        at = match.end()
    parser = _Parser(tokens, names or {})
    try:
        value = parser.either()
    except ValueError:
        return None
    return value if not parser.rest else None


class _Parser:
    """Recursive descent; raises ValueError where the tokens are no expression."""

    def __init__(self, tokens: Sequence[str], names: Mapping[str, bool]) -> None:
        self.rest = list(tokens)
        self._names = names
        self._depth = 0

    def either(self) -> bool:
        value = self.both()
        while self.rest[:1] == ["or"]:
            self.rest.pop(0)
            value = self.both() or value
        return value

    def both(self) -> bool:
        value = self.negation()
        while self.rest[:1] == ["and"]:
            self.rest.pop(0)
            value = self.negation() and value
        return value

    def negation(self) -> bool:
        denied = False
        while self.rest[:1] == ["not"]:
            self.rest.pop(0)
            denied = not denied
        return self.atom() != denied

    def atom(self) -> bool:
        if not self.rest:
            raise ValueError("the expression ends early")
        token = self.rest.pop(0)
        if token == "(":
            self._depth += 1
            if self._depth > _DEEPEST:
                raise ValueError(f"more than {_DEEPEST} brackets inside one another")
            value = self.either()
            self._depth -= 1
            if self.rest[:1] != [")"]:
                raise ValueError("a bracket is open")
            self.rest.pop(0)
            return value
        if token in {"True", "False"}:
            return token == "True"
        if token in self._names:
            return self._names[token]
        raise ValueError(f"{token} has no value")


class BooleanChecker:
    """Evaluates both sides of every equality that a step writes between boolean expressions.

    A letter has the value of the expression it was first set equal to; an equality with a letter that has none is not looked at.
    """

    name = "boolean"
    version = 1

    def solve(self, problem: str) -> str | None:
        """Its value, "True" or "False"; None where the problem is no boolean expression."""
        match = _TASK.match(problem)
        value = value_of(match["expression"]) if match else None
        return None if value is None else str(value)

    def check(self, problem: str, steps: Sequence[str]) -> Iterable[Finding]:
        """Findings on every chain of equalities and on the answer."""
        solved = self.solve(problem)
        if solved is None:
            return []
        return list(self._findings(solved == "True", steps))

    def _findings(self, solved: bool, steps: Sequence[str]) -> Iterable[Finding]:
        meant: dict[str, bool] = {}
        for number, step in enumerate(steps):
            for match in _RUN.finditer(step):
                if "=" not in match[0]:
                    continue
                begin = match.start()
                parts: list[tuple[str, int]] = []
                for part in match[0].split("="):
                    parts.append((part, begin))
                    begin += len(part) + 1
                yield from self._chain(number, parts, meant)
            if (answer := stated_answer(step)) and (said := value_of(answer.answer.strip(" ."))) is not None:
                yield self._finding(number, said == solved, f"the expression is {solved}", answer.span)

    def _chain(self, number: int, parts: Sequence[tuple[str, int]], meant: dict[str, bool]) -> Iterable[Finding]:
        name = parts[0][0].strip()
        named = re.fullmatch(r"[A-Z]", name) is not None
        previous: tuple[str, bool] | None = None
        if named and name in meant:
            previous = (name, meant[name])
        for index, (text, begin) in enumerate(parts):
            if named and index == 0:
                continue
            # A letter inside a worked expression is often a new name for a part of it; only a sum of letters is what was defined.
            plain = not re.search(r"\b[A-Z]\b", text)
            value = value_of(text) if plain else value_of(text, meant) if _only_letters(text) else None
            if value is None:
                continue
            if previous is not None:
                span = (begin + len(text) - len(text.lstrip()), begin + len(text.rstrip()))
                reason = f"{previous[0]} is {previous[1]}, {text.strip()} is {value}"
                yield self._finding(number, value == previous[1], reason, span)
            elif named and name not in meant:
                meant[name] = value
            previous = (text.strip(), value)

    def _finding(self, step: int, right: bool, reason: str, span: tuple[int, int]) -> Finding:
        status = Status.VALID if right else Status.INVALID
        return Finding(step=step, status=status, checker=self.name, reason=reason, span=span)


def _only_letters(text: str) -> bool:
    return re.search(r"\b(?:True|False)\b", text) is None
