"""Exact algebra on the equations that a text asserts: notation, polynomials, systems of statements, and the checker of rewriting."""

from moe_bench.checkers.algebra.checker import AlgebraChecker

__all__ = ["AlgebraChecker"]
