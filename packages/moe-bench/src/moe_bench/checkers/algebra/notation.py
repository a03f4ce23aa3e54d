"""From a step's text, LaTeX and plain text mixed, to the pieces of it that may be mathematics."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass

_GREEK = "alpha|beta|gamma|delta|epsilon|zeta|eta|theta|iota|kappa|lambda|mu|nu|xi|rho|sigma|tau|phi|chi|psi|omega|pi|varphi|ell"
_TOKEN = re.compile(
    r"""
    (?P<skip>\\left(?![a-z])|\\right(?![a-z])|\\[,;!:]|\\displaystyle|\\boxed|\^\s*\{?\\circ\}?|&|\\(?=\s))
  | (?P<edge>\\[()\[\]]|\$\$?(?!\d+(?:,\d{3})*(?:\.\d+)?(?![\w\\^=+*/<>({-]))|\\\\|\\q?quad|\\(?:begin|end)\{[a-z]+\*?\})
  | (?P<named>\\(?:text|mathrm|textbf|textit|mbox|operatorname)\s*\{[^{}]*\})
  | (?P<frac>\\[dt]?frac)
  | (?P<sqrt>\\sqrt|√)
  | (?P<function>\\(?:sin|cos|tan|ln|log)|(?<![A-Za-z])(?:sin|cos|tan|ln|log)(?![A-Za-z]))
  | (?P<times>\\cdot(?:p)?|\\times|×|·|\*)
  | (?P<over>\\div|÷|/)
  | (?P<relation>\\leq?(?![a-z])|≤|<=|\\geq?(?![a-z])|≥|>=|\\neq?(?![a-z])|≠|!=|\\approx|≈|\\lt|\\gt|==?|<|>)
  | (?P<greek>\\(?:"""
    + _GREEK
    + r""")(?![a-z])|π|θ)
  | (?P<ordinal>\d+(?:st|nd|rd|th)\b)
  | (?P<number>\d{1,3}(?:,\d{3})+(?!\d)(?:\.\d+)?|\d+(?:\.\d+)?|\.\d+)
  | (?P<command>\\[A-Za-z]+)
  | (?P<word>[A-Za-z][A-Za-z]+(?:['’-][A-Za-z]+)*)
  | (?P<letter>[A-Za-z]'?(?![A-Za-z]))
  | (?P<operator>[-+^_{}()\[\]|!−–])
  | (?P<comma>,)
  | (?P<space>\s+)
  | (?P<other>.)
    """,
    re.X | re.S,
)
_RELATIONS = {
    "≤": "<=", "\\le": "<=", "\\leq": "<=", "≥": ">=", "\\ge": ">=", "\\geq": ">=", "≠": "!=", "\\ne": "!=", "\\neq": "!=",
    "\\approx": "~", "≈": "~", "\\lt": "<", "\\gt": ">", "==": "=",
}  # fmt: skip
_DIGITS = 60
"""Digits of a number; longer ones are not read."""
_SHORT_WORDS = frozenset(
    [
        "ab",
        "ad",
        "ah",
        "am",
        "an",
        "as",
        "at",
        "ax",
        "be",
        "by",
        "do",
        "go",
        "ha",
        "he",
        "hi",
        "id",
        "if",
        "in",
        "is",
        "it",
        "ma",
        "me",
        "my",
        "no",
        "of",
        "oh",
        "ok",
        "on",
        "or",
        "ox",
        "pa",
        "pi",
        "so",
        "to",
        "up",
        "us",
        "we",
        "the",
        "and",
        "for",
        "so",
        "not",
        "can",
        "get",
        "has",
        "had",
        "was",
        "are",
        "all",
        "any",
        "but",
        "put",
        "set",
        "let",
        "use",
        "now",
        "new",
        "old",
        "out",
        "one",
        "two",
        "ten",
        "per",
        "via",
        "yes",
        "you",
        "how",
        "its",
        "our",
        "too",
    ]
)


@dataclass(frozen=True)
class Token:
    """A piece of a step's text."""

    kind: str
    text: str
    begin: int
    end: int
    in_math: bool = False
    """Whether it stands between delimiters of mathematics."""


def tokenize(text: str) -> list[Token]:
    """The pieces of a text, without space."""
    tokens, in_math = [], False
    for found in _TOKEN.finditer(text):
        kind = found.lastgroup or "other"
        piece = found.group()
        if kind == "edge" and (piece[0] == "$" or piece in {"\\(", "\\)", "\\[", "\\]"}):
            in_math = not in_math if piece[0] == "$" else piece in {"\\(", "\\["}
        if kind in {"space", "skip"}:
            continue
        if kind == "number" and len(piece) > _DIGITS:
            kind = "other"
        if kind == "relation":
            piece = _RELATIONS.get(piece, piece)
        if kind == "operator":
            piece = piece.replace("−", "-").replace("–", "-")
        if kind == "word" and in_math and len(piece) <= 3 and not _follows_command_space(text, found.start()):
            tokens += [
                Token("letter", letter, found.start() + i, found.start() + i + 1, in_math)
                for i, letter in enumerate(piece)
            ]
            continue
        tokens.append(Token(kind, piece, found.start(), found.end(), in_math))
    return tokens


def _follows_command_space(text: str, begin: int) -> bool:
    r"""Whether a word comes after "\\ ", as in "Total\\ Cost": then it is no product of letters."""
    return text[max(0, begin - 2) : begin] == "\\ "


_EXPRESSION = {"frac", "sqrt", "function", "times", "over", "greek", "number", "letter", "operator"}


def mathematical_runs(tokens: Sequence[Token], known: Collection[str]) -> list[list[Token]]:
    """The longest stretches that may be chains of relations: no words, no commas outside brackets.

    Words of letters that are all `known` symbols ("3xy") are taken apart.
    """
    runs: list[list[Token]] = [[]]
    depth = 0
    for i, token in enumerate(tokens):
        if token.kind in _EXPRESSION or token.kind == "relation":
            if token.kind == "letter" and _is_article(tokens, i):
                runs.append([])
                depth = 0
                continue
            if token.text in "([{" and token.kind == "operator":
                depth += 1
            elif token.text in ")]}" and token.kind == "operator":
                depth -= 1
                if depth < 0:
                    runs.append([])
                    depth = 0
                    continue
            runs[-1].append(token)
        elif token.kind == "comma" and depth > 0:
            runs[-1].append(token)
        elif (
            token.kind == "word"
            and len(token.text) <= 3
            and token.text.lower() not in _SHORT_WORDS
            and all(c in known for c in token.text)
        ):
            runs[-1] += [Token("letter", c, token.begin + j, token.begin + j + 1) for j, c in enumerate(token.text)]
        else:
            runs.append([])
            depth = 0
    return [run for run in runs if any(t.kind == "relation" for t in run)]


def _is_article(tokens: Sequence[Token], i: int) -> bool:
    """A letter of plain text that is a word: "a 3", "I", "A"."""
    token = tokens[i]
    if token.in_math or token.text not in {"a", "A", "I"}:
        return False
    after = tokens[i + 1] if i + 1 < len(tokens) else None
    if i and (tokens[i - 1].kind in {"operator", "times", "over", "relation"} or tokens[i - 1].end == token.begin):
        return False
    if token.text == "I" or after is None:
        return True
    return after.begin > token.end and after.kind in {"word", "number", "letter", "command", "edge", "other", "named"}
