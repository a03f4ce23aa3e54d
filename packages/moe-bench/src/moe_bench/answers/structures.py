"""Lists, tuples, sets, intervals, unions and matrices, compared part by part."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Hashable
from typing import NamedTuple

from moe_bench.answers.notation import tidy

_PAIRS = {"(": ")", "[": "]", "{": "}"}
_MATRIX = re.compile(r"\\begin\s*\{([pbvV]?matrix|array)\}(?:\{[lcr|\s]*\})?(.*)\\end\s*\{\1\}", re.DOTALL)
_OPEN_ENDS = re.compile(r"^\]|\[$")


class Structure(NamedTuple):
    """An answer made of parts."""

    opening: str
    """Its opening bracket; "" for a bare list, "matrix", "union"."""
    closing: str
    parts: tuple[str, ...]


def structure(answer: str) -> Structure | None:
    """The parts of an answer that is a list, tuple, set, interval, union of such, or matrix; None for a single thing."""
    text = tidy(answer)
    matrix = _MATRIX.fullmatch(text)
    if matrix is not None:
        rows = [row.strip() for row in re.split(r"\\\\", matrix[2]) if row.strip()]
        return Structure("matrix", str(len(rows)), tuple(cell.strip() for row in rows for cell in row.split("&")))
    union = split_top(text, (r"\cup",))
    if len(union) > 1:
        return Structure("union", "", tuple(union))
    if len(text) > 2 and text[0] in "([{" and text[-1] in ")]}" and _closes_at_end(text):
        parts = split_top(text[1:-1], (",", ";"))
        if text[0] == "{" or len(parts) > 1:
            return Structure(text[0], text[-1], tuple(parts))
        return None
    parts = split_top(text, (",", ";", " and ", " or "))
    return Structure("", "", tuple(parts)) if len(parts) > 1 else None


def _closes_at_end(text: str) -> bool:
    depth = 0
    for position, character in enumerate(text):
        depth += (character in "([{") - (character in ")]}")
        if depth == 0:
            return position == len(text) - 1
    return False


def split_top(text: str, separators: tuple[str, ...]) -> list[str]:
    """The parts of a text between separators that stand in no bracket; a comma in a number with thousands is none."""
    parts, depth, begin, position = [], 0, 0, 0
    thousands = (
        {m.start() + 1 for m in re.finditer(r"\d,(?=\d{3}(?!\d))", text)}
        if re.fullmatch(r"[-+$]?\d{1,3}(?:,\d{3})+(?:\.\d+)?\D*", text)
        else set()
    )
    while position < len(text):
        character = text[position]
        depth += (character in "([{") - (character in ")]}")
        hit = next(
            (s for s in separators if depth == 0 and position not in thousands and text.startswith(s, position)), None
        )
        if hit is None:
            position += 1
            continue
        parts.append(text[begin:position].strip())
        position += len(hit)
        begin = position
    parts.append(text[begin:].strip())
    return [part for part in parts if part]


def compare(a: Structure, b: Structure, same: Callable[[str, str], bool | None], *, ordered: bool) -> bool | None:
    """Whether two structures are the same: True, False, or None where a pair of parts cannot be decided.

    Args:
        a: one.
        b: the other.
        same: compares two parts.
        ordered: whether order counts in a bare list; in braces and unions it never does, in tuples and matrices always.
    """
    bare = "" in (a.opening, b.opening)
    if not bare and (a.opening, a.closing) != (b.opening, b.closing):
        return False
    if "matrix" in (a.opening, b.opening) and a.opening != b.opening:
        return False
    if "{" in (a.opening, b.opening) or "union" in (a.opening, b.opening) or (bare and not ordered):
        return _unordered(a.parts, b.parts, same)
    if len(a.parts) != len(b.parts):
        return False
    return _all([same(p, q) for p, q in zip(a.parts, b.parts, strict=True)])


def _all(verdicts: list[bool | None]) -> bool | None:
    if False in verdicts:
        return False
    return None if None in verdicts else True


def _unordered(a: tuple[str, ...], b: tuple[str, ...], same: Callable[[str, str], bool | None]) -> bool | None:
    """As sets: every part has its equal on the other side. Undecided pairs leave it open."""
    table = [[same(p, q) for q in b] for p in a]
    sides = table + [list(column) for column in zip(*table, strict=True)]
    if all(True in row for row in sides):
        return True
    return None if all(True in row or None in row for row in sides) else False


def overlap_f1(a: list[Hashable], b: list[Hashable]) -> float:
    """F1 of two collections as multisets: 2·|a ∩ b| / (|a| + |b|); 0 for two empty ones."""
    common = sum((Counter(a) & Counter(b)).values())
    return 2 * common / (len(a) + len(b)) if a or b else 0.0
