"""Values of expressions, by exact arithmetic, with units and percentages as they are written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from math import isqrt

from moe_bench.checkers.arithmetic.tokens import Token
from moe_bench.checkers.arithmetic.words import STOP

_MOST_WORDS, _LARGEST_EXPONENT, _LARGEST = 5, 64, 10**60


class UnreadableError(ValueError):
    """An expression that has no one reading; the message says why."""


@dataclass(frozen=True)
class Value:
    """What an expression comes to."""

    value: Fraction
    operations: int
    """How many it has; 0 for a bare number."""
    decimals: int
    """Most digits after the point of the numbers in it."""
    percent: bool
    """Whether a percent sign was in it."""
    products: bool
    """Whether it multiplies or divides: then numbers that were rounded before make more than their own error."""
    words: tuple[str, ...]
    """Units and other words beside its numbers."""
    leading: Fraction | None
    """The number it begins with; None where it begins otherwise."""


class Parser:
    """One reading of a row of tokens."""

    def __init__(self, tokens: list[Token], variables: Mapping[str, Fraction], percent: str) -> None:
        """Prepare.

        Args:
            tokens: the whole of them has to be read.
            variables: values of single letters.
            percent: how a percent sign is taken: "hundredth", "plain" (as if it were not there), or "relative" (a - b % as
                a · (1 - b/100)).
        """
        self.tokens, self.variables, self.mode, self.place = tokens, variables, percent, 0
        self.operations = self.decimals = 0
        self.words: list[str] = []
        self.percent = self.last_percent = self.products = False

    def read(self) -> Value:
        """The value.

        Raises:
            UnreadableError: where the tokens are no expression, or one that could mean several things.
        """
        value = self._sum()
        if self.place < len(self.tokens):
            raise UnreadableError(f"{self.tokens[self.place].text!r} was not understood")
        if abs(value) > _LARGEST:
            raise UnreadableError("the number is too large")
        return Value(
            value, self.operations, self.decimals, self.percent, self.products, tuple(self.words), self._leading()
        )

    def _leading(self) -> Fraction | None:
        first = self.tokens[0] if self.tokens and self.tokens[0].kind == "number" else None
        return first.value if first is not None else None

    def _peek(self, ahead: int = 0) -> Token | None:
        place = self.place + ahead
        return self.tokens[place] if place < len(self.tokens) else None

    def _take(self, kind: str, *texts: str) -> Token | None:
        token = self._peek()
        if token is not None and token.kind == kind and (not texts or token.text.lower() in texts):
            self.place += 1
            return token
        return None

    def _sum(self) -> Fraction:
        value = self._product()
        while sign := self._take("operator", "+", "-"):
            self.operations += 1
            self.last_percent = False
            right = self._product()
            if self.mode == "relative" and self.last_percent:
                right *= value
            value = value + right if sign.text == "+" else value - right
        return value

    def _product(self) -> Fraction:
        value, divided = self._signed(), False
        while True:
            self.last_percent = self.last_percent and self._peek() is None
            if sign := self._take("operator", "*", "/"):
                self.operations += 1
                self.products = True
                right = self._signed()
                if sign.text == "/" and right == 0:
                    raise UnreadableError("a division by zero")
                value, divided = (value / right, True) if sign.text == "/" else (value * right, divided)
            elif self._follows_of():
                self.place += 1
                self.operations += 1
                value *= self._signed()
            elif self._follows_bracket():
                if divided:
                    raise UnreadableError("a product without a sign after a division can be read in two ways")
                self.operations += 1
                value *= self._power()
            else:
                return value

    def _follows_of(self) -> bool:
        """Whether "of" multiplies, which it does after a fraction or a percentage."""
        token, before = self._peek(), self.tokens[self.place - 1] if self.place else None
        if token is None or token.kind != "word" or token.text.lower() != "of" or before is None:
            return False
        fraction = self.place > 1 and self.tokens[self.place - 2].text == "/"
        return (
            before.kind in ("percent", "close")
            or fraction
            or (before.kind == "number" and before.value.denominator > 1)
        )

    def _follows_bracket(self) -> bool:
        token, before = self._peek(), self.tokens[self.place - 1] if self.place else None
        return (
            token is not None and before is not None and token.kind == "open" and token.text == "("
            and before.kind in ("number", "close") and before.text != "}"
        )  # fmt: skip

    def _signed(self) -> Fraction:
        if sign := self._take("operator", "-", "+"):
            value = self._signed()
            return -value if sign.text == "-" else value
        return self._power()

    def _power(self) -> Fraction:
        base = self._atom()
        if not self._take("operator", "^"):
            return base
        self.operations += 1
        exponent = self._signed()
        if exponent.denominator != 1 or abs(exponent) > _LARGEST_EXPONENT or (base == 0 and exponent < 0):
            raise UnreadableError("a power that is not exact")
        return Fraction(base) ** int(exponent)

    def _atom(self) -> Fraction:
        token = self._peek()
        if token is None:
            raise UnreadableError("it ends in an operation")
        self.place += 1
        if token.kind == "number":
            self.decimals = max(self.decimals, token.decimals)
            return self._after(self._mixed(token))
        if token.kind == "open":
            value = self._sum()
            if not self._take("close"):
                raise UnreadableError("a bracket is not closed")
            return self._after(value)
        if token.kind == "fraction":
            self.operations += 1
            above, below = self._group(), self._group()
            if below == 0:
                raise UnreadableError("a division by zero")
            return self._after(above / below)
        if token.kind == "root":
            self.operations += 1
            return self._root(self._group())
        if token.kind == "word" and token.text in self.variables:
            return self.variables[token.text]
        raise UnreadableError(f"{token.text!r} is no number")

    def _mixed(self, token: Token) -> Fraction:
        r"""2 1/2, 2½ and 2\frac{1}{2} are sums."""
        following = self._peek()
        if following is None or token.value.denominator != 1 or token.decimals:
            return token.value
        if following.kind == "number" and following.value.denominator > 1 and not following.decimals:
            self.place += 1
            return token.value + following.value
        slash, below = self._peek(1), self._peek(2)
        if slash is not None and slash.text == "/" and below is not None and below.kind == "number":
            proper = 0 < following.value < below.value and below.value.denominator == 1
            if following.kind == "number" and proper:
                self.place += 3
                return token.value + following.value / below.value
        if following.kind == "fraction" and following.glued:
            self.place += 1
            return token.value + self._group() / self._group()
        if following.kind == "number":
            raise UnreadableError("two numbers stand side by side")
        return token.value

    def _group(self) -> Fraction:
        if self._take("open"):
            value = self._sum()
            if not self._take("close"):
                raise UnreadableError("a bracket is not closed")
            return value
        token = self._take("number")
        if token is None:
            raise UnreadableError("a fraction or root without its numbers")
        if len(token.text) == 2 and self.tokens[self.place - 2].kind == "fraction":  # \frac12
            raise UnreadableError("a fraction without brackets")
        return token.value

    def _root(self, value: Fraction) -> Fraction:
        above, below = isqrt(abs(value.numerator)), isqrt(value.denominator)
        if value < 0 or above * above != value.numerator or below * below != value.denominator:
            raise UnreadableError("a root that is not exact")
        return Fraction(above, below)

    def _after(self, value: Fraction) -> Fraction:
        """A percent sign, and units."""
        if self._take("percent"):
            self.percent = self.last_percent = True
            value = value if self.mode == "plain" else value / 100
        taken = 0
        while taken < _MOST_WORDS and (token := self._peek()) is not None:
            if token.kind == "operator" and token.text == "/" and self._is_word(1):
                self.place += 1  # dollars/hour
                continue
            if token.kind != "word" or not self._is_word(0):
                break
            if token.text in self.variables or not is_unit(token):
                raise UnreadableError(f"{token.text!r} may stand for a number that is not known")
            self.words.append(token.text.lower())
            self.place += 1
            taken += 1
        return value

    def _is_word(self, ahead: int) -> bool:
        token = self._peek(ahead)
        return token is not None and token.kind == "word" and token.text.lower() not in STOP


def is_unit(token: Token) -> bool:
    """Whether a word beside a number can be no letter or function of mathematics."""
    text = token.text
    if text == "a":
        return not token.glued
    return len(text) > (2 if token.glued else 1) and text.isascii() and text.replace("'", "").isalpha()


MODES = ("hundredth", "plain", "relative")


def readings(tokens: list[Token], variables: Mapping[str, Fraction]) -> list[Value]:
    """Every value the tokens may have: one, or as many as percent signs can be taken.

    Raises:
        UnreadableError: where they have none.
    """
    first = Parser(tokens, variables, MODES[0]).read()
    if (grouped := _fraction_last(tokens)) is not None:
        return [first, *readings(grouped, variables)]
    if not first.percent:
        return [first]
    return list({v.value: v for v in (first, *(Parser(tokens, variables, mode).read() for mode in MODES[1:]))}.values())


def _fraction_last(tokens: list[Token]) -> list[Token] | None:
    """A / b/c with b/c as one fraction, which is what it is often written for; None where there is no such place."""
    for place in range(len(tokens) - 4):
        kinds = [t.kind for t in tokens[place + 1 : place + 5]]
        slashes = [tokens[place + 1].text, tokens[place + 3].text]
        if kinds == ["operator", "number", "operator", "number"] and slashes == ["/", "/"]:
            begin, end = tokens[place + 2], tokens[place + 4]
            inside = tokens[place + 2 : place + 5]
            bracket = (Token("open", "(", begin.begin, begin.begin), Token("close", ")", end.end, end.end))
            return [*tokens[: place + 2], bracket[0], *inside, bracket[1], *tokens[place + 5 :]]
    return None
