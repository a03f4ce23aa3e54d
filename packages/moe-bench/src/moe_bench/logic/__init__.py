"""Controlled English, a forward-chaining prover whose proofs can be replayed, and the order of things in a row."""

from __future__ import annotations

from moe_bench.logic.phrases import UnreadableError
from moe_bench.logic.proof import Line, Proof, Step
from moe_bench.logic.prover import Decision, Prover, prove
from moe_bench.logic.replay import fault
from moe_bench.logic.sentences import Reader, Reading
from moe_bench.logic.terms import Literal, Rule, Verdict, World

__all__ = [
    "Decision",
    "Line",
    "Literal",
    "Proof",
    "Prover",
    "Reader",
    "Reading",
    "Rule",
    "Step",
    "UnreadableError",
    "Verdict",
    "World",
    "fault",
    "prove",
]
