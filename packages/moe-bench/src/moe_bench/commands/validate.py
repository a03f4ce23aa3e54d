"""`moe-bench validate`: is a file of problems fit to judge with."""

from __future__ import annotations

import json
from pathlib import Path

import click

from moe_bench.commands import FOLDER, mendable

_COLOURS = {"error": "red", "warning": "yellow", "note": "dim"}


@click.command()
@click.argument("data", type=FOLDER)
@click.option("--against", type=FOLDER, help="A training file, or another split: nothing of it may be in DATA.")
@click.option(
    "--near", default=0.8, show_default=True, type=click.FloatRange(0.3, 1.0),
    help="Prompts are nearly the same from this Jaccard index of three-word shingles.",
)  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON.")
@mendable
def validate(data: Path, against: Path | None, near: float, as_json: bool) -> None:
    """Look for what would mislead: duplicates, leakage, unreadable answers, what gives answers away.

    DATA is JSON lines: items, or records with prompt/completion, question/answer or messages. Exits with 1 when there is an error;
    warnings and notes do not change that.
    """
    from moe_bench.validate import read_rows
    from moe_bench.validate import validate as check

    report = check(read_rows(data), against=read_rows(against) if against else (), near=near)
    if as_json:
        click.echo(json.dumps(report.to_dict(), indent=1, ensure_ascii=False))
        raise SystemExit(0 if report.ok else 1)
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    table = Table(box=None, padding=(0, 2, 0, 0), show_header=False)
    for finding in report.findings:
        places = ", ".join(map(str, finding.lines)) + (" ..." if finding.count > len(finding.lines) else "")
        what = finding.what + (f"; lines {places}" if places else "")
        table.add_row(f"[{_COLOURS[finding.severity]}]{finding.severity}[/]", finding.check, what.replace("[", r"\["))
    if report.findings:
        console.print(table)
    sound = [name for name in report.checks if name not in {f.check for f in report.findings}]
    console.print(f"{data}: {report.rows} rows; nothing found by: {', '.join(sound) or 'none'}", markup=False)
    raise SystemExit(0 if report.ok else 1)
