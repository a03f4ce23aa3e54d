"""`moe-bench suites`: what there is to be asked."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from moe_bench.commands import mendable
from moe_bench.errors import BenchError

if TYPE_CHECKING:
    from rich.console import Console

    from moe_bench.item import Item

SCHEMA = "moe-bench/suites@1"


@click.command()
@click.argument("name", required=False)
@click.option(
    "--examples", default=0, type=click.IntRange(min=0), help="Show so many items of each family, with their solutions."
)
@click.option(
    "--level", type=click.IntRange(min=1), help="Of this level only; without it the examples are of all levels in turn."
)
@click.option(
    "--seed",
    default=0,
    show_default=True,
    help="Of the examples. They are of the train split, never of the test split.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the suites as JSON.")
@mendable
def suites(name: str | None, examples: int, level: int | None, seed: int, as_json: bool) -> None:
    """The built-in suites, their task families, operations and levels.

    NAME is a suite or a family; without it all are listed.
    """
    from moe_bench.tasks import SUITES, make_items

    families = _families(name)
    if level is not None and not examples:
        raise BenchError("suites: --level goes with --examples, such as --examples 2")
    items = make_items(families, count_per_family=examples, seed=seed, level=level) if examples else []
    if as_json:
        shown = SUITES if name is None else {k: v for k, v in SUITES.items() if k == name}
        values: dict[str, Any] = {
            "schema": SCHEMA,
            "suites": {k: list(v) for k, v in shown.items()},
            "families": {family: _described(family) for family in families},
        }
        if examples:
            values["examples"] = [item.to_dict() for item in items]
        click.echo(json.dumps(values, indent=1, ensure_ascii=False))
        return
    from rich.console import Console

    console = Console(highlight=False)
    if items:
        _render_examples(console, items)
    else:
        _render(console, name, families)


def _families(name: str | None) -> list[str]:
    """The families that a name stands for: of a suite, of a family, or all."""
    from moe_bench.tasks import FAMILIES, LEVELLED, SUITES

    known = [*FAMILIES, *LEVELLED]
    if name is None:
        return known
    found = [*SUITES.get(name, ()), *([name] if name in known else [])]  # a few names are both
    if not found:
        import difflib

        near = difflib.get_close_matches(name, [*SUITES, *known], n=1)
        meant = f"; did you mean {near[0]}?" if near else "; `moe-bench suites` lists them"
        raise BenchError(f"suites: {name!r} is neither a suite nor a family{meant}")
    return list(dict.fromkeys(found))


def _described(name: str) -> dict[str, Any]:
    from moe_bench.tasks import FAMILIES, LEVELLED

    if name in FAMILIES:
        return {"operation": FAMILIES[name].operation, "description": FAMILIES[name].description, "levels": []}
    family = LEVELLED[name]
    return {
        "operation": family.operation,
        "description": family.description,
        "answer_kind": family.answer_kind,
        "levels": list(family.levels),
    }


def _render(console: Console, name: str | None, families: list[str]) -> None:
    from rich.table import Table

    from moe_bench.tasks import LEVELLED, SUITES

    for suite, names in SUITES.items():
        if name in (None, suite):
            console.print(f"[bold]{suite}[/]  {', '.join(names)}")
    table = Table(title="families", title_justify="left", box=None, padding=(0, 2, 0, 0))
    for heading in ("family", "operation", "answer", "levels", "what it is"):
        table.add_column(heading)
    for family in families:
        told = _described(family)
        levels = f"1 to {len(told['levels'])}" if told["levels"] else ""
        table.add_row(family, told["operation"], told.get("answer_kind", ""), levels, told["description"])
    console.print(table)
    for family in families if name is not None else ():
        for number, text in enumerate(LEVELLED[family].levels if family in LEVELLED else (), start=1):
            console.print(
                f"{family}, level {number}: {text}" if number == 1 else f"{' ' * len(family)}  level {number}: {text}"
            )
    console.print("[dim]moe-bench suites NAME --examples 2 shows items; --level 3 those of one level[/]")


def _render_examples(console: Console, items: list[Item]) -> None:
    from rich.panel import Panel
    from rich.text import Text

    for item in items:
        level = f" · level {item.metadata['level']}" if "level" in item.metadata else ""
        body = Text.assemble(
            item.prompt, ("\n\nworked solution\n", "dim"), item.solution, ("\n\nanswer  ", "dim"), (item.target, "bold")
        )
        console.print(
            Panel(body, title=f"{item.task} · {item.operation}{level}", title_align="left", border_style="blue")
        )
