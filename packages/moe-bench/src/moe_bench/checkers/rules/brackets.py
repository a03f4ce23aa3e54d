"""Checks the completion of brackets, with or without the stack written out."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from moe_bench.checkers.base import Finding, Status
from moe_bench.checkers.rules.conclusion import stated_answer

_TASK = re.compile(
    r"\b(?:parenthes[ie]s|brackets?)\b.*?\b(?:input|sequence)\s*:\s*(?P<input>[\[\](){}<>\s]+)",
    re.IGNORECASE | re.DOTALL,
)
_ROW = re.compile(
    r"^[ \t]*\(?(?P<number>\d+)[:.)][ \t]*(?P<sign>[\[\](){}<>])?[ \t]*;?[ \t]*"
    r"(?:stack[: ]+(?P<stack>[\[\](){}<> \t]+|empty)|(?P<empty>empty stack))[ \t]*$",
    re.MULTILINE | re.IGNORECASE,
)
_FINAL = re.compile(r"\bfinal stack is \"(?P<stack>[^\"\n]*)\"")
_CLOSES = {"(": ")", "[": "]", "{": "}", "<": ">"}
_OPENS = {close: open_ for open_, close in _CLOSES.items()}


class BracketChecker:
    """Keeps the stack of open brackets beside the solution's; a row is judged from the row before it."""

    name = "brackets"
    version = 1

    def solve(self, problem: str) -> str | None:
        """The missing closing brackets, with blanks between; None where the problem is of another kind or its brackets cross."""
        signs = _read(problem)
        stack = _stack(signs) if signs is not None else None
        return None if stack is None else _closing(stack)

    def check(self, problem: str, steps: Sequence[str]) -> Iterable[Finding]:
        """Findings on every row of the stack, on the final stack and on the answer."""
        signs = _read(problem)
        if signs is None or _stack(signs) is None:
            return []
        return list(self._findings(signs, steps))

    def _findings(self, signs: list[str], steps: Sequence[str]) -> Iterable[Finding]:
        stack: list[str] = []
        done = 0
        for number, step in enumerate(steps):
            for row in _ROW.finditer(step):
                span = row.span()
                said = re.findall(r"[\[\](){}<>]", row["stack"] or "")
                if row["sign"] is None:
                    yield self._finding(number, said == stack, f"the stack is {_show(stack)} at this point", span)
                elif done >= len(signs):
                    yield self._finding(number, False, f"the sequence has {len(signs)} signs, this is one more", span)
                elif row["sign"] != signs[done]:
                    yield self._finding(
                        number,
                        False,
                        f"sign {done + 1} of the sequence is {signs[done]}, the text has {row['sign']}",
                        span,
                    )
                    done += 1
                else:
                    expected = _push(stack, row["sign"])
                    if expected is None:
                        yield self._finding(number, False, f"{row['sign']} does not close {_show(stack)}", span)
                    else:
                        reason = f"after {row['sign']} the stack is {_show(expected)}"
                        yield self._finding(number, said == expected, reason, span)
                    done += 1
                stack = said
            whole = _stack(signs[done:], stack) or []
            if final := _FINAL.search(step):
                said = re.findall(r"[\[\](){}<>]", final["stack"])
                yield self._finding(number, said == whole, f"the final stack is {_show(whole)}", final.span())
                stack, done = said, len(signs)
                whole = said
            if answer := stated_answer(step):
                said = re.findall(r"[\[\](){}<>]", answer.answer)
                yield self._finding(
                    number,
                    said == _closing(whole).split(),
                    f"{_closing(whole) or 'nothing'} closes {_show(whole)}",
                    answer.span,
                )

    def _finding(self, step: int, right: bool, reason: str, span: tuple[int, int]) -> Finding:
        status = Status.VALID if right else Status.INVALID
        return Finding(step=step, status=status, checker=self.name, reason=reason, span=span)


def _read(problem: str) -> list[str] | None:
    match = _TASK.search(problem)
    return match["input"].split() if match and match["input"].split() else None


def _push(stack: list[str], sign: str) -> list[str] | None:
    if sign in _CLOSES:
        return [*stack, sign]
    return stack[:-1] if stack and stack[-1] == _OPENS.get(sign) else None


def _stack(signs: Sequence[str], begun: Sequence[str] = ()) -> list[str] | None:
    """What is open after the signs; None where a bracket closes another kind."""
    stack: list[str] | None = list(begun)
    for sign in signs:
        stack = _push(stack or [], sign)
        if stack is None:
            return None
    return stack


def _closing(stack: Sequence[str]) -> str:
    return " ".join(_CLOSES[sign] for sign in reversed(stack) if sign in _CLOSES)


def _show(stack: Sequence[str]) -> str:
    return " ".join(stack) or "empty"
