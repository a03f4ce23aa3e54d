"""Exact polynomials whose unknowns may be anything: symbols, or terms such as f(2), √x, 1/(x + 1) that are taken as they stand.

Two terms are the same unknown where their canonical forms are. So what follows from equations by linear combination follows in
truth; what would need more (√(x²) = |x|) is not drawn, and nothing is ever wrongly drawn.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property

_TERMS = 60
_BITS = 512
_POWER = 12


class TooLargeError(ValueError):
    """An expression that grows beyond what is worth following."""


@dataclass(frozen=True)
class Atom:
    """An unknown: a symbol (kind is its name, no arguments), or a term of polynomials (kind is the function's name)."""

    kind: str
    arguments: tuple[Polynomial, ...] = ()

    @cached_property
    def text(self) -> str:
        """Canonical form; equal where the atoms are the same unknown."""
        return f"{self.kind}({', '.join(a.text for a in self.arguments)})" if self.arguments else self.kind

    @cached_property
    def value(self) -> float | None:
        """Its value where it is a constant such as √2 or π."""
        if not self.arguments:
            return math.pi if self.kind == "pi" else None
        values = [a.value for a in self.arguments]
        if any(v is None for v in values):
            return None
        return _evaluate(self.kind, [v for v in values if v is not None])

    @cached_property
    def symbols(self) -> frozenset[str]:
        """Names of the symbols in it; f(x) holds x, not f."""
        if not self.arguments:
            return frozenset[str]() if self.kind == "pi" else frozenset({self.kind})
        return frozenset[str]().union(*(a.symbols for a in self.arguments))


FUNCTIONS = frozenset({"inverse", "abs", "factorial", "sqrt", "power", "root", "sin", "cos", "tan", "ln"})
"""Kinds of atom whose meaning is fixed; any other with arguments is a function that a text names."""

Monomial = tuple[tuple[Atom, int], ...]
"""Atoms with their positive powers, by canonical form; () is the constant."""


@dataclass(frozen=True)
class Polynomial:
    """A sum of monomials with rational coefficients."""

    terms: tuple[tuple[Monomial, Fraction], ...]

    @cached_property
    def text(self) -> str:
        """Canonical form."""
        return " + ".join(f"{c}{''.join(f'*{a.text}^{n}' for a, n in m)}" for m, c in self.terms) or "0"

    @cached_property
    def constant(self) -> Fraction | None:
        """Its value where it is a rational number."""
        if not self.terms:
            return Fraction(0)
        return self.terms[0][1] if len(self.terms) == 1 and self.terms[0][0] == () else None

    @cached_property
    def value(self) -> float | None:
        """Its value where it has no unknowns, in floating point; None where it has some."""
        total = 0.0
        for monomial, coefficient in self.terms:
            product = float(coefficient)
            for atom, power in monomial:
                if atom.value is None:
                    return None
                try:
                    product *= atom.value**power
                except OverflowError:
                    return None
            total += product
        return total if math.isfinite(total) else None

    @cached_property
    def magnitude(self) -> float:
        """Sum of the sizes of its constant terms: what rounding errors of `value` are measured by."""
        return sum(abs(Polynomial(((m, c),)).value or 0.0) for m, c in self.terms)

    @cached_property
    def symbols(self) -> frozenset[str]:
        """Names of all symbols in it."""
        return frozenset[str]().union(*(a.symbols for m, _ in self.terms for a, _ in m))

    @cached_property
    def symbol(self) -> str | None:
        """The name, where it is a symbol alone."""
        if len(self.terms) != 1 or self.terms[0][1] != 1 or len(self.terms[0][0]) != 1:
            return None
        (atom, power) = self.terms[0][0][0]
        return atom.kind if power == 1 and not atom.arguments and atom.value is None else None

    def __add__(self, other: Polynomial) -> Polynomial:
        total = dict(self.terms)
        for monomial, coefficient in other.terms:
            total[monomial] = total.get(monomial, Fraction(0)) + coefficient
        return polynomial(total)

    def __sub__(self, other: Polynomial) -> Polynomial:
        return self + other.scaled(Fraction(-1))

    def __mul__(self, other: Polynomial) -> Polynomial:
        total: dict[Monomial, Fraction] = {}
        for m, c in self.terms:
            for n, d in other.terms:
                key = _product(m, n)
                total[key] = total.get(key, Fraction(0)) + c * d
        return polynomial(total)

    def scaled(self, factor: Fraction) -> Polynomial:
        """It, times a number."""
        return polynomial({m: c * factor for m, c in self.terms})

    def substitute(self, values: Mapping[str, Polynomial]) -> Polynomial:
        """It, with symbols replaced.

        Raises:
            TooLargeError: the result is not worth following.
            ZeroDivisionError: a denominator became 0.
        """
        if not self.symbols & values.keys():
            return self
        total = number(0)
        for monomial, coefficient in self.terms:
            product = number(coefficient)
            for atom, count in monomial:
                if atom.arguments:
                    base = term(atom.kind, *(a.substitute(values) for a in atom.arguments))
                else:
                    base = values.get(atom.kind, single(atom))
                product = product * power(base, number(count))
            total = total + product
        return total


def polynomial(terms: Mapping[Monomial, Fraction]) -> Polynomial:
    """Of monomials and their coefficients, in canonical order.

    Raises:
        TooLargeError: too many terms or digits.
    """
    kept = [(m, c) for m, c in terms.items() if c]
    if len(kept) > _TERMS or any(c.numerator.bit_length() + c.denominator.bit_length() > _BITS for _, c in kept):
        raise TooLargeError
    kept.sort(key=lambda pair: [(a.text, n) for a, n in pair[0]])
    return Polynomial(tuple(kept))


def number(value: Fraction | int) -> Polynomial:
    """A constant."""
    return polynomial({(): Fraction(value)})


def symbol(name: str) -> Polynomial:
    """An unknown by name."""
    return single(Atom(name))


def term(kind: str, *arguments: Polynomial) -> Polynomial:
    """A function of polynomials: the number where it is a rational one, else an unknown.

    Raises:
        ZeroDivisionError: 1/0.
        TooLargeError: a factorial or power beyond what is worth following.
    """
    first = arguments[0].constant if arguments else None
    if first is not None and len(arguments) == 1:
        exact = _exact(kind, first)
        if exact is not None:
            return number(exact)
    return single(Atom(kind, arguments))


def power(base: Polynomial, exponent: Polynomial) -> Polynomial:
    """Base to the power of exponent; expanded where that is a small whole number.

    Raises:
        ZeroDivisionError: 0 to a negative power.
        TooLargeError: the result is not worth following.
    """
    n = exponent.constant
    if n is not None and n.denominator == 1:
        if n < 0:
            return term("inverse", power(base, number(-n)))
        fits = _POWER if base.constant is None else _BITS
        if n <= fits and (base.constant is None or base.constant.numerator.bit_length() * n <= _BITS):
            result = number(1)
            for _ in range(int(n)):
                result = result * base
            return result
    if n == Fraction(1, 2):
        return term("sqrt", base)
    return single(Atom("power", (base, exponent)))


def quotient(above: Polynomial, below: Polynomial) -> Polynomial:
    """Above over below.

    Raises:
        ZeroDivisionError: below is 0.
    """
    return above * term("inverse", below)


def single(atom: Atom) -> Polynomial:
    """An atom as a polynomial."""
    return Polynomial(((((atom, 1),), Fraction(1)),))


def _product(m: Monomial, n: Monomial) -> Monomial:
    powers = dict(m)
    for atom, count in n:
        powers[atom] = powers.get(atom, 0) + count
    if any(count > _POWER for count in powers.values()):
        raise TooLargeError
    return tuple(sorted(powers.items(), key=lambda pair: pair[0].text))


def _exact(kind: str, x: Fraction) -> Fraction | None:
    if kind == "inverse":
        return 1 / x
    if kind == "abs":
        return abs(x)
    if kind == "factorial":
        if x.denominator != 1 or not 0 <= x <= 30:
            raise TooLargeError
        return Fraction(math.factorial(int(x)))
    if kind == "sqrt" and x >= 0:
        above, below = math.isqrt(x.numerator), math.isqrt(x.denominator)
        if above**2 == x.numerator and below**2 == x.denominator:
            return Fraction(above, below)
    return None


def _evaluate(kind: str, values: list[float]) -> float | None:
    try:
        match kind:
            case "inverse":
                return 1 / values[0]
            case "abs":
                return abs(values[0])
            case "sqrt":
                return math.sqrt(values[0])
            case "ln":
                return math.log(values[0])
            case "power":
                return float(values[0] ** values[1]) if values[0] >= 0 else None
            case "root":
                return float(values[0] ** (1 / values[1])) if values[0] >= 0 else None
    except (ValueError, ZeroDivisionError, OverflowError):
        return None
    return None  # sines and cosines too: whether of degrees or radians, a text seldom says
