"""Statements that hold together, and the proof when they cannot.

Equations become a linear system over their monomials, with rational numbers; symbols whose value follows are put into the others.
Where 0 = c follows with c not 0, or an inequality that is false, the statements it follows from contradict each other.
"""

from __future__ import annotations

import operator
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from fractions import Fraction

from moe_bench.checkers.algebra.polynomials import Monomial, Polynomial, TooLargeError

_ROUNDS = 3
_MOST = 40
"""Statements that are kept; of more, the oldest of the steps is let go."""
_ROUNDED = 0.02
"""Share of the terms' size that is put down to rounding, where a decimal number or ≈ is among the statements."""
_COMPARE = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}
_TURNED = {"<": ">", "<=": ">=", ">": "<", ">=": "<="}


@dataclass(frozen=True, kw_only=True)
class Relation:
    """left relation right, as it stands in a step."""

    left: Polynomial
    relation: str
    """=, ~ (about), <, <=, >, >= or !=."""
    right: Polynomial
    rounded: bool
    """Whether a decimal number or ≈ is in it."""
    step: int
    """0-based; -1 for the problem."""
    span: tuple[int, int]
    text: str
    """As it is written."""
    defines: bool = False
    """Whether it says what a symbol is to stand for from here on ("let x = 3"), which may be anew."""

    @property
    def difference(self) -> Polynomial:
        """Left - right."""
        return self.left - self.right

    @property
    def symbols(self) -> frozenset[str]:
        """Names of the symbols on either side."""
        return self.left.symbols | self.right.symbols


@dataclass(frozen=True, kw_only=True)
class Conflict:
    """What cannot all be true."""

    relations: frozenset[Relation]


_Values = dict[str, tuple[Polynomial, frozenset[Relation]]]
"""By symbol, what it comes to and the statements that say so."""


@dataclass(kw_only=True)
class _Row:
    form: Polynomial
    pivot: Monomial
    support: frozenset[Relation]


@dataclass
class System:
    """Statements that agree so far."""

    relations: list[Relation] = field(default_factory=list)

    def add(self, relation: Relation) -> Conflict | None:
        """Take a statement in, or tell what it contradicts; then it is not taken in."""
        conflict = _attempt([*self.relations, relation])
        if conflict is not None:
            return self._simplest(relation, conflict)
        self.relations.append(relation)
        if len(self.relations) > _MOST:
            oldest = next((i for i, r in enumerate(self.relations) if r.step >= 0), 0)
            del self.relations[oldest]
        return None

    def _simplest(self, relation: Relation, conflict: Conflict) -> Conflict:
        """The conflict with one statement, the latest there is, where one is enough: it is the easiest to see."""
        if len(conflict.relations) <= 2:
            return conflict
        pairs = (_attempt([other, relation]) for other in reversed(self.relations))
        return next((pair for pair in pairs if pair is not None and relation in pair.relations), conflict)

    def explain(self, relation: Relation) -> frozenset[Relation] | None:
        """The statements that an equation follows from by linear combination, one alone where one is enough; None for none."""
        for known in (*([other] for other in reversed(self.relations)), self.relations):
            support = _follows(relation, known)
            if support is not None:
                return support
        return None

    def forget(self, symbols: Collection[str]) -> None:
        """Leave out all that was said of symbols."""
        self.relations = [r for r in self.relations if not r.difference.symbols & set(symbols)]


def _attempt(relations: Sequence[Relation]) -> Conflict | None:
    """What contradicts what; None also where that is too large to tell."""
    try:
        return _solve(relations)
    except (TooLargeError, ZeroDivisionError):
        return None


def _follows(relation: Relation, known: Sequence[Relation]) -> frozenset[Relation] | None:
    try:
        solved = _rows([r for r in known if r.relation == "="])
        if isinstance(solved, Conflict):
            return None
        form, support = _with_values(relation.difference, frozenset(), solved[1])
        form, support = _reduce(form, support, solved[0])
    except (TooLargeError, ZeroDivisionError):
        return None
    return support if _vanishes(form) and support else None


def _solve(relations: Sequence[Relation]) -> Conflict | None:
    solved = _rows([r for r in relations if r.relation in {"=", "~"}])
    if isinstance(solved, Conflict):
        return solved
    return _check_inequalities([r for r in relations if r.relation not in {"=", "~"}], *solved)


def _rows(equations: Sequence[Relation]) -> tuple[list[_Row], _Values] | Conflict:
    """Equations in echelon form and the symbols whose value follows from them; or what contradicts what."""
    values: _Values = {}
    for _ in range(_ROUNDS):
        rows: list[_Row] = []
        for equation in equations:
            form, support = _with_values(equation.difference, frozenset({equation}), values)
            form, support = _reduce(form, support, rows)
            if _vanishes(form):
                continue
            pivot = _pivot(form)
            if pivot is None:
                if _is_nonzero(form, support):
                    return Conflict(relations=support)
                continue
            rows.append(_Row(form=form.scaled(1 / _coefficient(form, pivot)), pivot=pivot, support=support))
        found = _determined(rows)
        if found.keys() <= values.keys():
            break
        values = {**found, **values}
    return rows, values


def _with_values(
    form: Polynomial, support: frozenset[Relation], values: _Values
) -> tuple[Polynomial, frozenset[Relation]]:
    """Form with known values put in, except into an equation that is the source of one."""
    used = {name: v for name, v in values.items() if name in form.symbols and not support & v[1]}
    if not used:
        return form, support
    put_in = form.substitute({name: v[0] for name, v in used.items()})
    return put_in, support.union(*(v[1] for v in used.values()))


def _reduce(
    form: Polynomial, support: frozenset[Relation], rows: Sequence[_Row]
) -> tuple[Polynomial, frozenset[Relation]]:
    # Rows are in the order they were made: each is free of the pivots before it, not of those after it, so one pass is enough.
    for row in rows:
        factor = _coefficient(form, row.pivot)
        if factor:
            form = form - row.form.scaled(factor)
            support = support | row.support
    return form, support


def _coefficient(form: Polynomial, monomial: Monomial) -> Fraction:
    return next((c for m, c in form.terms if m == monomial), Fraction(0))


def _vanishes(form: Polynomial) -> bool:
    return not form.terms


def _is_constant(monomial: Monomial) -> bool:
    return all(atom.value is not None for atom, _ in monomial)


def _pivot(form: Polynomial) -> Monomial | None:
    """The most complex unknown, so that symbols alone are what remains."""
    unknown = [m for m, _ in form.terms if not _is_constant(m)]
    return max(unknown, key=lambda m: (sum(n for _, n in m), max(len(a.text) for a, _ in m), str(m)), default=None)


def _is_nonzero(form: Polynomial, support: frozenset[Relation]) -> bool:
    value = form.value
    if value is None:
        return False
    rounded = any(r.rounded for r in support)
    size = max(form.magnitude, *(r.left.magnitude + r.right.magnitude for r in support)) if rounded else form.magnitude
    return abs(value) > (_ROUNDED if rounded else 1e-9) * size


def _determined(rows: Sequence[_Row]) -> _Values:
    """Symbols whose value follows, by working back from the last row."""
    found: _Values = {}
    for row in reversed(rows):
        form, support = row.form, row.support
        for name, (value, source) in found.items():
            if name in form.symbols:
                form, support = form.substitute({name: value}), support | source
        unknown = [m for m, _ in form.terms if not _is_constant(m)]
        if len(unknown) == 1 and len(unknown[0]) == 1 and unknown[0][0][1] == 1 and not unknown[0][0][0].arguments:
            rest = Polynomial(tuple((m, c) for m, c in form.terms if m != unknown[0]))
            found[unknown[0][0][0].kind] = (rest.scaled(-1 / _coefficient(form, unknown[0])), support)
    return found


def _check_inequalities(relations: Sequence[Relation], rows: Sequence[_Row], values: _Values) -> Conflict | None:
    bounds: dict[str, list[tuple[str, Fraction, frozenset[Relation]]]] = {}
    for relation in relations:
        form, support = _with_values(relation.difference, frozenset({relation}), values)
        form, support = _reduce(form, support, rows)
        value = form.value
        if value is not None and len(support) > 1:
            if not _holds(value, relation.relation, form, support):
                return Conflict(relations=support)
            continue
        key = [(m, c) for m, c in form.terms if m != ()]
        if not key or relation.relation == "!=":
            continue
        lead = key[0][1]
        direction = relation.relation if lead > 0 else _TURNED[relation.relation]
        bound = -_coefficient(form, ()) / lead
        name = Polynomial(tuple((m, c / lead) for m, c in key)).text
        for other, its_bound, its_support in bounds.get(name, []):
            if _exclude(direction, bound, other, its_bound) and not any(r.rounded for r in support | its_support):
                return Conflict(relations=support | its_support)
        bounds.setdefault(name, []).append((direction, bound, support))
    return None


def _holds(value: float, relation: str, form: Polynomial, support: frozenset[Relation]) -> bool:
    zero = not _is_nonzero(form, support)
    if relation == "!=":
        return not zero or any(r.rounded for r in support)
    if zero:
        return relation in {"<=", ">="} or form.constant is None or any(r.rounded for r in support)
    return bool(_COMPARE[relation](value, 0))


def _exclude(a: str, x: Fraction, b: str, y: Fraction) -> bool:
    """Whether nothing is both `a x` and `b y`: below x and above y."""
    if a[0] == b[0]:
        return False
    low, high = (x, y) if a[0] == ">" else (y, x)
    return low > high or (low == high and (len(a) == 1 or len(b) == 1))
