"""Replays a proof line by line against its premises, sharing no code with the prover: instances and the closed world are its own."""

from __future__ import annotations

from itertools import product

from moe_bench.logic.proof import Line, Proof, Step
from moe_bench.logic.terms import Literal, World


def fault(proof: Proof) -> str | None:
    """What is wrong with a proof: the first line that does not follow and why; None where every line does."""
    if not proof.lines:
        return "a proof without lines proves nothing"
    if proof.world is World.CLOSED and (why := _model_fault(proof)):
        return why
    open_suppositions: list[int] = []
    usable: set[int] = set()
    for number, line in enumerate(proof.lines):
        why = _line_fault(proof, number, line, usable, open_suppositions)
        if why:
            return f"line {number + 1}: {why}"
        if line.step is Step.SUPPOSE:
            open_suppositions.append(number)
        elif line.step is Step.ABSURD:
            begun = open_suppositions.pop()
            usable -= set(range(begun, number))
        usable.add(number)
    return "a supposition is left open" if open_suppositions else None


def _line_fault(proof: Proof, number: int, line: Line, usable: set[int], suppositions: list[int]) -> str | None:
    depth = len(suppositions) + (line.step is Step.SUPPOSE) - (line.step is Step.ABSURD)
    if line.depth != depth:
        return f"it stands under {line.depth} suppositions, there are {depth}"
    if any(use not in usable or use >= number for use in line.uses):
        return "it rests on a line that is not before it, or under a supposition that is closed"
    if any(argument.startswith("?") for argument in line.literal.arguments):
        return "it is not about a named thing"
    used = [proof.lines[use].literal for use in line.uses]
    if line.step is Step.RULE:
        return _rule_fault(proof, line, used)
    if line.step is Step.SUPPOSE:
        return "a supposition has no place in a closed world" if proof.world is World.CLOSED else None
    if line.step is Step.ABSENT:
        if proof.world is not World.CLOSED:
            return "absence proves something in a closed world only"
        absent = Literal(line.literal.predicate, line.literal.arguments, True)
        return "it is in the model" if line.literal.positive or absent in proof.model else None
    if len(used) != 3 or not suppositions or line.uses[0] != suppositions[-1]:
        return "an absurdity needs the last supposition and two lines"
    if not _contrary(used[1], used[2]):
        return "the two lines do not contradict each other"
    return None if _contrary(used[0], line.literal) else "it is not the contrary of the supposition"


def _rule_fault(proof: Proof, line: Line, used: list[Literal]) -> str | None:
    if line.premise is None or not 0 <= line.premise < len(proof.premises):
        return "it names no premise"
    rule = proof.premises[line.premise]
    values = dict(line.binding)
    body, head = _instance(rule.body, values), _instance(rule.head, values)
    missing = [a for literal in (*body, *head) for a in literal.arguments if a.startswith("?")]
    if missing:
        return f"variable {missing[0]} of the premise has no value"
    needed = [*body, *(Literal(h.predicate, h.arguments, not h.positive) for h in head)]
    own = Literal(line.literal.predicate, line.literal.arguments, not line.literal.positive)
    rest = [literal for literal in needed if literal != own]
    if len(rest) == len(needed):
        return "the premise does not conclude it"
    if proof.world is World.CLOSED and line.literal not in head:
        return "in a closed world premises are used forwards only"
    return None if rest == used else "the lines it rests on are not the conditions of the premise"


def _model_fault(proof: Proof) -> str | None:
    """Whether the model is what the premises found, with "not" read as "not in the model" (a stable model, Gelfond and Lifschitz 1988)."""
    names = sorted(
        {a for rule in proof.premises for x in (*rule.body, *rule.head) for a in x.arguments if not a.startswith("?")}
        | {a for line in proof.lines for a in line.literal.arguments}
    )
    rules: list[tuple[list[Literal], Literal]] = []
    for rule in proof.premises:
        if len(rule.head) != 1:
            return "a closed world has no place for alternatives"
        places = sorted({a for x in (*rule.body, *rule.head) for a in x.arguments if a.startswith("?")})
        for chosen in product(names, repeat=len(places)):
            values = dict(zip(places, chosen, strict=True))
            body, head = _instance(rule.body, values), _instance(rule.head, values)[0]
            refuted = any(not b.positive and Literal(b.predicate, b.arguments) in proof.model for b in body)
            if head.positive and not refuted:
                rules.append(([b for b in body if b.positive], head))
    founded: set[Literal] = set()
    while True:
        more = {head for body, head in rules if head not in founded and founded.issuperset(body)}
        if not more:
            break
        founded |= more
    return None if founded == proof.model else "the model is not what the premises found"


def _instance(literals: tuple[Literal, ...], values: dict[str, str]) -> list[Literal]:
    return [Literal(x.predicate, tuple(values.get(a, a) for a in x.arguments), x.positive) for x in literals]


def _contrary(a: Literal, b: Literal) -> bool:
    return (a.predicate, a.arguments) == (b.predicate, b.arguments) and a.positive != b.positive
