"""A step's text as numbers, signs and words, each with its place."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

OPERATORS = {
    "+": "+", "-": "-", "−": "-", "–": "-", "*": "*", "×": "*", "·": "*", "⋅": "*", "∗": "*", "/": "/", "÷": "/", "⁄": "/", "^": "^",
    "plus": "+", "minus": "-", "times": "*", "divided by": "/", "multiplied by": "*",
}  # fmt: skip
_VULGAR = {
    "½": (1, 2),
    "⅓": (1, 3),
    "⅔": (2, 3),
    "¼": (1, 4),
    "¾": (3, 4),
    "⅕": (1, 5),
    "⅛": (1, 8),
    "⅜": (3, 8),
    "⅝": (5, 8),
    "⅞": (7, 8),
}


@dataclass(frozen=True)
class Token:
    """A piece of the text."""

    kind: str
    """number, operator, equals, about, is, relation, open, close, bar, percent, fraction, root, word or break."""
    text: str
    begin: int
    end: int
    value: Fraction = Fraction(0)
    decimals: int = 0
    """Digits after the point, of a number."""
    glued: bool = False
    """Whether it follows the one before without a space."""


_SPACED = re.compile(
    r"\\(?:text(?:bf|it|rm|sf|tt|normal)?|mathrm|mathbf|mathit|mathsf|mbox|operatorname\*?|boxed|fbox|underline)\s*\{|"
    r"\\(?:left|right|[bB]igg?[lrm]?|displaystyle|quad|qquad)(?![A-Za-z])|"
    r"\\[,;:!> ]|\\[()\[\]]|\\?\$|[€£]|~|&|\"|“|”|\*\*(?![\d(])|(?<![\w)])\*\*|__"
)
"""What is only about how it looks: made spaces, so that places stay."""
_PATTERNS = (
    ("mark", r"<<[^<>\n]*>>"),
    ("ordinal", r"\d+(?:st|nd|rd|th)\b"),
    ("based", r"(?<![A-Za-z_\d])\d+_(?:\d+|\{[^{}]*\})"),
    (
        "number",
        r"(?<![A-Za-z_\d])\d{1,3}(?:(?:,|\{,\})\d{3})+(?!\d)(?:\.\d+)?|(?<![A-Za-z_\d])\d*\.\d+|(?<![A-Za-z_\d])\d+",
    ),
    ("vulgar", "[" + "".join(_VULGAR) + "]"),
    (
        "arrow",
        r"\\(?:therefore|implies|iff|[lL]ongrightarrow|Rightarrow|rightarrow|to|because|mid)(?![A-Za-z])|→|⇒|->|=>",
    ),
    ("fraction", r"\\[dtc]?frac(?![A-Za-z])"),
    ("root", r"\\sqrt(?![A-Za-z])|√|\bsqrt(?=\s*\()"),
    ("star", r"\\(?:times|cdot|ast)(?![A-Za-z])"),
    ("slash", r"\\div(?![A-Za-z])"),
    (
        "about",
        r"\\(?:approx|simeq|sim|thickapprox)(?![A-Za-z])|≈|≅|~=|\b(?:is|equals) (?:about|approximately|roughly|around)\b",
    ),
    ("equals", r"==?|\bequals\b|\bis equal to\b"),
    ("is", r"\b(?:is|makes|gives|was)\b"),
    ("relation", r"\\(?:leq?|geq?|leqslant|geqslant|lt|gt)(?![A-Za-z])|<=|>=|≤|≥|<|>"),
    ("power", r"\*\*"),
    ("operator", r"(?:plus|minus|times|divided by|multiplied by)\b|[-+−–*×·⋅∗/÷⁄^]"),
    ("percent", r"\\?%|\bpercent\b|\bper cent\b"),
    ("cross", r"[xX](?=\s*[\d.(\\$])"),
    ("bar", r"\|"),
    ("open", r"[(\[{]"),
    ("close", r"[)\]}]"),
    ("word", r"\\?[A-Za-z][A-Za-z0-9_']*"),
    ("break", r"\.\.\.|…|—|\\\\|[.,;:!?\n]"),
)
_TOKEN = re.compile("|".join(f"(?P<{name}>{pattern})" for name, pattern in _PATTERNS), re.IGNORECASE)


def blanked(text: str) -> str:
    """The text at its length, without what is only about how it looks."""
    found = list(text)
    for match in _SPACED.finditer(text):
        found[match.start() : match.end()] = " " * (match.end() - match.start())
        if match[0].endswith("{"):  # the brace that closes it
            depth = 1
            for place in range(match.end(), len(text)):
                depth += (text[place] == "{") - (text[place] == "}")
                if depth == 0:
                    found[place] = " "
                    break
    bulleted = re.sub(r"(?m)^(\s*)[-*•](?=\s)", r"\1.", "".join(found))
    return re.sub(r"(?m)^(\s*\(?\d{1,2})[.)](?=\s)", lambda m: m[1] + "\n", bulleted)


def tokenise(text: str, *, offset: int = 0) -> list[Token]:
    """The tokens of a text; `offset` is added to their places. Inside of `<<...>>` is left out: `marks` gives it."""
    found: list[Token] = []
    end = -1
    for match in _TOKEN.finditer(blanked(text)):
        kind, written = match.lastgroup or "", match[0]
        begin, glued = match.start() + offset, match.start() == end
        end = match.end()
        place = (begin, end + offset)
        if kind == "mark":
            continue
        # 0900 hours, what a slip left of 16,0000, and 201_3, which is in another base
        if (kind == "number" and re.match(r"0\d", written)) or kind == "based":
            found.append(Token("word", written, *place, glued=True))
        elif kind == "number":
            plain = written.replace("{,}", "").replace(",", "")
            found.append(Token("number", written, *place, Fraction(plain), len(plain.partition(".")[2]), glued))
        elif kind == "vulgar":
            found.append(Token("number", written, *place, Fraction(*_VULGAR[written]), 0, glued))
        elif kind in ("star", "cross"):
            operand = bool(found) and (
                found[-1].kind in ("number", "close", "percent") or (found[-1].kind == "word" and not glued)
            )
            multiplies = kind == "star" or operand
            found.append(
                Token("operator" if multiplies else "word", "*" if multiplies else written, *place, glued=glued)
            )
        elif kind in ("slash", "power", "operator"):
            sign = {"slash": "/", "power": "^"}.get(kind) or OPERATORS[written.lower()]
            found.append(Token("operator", sign, *place, glued=glued))
        elif kind == "arrow":
            found.append(Token("break", written, *place))
        elif kind == "ordinal":
            found.append(Token("word", written, *place, glued=glued))
        else:
            found.append(Token(kind, written, *place, glued=glued))
    return found


def marks(text: str) -> list[tuple[str, int]]:
    """What stands between `<<` and `>>`, GSM8K's calculator marks, and where each begins."""
    return [(m[1], m.start(1)) for m in re.finditer(r"<<([^<>\n]*)>>", text)]


def segments(tokens: list[Token]) -> list[list[Token]]:
    """The tokens between breaks."""
    parts: list[list[Token]] = [[]]
    for token in _without_asides(tokens):
        if token.kind == "break":
            parts.append([])
        else:
            parts[-1].append(token)
    return [part for part in parts if part]


def _without_asides(tokens: list[Token]) -> list[Token]:
    """The tokens without brackets that hold nothing but words: "(from the last trip)"."""
    kept: list[Token] = []
    place = 0
    while place < len(tokens):
        if tokens[place].kind == "open" and tokens[place].text == "(":
            end = place + 1
            while (
                end < len(tokens)
                and tokens[end].kind == "word"
                and len(tokens[end].text) > 1
                and tokens[end].text[0] != "\\"
            ):
                end += 1
            if place + 1 < end < len(tokens) and tokens[end].kind == "close":
                place = end + 1
                continue
        kept.append(tokens[place])
        place += 1
    return kept
