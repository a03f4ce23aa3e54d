"""Rules without variables, and what follows from them by single steps."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from moe_bench.errors import BenchError
from moe_bench.logic.terms import Literal, Rule, bindings

INSTANCES = 200_000
"""As many instances of rules as are looked at; more is refused."""


@dataclass(frozen=True)
class Instance:
    """A rule with things in its variables' places."""

    premise: int
    """Index of the rule."""
    binding: tuple[tuple[str, str], ...]
    clause: tuple[Literal, ...]
    """The conditions' complements, then the conclusions."""
    conditions: int
    """How many of the clause are conditions."""


@dataclass(frozen=True)
class Reason:
    """Why a literal was derived: the rest of this instance's clause was refuted. Without an instance it was supposed."""

    instance: Instance | None


@dataclass
class Known:
    """Literals that hold, in the order they were found, each with its reason."""

    reasons: dict[Literal, Reason] = field(default_factory=dict)
    conflict: Literal | None = None
    """A literal that holds together with its complement; None where there is none yet."""


def instances(rules: Sequence[Rule], things: tuple[str, ...]) -> list[Instance]:
    """Every instance of the rules over these things.

    Raises:
        BenchError: there are more than `INSTANCES`.
    """
    total = sum(len(things) ** len(rule.variables) for rule in rules)
    if total > INSTANCES:
        raise BenchError(
            f"theory of {len(rules)} rules and {len(things)} things: {total} instances, at most {INSTANCES} are looked at; "
            "use fewer things or rules of fewer variables"
        )
    found = []
    for number, rule in enumerate(rules):
        for values in bindings(rule.variables, things):
            clause = tuple(literal.bind(values) for literal in rule.clause)
            found.append(Instance(number, tuple(values.items()), clause, len(rule.body)))
    return found


class Propagation:
    """Derives what single steps give, breadth first, so that proofs are short.

    Forwards only, a rule gives its conclusion when its conditions hold; else any literal of a clause follows when the rest is
    refuted (unit propagation), which is modus tollens and the exclusion of alternatives too.
    """

    def __init__(self, grounded: Iterable[Instance], *, forward: bool) -> None:
        self.instances = tuple(grounded)
        self.forward = forward
        self.literals = tuple(dict.fromkeys(x for i in self.instances for x in i.clause))
        self._watching: dict[Literal, list[Instance]] = defaultdict(list)
        for instance in self.instances:
            for literal in dict.fromkeys(instance.clause):
                self._watching[literal.negated].append(instance)

    def start(self) -> Known:
        """What follows without any supposition."""
        known = Known()
        queue: deque[Literal] = deque()
        for instance in self.instances:
            self._fire(instance, known, queue)
        self._run(known, queue)
        return known

    def suppose(self, known: Known, literal: Literal) -> Known:
        """What follows when a literal is supposed as well; the argument is left as it is."""
        more = Known(dict(known.reasons), known.conflict)
        queue: deque[Literal] = deque()
        self._add(literal, Reason(None), more, queue)
        self._run(more, queue)
        return more

    def _run(self, known: Known, queue: deque[Literal]) -> None:
        # A forward prover goes on past a contradiction: what else follows is wanted still.
        while queue and (self.forward or known.conflict is None):
            for instance in self._watching.get(queue.popleft(), ()):
                self._fire(instance, known, queue)

    def _fire(self, instance: Instance, known: Known, queue: deque[Literal]) -> None:
        open_ = list(dict.fromkeys(x for x in instance.clause if x.negated not in known.reasons))
        if self.forward:
            head = instance.clause[instance.conditions :]
            conditions = instance.clause[: instance.conditions]
            if len(head) == 1 and all(c.negated in known.reasons for c in conditions):
                self._add(head[0], Reason(instance), known, queue)
        elif not open_:
            # Every literal is refuted: any of them closes the contradiction.
            self._add(instance.clause[-1], Reason(instance), known, queue)
        elif len(open_) == 1:
            self._add(open_[0], Reason(instance), known, queue)

    @staticmethod
    def _add(literal: Literal, reason: Reason, known: Known, queue: deque[Literal]) -> None:
        if literal in known.reasons:
            return
        known.reasons[literal] = reason
        queue.append(literal)
        if literal.negated in known.reasons and known.conflict is None:
            known.conflict = literal
