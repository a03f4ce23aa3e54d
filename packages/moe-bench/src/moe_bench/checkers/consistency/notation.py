"""From a step's text to tokens, LaTeX and plain text mixed, and from tokens to polynomials."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from fractions import Fraction

from moe_bench.checkers.consistency.polynomials import Polynomial, TooLargeError, number, power, quotient, symbol, term

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


class UnreadableError(ValueError):
    """Text that is not an expression this module can read."""


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


def parse(tokens: Sequence[Token], functions: Collection[str] = ()) -> Polynomial:
    """The polynomial that tokens stand for.

    Args:
        tokens: of one side of a relation.
        functions: names that are applied, not multiplied, where a bracket follows.

    Raises:
        UnreadableError: it is no expression, or one with several readings.
    """
    reader = _Reader([t for t in tokens if t.kind != "edge"], functions)
    try:
        result = reader.sum()
    except (TooLargeError, ZeroDivisionError, RecursionError) as error:
        raise UnreadableError(str(error)) from error
    if reader.position != len(reader.tokens):
        raise UnreadableError(f"at {reader.tokens[reader.position].text!r}")
    return result


class _Reader:
    def __init__(self, tokens: Sequence[Token], functions: Collection[str]) -> None:
        self.tokens, self.functions, self.position, self.bars = tokens, functions, 0, 0

    def text(self, ahead: int = 0) -> str:
        i = self.position + ahead
        return self.tokens[i].text if i < len(self.tokens) else ""

    def kind(self, ahead: int = 0) -> str:
        i = self.position + ahead
        return self.tokens[i].kind if i < len(self.tokens) else "end"

    def expect(self, text: str) -> None:
        if self.text() != text:
            raise UnreadableError(f"{text!r} expected at {self.text()!r}")
        self.position += 1

    def sum(self) -> Polynomial:
        sign = 1
        while self.kind() == "operator" and self.text() in "+-":
            sign = -sign if self.text() == "-" else sign
            self.position += 1
        total = self.product().scaled(Fraction(sign))
        while self.kind() == "operator" and self.text() in "+-":
            minus = self.text() == "-"
            self.position += 1
            part = self.product()
            total = total - part if minus else total + part
        return total

    def product(self) -> Polynomial:
        total = self.factor()
        divided = False
        while True:
            if self.kind() == "times" or (self.is_cross()):
                self.position += 1
                total = total * self.signed_factor()
            elif self.kind() == "over":
                self.position += 1
                total, divided = quotient(total, self.signed_factor()), True
            elif self.begins_factor():
                if divided:
                    raise UnreadableError("a/bc has two readings")
                total = total * self.factor()
            else:
                return total

    def is_cross(self) -> bool:
        """The x of "5 x 6"."""
        return (
            self.text() == "x"
            and self.kind(1) == "number"
            and self.position > 0
            and self.tokens[self.position - 1].kind == "number"
        )

    def signed_factor(self) -> Polynomial:
        if self.text() == "-" and self.kind() == "operator":
            self.position += 1
            return self.factor().scaled(Fraction(-1))
        return self.factor()

    def begins_factor(self) -> bool:
        if self.kind() in {"frac", "sqrt", "function", "greek", "letter"}:
            return True
        if self.kind() == "number":
            raise UnreadableError("a number right after a factor")
        return (self.kind() == "operator" and self.text() in "({[") or (self.text() == "|" and not self.bars)

    def factor(self) -> Polynomial:
        base = self.base()
        while self.text() in {"^", "!"} and self.kind() == "operator":
            raised = self.text() == "^"
            self.position += 1
            base = power(base, self.exponent()) if raised else term("factorial", base)
        return base

    def exponent(self) -> Polynomial:
        if self.text() in {"{", "("}:
            return self.group()
        sign = -1 if self.text() == "-" else 1
        self.position += sign < 0
        return self.base().scaled(Fraction(sign))

    def group(self) -> Polynomial:
        close = {"(": ")", "{": "}", "[": "]"}[self.text()]
        self.position += 1
        bars, self.bars = self.bars, 0
        inside = self.sum()
        self.bars = bars
        self.expect(close)
        return inside

    def base(self) -> Polynomial:
        kind, text = self.kind(), self.text()
        if kind == "operator" and text in {"(", "{", "["}:
            return self.group()
        self.position += 1
        if kind == "number":
            if self.text() == "_":
                raise UnreadableError("a number in another base")
            return number(Fraction(text.replace(",", "")))
        if kind == "frac":
            above = self.argument()
            return quotient(above, self.argument())
        if kind == "sqrt":
            if self.text() == "[":
                degree = self.group()
                return term("root", self.argument(), degree)
            return term("sqrt", self.argument())
        if kind == "function":
            return self.function(text.lstrip("\\"))
        if kind == "operator" and text == "|":
            self.bars += 1
            inside = self.sum()
            self.bars -= 1
            self.expect("|")
            return term("abs", inside)
        if kind in {"letter", "greek"}:
            return self.name(text.lstrip("\\").replace("π", "pi").replace("θ", "theta"))
        raise UnreadableError(f"at {text!r}")

    def argument(self) -> Polynomial:
        if self.text() == "{":
            return self.group()
        if self.kind() == "number" and len(self.text()) > 1 and self.tokens[self.position - 1].kind != "sqrt":
            raise UnreadableError("\\frac without braces")
        return self.base()

    def function(self, name: str) -> Polynomial:
        if self.text() in {"^", "_"} or name == "log":
            raise UnreadableError(f"{name} with an index")
        return term(name, self.group() if self.text() in {"(", "{"} else self.base())

    def name(self, name: str) -> Polynomial:
        if self.text() == "_" and self.kind() == "operator":
            self.position += 1
            name += "_" + self.index()
        if name in self.functions and self.text() == "^":
            raise UnreadableError("an inverse or repeated function")
        if name in self.functions and self.text() == "(":
            arguments = []
            self.position += 1
            bars, self.bars = self.bars, 0
            arguments.append(self.sum())
            while self.kind() == "comma":
                self.position += 1
                arguments.append(self.sum())
            self.bars = bars
            self.expect(")")
            return term(name, *arguments)
        return symbol(name)

    def index(self) -> str:
        if self.kind() not in {"letter", "number", "greek"} and self.text() != "{":
            raise UnreadableError("no index after _")
        if self.text() != "{":
            self.position += 1
            return self.tokens[self.position - 1].text
        end = next((i for i in range(self.position, len(self.tokens)) if self.tokens[i].text == "}"), None)
        if end is None:
            raise UnreadableError("an index that does not end")
        inside = "".join(t.text for t in self.tokens[self.position + 1 : end])
        self.position = end + 1
        return inside
