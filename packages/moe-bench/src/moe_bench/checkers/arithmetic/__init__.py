"""Calculations in steps, verified exactly.

`tokens` reads a step's text into numbers, signs and words with their places, `parser` makes values of what stands between equals
signs, `claims` finds the equations and comparisons that a step states, `comparison` says whether two sides agree and as what
(exactly, rounded, as a percentage), and `checker` makes findings of it. What cannot be read in one way is left unchecked, with
what stood in the way.
"""

from __future__ import annotations

from moe_bench.checkers.arithmetic.checker import ArithmeticChecker

__all__ = ["ArithmeticChecker"]
