"""What kind of token every token is: from its text and where it stands, for any tokenizer.

A token has one lexical type. The text is cut into pieces that each have a type, and a token takes the type of most of its characters,
spaces aside.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

LEXICAL = (
    "word",
    "numeral",
    "operator",
    "bracket",
    "connective",
    "negation",
    "quantifier",
    "name",
    "punctuation",
    "code",
    "whitespace",
    "special",
)
"""`special` has no text of its own: markers of turns, of the beginning and the end."""
POSITIONS = ("first quarter", "second quarter", "third quarter", "last quarter")
"""Where in its sample a token stands."""
PARTS = ("prompt", "completion")


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_CONNECTIVES = _words(
    "and or but so because since therefore thus hence then if else when while unless although though whereas however moreover furthermore "
    "otherwise consequently accordingly nevertheless instead meanwhile besides implies iff given assuming suppose provided whenever until "
    "also similarly finally next first"
)
_NEGATIONS = _words(
    "no not nor never neither none nothing nobody nowhere cannot without isn't aren't wasn't weren't don't doesn't didn't won't wouldn't "
    "can't couldn't shouldn't hasn't haven't hadn't mustn't isnt dont doesnt cant"
)
_QUANTIFIERS = _words(
    "all every each any some many much most few fewer several both either half twice double triple quarter dozen total more less least "
    "enough only exactly altogether per"
)
_NUMBER_WORDS = _words(
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen "
    "twenty thirty forty fifty sixty seventy eighty ninety hundred thousand million billion"
)
_WORDS = {
    **dict.fromkeys(_CONNECTIVES, "connective"),
    **dict.fromkeys(_NEGATIONS, "negation"),
    **dict.fromkeys(_QUANTIFIERS, "quantifier"),
    **dict.fromkeys(_NUMBER_WORDS, "numeral"),
}
# Words that begin sentences with a capital without being names.
_COMMON = _words(
    "a an the this that these those it he she they we you i his her their its our your my there here what which who whom whose where why "
    "how in on at by for from of to with as is are was were be been do does did has have had let to after before now answer question "
    "solution step given find calculate compute solve explain write return note consider since suppose assume"
)
_PIECE = re.compile(
    r"(?P<code>```.*?(?:```|\Z)|(?<!`)`[^`\n]+`(?!`))"
    r"|(?P<numeral>\d+(?:[.,:]\d+)*%?)"
    r"|(?P<latex>\\(?:times|cdot|div|pm|mp|leq?|geq?|neq?|approx|equiv|sum|prod|int|frac|dfrac|sqrt|rightarrow|to|implies|in|cup|cap)\b)"
    r"|(?P<letters>\\?[^\W\d_]+(?:['’][^\W\d_]+)*)"
    r"|(?P<bracket>\\?[()\[\]{}⟨⟩])"
    r"|(?P<operator>[-+*/=<>^×÷±∓·√∑∏∫≤≥≠≈≡∈∉∪∩⊂⊆→⇒⇔∧∨¬∀∃|&~%$]+)"
    r"|(?P<whitespace>\s+)"
    r"|(?P<punctuation>.)",
    re.DOTALL,
)
_SENTENCE_END = re.compile(r"[.!?:\n\"“]\s*$|^\s*$")


def pieces(text: str) -> list[tuple[int, int, str]]:
    """The text cut into (start, end, type), without gaps.

    A capitalised word is a name inside a sentence; at the beginning of one, when the same word is a name elsewhere in the text.
    """
    found = [(m.start(), m.end(), str(m.lastgroup), m[0]) for m in _PIECE.finditer(text)]
    inner = {
        word
        for start, _, kind, word in found
        if kind == "letters" and _capitalised(word) and not _SENTENCE_END.search(text[max(0, start - 4) : start])
    }
    return [(start, end, _kind(kind, word, word in inner)) for start, end, kind, word in found]


def lexical_types(text: str, offsets: Sequence[tuple[int, int]]) -> NDArray[np.uint8]:
    """The type of every token, as its number in `LEXICAL`.

    Args:
        text: what was tokenized.
        offsets: (start, end) of every token in the text; empty for special tokens.
    """
    cut = pieces(text)
    starts = [start for start, _, _ in cut]
    types = np.empty(len(offsets), dtype=np.uint8)
    for number, (begin, end) in enumerate(offsets):
        types[number] = LEXICAL.index(_of_span(text, cut, starts, begin, end))
    return types


def offsets_of(tokenizer: Any, text: str, ids: Sequence[int]) -> list[tuple[int, int]]:
    """(start, end) in the text of every token, whether the tokenizer keeps offsets or not.

    Args:
        tokenizer: of transformers, fast or slow.
        text: what was tokenized.
        ids: its tokens, as the tokenizer gave them.
    """
    if getattr(tokenizer, "is_fast", False):
        for special in (True, False):
            encoded = tokenizer(text, return_offsets_mapping=True, add_special_tokens=special)
            if list(encoded["input_ids"]) == list(ids):
                special_ids = set(tokenizer.all_special_ids)
                # A template writes special tokens as text, whose offsets are not empty.
                return [
                    (0, 0) if i in special_ids else (int(a), int(b))
                    for i, (a, b) in zip(ids, encoded["offset_mapping"], strict=True)
                ]
    return _by_decoding(tokenizer, text, ids)


def position_types(length: int) -> NDArray[np.uint8]:
    """The quarter of its sample in which every token stands, as its number in `POSITIONS`."""
    return np.minimum(np.arange(length) * len(POSITIONS) // max(1, length), len(POSITIONS) - 1).astype(np.uint8)


def part_types(prompt: int, length: int) -> NDArray[np.uint8]:
    """Prompt or completion, as the number in `PARTS`: the first so many tokens are the prompt."""
    return (np.arange(length) >= prompt).astype(np.uint8)


def _by_decoding(tokenizer: Any, text: str, ids: Sequence[int]) -> list[tuple[int, int]]:
    """Each token's text looked for where the one before it ended."""
    special, at, found = set(tokenizer.all_special_ids), 0, []
    for token in ids:
        piece = "" if token in special else tokenizer.decode([token], skip_special_tokens=True)
        begin = text.find(piece.strip() or piece, at) if piece else -1
        if piece and 0 <= begin <= at + 8:  # what lies between are spaces that decoding leaves out
            end = begin + len(piece.strip() or piece)
            found.append((begin, end))
            at = end
        else:
            found.append((at, at))
    return found


def _of_span(text: str, cut: list[tuple[int, int, str]], starts: list[int], begin: int, end: int) -> str:
    if end <= begin:
        return "special"
    weights: dict[str, int] = {}
    for piece_start, piece_end, kind in cut[bisect_right(starts, begin) - 1 : bisect_right(starts, end - 1)]:
        overlap = min(end, piece_end) - max(begin, piece_start)
        weights[kind] = weights.get(kind, 0) + overlap
    if len(weights) > 1 and text[begin:end].strip():
        weights.pop("whitespace", None)
    return max(weights, key=weights.__getitem__) if weights else "special"


def _capitalised(word: str) -> bool:
    return (
        len(word) > 1
        and word[0].isupper()
        and word[1:].islower()
        and word.lower() not in _COMMON
        and word.lower() not in _WORDS
    )


def _kind(kind: str, word: str, named: bool) -> str:
    if kind == "latex":
        return "operator"
    if kind != "letters":
        return kind
    plain = word.lower().replace("’", "'")
    if plain in _WORDS:
        return _WORDS[plain]
    return "name" if named and _capitalised(word) else "word"
