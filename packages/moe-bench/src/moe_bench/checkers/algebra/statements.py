"""The equations and inequalities that a text asserts, and where the scope of what it asserts ends.

A text supposes as well as it asserts: "if x = 3", "case 2: x < 0", "try n = 4". What is said under a supposition holds only there,
and seldom is it said where that ends. So a supposition opens a new scope, and only statements of one scope are held against each
other, and against what the problem gives.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from moe_bench.checkers.algebra.notation import Token, mathematical_runs, tokenize
from moe_bench.checkers.algebra.parser import UnreadableError, parse
from moe_bench.checkers.algebra.polynomials import Polynomial
from moe_bench.checkers.algebra.system import Relation

_SENTENCE = re.compile(r"(?<=[.;?!])\s+|\n+|(?<=\S)\\\\(?=\s)")
SUPPOSES = re.compile(
    r"\b(?:if|suppos\w*|cases?|whenever|when|try|tries|trying|tried|test|tests|testing|tested|check|checking|plug\w*|"
    r"guess\w*|consider\w*|either|otherwise|unless|or|"
    r"would|could|might|may|possib\w*|imagin\w*|hypothe\w*|attempt\w*|option\w*|scenario|choosing|pick\w*|"
    r"respectively|letting|setting|plus or minus)\b|"
    r"\b(?:for|at)\s+[$\\(]*[a-zA-Z](?:_\w+)?\s*=|\\pm|±|\?|\\(?:text\s*\{\s*)?or\b|\\equiv|\\pmod|\\bmod|\bmod\b",
    re.I,
)
"""Words after which what is said may not hold for the whole of the solution."""
_WANTED = re.compile(
    r"\b(?:want|wants|need|needs|must|should|find|set|setting|whether|so that|such that|for|at)\b", re.I
)
_DENIED = re.compile(r"\b(?:not|no|never|cannot|neither|nor|impossible|false|untrue)\b|n['’]t\b", re.I)
"""Words after which an equation in the same sentence is a wish, a condition or a choice, not an assertion."""


_LONGEST = 3000
"""Characters of a sentence; longer ones are no sentences, and are not read."""
_DEFINES = re.compile(r"\b(?:let|lets|let['’]s|define|denote|call|redefine)\b", re.I)
_INSTEAD = re.compile(r"\b(?:instead of|rather than|unlike|except)\s+[$\\(]*$", re.I)


_NUMBERED = re.compile(
    r"(?:section|step|case|part|equation|problem|option|question|chapter|row|column|line|figure|day|week|month|year|room|group|box|bag|"
    r"class|grade|level|phase|stage|round|set|team|train|bus|lane|floor|number|no|player|person|child|pile|shelf|store|shop|car|tank)",
    re.I,
)
"""Words that are told apart by a number after them."""


_ADJACENT = re.compile(r"(?<![A-Za-z\\])[A-Za-z]{2}(?![A-Za-z])")
"""Two letters side by side, which are digits side by side in a problem on digits."""


@dataclass(frozen=True, kw_only=True)
class Sentence:
    """One sentence of a step."""

    step: int
    begin: int
    text: str
    opens_scope: bool
    """Whether something is supposed in it, so that what follows may hold under a supposition."""
    relations: tuple[Relation, ...]
    """What it asserts as mathematics, as far as that can be read."""


def word_set(text: str) -> frozenset[str]:
    """The words of a text."""
    return frozenset(text.split())


def functions_of(texts: Sequence[str]) -> frozenset[str]:
    """Letters that texts use as functions: f, g, h, and others that are applied to one variable: P(x)."""
    applied = re.findall(r"(?<![A-Za-z\\])([A-Za-z])\(([a-z])\)", " ".join(texts))
    return frozenset({"f", "g", "h"} | {name for name, argument in applied if name != argument and name not in "xyn"})


def bound_variables(texts: Sequence[str]) -> frozenset[str]:
    """Letters that have no one value alone: the x of f(x), a function's name by itself, the k of a sum."""
    together = " ".join(texts)
    functions = functions_of(texts)
    applied = [(f, x) for f, x in re.findall(r"(?<![A-Za-z\\])([A-Za-z])\(([a-z])\)", together) if f in functions]
    summed = re.findall(r"\\(?:sum|prod|int|lim)\w*_\{?\s*([a-z])", together)
    names = re.findall(r"(?<![A-Za-z\\])([fgh])\(", together)
    return frozenset({*summed, *names, *(name for pair in applied for name in pair)})


def multiplication_sign(texts: Sequence[str]) -> frozenset[str]:
    """x, where texts write products with it ("5 x 6"); else nothing."""
    return frozenset("x" if re.search(r"\d\s*x\s*\(?\$?\d|[a-z]\sx\s\(", " ".join(texts)) else "")


def symbols_of(texts: Sequence[str]) -> frozenset[str]:
    """Single letters that stand in mathematics in the texts."""
    known = set[str]()
    for text in texts:
        tokens = tokenize(text)
        known |= {t.text for t in tokens if t.kind == "letter" and t.in_math}
        for run in mathematical_runs(tokens, ()):
            known |= {t.text for t in run if t.kind == "letter"}
    return frozenset(known)


class Reading:
    """How the letters of one text are to be read, and the sentences of its parts read so."""

    def __init__(self, problem: str, steps: Sequence[str]) -> None:
        texts = [problem, *steps]
        self.functions, self.known = functions_of(texts), symbols_of(texts)
        self._bound = bound_variables(texts)
        self._digits = "digit" in problem
        self.unclear = set(multiplication_sign(texts))
        """Symbols whose statements are not used; a reader may add to them."""

    def sentences(self, text: str, step: int) -> Iterator[Sentence]:
        """The sentences of a part of the text, up to the program of a figure."""
        return sentences_of(text.partition("[asy]")[0], step, self.functions, self.known)

    def readable(self, sentence: Sentence) -> Iterator[Relation]:
        """The relations of a sentence whose symbols have one meaning, and that are not of numbers alone."""
        for relation in sentence.relations:
            names = relation.difference.symbols
            alone = {relation.left.symbol, relation.right.symbol} - {None}
            if names & self.unclear or alone & self._bound or (self._digits and _ADJACENT.search(relation.text)):
                continue
            if names or relation.left.value is None or relation.right.value is None:
                yield relation


def split_sentences(text: str, step: int) -> Iterator[tuple[int, str, int]]:
    """Step, text and place of every sentence of a text."""
    begin = 0
    for cut in [*_SENTENCE.finditer(text), None]:
        end = cut.start() if cut else len(text)
        if text[begin:end].strip():
            yield step, text[begin:end], begin
        begin = cut.end() if cut else end


def sentences_of(text: str, step: int, functions: Collection[str], known: Collection[str]) -> Iterator[Sentence]:
    """The sentences of a text, each with the relations that can be read in it."""
    for _, part, begin in split_sentences(text, step):
        relations = tuple(_relations(part, begin, step, functions, known))
        yield Sentence(step=step, begin=begin, text=part, opens_scope=bool(SUPPOSES.search(part)), relations=relations)


def _relations(
    part: str, offset: int, step: int, functions: Collection[str], known: Collection[str]
) -> Iterator[Relation]:
    if _DENIED.search(part) or len(part) > _LONGEST:
        return
    tokens = tokenize(part)
    for run in mathematical_runs(tokens, known):
        places = [i for i, t in enumerate(run) if t.kind == "relation"]
        if len(places) > 1 and len({run[i].text[0] for i in places} & {"<", ">"}) > 1:
            continue
        sides: list[tuple[Polynomial | None, list[Token]]] = []
        for a, b in zip([-1, *places], [*places, len(run)], strict=True):
            piece = run[a + 1 : b]
            sides.append((_read(piece, functions), piece))
        for k, place in enumerate(places):
            (left, before), (right, after) = sides[k], sides[k + 1]
            if left is None or right is None or _WANTED.search(part[: before[0].begin]):
                continue
            if _INSTEAD.search(part[: before[0].begin]) or _continues(part, tokens, before, after):
                continue
            begin, end = before[0].begin, after[-1].end
            rounded = run[place].text == "~" or any(t.kind == "number" and "." in t.text for t in [*before, *after])
            yield Relation(
                left=left,
                relation=run[place].text,
                right=right,
                rounded=rounded,
                step=step,
                span=(offset + begin, offset + end),
                text=part[begin:end],
                defines=_DEFINES.search(part[:begin]) is not None,
            )


def _read(piece: Sequence[Token], functions: Collection[str]) -> Polynomial | None:
    try:
        return parse(piece, functions) if piece else None
    except UnreadableError:
        return None


def _continues(part: str, tokens: Sequence[Token], before: Sequence[Token], after: Sequence[Token]) -> bool:
    """Whether the expression goes on in something that was not read, as in "x = 3 dozen", "x = 2, 5", "total x = 3"."""
    if re.match(r"\s*(?:\.\.|…|\.\\|\\dots|\\ldots|\\cdots|%|\\%)", part[after[-1].end :]):
        return True
    later = next((t for t in tokens if t.begin >= after[-1].end and t.kind != "edge"), None)
    if (
        later is not None
        and later.kind in {"command", "named", "frac", "sqrt", "other", "ordinal"}
        and later.text not in ".;:?!"
    ):
        return True
    if later is not None and later.kind == "comma":
        follow = next((t for t in tokens if t.begin >= later.end and t.kind != "edge"), None)
        if follow is not None and follow.kind in {"number", "operator", "command"}:
            return True
    if _is_label(tokens, before):
        return True
    earlier = next((t for t in reversed(tokens) if t.end <= before[0].begin and t.kind != "edge"), None)
    return (
        earlier is not None
        and earlier.kind in {"command", "named", "other", "ordinal", "operator", "comma"}
        and (earlier.kind != "comma" or not _complete(tokens, earlier))
        and earlier.text not in ".;:?!"
    )


def _is_label(tokens: Sequence[Token], before: Sequence[Token]) -> bool:
    """Whether a number belongs to the word before it: "section 2 = x + 200"."""
    if len(before) != 1 or before[0].kind != "number":
        return False
    earlier = next((t for t in reversed(tokens) if t.end <= before[0].begin), None)
    return earlier is not None and _NUMBERED.fullmatch(earlier.text) is not None


def _complete(tokens: Sequence[Token], comma: Token) -> bool:
    """Whether a comma ends a relation or words, and so does not stand in a list such as "a, b = 3"."""
    previous = [t for t in tokens if t.end <= comma.begin]
    for token in reversed(previous):
        if token.kind in {"relation", "word"}:
            return True
        if token.kind in {"comma", "command", "named"}:
            return False
    return True
