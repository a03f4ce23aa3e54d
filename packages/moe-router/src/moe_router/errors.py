"""Errors that a user can mend."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from typing import Any

import click


class RouterError(ValueError):
    """Something about the model, the trace or the call cannot work. The message is one line: what, where, the mend."""


def mendable(command: Callable[..., Any]) -> Callable[..., Any]:
    """Errors a user can mend become one line and exit code 2."""

    @functools.wraps(command)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
        try:
            return command(*args, **kwargs)
        except RouterError as error:
            click.echo(f"error: {error}", err=True)
            raise SystemExit(2) from None
        except UnicodeDecodeError as error:
            click.echo(f"error: a file that was to be text is not UTF-8 (byte {error.start}: {error.reason})", err=True)
            raise SystemExit(2) from None

    return wrapped
