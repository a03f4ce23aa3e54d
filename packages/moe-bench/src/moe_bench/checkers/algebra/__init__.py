"""Exact algebra on the equations that a text asserts: notation, polynomials, and systems of statements that hold together or not."""
