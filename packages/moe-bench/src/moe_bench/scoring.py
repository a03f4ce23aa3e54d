"""The score of one output of a model on one item."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from moe_bench.answers import SCORER_VERSION, check_kind, extract_answer, infer_kind, judge, partial_credit
from moe_bench.answers.options import options_in
from moe_bench.errors import BenchError
from moe_bench.item import Item


def score(item: Item, text: str) -> dict[str, Any]:
    """What stands in a sample about its conclusion: plain values, to be written as JSON.

    The item's metadata may declare `answer_kind` (one of `moe_bench.answers.KINDS`; else the target tells) and `choices` (the texts
    of the options in the order of their letters, or the names of the labels; else the prompt's list of options is read).

    Returns:
        `answer` (None where the text states none), `kind`, `strategy` (how the answer was found), `correct`, `method` (how it was
        compared), `timed_out` (a comparison was cut off; it is not correct then), `partial` (None, or measure, credit and relative
        error of an answer that is near or right in part) and `scorer` (its version).

    Raises:
        BenchError: where the item declares a kind of answer that there is not, or choices that are no list of texts.
    """
    kind, options = answer_form(item)
    answer, strategy = extract_answer(text, kind, options=options)
    judged = judge(answer, item.target, kind, options=options) if answer is not None else None
    partial = partial_credit(answer, item.target, kind)
    return {
        "answer": answer,
        "kind": kind,
        "strategy": strategy,
        "correct": judged is not None and judged.correct,
        "method": judged.method if judged is not None else "none",
        "timed_out": judged is not None and judged.timed_out,
        "partial": partial.to_dict() if partial is not None else None,
        "scorer": SCORER_VERSION,
    }


def answer_form(item: Item) -> tuple[str, tuple[str, ...]]:
    """The kind of answer that an item asks for, and what a choice is between.

    Raises:
        BenchError: as `score`.
    """
    where = f"item {item.id} ({item.task})"
    declared = item.metadata.get("answer_kind")
    kind = check_kind(str(declared), where) if declared is not None else infer_kind(item.target)
    if kind != "choice":
        return kind, ()
    choices = item.metadata.get("choices")
    if choices is None:
        return kind, options_in(item.prompt)
    if isinstance(choices, Mapping):  # letter to text
        choices = [choices[letter] for letter in sorted(choices)]
    if isinstance(choices, str) or not isinstance(choices, Sequence) or not all(isinstance(c, str) for c in choices):
        raise BenchError(f"{where}: choices must be a list of texts, found a {type(choices).__name__}")
    return kind, tuple(choices)
