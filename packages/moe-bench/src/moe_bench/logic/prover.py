"""Whether a statement follows from premises, with the proof; unknown where neither it nor its contrary does."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from moe_bench.errors import BenchError
from moe_bench.logic.closed import well_founded
from moe_bench.logic.derivation import Refutation, derivation
from moe_bench.logic.ground import Known, Propagation, instances
from moe_bench.logic.proof import Line, Proof
from moe_bench.logic.terms import Literal, Rule, Verdict, World, constants_of


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What the premises say of a statement."""

    verdict: Verdict
    proof: Proof | None = None
    """Of the statement where it is proved, of its complement where it is disproved; None where unknown."""
    note: str = ""
    """Why it is unknown, where that is more than that nothing leads to it."""


class Prover:
    """Answers questions about one set of premises.

    With `forward` rules are applied from conditions to conclusion only, as the authors of ProofWriter do (Tafjord et al. 2021): this is
    complete for literals taken as atoms of their own. Without it the answer is that of classical logic: modus tollens, exclusion of
    alternatives, refutation. In a closed world "not" means "not in the well-founded model", and rules run forwards.

    Args:
        premises: facts and rules; variables range over the things that are named in them and in the questions.
        world: what silence means.
        forward: rules forwards only; a closed world always does.

    Raises:
        BenchError: the premises have too many instances, or a closed world has alternatives.
    """

    def __init__(self, premises: Sequence[Rule], *, world: World = World.OPEN, forward: bool = False) -> None:
        self.premises = tuple(premises)
        self.world = world
        self.forward = forward
        if world is World.CLOSED and any(len(rule.head) != 1 for rule in premises):
            raise BenchError("closed world: alternatives (or) cannot be concluded in it; use an open world")
        self._things: tuple[str, ...] | None = None
        self._propagation: Propagation | None = None
        self._known = Known()
        self._undefined: frozenset[Literal] = frozenset()

    @property
    def contradictory(self) -> bool:
        """Whether single steps find a statement and its complement: such premises decide nothing."""
        self._prepare(())
        return self._known.conflict is not None

    def decide(self, statement: Literal) -> Decision:
        """Whether a statement about named things follows, or its complement does.

        Raises:
            BenchError: the statement has a variable, or there are too many instances.
        """
        if statement.variables:
            raise BenchError(f"statement {str(statement)!r}: it has a variable; ask about named things")
        self._prepare(statement.arguments)
        if self.world is World.CLOSED:
            return self._closed(statement)
        if self._known.conflict is not None and not self.forward:
            return Decision(
                verdict=Verdict.UNKNOWN, note=f"the premises contradict themselves on: {self._known.conflict}"
            )
        yes, no = statement in self._known.reasons, statement.negated in self._known.reasons
        if yes and no:
            return Decision(verdict=Verdict.UNKNOWN, note=f"the premises give both it and its contrary: {statement}")
        for literal, found, verdict in (
            (statement, yes, Verdict.PROVED),
            (statement.negated, no, Verdict.DISPROVED),
        ):
            if found:
                return self._decided(verdict, derivation(literal, self._known))
        if self.forward or self._propagation is None:
            return Decision(verdict=Verdict.UNKNOWN)
        search = Refutation(self._propagation)
        lines = search.prove(statement, self._known)
        contrary = search.prove(statement.negated, self._known)
        if lines and contrary:
            return Decision(verdict=Verdict.UNKNOWN, note="the premises contradict themselves")
        if lines:
            return self._decided(Verdict.PROVED, lines)
        if contrary:
            return self._decided(Verdict.DISPROVED, contrary)
        note = "the search was cut short" if search.exhausted else ""
        return Decision(verdict=Verdict.UNKNOWN, note=note)

    def entails(self, rule: Rule) -> bool:
        """Whether a rule follows, in an open world: its conclusion from its conditions, of things that nothing else is said of."""
        if self.world is World.CLOSED or len(rule.head) != 1:
            return False
        fresh = {variable: f"any{number}" for number, variable in enumerate(rule.variables)}
        body = [Rule((), (literal.bind(fresh),)) for literal in rule.body]
        return (
            Prover([*self.premises, *body], forward=self.forward).decide(rule.head[0].bind(fresh)).verdict
            is Verdict.PROVED
        )

    def _closed(self, statement: Literal) -> Decision:
        atom = statement if statement.positive else statement.negated
        if self._undefined:
            note = "a rule hangs on its own negation: the closed world is not defined"
            return Decision(verdict=Verdict.UNKNOWN, note=note)
        holds = atom in self._known.reasons
        verdict = Verdict.PROVED if holds is statement.positive else Verdict.DISPROVED
        return self._decided(verdict, derivation(atom if holds else atom.negated, self._known))

    def _decided(self, verdict: Verdict, lines: tuple[Line, ...]) -> Decision:
        model = frozenset(self._known.reasons) if self.world is World.CLOSED else frozenset[Literal]()
        proof = Proof(premises=self.premises, world=self.world, lines=lines, model=model)
        return Decision(verdict=verdict, proof=proof)

    def _prepare(self, named: Iterable[str]) -> None:
        own = constants_of(self.premises)
        things = (*own, *(name for name in dict.fromkeys(named) if name not in own)) or ("anything",)
        if things == self._things:
            return
        grounded = instances(self.premises, things)
        if self.world is World.CLOSED:
            self._known, self._undefined = well_founded(grounded)
        else:
            self._propagation = Propagation(grounded, forward=self.forward)
            self._known = self._propagation.start()
        self._things = things


def prove(
    premises: Sequence[Rule], statement: Literal, *, world: World = World.OPEN, forward: bool = False
) -> Decision:
    """Whether one statement follows from premises; see `Prover`."""
    return Prover(premises, world=world, forward=forward).decide(statement)
