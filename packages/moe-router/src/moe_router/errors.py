"""Errors that a user can mend."""


class RouterError(ValueError):
    """Something about the model, the trace or the call cannot work. The message is one line: what, where, the mend."""
