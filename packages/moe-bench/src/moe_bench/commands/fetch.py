"""`moe-bench fetch`: a set of the Hugging Face Hub, once, as a file."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from urllib.parse import urlencode

import click

from moe_bench.commands import mendable


@click.command()
@click.argument("name")
@click.option(
    "-o", "--output", "out", required=True, type=click.Path(dir_okay=False, path_type=Path), help="JSONL file to write."
)
@click.option("--config", help="Of a set that has several.")
@click.option("--split", help="Needed where there are several.")
@click.option("--revision", help="Branch, tag or commit; the newest where left out.")
@click.option("--columns", help="Columns to keep, with commas between; all where left out.")
@click.option("--json", "as_json", is_flag=True, help="Print where it came from as JSON.")
@mendable
def fetch(
    name: str,
    out: Path,
    config: str | None,
    split: str | None,
    revision: str | None,
    columns: str | None,
    as_json: bool,
) -> None:
    """Write a split of the Hub's set NAME (or of a folder laid out like one) to a JSONL file.

    Beside it, FILE.source.json says where it came from: set, config, split, commit, hash. Nothing else needs the network.
    """
    from rich.console import Console
    from rich.progress import Progress

    from moe_bench.datasets.hub import SCHEMA
    from moe_bench.datasets.hub import fetch as write

    keep = [column.strip() for column in (columns or "").split(",") if column.strip()]
    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(f"fetching {name}", total=None)
        source = write(
            name, out, config=config, split=split, revision=revision, columns=keep,
            tell=lambda done, of: progress.update(task, completed=done, total=of),
        )  # fmt: skip
    if as_json:
        click.echo(json.dumps({"schema": SCHEMA, **asdict(source)}, indent=1))
        return
    commit = f" at {source.revision[:12]}" if source.revision else ""
    click.echo(f"{source.rows:,} rows of {name} ({source.config}, {source.split}){commit} in {out}")
    click.echo(f"columns {', '.join(source.columns)}")
    if len(source.columns) > 1:
        query = urlencode({"prompt": source.columns[0], "target": source.columns[1]})
        click.echo(
            f"run with --data NAME:{out} for a set of `moe-bench datasets`, or by columns: --data 'jsonl:{out}?{query}'"
        )
