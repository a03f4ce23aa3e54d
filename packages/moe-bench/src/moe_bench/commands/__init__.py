"""The commands of `moe-bench`, a module to each, and what they have in common."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from moe_bench.errors import BenchError

FOLDER = click.Path(path_type=Path)
"""Type of an argument that names a file or folder."""


def mendable(command: Callable[..., Any]) -> Callable[..., Any]:
    """Errors a user can mend become one line and exit code 2."""

    @functools.wraps(command)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        try:
            return command(*args, **kwargs)
        except BenchError as error:
            click.echo(f"error: {error}", err=True)
            raise SystemExit(2) from None
        except KeyboardInterrupt:
            click.echo("\nstopped; the same command goes on where it was", err=True)
            raise SystemExit(130) from None

    return wrapped
