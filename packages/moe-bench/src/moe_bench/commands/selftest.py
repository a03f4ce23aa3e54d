"""`moe-bench selftest`: each checker against human labels, beside what others have published."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from moe_bench import __version__
from moe_bench.commands import FOLDER, mendable
from moe_bench.errors import BenchError
from moe_bench.selftest import PARTS, SOURCES, Row, run_selftest

if TYPE_CHECKING:
    from rich.console import Console

SCHEMA = "moe-bench/selftest@1"


@click.command()
@click.option("--data", type=FOLDER, help="Folder with one folder for each set; otherwise that of MOE_TEST_DATA.")
@click.option("--only", multiple=True, type=click.Choice(PARTS), help="Only this part; may be given several times.")
@click.option("--cases", is_flag=True, help="List every case that differs from its label.")
@click.option("--json", "as_json", is_flag=True, help="Print the rows as JSON.")
@mendable
def selftest(data: Path | None, only: tuple[str, ...], cases: bool, as_json: bool) -> None:
    """Measure each checker on labelled data: F1, false alarms, coverage, beside published figures.

    Exits with 1 when a figure misses its bar.
    """
    folder = data or (Path(os.environ["MOE_TEST_DATA"]) if os.environ.get("MOE_TEST_DATA") else None)
    if folder is None:
        raise BenchError(
            f"no data: give --data DIR or set MOE_TEST_DATA; the sets are {SOURCES}: docs/checkers.md says what goes where"
        )
    from rich.console import Console

    progress = Console(stderr=True)
    with progress.status("") as status:
        rows = run_selftest(folder, only or PARTS, tell=lambda part: status.update(f"{part} ..."))
    if as_json:
        click.echo(json.dumps(report(rows), indent=1, ensure_ascii=False))
    else:
        render_rows(Console(), rows, cases=cases)
    if any(row.met is False for row in rows):
        raise SystemExit(1)


def report(rows: Sequence[Row], *, cases: bool = True) -> dict[str, object]:
    """The rows as plain values with a schema; without cases, only their number."""
    plain = []
    for row in rows:
        values = row.to_dict()
        if not cases:
            values["disagreements"] = len(row.disagreements)
        plain.append(values)
    return {"schema": SCHEMA, "moe_bench": __version__, "rows": plain}


def render_rows(console: Console, rows: Sequence[Row], *, cases: bool = False) -> None:
    """A table to each checker: figure, interval, bar, what was published; then the bars that were missed."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    for checker in dict.fromkeys(row.checker for row in rows):
        table = Table(title=checker, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
        for heading, justify in (
            ("data", "left"),
            ("figure", "left"),
            ("value", "right"),
            ("95 %", "left"),
            ("n", "right"),
        ):
            table.add_column(heading, justify="right" if justify == "right" else "left", overflow="fold")
        table.add_column("bar", no_wrap=True)
        table.add_column("published", justify="right", no_wrap=True)
        mine = [row for row in rows if row.checker == checker]
        for row in mine:
            colour = {True: "green", False: "red", None: ""}[row.met]
            table.add_row(
                Text(row.data),
                Text(row.metric),
                Text(figure(row.value), style=f"bold {colour}".strip()),
                Text(f"{figure(row.ci[0])}–{figure(row.ci[1])}" if row.ci else "", style="dim"),
                str(row.n),
                Text(bar_text(row), style=colour),
                figure(row.published) if row.published is not None else "",
            )
        console.print(table)
        for row in mine:
            if row.note or row.source:
                said = "; ".join(s for s in (row.note, f"published: {row.source}" if row.source else "") if s)
                console.print(Text(f"{row.data}, {row.metric}: {said}", style="dim"))
            for case in row.disagreements if cases else ():
                console.print(Text(f"    {case}"))
        console.print()
    missed = [row for row in rows if row.met is False]
    with_bar = sum(row.bar is not None for row in rows)
    for row in missed:
        console.print(
            Text(
                f"missed: {row.checker}, {row.data}: {row.metric} {figure(row.value)}, bar {bar_text(row)}", style="red"
            )
        )
    if not missed:
        console.print(
            Text(f"all {with_bar} bars are reached" if with_bar else "no figure here has a bar", style="green")
        )


def figure(value: float) -> str:
    """A share with as many digits as tell it from 0 and 1."""
    return f"{value:.3f}" if value == 0 or value == 1 or 0.01 <= value <= 0.99 else f"{value:.4f}"


def bar_text(row: Row) -> str:
    """The bar with its direction and whether it is reached."""
    if row.bar is None:
        return ""
    return f"{'≤' if row.at_most else '≥'} {figure(row.bar).rstrip('0').rstrip('.')} {'✓' if row.met else '✗'}"
