"""Credit for an answer that is wrong but near, or right in part. It is kept apart from correctness, and never counts as it."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import asdict, dataclass
from typing import Any

from moe_bench.answers.kinds import infer_kind
from moe_bench.answers.notation import normalise, tidy
from moe_bench.answers.quantities import as_quantity
from moe_bench.answers.structures import overlap_f1, structure

BANDS = ((0.0, 1.0), (0.01, 0.75), (0.1, 0.5), (0.5, 0.25))
"""Numeric distance bands: up to this relative error, this credit; beyond the last, none. Our choice, by orders of magnitude."""


@dataclass(frozen=True, kw_only=True)
class Partial:
    """How far a wrong answer got."""

    measure: str
    """"numeric distance" or "set F1"."""
    credit: float
    """0 to 1."""
    relative_error: float | None = None
    """|answer − target| / |target| for numbers; None where the target is 0."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def partial_credit(answer: str | None, target: str, kind: str | None = None) -> Partial | None:
    """The credit of an answer under the measure of its kind; None where the kind has none (words, choices, yes/no).

    Numbers: by `BANDS`, in the target's unit. Lists and sets: F1 of the parts as a multiset, so the order does not matter. No
    answer, or one of another form, gets 0.
    """
    kind = kind or infer_kind(target)
    if kind in ("number", "expression") and (wanted := as_quantity(target)) is not None:
        given = as_quantity(answer) if answer is not None else None
        if given is None:
            return Partial(measure="numeric distance", credit=0.0)
        if given.same_as(wanted):
            return Partial(measure="numeric distance", credit=1.0, relative_error=0.0)
        value = given.in_unit_of(wanted)
        if wanted.value == 0 or value is None:
            return Partial(measure="numeric distance", credit=0.0)
        error = float(abs(value - wanted.value) / abs(wanted.value))
        credit = next((share for bound, share in BANDS if 0 < error <= bound), 0.0)
        return Partial(measure="numeric distance", credit=credit, relative_error=error)
    if kind in ("list", "set") or (kind == "expression" and structure(target) is not None):
        return Partial(measure="set F1", credit=overlap_f1(_parts(answer or ""), _parts(target)))
    return None


def _parts(answer: str) -> list[Hashable]:
    found = structure(answer)
    parts = found.parts if found is not None else tuple(tidy(answer).split())
    return [_key(part) for part in parts]


def _key(part: str) -> Hashable:
    quantity = as_quantity(part)
    return (quantity.value, quantity.unit) if quantity is not None else normalise(tidy(part))
