"""What fits, and changes side by side, for the terminal."""

from __future__ import annotations

from collections.abc import Mapping

from rich.console import Console
from rich.table import Table
from rich.text import Text

from moe_memprof.commands.options import Budget
from moe_memprof.plan import Estimate
from moe_memprof.report import size
from moe_memprof.search import Option, Search


def render_search(console: Console, found: Search, *, budget: Budget) -> None:
    """The run as given, what makes it fit, and the largest batch and sequence of each method."""
    verdict = Text("fits", style="bold green") if found.fits else Text("does not fit", style="bold red")
    console.print(
        Text.assemble(
            "as given: ", verdict, f", {size(found.made.peak)} of {size(budget.bytes)} ({budget.name}); "
            f"the binding phase is {found.made.binding.name}: {found.made.binding.moment}",
        )
    )  # fmt: skip
    if found.cheapest is not None:
        console.print("\n[bold]The cheapest changes under which it fits[/]")
        _option(console, found.cheapest)
        for other in found.others:
            console.print("or", style="dim")
            _option(console, other)
    elif not found.fits:
        console.print(
            "No combination of four changes makes it fit: take a larger GPU, more of them (--world N --zero 3), or a smaller model."
        )
    table = Table(
        box=None, padding=(0, 2, 0, 0), title="\nHow much of each method fits, with checkpointing", title_justify="left"
    )
    table.add_column("method")
    for heading in ("one sequence", "largest batch", "longest sequence"):
        table.add_column(heading, justify="right")
    for method in found.methods:
        none = Text("-", style="dim")
        table.add_row(
            method.name,
            Text(size(method.peak), style="" if method.sequences else "red"),
            f"{method.sequences}" if method.sequences else none,
            f"{method.length:,}" if method.length else none,
        )
    console.print(table)


def _option(console: Console, option: Option) -> None:
    for change in option.changes:
        console.print(Text.assemble("  ", (change.name, "bold"), f": --set {change.set}"), soft_wrap=True)
        note = "" if change.learns_the_same else "not the same fine-tune: "
        console.print(f"    {note}{change.why}", style="dim", highlight=False)
    console.print(
        f"  {size(option.peak)}, about {option.time:.2f} times a step's time (modelled, not measured)", highlight=False
    )


def render_whatif(console: Console, columns: Mapping[str, Estimate], *, budget: Budget | None) -> None:
    """Each change a column, each part of its binding phase a row."""
    first = next(iter(columns.values()))
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("part")
    for name in columns:
        table.add_column(name.replace(",", ",\n"), justify="right")
    parts: dict[str, int] = {}
    for made in columns.values():
        for part in made.binding.parts:
            parts[part.name] = max(parts.get(part.name, 0), part.bytes)
    held = [{p.name: p.bytes for p in made.binding.parts} for made in columns.values()]
    for name in sorted(parts, key=lambda n: -parts[n]):
        if parts[name]:
            base = held[0].get(name, 0)
            table.add_row(name, *(_against(column.get(name, 0), base, i) for i, column in enumerate(held)))
    table.add_section()
    table.add_row("sum", *(Text(size(m.peak), style="bold") for m in columns.values()))
    table.add_row("", *(_difference(m.peak, first.peak, i) for i, m in enumerate(columns.values())))
    table.add_row("binding phase", *(m.binding.name for m in columns.values()))
    if budget is not None:
        table.add_row(
            f"fits {budget.name}",
            *(Text("yes", "green") if m.peak <= budget.bytes else Text("no", "red") for m in columns.values()),
        )
    console.print(table)


def _against(value: int, base: int, column: int) -> Text:
    style = "" if not column or value == base else ("green" if value < base else "red")
    return Text(size(value) if value else "-", style=style)


def _difference(value: int, base: int, column: int) -> str:
    return "" if not column else f"{'+' if value >= base else '-'}{size(abs(value - base))}"
