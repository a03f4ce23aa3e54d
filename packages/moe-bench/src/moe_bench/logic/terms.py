"""What a sentence of controlled English says: literals, and rules from a conjunction to a disjunction of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum

from moe_bench.errors import BenchError


class World(StrEnum):
    """What the silence of the premises means."""

    OPEN = "open"
    """What does not follow is unknown."""
    CLOSED = "closed"
    """What does not follow is false (negation as failure)."""


class Verdict(StrEnum):
    """What the premises say of a statement."""

    PROVED = "proved"
    DISPROVED = "disproved"
    UNKNOWN = "unknown"


@dataclass(frozen=True, order=True)
class Literal:
    """A predicate of things, or its negation. An argument that begins with "?" is a variable."""

    predicate: str
    arguments: tuple[str, ...]
    positive: bool = True

    @property
    def negated(self) -> Literal:
        """The complement."""
        return Literal(self.predicate, self.arguments, not self.positive)

    @property
    def variables(self) -> tuple[str, ...]:
        """The variables, in order, without repetition."""
        return tuple(dict.fromkeys(a for a in self.arguments if a.startswith("?")))

    def bind(self, values: Mapping[str, str]) -> Literal:
        """The literal with its variables replaced by `values`; those without a value stay."""
        return Literal(self.predicate, tuple(values.get(a, a) for a in self.arguments), self.positive)

    def __str__(self) -> str:
        subject, *objects = self.arguments
        sign = "" if self.positive else "not "
        if not objects:
            return f"{subject} is {sign}{self.predicate}" if self.positive else f"{subject} is not {self.predicate}"
        return f"{subject} {sign}{self.predicate} {' '.join(objects)}"


@dataclass(frozen=True)
class Rule:
    """If all of the body hold then one of the head does; without a body it is a fact, with several heads an alternative.

    Variables stand for everything. Every clause of the language has this form.
    """

    body: tuple[Literal, ...]
    head: tuple[Literal, ...]
    text: str = ""
    """The sentence it was read from."""

    def __post_init__(self) -> None:
        if not self.head:
            raise BenchError(f"rule {self.text!r}: it concludes nothing; a rule needs a conclusion, give it one")

    @property
    def variables(self) -> tuple[str, ...]:
        """The variables, in order, without repetition."""
        return tuple(dict.fromkeys(v for literal in (*self.body, *self.head) for v in literal.variables))

    @property
    def constants(self) -> tuple[str, ...]:
        """The things named, in order, without repetition."""
        names = (a for literal in (*self.body, *self.head) for a in literal.arguments if not a.startswith("?"))
        return tuple(dict.fromkeys(names))

    @property
    def clause(self) -> tuple[Literal, ...]:
        """The same as a disjunction: the body's complements, then the head."""
        return (*(b.negated for b in self.body), *self.head)

    @property
    def is_fact(self) -> bool:
        """Whether it says one thing of named things, without condition."""
        return not self.body and len(self.head) == 1 and not self.variables

    def __str__(self) -> str:
        head = " or ".join(map(str, self.head))
        return f"if {' and '.join(map(str, self.body))} then {head}" if self.body else head


def constants_of(rules: Iterable[Rule]) -> tuple[str, ...]:
    """The things that rules name, in order, without repetition."""
    return tuple(dict.fromkeys(name for rule in rules for name in rule.constants))


def bindings(variables: tuple[str, ...], things: tuple[str, ...]) -> Iterator[dict[str, str]]:
    """Every way to put things in the variables' places."""
    if not variables:
        yield {}
        return
    for rest in bindings(variables[1:], things):
        for thing in things:
            yield {variables[0]: thing, **rest}
