"""From tokens to polynomials: a reader by recursive descent that refuses what has several readings."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from fractions import Fraction

from moe_bench.checkers.algebra.notation import Token
from moe_bench.checkers.algebra.polynomials import Polynomial, TooLargeError, number, power, quotient, symbol, term


class UnreadableError(ValueError):
    """Text that is not an expression this module can read."""


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
