"""`moe-bench datasets`: which published sets can be read."""

from __future__ import annotations

import json

import click

from moe_bench.commands import mendable

SCHEMA = "moe-bench/datasets@1"


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print the sets as JSON.")
@mendable
def datasets(as_json: bool) -> None:
    """The published sets that `run --data NAME:FILE` reads, and one's own tables.

    Files are read where they lie; `moe-bench fetch` writes one from a set of the Hugging Face Hub.
    """
    from moe_bench.datasets import DATASETS

    fields = ("what", "licence", "source", "format")
    if as_json:
        values = {name: {field: getattr(d, field) for field in fields} for name, d in DATASETS.items()}
        click.echo(json.dumps({"schema": SCHEMA, "datasets": values}, indent=1))
        return
    from rich.console import Console

    console = Console(highlight=False)
    width = max(map(len, DATASETS)) + 2
    for name, d in DATASETS.items():
        console.print(f"[bold]{name:{width}}[/]{d.what} ({d.licence})", soft_wrap=True)
        console.print(f"[dim]{'':{width}}{d.source}: {d.format}[/]", soft_wrap=True)
    console.print(
        "One's own: --data csv:FILE?prompt=COLUMN&target=COLUMN, the same with jsonl: or json:, "
        "or --data FILE.jsonl with prompt and target on every line.",
        markup=False,
    )
