"""Checks a walk on a grid: where it leads and which way one faces."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from moe_bench.checkers.base import Finding, Status
from moe_bench.checkers.rules.conclusion import stated_answer

_TASK = re.compile(r"\breturn to the starting point\b|\bback (?:at|to) (?:the|your) start", re.IGNORECASE)
_MOVE = re.compile(
    r"\b(?:take|walk|move|go)\s+(?P<n>\d+)\s+steps?(?:\s+(?:to the\s+)?(?P<way>forwards?|backwards?|left|right))?"
    r"|\bturn\s+(?:to the\s+)?(?P<turn>left|right|around)\b|(?P<face>\balways face forwards?\b)",
    re.IGNORECASE,
)
_PLACE = re.compile(r"\((?P<x>[-−]?\d+),\s*(?P<y>[-−]?\d+)\)")
_FACING = re.compile(r"\bfacing (?:the )?(?P<sign>positive|negative) (?P<axis>[xy])[- ]axis", re.IGNORECASE)
_START = re.compile(r"\bstart\b|\borigin\b|\binitial", re.IGNORECASE)
_SINCE = re.compile(r"\b(?:since|because|as)\b|\bis (?:not )?\(0, 0\)", re.IGNORECASE)
_AXES = {("positive", "y"): (0, 1), ("negative", "y"): (0, -1), ("positive", "x"): (1, 0), ("negative", "x"): (-1, 0)}


@dataclass(frozen=True, kw_only=True)
class Stand:
    """A place on the grid and the direction one faces; at the start (0, 0), facing (0, 1)."""

    x: int = 0
    y: int = 0
    facing: tuple[int, int] = (0, 1)

    def after(self, move: re.Match[str]) -> Stand:
        """Where an instruction leads."""
        dx, dy = self.facing
        turned = {"left": (-dy, dx), "right": (dy, -dx), "around": (-dx, -dy)}
        if move["turn"]:
            return Stand(x=self.x, y=self.y, facing=turned[move["turn"].lower()])
        if move["face"]:
            return self
        way = (move["way"] or "forward").lower().rstrip("s")
        step = {"forward": (dx, dy), "backward": turned["around"]}.get(way) or turned[way]
        return Stand(x=self.x + int(move["n"]) * step[0], y=self.y + int(move["n"]) * step[1], facing=self.facing)


class NavigationChecker:
    """Walks beside the solution; each place is judged from the one stated before."""

    name = "navigation"
    version = 1

    def solve(self, problem: str) -> str | None:
        """The answer: "Yes" where the walk ends at its start, else "No"; None where the problem is of another kind."""
        moves = _moves(problem)
        if moves is None:
            return None
        stand = Stand()
        for move in moves:
            stand = stand.after(move)
        return "Yes" if (stand.x, stand.y) == (0, 0) else "No"

    def check(self, problem: str, steps: Sequence[str]) -> Iterable[Finding]:
        """Findings on every instruction, place and direction, and on the answer."""
        moves = _moves(problem)
        return list(self._findings(moves, steps)) if moves else []

    def _findings(self, moves: Sequence[re.Match[str]], steps: Sequence[str]) -> Iterator[Finding]:
        stand, done = Stand(), 0
        for number, step in enumerate(steps):
            for begin, line in _lines(step):
                claimed = _PLACE.search(line)
                move = _MOVE.search(line)
                if claimed is None or (move is None and not _START.search(line)) or _SINCE.search(line):
                    continue
                expected = stand
                if move is not None:
                    if done >= len(moves) or move[0].lower() != moves[done][0].lower():
                        due = moves[done][0] if done < len(moves) else "nothing more"
                        yield self._finding(
                            number, False, f"instruction {done + 1} is {due!r}, the text has {move[0]!r}", begin, move
                        )
                    expected = stand.after(move)
                    done += 1
                place = (_number(claimed["x"]), _number(claimed["y"]))
                facing = _FACING.search(line)
                said = _AXES[facing["sign"].lower(), facing["axis"].lower()] if facing else expected.facing
                right = place == (expected.x, expected.y) and said == expected.facing
                yield self._finding(
                    number, right, f"at ({expected.x}, {expected.y}), facing {_named(expected.facing)}", begin, claimed
                )
                stand = Stand(x=place[0], y=place[1], facing=said)
            if answer := stated_answer(step):
                end = stand
                for move in moves[done:]:
                    end = end.after(move)
                word = answer.answer.lower().strip(". ")
                if word in {"yes", "no"}:
                    right = (word == "yes") == ((end.x, end.y) == (0, 0))
                    reason = f"the walk ends at ({end.x}, {end.y}), begun at (0, 0)"
                    status = Status.VALID if right else Status.INVALID
                    yield Finding(step=number, status=status, checker=self.name, reason=reason, span=answer.span)

    def _finding(self, step: int, right: bool, reason: str, begin: int, at: re.Match[str]) -> Finding:
        status = Status.VALID if right else Status.INVALID
        return Finding(
            step=step, status=status, checker=self.name, reason=reason, span=(begin + at.start(), begin + at.end())
        )


def _moves(problem: str) -> list[re.Match[str]] | None:
    if not _TASK.search(problem):
        return None
    return list(_MOVE.finditer(re.split(r"\bOptions\b", problem)[0])) or None


def _lines(step: str) -> Iterator[tuple[int, str]]:
    begin = 0
    for line in step.splitlines(keepends=True):
        yield begin, line
        begin += len(line)


def _number(text: str) -> int:
    return int(text.replace("−", "-"))


def _named(facing: tuple[int, int]) -> str:
    sign, axis = next(name for name, value in _AXES.items() if value == facing)
    return f"the {sign} {axis}-axis"
