"""Finding the final answer in a model's text."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from moe_bench.answers.notation import Boxed, last_boxed, tidy, unboxed
from moe_bench.answers.options import find_label, find_option
from moe_bench.answers.quantities import as_quantity

_NUMBER = re.compile(r"[-+−]?\$?\s?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?:\s?/\s?\d+)?|[-+−]?\.\d+")
_HASHES = re.compile(r"####\s*(.+?)\s*$", re.MULTILINE)
_END = r"(?:[.!](?=\s|$|\*)|\n|$)"
# "the answer is", "Final answer:", "**Answer:**", "the correct option is", "the answer would be", "our answer =".
_STATED = re.compile(
    r"(?:\b(?:answers?|(?:correct|right|best)\s+(?:option|choice|answer)|option|choice|result)\b(?:\s+to\s+[^.\n:]{1,80}?)?\s*"
    r"(?:(?:\s(?:is|are|was|would\s+be|will\s+be|must\s+be|should\s+be|equals)\b)(?!\s+(?:not|in|on|given|found|obtained|correct)\b)"
    r"\s*(?:therefore|thus|then|hence|simply|just)?|\**\s*[:=])|\bfinal\s+answer\b\**\s*\n)"
    rf"\s*[:*]*\s*(.+?)\s*{_END}",
    re.IGNORECASE,
)
_PLAINLY_STATED = re.compile(r"\b(?:answers?|option|choice)\b", re.IGNORECASE)
_IS_ANSWER = re.compile(
    rf"(?:^|[.!\n]\s*)([^.!\n]{{1,60}}?)\s+is\s+(?:the|our)\s+(?:final\s+|correct\s+)?answer\s*{_END}", re.IGNORECASE
)
_MATH = re.compile(
    r"\$\$(.+?)\$\$|\\\[(.+?)\\\]|\\\((.+?)\\\)|(?<![\\$])\$(?!\s)([^$\n]+?)(?<![\\\s])\$|(?<![\\$\d])\$\s([^$\n]+?)\s\$",
    re.DOTALL,
)
_BETWEEN_BOXES = re.compile(
    r"(?:[\s$,;.]|\\[()\[\],;:! ]|\\q?quad|\b(?:and|or)\b|\\text\s*\{[^{}]*?(?:,|\b(?:and|or)\b)?\s*\}|[A-Za-z](?:_\{?\w\}?)?\s*=)*",
    re.IGNORECASE,
)
_CONCLUSION = re.compile(r"\b(?:therefore|thus|hence|so)\b[^.!?\n]*", re.IGNORECASE)
_LONGEST_LINE = 500
"""Characters of a text of one line, without a sentence's end in it, that may stand as an answer of words."""
_FINALLY = re.compile(r"\bfinal\s+answer\b", re.IGNORECASE)
_LONGEST_BARE = 120
"""Characters of a text that may stand as an answer as it is."""


class Extraction(NamedTuple):
    """The final answer of a text."""

    answer: str | None
    """None where the text states none."""
    strategy: str
    """How it was found: hashes, boxed, stated, option, yes/no, math, last result, last
    number, last line, whole text; none."""


_Found = Iterator[tuple[str, str]]


def extract_answer(text: str, kind: str | None = None, *, options: Sequence[str] = ()) -> Extraction:
    r"""The final answer, by the most explicit mark there is whose content can be an answer of the kind.

    In this order: after the last `####` (GSM8K), in the last `\boxed{}` (several in a row are one answer), after the last "the
    answer is" and its variants; then by kind: the last number, option or yes/no, the last formula, the last line; at last a
    text that is short enough to be nothing but an answer.

    Args:
        text: the model's output.
        kind: one of `KINDS`; None takes any marked answer, else the last number.
        options: what a choice is between: texts in the order of their letters, or the names themselves.
    """
    fitting = _FITTING.get(kind or "", _any)
    for strategy, candidate in _candidates(text, kind):
        answer = fitting(candidate, options, strategy)
        if answer:
            return Extraction(answer, strategy)
    return Extraction(None, "none")


def _candidates(text: str, kind: str | None) -> _Found:
    for content in reversed(_HASHES.findall(text)):
        yield "hashes", content
    box = last_boxed(text)
    said = [(m.start(1), m) for pattern in (_STATED, _IS_ANSWER) for m in _overlapping(pattern, text)]
    stated = [
        (at, m[1].strip().strip("*\"'"), _FINALLY.search(text, max(0, m.start() - 8), m.start(1)) is not None)
        for at, m in sorted(said, key=lambda s: -s[0])
    ]
    if box is not None:  # a box in the middle is an interim result where a "final answer" comes after it
        yield from (("stated", content) for at, content, final in stated[:1] if final and at > box.end)
        yield "boxed", _boxes(text, box)
    yield from (("stated", content) for _, content, _ in stated)
    if kind in (None, "number"):
        yield from _last_numbers(text)
    elif kind == "choice":
        yield "option", text
    elif kind == "boolean":
        yield "yes/no", text
    elif kind == "expression":
        yield from _formulas(text)
    elif kind in ("list", "set", "text"):
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        if len(lines) == 1 and len(lines[0]) <= _LONGEST_LINE and not re.search(r"[a-z]{2}[.!?:]\s+\S", lines[0]):
            yield "whole text", lines[0]
        elif lines and kind != "text" and re.search(r"\S\s*[,;]\s*\S", lines[-1]) and len(lines[-1]) <= _LONGEST_BARE:
            yield "last line", lines[-1]


def _overlapping(pattern: re.Pattern[str], text: str) -> Iterator[re.Match[str]]:
    """Matches, and those within their first group: "Final answer: the answer is 5"."""
    match = pattern.search(text)
    while match is not None:
        yield match
        match = pattern.search(text, max(match.start(1), match.start() + 1))


def _last_numbers(text: str) -> _Found:
    """The result of the last calculation, where the last sentence says it again ("So 34 hours in 4 weeks."); else the last number."""
    numbers = _NUMBER.findall(text)
    if not numbers:
        return
    results = list(re.finditer(r"=\s*(?:\\?[$€£])?\s*", text))
    if results and (number := _NUMBER.match(text, results[-1].end())) is not None:
        sentence = re.split(r"[.!?:](?=\s)|\n|\\\]", text[number.end() :].rstrip())[-1]
        if as_quantity(number[0]) in map(as_quantity, _NUMBER.findall(sentence)):
            yield "last result", number[0].strip()
    yield "last number", numbers[-1].strip()


def _boxes(text: str, last: Boxed) -> str:
    """The content of the last box; of several boxes with nothing but commas and "and" between them, all, separated by commas."""
    run = [last]
    while (before := last_boxed(text, run[0].begin)) is not None:
        if not _BETWEEN_BOXES.fullmatch(text, before.end, run[0].begin):
            break
        run.insert(0, before)
    contents: list[str] = []
    for part in run:  # the same box twice is one answer, said again
        if part.content not in contents:
            contents.append(part.content)
    return ", ".join(contents)


def _formulas(text: str) -> _Found:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if len(lines) == 1 and len(text) <= _LONGEST_BARE and not re.search(r"[a-z$]{2}[.!?:]\s+\S|\$[.!?]\s+\S", lines[0]):
        yield "whole text", lines[0]
    formulas = list(_MATH.finditer(text))
    if formulas:
        # "Therefore there are 12 such numbers." after the last formula is the conclusion, not the formula.
        concluded = [m[0] for m in _CONCLUSION.finditer(text, formulas[-1].end())]
        numbers = _NUMBER.findall(concluded[-1]) if concluded else []
        if len(numbers) == 1:
            yield "last number", numbers[0].strip()
        yield "math", next(part for part in formulas[-1].groups() if part).strip()
    yield from _last_numbers(text)


def _any(candidate: str, _options: Sequence[str], _strategy: str) -> str | None:
    return candidate


def _number(candidate: str, _options: Sequence[str], strategy: str) -> str | None:
    if as_quantity(candidate) is not None:
        return candidate
    # "x = 3 + 4 = 7 apples": what the last sign of equality says; "7 apples, since ...": the number at the beginning.
    result = re.split(r"=|\\approx|≈", candidate)[-1].strip()
    if as_quantity(result) is not None:
        return result
    if strategy in ("hashes", "boxed"):
        return candidate  # marked as the answer: compared as it is
    numbers = _NUMBER.findall(tidy(result)) or _NUMBER.findall(tidy(candidate))
    if numbers:
        return str(numbers[0]).strip()
    return candidate if re.search(r"\\[a-z]+\{?|[0-9]", candidate) else None


def _choice(candidate: str, options: Sequence[str], strategy: str) -> str | None:
    return find_option(unboxed(candidate), options, marked=strategy != "option")


def _boolean(candidate: str, _options: Sequence[str], strategy: str) -> str | None:
    return find_label(unboxed(candidate), ("yes", "no", "true", "false"), marked=strategy != "yes/no")


def _expression(candidate: str, _options: Sequence[str], strategy: str) -> str | None:
    if strategy in ("hashes", "boxed", "math") or as_quantity(candidate) is not None:
        return candidate
    formulas = list(_MATH.finditer(candidate))
    if len(formulas) == 1 and _in_sentence(_MATH.sub(" ", candidate)):
        percent = re.match(r"\s*\\?%", candidate[formulas[0].end() :])
        return formulas[0][0] + ("\\%" if percent else "")
    if len(formulas) > 1 and strategy == "whole text" and _in_sentence(candidate[: formulas[0].start()]):
        return None
    if not formulas and _in_sentence(candidate):
        numbers = _NUMBER.findall(candidate)
        if not numbers:
            return candidate if strategy == "stated" else None
        return str(numbers[0 if strategy == "stated" else -1]).strip()
    return candidate


def _in_sentence(text: str) -> bool:
    """Whether a text has ordinary words: two beside each other, which no formula has."""
    return re.search(r"(?<![\\A-Za-z{])[A-Za-z']{2,}[\s,]+[A-Za-z']{2,}|^\s*[A-Za-z]{4,}\s*[:,]?\s*$", text) is not None


_FITTING: dict[str, Callable[[str, Sequence[str], str], str | None]] = {
    "number": _number,
    "choice": _choice,
    "boolean": _boolean,
    "expression": _expression,
}
