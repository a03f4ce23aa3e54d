"""The prover against every truth assignment, every closed set of literals, every stable model; and its proofs replayed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import product

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from moe_bench.errors import BenchError
from moe_bench.logic import Literal, Prover, Rule, Step, Verdict, World, fault, prove

PREDICATES, THINGS = ("p", "q", "r"), ("ann", "bob")
ATOMS = [Literal(p, (t,)) for p in PREDICATES for t in THINGS]


def literals(argument: st.SearchStrategy[str]) -> st.SearchStrategy[Literal]:
    return st.builds(lambda p, a, s: Literal(p, (a,), s), st.sampled_from(PREDICATES), argument, st.booleans())


ground = literals(st.sampled_from(THINGS))
anywhere = literals(st.sampled_from(["?x", "?x", *THINGS]))


@st.composite
def theories(draw: st.DrawFn, *, heads: int = 1, negative_heads: bool = True) -> list[Rule]:
    facts = [Rule((), (fact,)) for fact in draw(st.lists(ground, min_size=1, max_size=4))]
    rules = []
    for _ in range(draw(st.integers(0, 5))):
        body = draw(st.lists(anywhere, min_size=1, max_size=3))
        head = draw(st.lists(anywhere, min_size=1, max_size=heads))
        rules.append(Rule(tuple(body), tuple(head)))
    every = [*facts, *rules]
    if not negative_heads:
        every = [Rule(r.body, tuple(replace(h, positive=True) for h in r.head)) for r in every]
    return every


def instances(theory: list[Rule]) -> Iterator[tuple[list[Literal], list[Literal]]]:
    for rule in theory:
        for thing in THINGS:
            at = {"?x": thing}
            yield [b.bind(at) for b in rule.body], [h.bind(at) for h in rule.head]


def assignments(theory: list[Rule]) -> list[set[Literal]]:
    """Every model, as the set of literals that are true in it."""
    models = []
    for signs in product([True, False], repeat=len(ATOMS)):
        true = {replace(a, positive=s) for a, s in zip(ATOMS, signs, strict=True)}
        if all(not true.issuperset(body) or true.intersection(head) for body, head in instances(theory)):
            models.append(true)
    return models


@settings(max_examples=300, deadline=None)
@given(theories(heads=3), ground)
def test_classical_answers_are_those_of_all_models(theory: list[Rule], statement: Literal) -> None:
    models = assignments(theory)
    decision = prove(theory, statement)
    if not models:
        assert decision.verdict is Verdict.UNKNOWN
        return
    held = {statement in model for model in models}
    expected = {(True,): Verdict.PROVED, (False,): Verdict.DISPROVED}.get(tuple(held), Verdict.UNKNOWN)
    assert decision.verdict is expected
    if decision.proof is not None:
        assert fault(decision.proof) is None, str(decision.proof)
        assert decision.proof.conclusion == (statement if expected is Verdict.PROVED else statement.negated)


@settings(max_examples=60, deadline=None)
@given(theories(), ground)
def test_forwards_a_literal_is_reached_where_every_closed_set_holds_it(theory: list[Rule], statement: Literal) -> None:
    signed = [replace(a, positive=s) for a in ATOMS for s in (True, False)]
    places = {literal: 1 << i for i, literal in enumerate(signed)}
    rules = [(sum({places[b] for b in body}), places[head[0]]) for body, head in instances(theory)]
    closed = (s for s in range(1 << len(signed)) if all(s & body != body or s & head for body, head in rules))
    least = (1 << len(signed)) - 1
    for subset in closed:
        least &= subset
    yes, no = bool(least & places[statement]), bool(least & places[statement.negated])
    expected = Verdict.UNKNOWN if yes == no else Verdict.PROVED if yes else Verdict.DISPROVED
    decision = prove(theory, statement, forward=True)
    assert decision.verdict is expected
    if decision.proof is not None:
        assert fault(decision.proof) is None
        assert all(line.step is Step.RULE for line in decision.proof.lines)


@settings(max_examples=200, deadline=None)
@given(theories(), ground)
def test_forwards_nothing_is_said_that_classical_logic_denies(theory: list[Rule], statement: Literal) -> None:
    models = assignments(theory)
    assume(models)
    verdict = prove(theory, statement, forward=True).verdict
    if verdict is not Verdict.UNKNOWN:
        assert {statement in model for model in models} == {verdict is Verdict.PROVED}


def stable_models(theory: list[Rule]) -> list[set[Literal]]:
    """Every stable model, by trying each set of atoms (Gelfond and Lifschitz 1988)."""
    found = []
    for signs in product([True, False], repeat=len(ATOMS)):
        guess = {a for a, s in zip(ATOMS, signs, strict=True) if s} | {Literal("there", (t,)) for t in THINGS}
        reduct = [
            ({b for b in body if b.positive}, head[0])
            for body, head in instances(theory)
            if not any(b.negated in guess for b in body if not b.positive)
        ]
        least: set[Literal] = set()
        while more := {head for body, head in reduct if body <= least} - least:
            least |= more
        if least == guess:
            found.append(guess)
    return found


@settings(max_examples=200, deadline=None)
@given(theories(negative_heads=False), ground)
def test_closed_world_is_the_one_stable_model(theory: list[Rule], statement: Literal) -> None:
    # Both things are spoken of: what "not" means for all depends on who there is.
    theory = [*theory, *(Rule((), (Literal("there", (thing,)),)) for thing in THINGS)]
    decision = prove(theory, statement, world=World.CLOSED)
    if decision.verdict is Verdict.UNKNOWN:
        assert decision.note  # a rule hangs on its own negation
        return
    (model,) = stable_models(theory)
    true = (replace(statement, positive=True) in model) is statement.positive
    assert decision.verdict is (Verdict.PROVED if true else Verdict.DISPROVED)
    assert decision.proof is not None
    assert fault(decision.proof) is None, str(decision.proof)


def test_closed_world_decides_all_where_no_rule_denies() -> None:
    theory = [Rule((), (ATOMS[0],)), Rule((Literal("p", ("?x",)),), (Literal("q", ("?x",)),))]
    verdicts = [prove(theory, atom, world=World.CLOSED).verdict for atom in ATOMS]
    assert Verdict.UNKNOWN not in verdicts
    assert verdicts.count(Verdict.PROVED) == 2


@settings(max_examples=150, deadline=None)
@given(theories(heads=2), ground)
def test_open_world_says_nothing_of_what_is_not_spoken_of(theory: list[Rule], statement: Literal) -> None:
    fresh = Literal("never heard of", statement.arguments, statement.positive)
    for forward in (True, False):
        assert prove(theory, fresh, forward=forward).verdict is Verdict.UNKNOWN


@settings(max_examples=200, deadline=None)
@given(theories(heads=2), st.data())
def test_a_proof_of_what_does_not_follow_is_refused(theory: list[Rule], data: st.DataObject) -> None:
    # A fact is added, so that there is something to prove; the forged end is drawn from what some model denies.
    theory = [*theory, Rule((), (data.draw(ground),))]
    models = assignments(theory)
    if not models:
        return
    decision = prove(theory, data.draw(st.sampled_from(sorted(set.intersection(*models), key=str))))
    if decision.proof is None:  # true in every model by cases, which the prover leaves open
        assert decision.verdict is Verdict.UNKNOWN
        return
    open_to_doubt = [x for atom in ATOMS for x in (atom, atom.negated) if any(x not in model for model in models)]
    false = data.draw(st.sampled_from(open_to_doubt))
    forged = replace(
        decision.proof, lines=(*decision.proof.lines[:-1], replace(decision.proof.lines[-1], literal=false))
    )
    assert fault(forged) is not None


def chain() -> list[Rule]:
    x = ("?x",)
    return [
        Rule((), (Literal("wug", ("max",)),), "Max is a wug"),
        Rule((Literal("wug", x),), (Literal("red", x),), "Wugs are red"),
        Rule((Literal("red", x),), (Literal("loud", x, False),), "Red things are not loud"),
    ]


def test_a_proof_reads_line_by_line() -> None:
    decision = prove(chain(), Literal("loud", ("max",)))
    assert decision.verdict is Verdict.DISPROVED
    assert str(decision.proof).splitlines() == [
        "1. max is wug  [Max is a wug]",
        "2. max is red  [Wugs are red with 1]",
        "3. max is not loud  [Red things are not loud with 2]",
    ]


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda p: replace(p, lines=()), "proves nothing"),
        (lambda p: replace(p, premises=p.premises[:2]), "names no premise"),
        (lambda p: replace(p, lines=p.lines[1:]), "line 1"),
        (lambda p: replace(p, lines=(*p.lines[:2], replace(p.lines[2], uses=(0,)))), "not the conditions"),
        (lambda p: replace(p, lines=(*p.lines[:2], replace(p.lines[2], uses=()))), "not the conditions"),
        (lambda p: replace(p, lines=(*p.lines[:2], replace(p.lines[2], uses=(2,)))), "not before it"),
        (lambda p: replace(p, lines=(*p.lines[:2], replace(p.lines[2], binding=()))), "has no value"),
        (lambda p: replace(p, lines=(*p.lines[:2], replace(p.lines[2], step=Step.ABSENT))), "closed world only"),
        (lambda p: replace(p, lines=(*p.lines[:2], replace(p.lines[2], step=Step.SUPPOSE, depth=1))), "left open"),
        (
            lambda p: replace(p, lines=(*p.lines[:2], replace(p.lines[2], step=Step.ABSURD, depth=-1))),
            "last supposition",
        ),
        (lambda p: replace(p, lines=(*p.lines[:2], replace(p.lines[2], depth=1))), "suppositions"),
        (lambda p: replace(p, world=World.CLOSED), "model"),
    ],
)
def test_faults_are_named(change, why: str) -> None:
    proof = prove(chain(), Literal("loud", ("max",))).proof
    assert proof is not None
    assert fault(proof) is None
    assert why in (fault(change(proof)) or "")


def test_modus_tollens_needs_more_than_rules_forwards() -> None:
    rules = [Rule((Literal("wug", ("?x",)),), (Literal("red", ("?x",)),)), Rule((), (Literal("red", ("max",), False),))]
    statement = Literal("wug", ("max",))
    assert prove(rules, statement, forward=True).verdict is Verdict.UNKNOWN
    assert prove(rules, statement).verdict is Verdict.DISPROVED


def test_by_cases_with_suppositions() -> None:
    either = Rule((), (Literal("p", ("a",)), Literal("q", ("a",))))
    rules = [
        either,
        Rule((Literal("p", ("?x",)),), (Literal("r", ("?x",)),)),
        Rule((Literal("q", ("?x",)),), (Literal("r", ("?x",)),)),
    ]
    decision = prove(rules, Literal("r", ("a",)))
    assert decision.verdict is Verdict.PROVED
    assert decision.proof is not None
    assert {line.step for line in decision.proof.lines} >= {Step.SUPPOSE, Step.ABSURD}
    assert fault(decision.proof) is None


def test_rules_follow_from_rules() -> None:
    prover = Prover(chain())
    x = ("?x",)
    assert prover.entails(Rule((Literal("wug", x),), (Literal("loud", x, False),)))
    assert prover.entails(Rule((Literal("loud", x),), (Literal("wug", x, False),)))
    assert not prover.entails(Rule((Literal("red", x),), (Literal("wug", x),)))


def test_contradictory_premises_decide_nothing() -> None:
    rules = [Rule((), (Literal("p", ("a",)),)), Rule((), (Literal("p", ("a",), False),))]
    assert Prover(rules).contradictory
    for forward in (True, False):
        decision = prove(rules, Literal("p", ("a",)), forward=forward)
        assert decision.verdict is Verdict.UNKNOWN
        assert "contra" in decision.note


def test_what_cannot_be_asked_is_refused() -> None:
    with pytest.raises(BenchError, match="has a variable"):
        prove(chain(), Literal("red", ("?x",)))
    with pytest.raises(BenchError, match="closed world"):
        Prover([Rule((), (ATOMS[0], ATOMS[1]))], world=World.CLOSED)
    with pytest.raises(BenchError, match="concludes nothing"):
        Rule((), ())
    wide = Rule((Literal("p", tuple(f"?{i}" for i in range(9))),), (Literal("q", ("?0",)),))
    with pytest.raises(BenchError, match="instances"):
        prove([wide, *(Rule((), (Literal("q", (f"t{i}",)),)) for i in range(9))], Literal("q", ("t1",)))
