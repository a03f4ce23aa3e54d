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
    from rich.table import Table
    from rich.text import Text

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
    from rich.text import Text

    for checker in dict.fromkeys(row.checker for row in rows):
        mine = [row for row in rows if row.checker == checker]
        notes = list[str]()
        headings = (checker, "value", "95 %", "n", "bar", "others")
        console.print(_line([Text(h, style="bold" if h == checker else "dim") for h in headings]))
        for data in dict.fromkeys(row.data for row in mine):
            console.print(Text(data, style="cyan"))
            for row in mine:
                if row.data == data:
                    console.print(_line(_cells(row, notes)))
        for number, note in enumerate(notes, start=1):
            console.print(Text(f"[{number}] {note}", style="dim"))
        for row in mine if cases else ():
            for case in row.disagreements:
                console.print(Text(f"{row.data}: {case}"))
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


def _line(cells: Sequence[Text]) -> Table:
    """Cells at the same places in every line."""
    from rich.table import Table

    grid = Table.grid(padding=(0, 1))
    for width, justify in zip((31, 7, 16, 5, 9, 7), ("left", "right", "left", "right", "left", "right"), strict=True):
        grid.add_column(width=width, justify="left" if justify == "left" else "right", overflow="fold")
    grid.add_row(*cells)
    return grid


def _cells(row: Row, notes: list[str]) -> list[Text]:
    """One figure; its note, if there is one that was not before, is put with the others."""
    from rich.text import Text

    colour = {True: "green", False: "red", None: ""}[row.met]
    note = "; ".join(s for s in (row.note, f"published: {row.source}" if row.source else "") if s)
    if note and note not in notes:
        notes.append(note)
    return [
        Text(f"  {row.metric}" + (f" [{notes.index(note) + 1}]" if note else "")),
        Text(figure(row.value), style=f"bold {colour}".strip()),
        Text(f"{figure(row.ci[0])} to {figure(row.ci[1])}" if row.ci else "", style="dim"),
        Text(str(row.n)),
        Text(bar_text(row), style=colour),
        Text(figure(row.published) if row.published is not None else ""),
    ]


def figure(value: float) -> str:
    """A share with as many digits as tell it from 0 and 1."""
    return f"{value:.3f}" if value == 0 or value == 1 or 0.01 <= value <= 0.99 else f"{value:.4f}"


def bar_text(row: Row) -> str:
    """The bar with its direction and whether it is reached."""
    if row.bar is None:
        return ""
    return f"{'≤' if row.at_most else '≥'} {figure(row.bar).rstrip('0').rstrip('.')} {'✓' if row.met else '✗'}"
