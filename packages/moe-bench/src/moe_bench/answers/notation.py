"""One way of writing for what is written in many: LaTeX, Unicode and plain text of the same answer."""

from __future__ import annotations

import re

_CURRENCY = re.compile(r"[$€£]")
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?:\D|$))")

_CHARACTERS = str.maketrans(
    {
        "−": "-", "–": "-", "‑": "-", "×": "*", "·": "*", "⋅": "*", "÷": "/", "⁄": "/", "≤": "<=", "≥": ">=", "≠": "!=",
        "\u00a0": " ", "\u2009": " ", "\u202f": " ", "∞": r"\infty ", "∪": r"\cup ", "π": r"\pi ", "’": "'", "“": '"', "”": '"',
        "½": " 1/2", "⅓": " 1/3", "⅔": " 2/3", "¼": " 1/4", "¾": " 3/4", "⅕": " 1/5", "⅛": " 1/8", "⅜": " 3/8", "⅝": " 5/8", "⅞": " 7/8",
    }
)  # fmt: skip
_DROPPED = re.compile(r"\\(?:left|right|[bB]igg?[lrm]?|displaystyle|textstyle|limits)(?![A-Za-z])|\\[!]|\{,\}(?=\d)")
_SPACES = re.compile(r"\\[,;:> ]|\\q?quad(?![A-Za-z])|~")
_WORDS = re.compile(
    r"\\(?:text(?:bf|it|rm|sf|tt|normal)?|mathrm|mathbf|mathit|mathsf|mbox|textup|operatorname\*?)\s*\{([^{}]*)\}"
)
_DEGREES = re.compile(r"\^\s*\{?\s*\\circ\s*\}?|\\degree(?![A-Za-z])|\s*°")
_MATH_MARKS = re.compile(r"\$\$?|\\\(|\\\)|\\\[|\\\]")
_SIMPLE_COMMANDS = (
    (re.compile(r"\\[dtc]frac(?![A-Za-z])"), r"\\frac"),
    (re.compile(r"\\(?:times|cdot|ast)(?![A-Za-z])"), "*"),
    (re.compile(r"\\div(?![A-Za-z])"), "/"),
    (re.compile(r"\\(?:leq?|leqslant)(?![A-Za-z])"), "<="),
    (re.compile(r"\\(?:geq?|geqslant)(?![A-Za-z])"), ">="),
    (re.compile(r"\\(?:neq?)(?![A-Za-z])"), "!="),
    (re.compile(r"\\lt(?![A-Za-z])"), "<"),
    (re.compile(r"\\gt(?![A-Za-z])"), ">"),
    (re.compile(r"\\\{"), "{"),
    (re.compile(r"\\\}"), "}"),
    (re.compile(r"\\%"), "%"),
)
_FRACTION_SHORT = re.compile(r"\\frac\s*(\d|\{[^{}]*\})\s*(\d|\{[^{}]*\})")
_BEFORE_DOLLAR = re.compile(r"\\\$")


def normalise(answer: str) -> str:
    """The answer without what does not matter: case, outer white space and punctuation, currency, thousands separators."""
    text = answer.strip().strip("*\"'`").rstrip(".!").strip().casefold()
    text = _CURRENCY.sub("", text)
    text = _THOUSANDS.sub("", text)
    return re.sub(r"\s+", " ", text).strip()


def unboxed(text: str) -> str:
    r"""The text with every whole `\boxed{...}` replaced by what is in it."""
    while (found := last_boxed(text)) is not None:
        text = text[: found.begin] + found.content + text[found.end :]
    return text


class Boxed:
    r"""A `\boxed{...}` in a text: its content, and where it begins and ends."""

    __slots__ = ("begin", "content", "end")

    def __init__(self, content: str, begin: int, end: int) -> None:
        self.content, self.begin, self.end = content, begin, end


# "\beginboxed", "\fbox" and a space before the brace are slips that models make.
_BOX = re.compile(r"\\(?:begin)?(?:boxed|fbox)\s*\{")


def last_boxed(text: str, before: int | None = None) -> Boxed | None:
    """The last box that is closed and begins before a position; None where there is none."""
    for opening in reversed(list(_BOX.finditer(text, 0, len(text) if before is None else before))):
        depth = 1
        for position in range(opening.end(), len(text)):
            if text[position] in "{}" and text[position - 1] != "\\":
                depth += 1 if text[position] == "{" else -1
            if depth == 0:
                return Boxed(text[opening.end() : position].strip(), opening.start(), position + 1)
    return None


def tidy(answer: str) -> str:
    r"""The answer in one notation: no LaTeX spacing, text commands or math marks, fractions as `\frac{a}{b}`, ASCII signs.

    Case is kept. What is structure (braces of sets, `\cup`, matrices, radicals) stays.
    """
    text = unboxed(answer.strip())
    text = text.strip().strip("*\"'`").strip()
    text = _BEFORE_DOLLAR.sub("¤", text)  # an escaped dollar is money, any other may be a math mark
    text = text.translate(_CHARACTERS)
    text = _DROPPED.sub(lambda m: "," if m[0] == "{,}" else "", text)
    text = _SPACES.sub(" ", text)
    text = _WORDS.sub(r" \1 ", text)
    text = _DEGREES.sub(" degrees", text)
    if text.count("$") != 1 or re.fullmatch(r"\$[^\d.\s-].*|.*\$", text, re.DOTALL):
        text = _MATH_MARKS.sub("", text)
    else:  # one dollar before a number is money
        text = re.sub(r"\\[()\[\]]", "", text)
    text = text.replace("¤", "$")
    for pattern, replacement in _SIMPLE_COMMANDS:
        text = pattern.sub(replacement, text)
    text = _FRACTION_SHORT.sub(_braced_fraction, text)
    return re.sub(r"\s+", " ", text).strip().rstrip(".!").strip()


def _braced_fraction(match: re.Match[str]) -> str:
    above, below = (part if part.startswith("{") else "{" + part + "}" for part in match.groups())
    return rf"\frac{above}{below}"


_CALCULATOR = (
    (re.compile(r"\*\*"), "^"),
    (re.compile(r"(?<![\\A-Za-z])(pi|infinity|inf|oo)(?![A-Za-z])"), lambda m: r"\pi " if m[1] == "pi" else r"\infty "),
    (re.compile(r"(?<![\\A-Za-z])(sin|cos|tan|log|ln|exp)(?=\()"), lambda m: "\\" + m[1]),
)


def as_latex(text: str) -> str:
    r"""Calculator notation in LaTeX: `sqrt(x)` as `\sqrt{x}`, `x**(1/2)` as `x^{1/2}`, `pi` as `\pi`; the rest as it is."""
    for pattern, replacement in _CALCULATOR:
        text = pattern.sub(replacement, text)
    for opening, latex in (("sqrt(", r"\sqrt{"), ("^(", "^{")):
        begin = text.find(opening)
        while begin >= 0:
            end = _closing(text, begin + len(opening))
            if end is None or (begin and text[begin - 1] == "\\"):
                break
            text = text[:begin] + latex + text[begin + len(opening) : end] + "}" + text[end + 1 :]
            begin = text.find(opening, begin + len(latex))
    return text


def _closing(text: str, position: int) -> int | None:
    depth = 1
    for place in range(position, len(text)):
        depth += (text[place] == "(") - (text[place] == ")")
        if depth == 0:
            return place
    return None


def looks_mathematical(text: str) -> bool:
    """Whether a text has signs of an expression: a LaTeX command, a power, a relation, or an operator beside a digit or bracket."""
    return bool(
        re.search(
            r"\\[A-Za-z]+|\^|[=<>]|sqrt|[\d)\]a-z]\s*[-+*/]\s*[\d(\[a-z]|\d\s*!|(?<![A-Za-z])\d+[a-z](?![A-Za-z])|\w_\{?\d|^[([{].*,.*[)\]}]$",
            tidy(text),
        )
    )
