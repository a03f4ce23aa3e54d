"""Errors that a user can mend."""


class TrainError(ValueError):
    """Something in the input cannot work. The message is one line: what, where, the rule, the mend."""
