"""Checkers that simulate: each recognises its kind of problem, computes every state, and compares what the steps state."""
