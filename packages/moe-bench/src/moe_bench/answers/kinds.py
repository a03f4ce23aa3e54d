"""The kinds of answer, and which one a target is."""

from __future__ import annotations

import difflib
import re

from moe_bench.answers.notation import looks_mathematical, tidy
from moe_bench.answers.quantities import as_quantity
from moe_bench.errors import BenchError

KINDS = ("number", "choice", "boolean", "list", "set", "text", "expression")
"""number: a quantity. choice: one of lettered or named options. boolean: yes/no, true/false. list: in order. set: in any order.
text: words. expression: anything of mathematics, compared by what it means."""

_BOOLEAN = re.compile(r"(?:yes|no|true|false)", re.IGNORECASE)
_LETTER = re.compile(r"\(([A-Z])\)|([A-Z])")


def check_kind(kind: str, where: str) -> str:
    """The kind.

    Raises:
        BenchError: for one that there is not, naming the nearest.
    """
    if kind not in KINDS:
        near = difflib.get_close_matches(str(kind), KINDS, n=1)
        meant = f"; did you mean {near[0]}?" if near else ""
        raise BenchError(f"{where}: answer kind {kind!r} is not one of {', '.join(KINDS)}{meant}")
    return kind


def infer_kind(target: str) -> str:
    """The kind of answer that a target is.

    A lone capital letter, bare or in brackets, is a choice; words with commas between them are a list; anything with signs of
    mathematics that is no plain quantity is an expression. What cannot be told from the target (a set, named options) must be
    declared by the item.
    """
    plain = tidy(target)
    if _BOOLEAN.fullmatch(plain):
        return "boolean"
    if _LETTER.fullmatch(plain):
        return "choice"
    if as_quantity(target) is not None:
        return "number"
    if looks_mathematical(target) and re.search(r"\w", plain):
        return "expression"
    if re.search(r"\S\s*[,;]\s*\S", plain):
        return "list"
    return "text"
