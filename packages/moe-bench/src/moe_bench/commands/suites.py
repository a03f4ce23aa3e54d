"""`moe-bench suites`: what there is to be asked."""

from __future__ import annotations

import json

import click


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print the suites as JSON.")
def suites(as_json: bool) -> None:
    """The built-in suites and their task families, each with an example."""
    from random import Random

    from moe_bench.tasks import FAMILIES, SUITES

    if as_json:
        families = {n: {"operation": f.operation, "description": f.description} for n, f in FAMILIES.items()}
        click.echo(
            json.dumps(
                {"suites": SUITES, "families": families} | {"suites": {k: list(v) for k, v in SUITES.items()}}, indent=1
            )
        )
        return
    from rich.console import Console
    from rich.table import Table

    console = Console()
    for suite, names in SUITES.items():
        console.print(f"[bold]{suite}[/]  {', '.join(names)}")
    table = Table(title="families", title_justify="left", box=None, padding=(0, 2, 0, 0))
    for heading in ("family", "operation", "example"):
        table.add_column(heading)
    for name, family in FAMILIES.items():
        table.add_row(name, family.operation, family.generate(Random(1)).prompt)
    console.print(table)
