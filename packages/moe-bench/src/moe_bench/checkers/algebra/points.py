"""Polynomials at points: whether two sides are the same everywhere, and where they are not though all that is known holds.

Sides that agree at random points are the same but for a chance that is nil (Schwartz 1980, doi:10.1145/322217.322225); sides that
differ at a point at which all known equations hold do not follow from them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial

import numpy as np
from scipy.optimize import least_squares

from moe_bench.checkers.algebra.polynomials import Atom, Polynomial

_POINTS = 4
_SAME = 1e-8
"""Relative difference that is put down to floating point."""
_STARTS = 12
_SOLVED = 1e-10
_MOST = 12
"""Unknowns of equations that are solved together; with more it takes too long."""
_SEED = 20240611

Point = Mapping[str, complex]
"""Values by symbol, and by the canonical form of what cannot be worked out, as f(x)."""


class UnevaluatedError(ValueError):
    """An expression without a value that can be relied on."""


def is_identity(left: Polynomial, right: Polynomial) -> bool:
    """Whether two sides are the same whatever the symbols are.

    Raises:
        UnevaluatedError: they cannot be evaluated.
    """
    if not (left - right).terms:
        return True
    names = unknowns([left, right])
    draw = np.random.default_rng(_SEED)
    points = (dict(zip(names, draw.uniform(-2.5, 2.5, len(names)).tolist(), strict=True)) for _ in range(_POINTS))
    return all(_agree(left, right, point, floor=1.0) for point in points)


def counterexample(left: Polynomial, right: Polynomial, given: Sequence[Polynomial]) -> Point | None:
    """A point at which all that is given vanishes and two sides differ; None where they agree at such a point, or none is found.

    None too where a root or an absolute value may be of either sign, as √((x - 3)²): which is meant, the text around it decides.

    Args:
        left: one side.
        right: the other.
        given: left minus right of every equation that is known.

    Returns:
        The values of what stands in the sides.

    Raises:
        UnevaluatedError: something in them cannot be evaluated.
    """
    if any(_is_branched(atom) for form in (left, right) for atom in _atoms(form)):
        return None
    names = unknowns([left, right])
    related = _related(names, given)
    together = unknowns([left, right, *related])
    if related and len(together) > _MOST:
        return None
    points = list(_solutions(together, related) if related else _positive(names))
    differ = [not _agree(left, right, point, floor=100.0 if related else 0.0) for point in points]
    real = [
        p for p, differs in zip(points, differ, strict=True) if differs and all(abs(v.imag) < _SAME for v in p.values())
    ]
    if not real or (related and not all(differ)) or sum(differ) < 2:
        return None
    return {name: real[0][name] for name in names}


def value_at(form: Polynomial, point: Point) -> complex:
    """The value of a polynomial at a point.

    Raises:
        UnevaluatedError: a division by zero, an overflow, or an angle that may be in degrees.
    """
    total = 0j
    try:
        for monomial, coefficient in form.terms:
            product = complex(float(coefficient))
            for atom, power in monomial:
                product *= _atom_at(atom, point) ** power
            total += product
    except (ZeroDivisionError, OverflowError, ValueError) as error:
        raise UnevaluatedError(str(error)) from error
    if not (math.isfinite(total.real) and math.isfinite(total.imag)):
        raise UnevaluatedError("not finite")
    return total


def unknowns(forms: Sequence[Polynomial]) -> list[str]:
    """What a point needs values of."""
    return sorted(
        {name for form in forms for monomial, _ in form.terms for atom, _ in monomial for name in _unknowns_of(atom)}
    )


def _unknowns_of(atom: Atom) -> Iterator[str]:
    if atom.kind in _FUNCTIONS and atom.arguments:
        yield from unknowns(atom.arguments)
    elif atom.kind != "pi":
        yield atom.text


_FUNCTIONS: Mapping[str, Callable[..., complex]] = {
    "inverse": lambda x: 1 / x,
    "sqrt": np.sqrt,
    "abs": abs,
    "ln": np.log,
    "sin": np.sin,
    "cos": np.cos,
    "tan": np.tan,
    "power": lambda x, y: x**y,
    "root": lambda x, y: x ** (1 / y),
}


def _atom_at(atom: Atom, point: Point) -> complex:
    if not atom.arguments or atom.kind not in _FUNCTIONS:
        return complex(math.pi) if atom.kind == "pi" else complex(point[atom.text])
    if atom.kind in {"sin", "cos", "tan"} and any(m == () for m, _ in atom.arguments[0].terms):
        raise UnevaluatedError("an angle in degrees or radians")
    with np.errstate(all="raise"):
        try:
            return complex(_FUNCTIONS[atom.kind](*(value_at(a, point) for a in atom.arguments)))
        except FloatingPointError as error:
            raise UnevaluatedError(str(error)) from error


def _agree(left: Polynomial, right: Polynomial, point: Point, *, floor: float) -> bool:
    a, b = value_at(left, point), value_at(right, point)
    return abs(a - b) <= _SAME * (abs(a) + abs(b) + floor)


def _is_branched(atom: Atom) -> bool:
    """Whether it may stand for one of two values: |x - 3|, √(x²), but not √(2x), which only positive x have."""
    if atom.kind not in {"abs", "sqrt", "root", "power"} or not atom.arguments or atom.arguments[0].value is not None:
        return False
    terms = atom.arguments[0].terms
    return atom.kind == "abs" or len(terms) > 1 or any(power % 2 == 0 for monomial, _ in terms for _, power in monomial)


def _atoms(form: Polynomial) -> Iterator[Atom]:
    for monomial, _ in form.terms:
        for atom, _ in monomial:
            yield atom
            for argument in atom.arguments:
                yield from _atoms(argument)


def _related(names: Sequence[str], given: Sequence[Polynomial]) -> list[Polynomial]:
    """What is given on these unknowns, or on others that are given together with them."""
    reached, related = set(names), list[Polynomial]()
    while True:
        more = [form for form in given if form not in related and reached & set(unknowns([form]))]
        if not more:
            return related
        related += more
        reached |= set(unknowns(more))


def _positive(names: Sequence[str]) -> Iterator[Point]:
    """Small whole numbers, then any."""
    draw = np.random.default_rng(_SEED)
    for start in range(_POINTS):
        yield {name: complex(i + start + 2) for i, name in enumerate(names)}
    for _ in range(_POINTS):
        yield dict(zip(names, draw.uniform(0.3, 2.5, len(names)).astype(complex).tolist(), strict=True))


def _solutions(names: Sequence[str], given: Sequence[Polynomial]) -> Iterator[Point]:
    """Points at which everything given vanishes, from real and then from complex starts."""
    draw = np.random.default_rng(_SEED)
    for start in range(_STARTS):
        real = draw.uniform(0.3, 4, len(names))
        imaginary = draw.uniform(-2, 2, len(names)) if start >= _STARTS // 2 else np.zeros(len(names))
        begin = np.concatenate([real, imaginary])
        try:
            solved = least_squares(
                partial(_residual, names, given), begin, xtol=1e-15, ftol=1e-15, gtol=1e-15, max_nfev=200
            )
        except UnevaluatedError:
            continue
        if float(np.max(np.abs(solved.fun))) < _SOLVED:
            yield _point(names, solved.x)


def _residual(names: Sequence[str], given: Sequence[Polynomial], x: np.ndarray) -> np.ndarray:
    point = _point(names, x)
    values = np.array([value_at(form, point) for form in given])
    return np.concatenate([values.real, values.imag])


def _point(names: Sequence[str], x: np.ndarray) -> Point:
    """Real parts, then imaginary ones."""
    return dict(zip(names, (x[: len(names)] + 1j * x[len(names) :]).tolist(), strict=True))
