"""The checker of algebra: rewriting that changes what is rewritten, and what follows from the equations before."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence

from moe_bench.checkers.algebra.points import Point, UnevaluatedError, counterexample, is_identity, unknowns, value_at
from moe_bench.checkers.algebra.polynomials import Polynomial
from moe_bench.checkers.algebra.statements import Reading
from moe_bench.checkers.algebra.system import Conflict, Relation, System
from moe_bench.checkers.base import Finding, Status

_MOST_GIVEN = 12
"""Known equations that are solved together; with more, nothing is said."""
_ZERO = 1e-9
_SEGMENT = re.compile(r"[A-Z]{2}")
"""Letters side by side that are ends of one thing, as in "AB = 5"."""
_MODULAR = re.compile(r"\\[bp]?mod\b|\bmod(?:ulo)?\b|\\equiv|≡", re.I)
"""What says that equal means congruent."""


class AlgebraChecker:
    """Verifies equations with letters in them.

    A chain of equalities, A = B = C, rewrites: a link whose sides have the same letters and differ, at a point at which everything
    known holds, is wrong. An equation that is true for every value of its letters, that follows from the equations of the problem and
    of the steps before, or whose value solves the equation before it, is valid. Two equations in one letter in one step that no
    number solves are a contradiction. Everything else is left alone: an equation may come from the words around it.
    """

    name = "algebra"
    version = 1

    def check(self, problem: str, steps: Sequence[str]) -> Iterator[Finding]:
        """Findings on the equations in the steps; see `Checker`."""
        reading = Reading(problem, steps)
        known = [
            r for sentence in reading.sentences(problem, -1) for r in reading.readable(sentence) if r.relation == "="
        ]
        scope = System()
        for relation in known:
            scope.add(relation)
        givens = list(scope.relations)
        solvable: dict[str, Relation] = {}
        for number, step in enumerate(steps):
            for sentence in reading.sentences(step, number):
                if sentence.opens_scope:
                    scope = System(list(givens))
                equations = [r for r in sentence.relations if r.relation == "="]
                rewritten = {r: self._rewriting(r, equations, known, reading) for r in equations}
                found = [f for f in rewritten.values() if f is not None]
                yield from (f for f in found if f.status is Status.VALID or not _MODULAR.search(sentence.text))
                equations = [r for r in equations if rewritten[r] is None]
                readable = set(reading.readable(sentence))
                for relation in equations:
                    finding = self._root(relation, solvable)
                    if finding is None and relation in readable and not sentence.opens_scope:
                        finding = self._deduction(relation, scope)
                    if finding is not None:
                        yield finding
                known += equations

    def _rewriting(
        self, relation: Relation, equations: Sequence[Relation], known: Sequence[Relation], reading: Reading
    ) -> Finding | None:
        """What an equation comes to that writes one expression in another way; None where it is no such equation."""
        left, right = relation.left, relation.right
        if (
            not relation.symbols
            or _SEGMENT.search(relation.text)
            or (reading.unclear & relation.symbols and " x " in relation.text)
        ):
            return None
        try:
            if is_identity(left, right):
                before, _, after = relation.text.partition("=")
                if _squeezed(before) == _squeezed(after):
                    return None
                return self._finding(relation, Status.VALID, "both sides are the same whatever the letters are")
            if not _is_link(relation, equations) or _has_functions([left, right]):
                return None
            given = [
                r.difference
                for r in (*known, *equations)
                if not _same_chain(r, relation, equations) and not _holds_always(r)
            ]
            point = counterexample(left, right, given) if len(given) <= _MOST_GIVEN else None
        except UnevaluatedError:
            return None
        return None if point is None else self._finding(relation, Status.INVALID, _told(left, right, point))

    def _root(self, relation: Relation, solvable: dict[str, Relation]) -> Finding | None:
        """Whether the value of a letter solves the last equation in it; equations in one letter are kept for that."""
        name = relation.left.symbol
        if name is None or relation.right.value is None:
            if (
                len(relation.symbols) == 1
                and not relation.rounded
                and not _is_linear(relation.difference)
                and not _has_functions([relation.difference])
            ):
                solvable[next(iter(relation.symbols))] = relation
            return None
        equation = solvable.get(name)
        if equation is None or relation.rounded:
            return None
        try:
            solves = abs(value_at(equation.difference, {name: relation.right.value})) < _ZERO * (
                1 + equation.difference.magnitude
            )
        except UnevaluatedError:
            return None
        return self._finding(relation, Status.VALID, f"solves {_said([equation])}") if solves else None

    def _deduction(self, relation: Relation, scope: System) -> Finding | None:
        """What an equation comes to that follows from those before, or excludes one in the same step; it is one of those from here on."""
        support = scope.explain(relation)
        conflict = scope.add(relation)
        if conflict is not None and _in_one_step(relation, conflict):
            reason = f"“{relation.text}” cannot hold together with {_said(conflict.relations - {relation})}"
            return self._finding(relation, Status.INVALID, reason)
        if not support or any(_squeezed(r.text) == _squeezed(relation.text) for r in support):
            return None
        return self._finding(relation, Status.VALID, f"follows from {_said(support)}")

    def _finding(self, relation: Relation, status: Status, reason: str) -> Finding:
        return Finding(step=relation.step, status=status, checker=self.name, reason=reason, span=relation.span)


def _is_link(relation: Relation, equations: Sequence[Relation]) -> bool:
    """Whether an equation is a link of a chain, A = B = C, that has the same letters on both sides."""
    left, right = relation.left, relation.right
    if relation.rounded or left.symbol or right.symbol or left.symbols != right.symbols:
        return False
    return any(other is not relation and _same_chain(other, relation, equations) for other in equations)


def _same_chain(one: Relation, other: Relation, equations: Sequence[Relation]) -> bool:
    """Whether two equations of a sentence are links of one chain: each shares a side with the next."""
    if one not in equations:
        return False
    first, last = sorted((equations.index(one), equations.index(other)))
    return all(equations[i].span[1] > equations[i + 1].span[0] for i in range(first, last))


def _has_functions(forms: Sequence[Polynomial]) -> bool:
    """Whether something is applied whose formula is not written here: f(x), a sequence's member."""
    return any("(" in name for name in unknowns(forms))


def _holds_always(relation: Relation) -> bool:
    try:
        return is_identity(relation.left, relation.right)
    except UnevaluatedError:
        return False


def _in_one_step(relation: Relation, conflict: Conflict) -> bool:
    """Whether two equations in one letter exclude each other in one step, one of them more than a value of the letter."""
    others = list(conflict.relations - {relation})
    if len(others) != 1 or others[0].step != relation.step or relation.rounded or others[0].rounded or relation.defines:
        return False
    pair = (relation, others[0])
    compound = any(r.left.symbol is None and r.right.symbol is None for r in pair)
    return (
        compound
        and len(relation.difference.symbols) == 1
        and relation.difference.symbols == others[0].difference.symbols
    )


def _is_linear(form: Polynomial) -> bool:
    return all(
        sum(power for _, power in monomial) <= 1 and not any(a.arguments for a, _ in monomial)
        for monomial, _ in form.terms
    )


def _told(left: Polynomial, right: Polynomial, point: Point) -> str:
    at = ", ".join(f"{name} = {value.real:.4g}" for name, value in point.items())
    return (
        f"at {at} the left side is {value_at(left, point).real:.4g}, the right side {value_at(right, point).real:.4g}"
    )


def _said(relations: Collection[Relation]) -> str:
    ordered = sorted(relations, key=lambda r: (r.step, r.span))
    return ", ".join(f"“{r.text}” ({'problem' if r.step < 0 else f'step {r.step + 1}'})" for r in ordered)


def _squeezed(text: str) -> str:
    return "".join(text.split())
