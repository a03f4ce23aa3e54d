"""Whether an answer is the right one."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from typing import Any

from moe_bench.answers.expressions import TIME_LIMIT_S, math_verify_version, shared_judge
from moe_bench.answers.kinds import infer_kind
from moe_bench.answers.notation import as_latex, looks_mathematical, normalise, tidy, unboxed
from moe_bench.answers.options import letter_of
from moe_bench.answers.quantities import as_quantity
from moe_bench.answers.structures import compare, structure

SCORER_VERSION = 2
"""Raised whenever an extraction or equivalence changes; runs of different scorers are not compared."""

_BOOLEANS = {"yes": True, "true": True, "no": False, "false": False}
_NAME = r"[A-Za-z](?:_\{?\w+\}?)?(?:\([a-z]\))?"
_ASSIGNMENT = re.compile(rf"({_NAME})\s*=\s*([^=<>]+)")
_LONE_NAME = re.compile(r"[A-Za-z]")
_WORD = re.compile(r"(?<![\\A-Za-z])(?!(?:sqrt|sin|cos|tan|sec|csc|cot|log|exp|max|min|mod|gcd|lcm)\b)[A-Za-z]{3,}")
_LONE_LETTER = re.compile(r"\(?\s*([A-Z])\s*\)?")
_ARITHMETIC = re.compile(r"[\d\s.,+*/^(){}-]+")


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """Whether an answer is equivalent to a target, and how that was found."""

    correct: bool
    """Never true where a comparison was cut off by its time limit, failed, or could not be made."""
    method: str
    """text, number, structure, choice, boolean, math-verify; undecided where no method could compare the two."""
    timed_out: bool = False


def scorer_identity() -> dict[str, Any]:
    """What a score depends on besides the output: the scorer's version, math-verify's and sympy's (None where not installed).

    Without math-verify, expressions are compared as far as exact numbers, structures and spelling go; what is left is not correct.
    """
    library = math_verify_version()
    return {
        "version": SCORER_VERSION,
        "math_verify": library,
        "sympy": metadata.version("sympy") if library is not None else None,
        "time_limit_s": TIME_LIMIT_S if library is not None else None,
    }


def equivalent(answer: str, target: str, kind: str | None = None, *, options: Sequence[str] = ()) -> bool:
    """Whether an answer is the same as a target; see `judge`."""
    return judge(answer, target, kind, options=options).correct


def judge(answer: str, target: str, kind: str | None = None, *, options: Sequence[str] = ()) -> Judgement:
    """Whether an answer is the same as a target, in the sense of the kind of answer (of the target's where None).

    Numbers are compared exactly, with units (`Quantity.same_as`); lists part by part; choices by letter; words without case,
    punctuation or a leading article. Expressions go to math-verify once the exact ways have no verdict. Arithmetic that was left
    undone ("3*6" for 18) is no number; for the kind expression it is one, as math-verify has it.
    """
    kind = kind or infer_kind(target)
    if kind == "boolean":
        a, b = (_BOOLEANS.get(normalise(tidy(side))) for side in (answer, target))
        if a is not None and b is not None:
            return Judgement(correct=a == b, method="boolean")
    if kind == "choice":
        first, second = letter_of(answer, options), letter_of(target, options)
        if first is not None and second is not None:
            return Judgement(correct=first == second, method="choice")
    x, y = as_quantity(answer), as_quantity(target)
    if (
        kind not in ("text", "choice") and x is not None and y is not None
    ):  # before the spelling, which knows no currencies
        return Judgement(correct=x.same_as(y), method="number")
    if _spelled_alike(answer, target):
        return Judgement(correct=True, method="text")
    if (lone := _LONE_LETTER.fullmatch(tidy(target))) and (other := _LONE_LETTER.fullmatch(tidy(answer))):
        return Judgement(correct=lone[1] == other[1], method="choice")  # "(C)" and "C"
    if kind in ("boolean", "choice", "text"):
        return Judgement(correct=False, method="text")
    if kind in ("list", "set"):
        answer, target = _separated(answer), _separated(target)
    verdict, method = _exactly(answer, target, ordered=kind != "set")
    if verdict is True or (verdict is False and method == "number"):
        return Judgement(correct=verdict, method=method)
    if kind in ("list", "set"):
        return Judgement(correct=False, method=method if verdict is False else "undecided")
    if kind == "number" and (_left_undone(answer) or _left_undone(target)):
        return Judgement(correct=False, method="text")
    if math_verify_version() is None or _are_words(answer, target):
        return Judgement(correct=False, method=method if verdict is False else "undecided")
    # A relation and the set it describes are the same answer ("-2 <= x <= 7" and "[-2, 7]"), whichever side has which.
    found = shared_judge().compare(_marked(target), _marked(answer), {"set_relation": True})
    decided = "math-verify" if not found.error else method if verdict is False else "undecided"
    return Judgement(correct=found.equal, method=decided, timed_out=found.timed_out)


def _separated(text: str) -> str:
    """A list with commas, where it has none but spaces."""
    return text if structure(text) is not None else ", ".join(tidy(text).split())


def _are_words(answer: str, target: str) -> bool:
    """Whether a side is nothing but words, or both have words that differ.

    In math marks words are read as products of their letters, and anagrams would be equal.
    """
    if not all(
        re.search(r"\d", side) or looks_mathematical(side) or _LONE_NAME.fullmatch(tidy(side))
        for side in (answer, target)
    ):
        return True
    a, b = (sorted(_WORD.findall(tidy(side).casefold())) for side in (answer, target))
    return a != b and sorted("".join(a)) == sorted("".join(b))


def _marked(text: str) -> str:
    """With math marks around it, unless it has some; calculator notation becomes LaTeX."""
    plain = unboxed(text.strip())
    if "\\" not in plain or "**" in plain:
        plain = as_latex(plain)
    if re.search(r"\$.+\$|\\\(.+\\\)|\\\[.+\\\]", plain, re.DOTALL):
        return plain
    return f"${plain.strip('$').rstrip('.')}$"


def _left_undone(answer: str) -> bool:
    plain = tidy(answer)
    return _ARITHMETIC.fullmatch(plain) is not None and re.search(r"[\d)]\s*[-+*/^]", plain) is not None


def _spelling(text: str) -> str:
    return re.sub(r"^(?:the|an?)\s+(?=\S)", "", normalise(tidy(text)))


def _spelled_alike(answer: str, target: str) -> bool:
    a, b = _spelling(answer), _spelling(target)
    if not a or not b:
        return False
    return a == b or (looks_mathematical(target) and a.replace(" ", "") == b.replace(" ", ""))


def _exactly(answer: str, target: str, *, ordered: bool) -> tuple[bool | None, str]:
    """The verdict of exact comparison, None where there is none, and by what it was found."""
    x, y = as_quantity(answer), as_quantity(target)
    if (x is None) != (y is None):  # a space between thousands or a decimal comma, beside a plain number
        x, y = x or as_quantity(_regrouped(answer)), y or as_quantity(_regrouped(target))
    if x is not None and y is not None:
        return x.same_as(y), "number"
    a, b = structure(answer), structure(target)
    if a is not None and b is not None:
        return compare(a, b, lambda p, q: _part(p, q, ordered=ordered), ordered=ordered), "structure"
    stripped = _without_names(answer, target)
    if stripped is not None:
        return _exactly(*stripped, ordered=ordered)
    return None, "undecided"


def _regrouped(text: str) -> str:
    plain = tidy(text)
    if re.match(r"[-+$€£¥]?\d{1,3}(?: \d{3})+(?![\d/])", plain):
        return re.sub(r"(?<=\d) (?=\d{3}(?!\d))", "", plain)
    return re.sub(r"^([-+]?\d+),(\d{1,2})(?!\d)", r"\1.\2", plain)


def _part(p: str, q: str, *, ordered: bool) -> bool | None:
    if _spelled_alike(p, q):
        return True
    verdict, _ = _exactly(p, q, ordered=ordered)
    if verdict is None and not (looks_mathematical(p) or looks_mathematical(q)):
        return False  # words, spelled differently
    return verdict


def _without_names(answer: str, target: str) -> tuple[str, str] | None:
    """Both sides without "x =", where one has it, or both have the same name; None where there is nothing to take off."""
    a, b = _ASSIGNMENT.fullmatch(tidy(answer)), _ASSIGNMENT.fullmatch(tidy(target))
    if (a is None and b is None) or (a is not None and b is not None and a[1] != b[1]):
        return None
    return (a[2] if a else answer), (b[2] if b else target)
