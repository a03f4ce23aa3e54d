"""Steps to learn from, a file of patterns for each operation.

`[a|b]` is a choice, `{name}` a slot that `generate` fills; everything was written for this project.
"""
