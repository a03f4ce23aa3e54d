"""Finding the final answer in a model's text, and telling whether it is the right one.

An item says what kind of answer it asks for (`KINDS`); where it does not, its target tells. The kind decides how an answer is
looked for and how it is compared. Numbers, lists and words are compared exactly, by code of this package; expressions by
math-verify, where it is installed (`pip install 'moe-bench[math]'`), in a process of its own that is killed when it takes too long.
"""

from __future__ import annotations

from moe_bench.answers.equivalence import SCORER_VERSION, Judgement, equivalent, judge, scorer_identity
from moe_bench.answers.extraction import Extraction, extract_answer
from moe_bench.answers.kinds import KINDS, check_kind, infer_kind
from moe_bench.answers.notation import normalise
from moe_bench.answers.partial import Partial, partial_credit
from moe_bench.answers.quantities import as_number

__all__ = [
    "KINDS",
    "SCORER_VERSION",
    "Extraction",
    "Judgement",
    "Partial",
    "as_number",
    "check_kind",
    "equivalent",
    "extract_answer",
    "infer_kind",
    "judge",
    "normalise",
    "partial_credit",
    "scorer_identity",
]
