"""Errors that a user can mend."""


class MemprofError(ValueError):
    """Something about the model, the plan or the file cannot work. The message is one line: what, where, the rule, the mend."""
