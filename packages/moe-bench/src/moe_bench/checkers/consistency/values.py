"""Contradictions between equations and inequalities of different steps."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from fractions import Fraction

from moe_bench.checkers.algebra.polynomials import Polynomial
from moe_bench.checkers.algebra.statements import Reading
from moe_bench.checkers.algebra.system import Conflict, Relation, System
from moe_bench.checkers.base import Finding, Status
from moe_bench.checkers.consistency.definitions import Definitions

NAME = "consistency"
_MOST = 6
"""Statements of a conflict; what follows from more of them nobody can follow."""
_GIVEN_IN_CASES = re.compile(r"\b(?:when|where|each|every|any|some|or)\b", re.I)
"""Words of a problem by which an equation in it need not hold throughout."""
_SETS = re.compile(
    r"\b(?:lines?|graphs?|plot\w*|curves?|axis|axes|\w*intercepts?|asymptotes?|circles?|parabolas?|ellipses?|hyperbolas?|planes?)\b",
    re.I,
)
"""Words of a problem whose equations are sets of points: those of two curves need not hold together."""


def contradictions_of_values(problem: str, steps: Sequence[str]) -> Iterator[Finding]:
    """A finding for every statement that cannot be true together with the problem and earlier steps of its scope."""
    reading = Reading(problem, steps)
    givens, definitions = System(), Definitions()
    for sentence in reading.sentences(problem, -1):
        if not _GIVEN_IN_CASES.search(sentence.text) and not _SETS.search(problem):
            for relation in reading.readable(sentence):
                if not definitions.learn(relation):
                    givens.add(relation)
    scope = System(list(givens.relations))
    several = set[str]().union(*(_with_several_roots(r) for r in givens.relations))
    for number, step in enumerate(steps):
        for sentence in reading.sentences(step, number):
            if sentence.opens_scope:
                scope = System(list(givens.relations))
                continue
            for relation in reading.readable(sentence):
                several |= _with_several_roots(relation)
                for value in definitions.values(relation):
                    scope.add(value)
                conflict = scope.add(relation)
                if conflict is None:
                    continue
                others = conflict.relations - {relation}
                if all(r.step == number for r in others):
                    reading.unclear |= relation.difference.symbols
                elif _is_update(relation, others):
                    scope.forget({relation.left.symbol or relation.right.symbol or ""})
                    scope.add(relation)
                elif _is_other_root(relation, others, several):
                    reading.unclear |= relation.difference.symbols
                elif len(others) < _MOST and not _is_formula_again(relation, others, steps):
                    yield _finding(relation, conflict)


def _is_update(relation: Relation, others: Collection[Relation]) -> bool:
    """Whether a symbol is given a new value knowingly: "let u = 3", or made from its old one, as in "u = 5", "u = 5 + 50"."""
    if relation.defines and (relation.left.symbol or relation.right.symbol):
        return True
    if relation.left.symbol is None or relation.right.constant is None:
        return False
    numbers = {Fraction(n) for n in re.findall(r"-?\d{1,60}(?:\.\d{1,60})?", relation.text.partition("=")[2])}
    old = {r.right.constant for r in others if r.left.symbol == relation.left.symbol}
    return len(numbers) > 1 and bool(numbers & old)


def _is_formula_again(relation: Relation, others: Collection[Relation], steps: Sequence[str]) -> bool:
    """Whether a formula is used of one thing and then of another: "Area = πr² = π 6²", "Area = πr² = π 8²"."""
    named = all(r.step >= 0 and steps[r.step][: r.span[0]].rstrip().endswith("=") for r in (relation, *others))
    return named and relation.left.symbol is None and all(r.left == relation.left for r in others)


def _with_several_roots(relation: Relation) -> frozenset[str]:
    """The symbol of an equation that more than one value may solve: x² = 9, |x| = 3, but not 2x = 6, x³ = 8."""
    form = relation.difference
    if len(form.symbols) != 1:
        return frozenset()
    return frozenset() if _has_one_root(form) else form.symbols


def _has_one_root(form: Polynomial) -> bool:
    unknown = [m for m, _ in form.terms if m]
    if len(unknown) != 1 or len(unknown[0]) != 1:
        return False
    atom, power = unknown[0][0]
    inside = not atom.arguments or (atom.kind in {"inverse", "sqrt"} and _has_one_root(atom.arguments[0]))
    return power % 2 == 1 and inside


def _is_other_root(relation: Relation, others: Collection[Relation], several: Collection[str]) -> bool:
    """Whether all that is said is one value and another of a symbol that may have several."""
    statements = [relation, *others]
    names = frozenset[str]().union(*(r.difference.symbols for r in statements))
    return len(names) == 1 and names <= set(several) and not any(_with_several_roots(r) for r in statements)


def _finding(relation: Relation, conflict: Conflict) -> Finding:
    others = sorted(conflict.relations - {relation}, key=lambda r: (r.step, r.span))
    said = ", ".join(f"“{r.text}” ({'problem' if r.step < 0 else f'step {r.step + 1}'})" for r in others)
    steps = [r.step for r in others if 0 <= r.step < relation.step]
    return Finding(
        step=relation.step,
        status=Status.INVALID,
        checker=NAME,
        reason=f"“{relation.text}” cannot hold together with {said}",
        span=relation.span,
        against=max(steps, default=None),
    )
