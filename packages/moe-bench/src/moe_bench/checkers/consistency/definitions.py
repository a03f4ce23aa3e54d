"""What a function's definition says of its values: from f(x) = 2x + 3, that f(2) = 7."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from moe_bench.checkers.algebra.polynomials import FUNCTIONS, Atom, Polynomial, TooLargeError, single
from moe_bench.checkers.algebra.system import Relation


@dataclass
class Definitions:
    """The functions that a problem defines by one formula for all arguments."""

    formulas: dict[str, Relation] = field(default_factory=dict)
    several: set[str] = field(default_factory=set)
    """Functions with more than one formula, as those defined in pieces; nothing follows for them."""

    def learn(self, relation: Relation) -> bool:
        """Take a relation as a definition, where it is one: f(x) = a formula in x alone."""
        applied = self._applied(relation)
        if applied is None or applied.kind in FUNCTIONS or relation.right.symbols - applied.arguments[0].symbols:
            return False
        if applied.kind in self.formulas:
            self.several.add(applied.kind)
        self.formulas[applied.kind] = relation
        return True

    def values(self, relation: Relation) -> Iterator[Relation]:
        """What the definitions say of every f(number) in a relation."""
        for atom in dict.fromkeys(_atoms([relation.left, relation.right])):
            formula = self.formulas.get(atom.kind)
            if (
                formula is None
                or atom.kind in self.several
                or len(atom.arguments) != 1
                or atom.arguments[0].value is None
            ):
                continue
            defined = self._applied(formula)
            name = defined.arguments[0].symbol if defined is not None else None
            if name is None:
                continue
            try:
                value = formula.right.substitute({name: atom.arguments[0]})
            except (TooLargeError, ZeroDivisionError):
                continue
            yield Relation(
                left=single(atom),
                relation="=",
                right=value,
                rounded=formula.rounded,
                step=formula.step,
                span=formula.span,
                text=formula.text,
            )

    @staticmethod
    def _applied(relation: Relation) -> Atom | None:
        terms = relation.left.terms
        if relation.relation != "=" or len(terms) != 1 or terms[0][1] != 1 or len(terms[0][0]) != 1:
            return None
        atom, power = terms[0][0][0]
        return atom if power == 1 and len(atom.arguments) == 1 and atom.arguments[0].symbol is not None else None


def _atoms(polynomials: Iterable[Polynomial]) -> Iterator[Atom]:
    for polynomial in polynomials:
        for monomial, _ in polynomial.terms:
            for atom, _ in monomial:
                yield atom
                yield from _atoms(atom.arguments)
