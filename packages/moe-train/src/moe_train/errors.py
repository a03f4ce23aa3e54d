"""Errors that a user can mend."""


class TrainError(ValueError):
    """Something in the input cannot work. The message is one line: what, where, the rule, the mend."""


class GateFailed(TrainError):  # noqa: N818 - it is an answer, not a fault
    """A check of the result that came out as no: exit code 1 instead of 2."""
