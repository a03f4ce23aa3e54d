"""The closed world: what does not follow is false."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from moe_bench.logic.ground import Instance, Known, Reason
from moe_bench.logic.terms import Literal


def well_founded(grounded: Sequence[Instance]) -> tuple[Known, frozenset[Literal]]:
    """What holds, and the atoms that neither hold nor are false.

    The well-founded model (Van Gelder, Ross and Schlipf 1991) by its alternating fixpoint. For stratified rules it leaves nothing open
    and is the perfect model. Rules whose conclusion is negative say nothing new of a closed world.
    """
    usable = [i for i in grounded if i.clause[-1].positive]
    true = _least(usable, frozenset(x for i in usable for x in _atoms(i)))
    while True:
        possible = _least(usable, frozenset(true.reasons))
        again = _least(usable, frozenset(possible.reasons))
        if again.reasons.keys() == true.reasons.keys():
            return again, frozenset(possible.reasons) - frozenset(again.reasons)
        true = again


def _least(usable: Iterable[Instance], assumed: frozenset[Literal]) -> Known:
    """The least model when "not x" holds just where x is not assumed."""
    waiting = [i for i in usable if not any(c.positive and c in assumed for c in _conditions(i))]
    known = Known()
    while True:
        later = []
        for instance in waiting:
            if all(c.positive or c.negated in known.reasons for c in _conditions(instance)):
                known.reasons.setdefault(instance.clause[-1], Reason(instance))
            else:
                later.append(instance)
        if len(later) == len(waiting):
            return known
        waiting = later


def _conditions(instance: Instance) -> tuple[Literal, ...]:
    """The conditions' complements: a positive one stands for a condition "not x"."""
    return instance.clause[: instance.conditions]


def _atoms(instance: Instance) -> tuple[Literal, ...]:
    return tuple(x if x.positive else x.negated for x in instance.clause)
