"""The steps of a text, and which operation every token belongs to.

A step is a line; a text of one line is cut into sentences.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from moe_router.operations.classifier import OperationClassifier, shipped
from moe_router.operations.vocabulary import OPERATIONS, UNCERTAIN

OUTSIDE = "outside"
TOKEN_OPERATIONS = (*OPERATIONS, UNCERTAIN, OUTSIDE)
"""What a token's operation may be; outside stand special tokens and, where the prompt is known, the prompt."""
_LINE = re.compile(r"[^\n]*\S[^\n]*")
_SENTENCE = re.compile(r"\S.*?(?:[.!?](?=\s+[^a-z\s])|\Z)", re.DOTALL)


def steps_of(text: str, begin: int = 0) -> list[tuple[int, int]]:
    """(start, end) of every step of a text, from a place in it on."""
    lines = [match.span() for match in _LINE.finditer(text, begin)]
    if len(lines) == 1:
        return [match.span() for match in _SENTENCE.finditer(text, *lines[0])]
    return lines


def operation_types(
    text: str,
    offsets: Sequence[tuple[int, int]],
    *,
    prompt_tokens: int = 0,
    classifier: OperationClassifier | None = None,
) -> NDArray[np.uint8]:
    """The operation of the step that every token stands in, as its number in `TOKEN_OPERATIONS`.

    Args:
        text: what was tokenized.
        offsets: (start, end) of every token in the text; empty for special tokens.
        prompt_tokens: so many tokens at the beginning are no solution.
        classifier: other than the shipped one.
    """
    outside = TOKEN_OPERATIONS.index(OUTSIDE)
    types = np.full(len(offsets), outside, dtype=np.uint8)
    begin = next((start for start, end in offsets[prompt_tokens:] if end > start), len(text))
    spans = steps_of(text, begin)
    names = (classifier or shipped()).classify([text[start:end] for start, end in spans])
    numbers = [TOKEN_OPERATIONS.index(name) for name in names]
    at = 0
    for token in range(prompt_tokens, len(offsets)):
        start, end = offsets[token]
        while at < len(spans) and spans[at][1] <= start:
            at += 1
        if end > start and at < len(spans) and end > spans[at][0]:
            types[token] = numbers[at]
    return types
