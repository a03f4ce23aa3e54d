"""`moe-bench show`: items of a run, from prompt to verdict."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from moe_bench.commands import FOLDER, mendable
from moe_bench.errors import BenchError

if TYPE_CHECKING:
    from rich.console import Console


@click.command()
@click.argument("run_folder", metavar="RUN", type=FOLDER)
@click.option("--failed", is_flag=True, help="Only wrong answers.")
@click.option("--task", help="Only this task.")
@click.option("--item", "item_id", help="Only the item with this id (or the beginning of it).")
@click.option("-n", "count", default=5, show_default=True, type=click.IntRange(min=1), help="At most so many items.")
@click.option(
    "--steps/--no-steps", default=True, show_default=True, help="Judge every step of the output; see `moe-bench check`."
)
@click.option("--json", "as_json", is_flag=True, help="Print the samples as JSON lines.")
@mendable
def show(
    run_folder: Path, failed: bool, task: str | None, item_id: str | None, count: int, steps: bool, as_json: bool
) -> None:
    """Read items of a run from prompt to verdict."""
    from moe_bench.log import read_header, read_samples

    header = read_header(run_folder)
    samples = [
        sample
        for sample in read_samples(run_folder)
        if not (failed and sample["correct"])
        and (task is None or sample["task"] == task)
        and (item_id is None or sample["id"].startswith(item_id))
    ]
    if not samples:
        raise BenchError(f"run {run_folder}: no item fits what was asked for")
    if as_json:
        for sample in samples[:count]:
            click.echo(json.dumps(sample, ensure_ascii=False))
        return
    from rich.console import Console

    from moe_bench.report import render_run, render_sample

    console = Console()
    render_run(console, header, read_samples(run_folder))
    for sample in samples[:count]:
        render_sample(console, sample)
        if steps and sample["output"]:
            _judge(console, sample)


def _judge(console: Console, sample: dict[str, Any]) -> None:
    from moe_bench.checkers import assess
    from moe_bench.checkers.registry import GROUPS, make_checkers
    from moe_bench.commands.check import Solution, render
    from moe_bench.steps import split_steps

    found = Solution(name="its steps", problem="", steps=tuple(split_steps(sample["output"])))
    render(console, found, assess(sample["prompt"], found.steps, make_checkers(GROUPS)))
