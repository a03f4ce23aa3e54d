"""Errors that a user can mend."""


class BenchError(ValueError):
    """Something in the items, the run or the call cannot work. The message is one line: what, where, the rule, the mend."""
