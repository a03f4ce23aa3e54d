"""`moe-memprof fit` and `moe-memprof whatif`: what would fit, and what a change would do."""

from __future__ import annotations

import json
from typing import Any

import click

from moe_memprof.commands.options import budget_options, make_budget, make_spec, mendable, run_options
from moe_memprof.errors import MemprofError


@click.command()
@click.argument("model")
@run_options
@budget_options
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
@mendable
def fit(
    model: str, gpu: str | None, available: float | None, memory_fraction: float, as_json: bool, **options: Any
) -> None:
    """The largest batch and sequence of each method on a GPU, and the cheapest changes that make this run fit.

    Exit code 0 when the run as given fits or changes make it fit, 1 when nothing does.
    """
    from moe_memprof.search import search

    budget = make_budget(gpu, available, memory_fraction)
    if budget is None:
        raise MemprofError("fit: how much memory is there? give --gpu NAME or --available GIB")
    found = search(make_spec(model, options), budget.bytes)
    if as_json:
        click.echo(json.dumps(found.to_dict(), indent=1))
    else:
        from rich.console import Console

        from moe_memprof.fit_report import render_search

        render_search(Console(), found, budget=budget)
    raise SystemExit(0 if found.fits or found.cheapest is not None else 1)


@click.command()
@click.argument("model")
@run_options
@budget_options
@click.option("--set", "changes", multiple=True, metavar="KEY=VALUE[,KEY=VALUE]",
              help="A change to look at, or several together; give --set again for another column.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print the estimates as JSON.")
@mendable
def whatif(
    model: str,
    gpu: str | None,
    available: float | None,
    memory_fraction: float,
    changes: tuple[str, ...],
    as_json: bool,
    **options: Any,
) -> None:
    """The run as given and each change of it, side by side, part by part."""
    from moe_memprof.estimate import estimate
    from moe_memprof.search import changed

    if not changes:
        raise MemprofError("whatif: give at least one change, such as --set checkpointing=non-reentrant")
    budget = make_budget(gpu, available, memory_fraction)
    spec = make_spec(model, options)
    columns = {"as given": estimate(spec)}
    for change in changes:
        columns[change] = estimate(changed(spec, change))
    if as_json:
        click.echo(json.dumps({name: made.to_dict() for name, made in columns.items()}, indent=1))
        return
    from rich.console import Console

    from moe_memprof.fit_report import render_whatif

    render_whatif(Console(), columns, budget=budget)
