"""The `moe-bench` command."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from moe_bench import __version__
from moe_bench.errors import BenchError

if TYPE_CHECKING:
    from moe_bench.item import Item

FOLDER = click.Path(path_type=Path)


def _mendable(command: Callable[..., Any]) -> Callable[..., Any]:
    """Errors a user can mend become one line and exit code 2."""

    @functools.wraps(command)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        try:
            return command(*args, **kwargs)
        except BenchError as error:
            click.echo(f"error: {error}", err=True)
            raise SystemExit(2) from None
        except KeyboardInterrupt:
            click.echo("\nstopped; the same command goes on where it was", err=True)
            raise SystemExit(130) from None

    return wrapped


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="moe-bench")
def main() -> None:
    """Does a language model reason better, and is that sure?"""


@main.command()
@click.option("--model", required=True, help="Folder or hub id of a transformers model.")
@click.option("--adapter", type=FOLDER, help="Folder of a PEFT adapter to put on the model.")
@click.option("--suite", help="A built-in suite; see `moe-bench suites`.")
@click.option("--data", type=FOLDER, help="A JSONL file of items with prompt and target, instead of a suite.")
@click.option(
    "--per-task",
    default=50,
    show_default=True,
    type=click.IntRange(min=1),
    help="Test items of each family of the suite.",
)
@click.option("--limit", type=click.IntRange(min=1), help="Only the first so many items of the data.")
@click.option("--batch", default=32, show_default=True, type=click.IntRange(min=1), help="Prompts generated together.")
@click.option(
    "--max-new-tokens", default=256, show_default=True, type=click.IntRange(min=1), help="Where an answer is cut."
)
@click.option("-o", "--output", required=True, type=FOLDER, help="The run's folder; one that exists is gone on with.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
@_mendable
def run(
    model: str,
    adapter: Path | None,
    suite: str | None,
    data: Path | None,
    per_task: int,
    limit: int | None,
    batch: int,
    max_new_tokens: int,
    output: Path,
    as_json: bool,
) -> None:
    """Answer a suite's test items, or your own, and score them. A stopped run goes on where it was."""
    items, name = _items(suite, data, per_task, limit)
    import os

    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")
    try:
        import torch  # noqa: F401
        import transformers  # noqa: F401
    except ImportError:
        raise BenchError("run: needs torch and transformers; pip install 'moe-bench[hf]'") from None
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    from moe_bench.log import read_header, read_samples
    from moe_bench.models import HFModel
    from moe_bench.report import render_run
    from moe_bench.runner import run_items

    generator = HFModel.load(model, adapter=adapter, batch_size=batch, max_new_tokens=max_new_tokens)
    console = Console(stderr=as_json)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("answering", total=len(items))
        summary = run_items(
            generator,
            items,
            output,
            suite=name,
            model_name=model if adapter is None else f"{model} + {adapter}",
            progress=lambda done, _total: progress.update(task, completed=done),
        )
    if as_json:
        result = {"run": str(output), "items": summary.items, "correct": summary.correct, "accuracy": summary.accuracy}
        click.echo(json.dumps({"schema": "moe-bench/summary@1", **result}))
    else:
        render_run(console, read_header(output), read_samples(output))


def _items(suite: str | None, data: Path | None, per_task: int, limit: int | None) -> tuple[list[Item], str]:
    from moe_bench.item import load_items
    from moe_bench.tasks import SUITES, make_items

    if (suite is None) == (data is None):
        raise BenchError("run: give either --suite or --data")
    if data is not None:
        return load_items(data)[:limit], data.name
    assert suite is not None
    if suite not in SUITES:
        raise BenchError(f"suite {suite!r} is unknown; known are {', '.join(SUITES)}")
    return make_items(SUITES[suite], count_per_family=per_task, seed=0, split="test")[:limit], suite


@main.command()
@click.argument("run_a", type=FOLDER)
@click.argument("run_b", type=FOLDER)
@click.option(
    "--alpha", default=0.05, show_default=True, type=click.FloatRange(0, 0.5, min_open=True), help="Level of the tests."
)
@click.option(
    "--margin",
    default=0.05,
    show_default=True,
    type=click.FloatRange(0, 1, min_open=True),
    help="What counts as equivalent.",
)
@click.option(
    "--require",
    type=click.Choice(["better", "equivalent"]),
    help="Exit 1 unless the verdict is this (better passes both).",
)
@click.option("--json", "as_json", is_flag=True, help="Print the comparison as JSON.")
@_mendable
def compare(run_a: Path, run_b: Path, alpha: float, margin: float, require: str | None, as_json: bool) -> None:
    """Compare RUN_B with the baseline RUN_A, item by item. The exit code is 1 when B is worse."""
    from moe_bench.compare import compare_runs

    comparison = compare_runs(run_a, run_b, alpha=alpha, margin=margin)
    if as_json:
        click.echo(json.dumps(comparison.to_dict(), indent=1))
    else:
        from rich.console import Console

        from moe_bench.report import render_comparison

        render_comparison(Console(), comparison)
    accepted = {
        None: {"better", "equivalent", "not enough data"},
        "better": {"better"},
        "equivalent": {"better", "equivalent"},
    }
    raise SystemExit(0 if comparison.verdict in accepted[require] else 1)


@main.command()
@click.argument("run_folder", metavar="RUN", type=FOLDER)
@click.option("--failed", is_flag=True, help="Only wrong answers.")
@click.option("--task", help="Only this task.")
@click.option("--item", "item_id", help="Only the item with this id (or the beginning of it).")
@click.option("-n", "count", default=5, show_default=True, type=click.IntRange(min=1), help="At most so many items.")
@click.option("--json", "as_json", is_flag=True, help="Print the samples as JSON lines.")
@_mendable
def show(run_folder: Path, failed: bool, task: str | None, item_id: str | None, count: int, as_json: bool) -> None:
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


@main.command()
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


@main.command()
@click.option(
    "--items", required=True, type=click.IntRange(min=1), help="How many items are to be answered by both models."
)
@click.option(
    "--discordant",
    default=0.2,
    show_default=True,
    type=click.FloatRange(0, 1, min_open=True),
    help="Share of items on which the two are expected to disagree.",
)
@click.option("--power", default=0.8, show_default=True, type=click.FloatRange(0, 1, min_open=True, max_open=True))
@click.option("--json", "as_json", is_flag=True)
@_mendable
def plan(items: int, discordant: float, power: float, as_json: bool) -> None:
    """What a comparison of so many items can see, before anything is run."""
    from moe_bench.stats import minimum_detectable_difference

    detectable = minimum_detectable_difference(items, discordant=discordant, power=power)
    if as_json:
        values = {
            "schema": "moe-bench/plan@1",
            "items": items,
            "discordant": discordant,
            "power": power,
            "detectable": detectable,
        }
        click.echo(json.dumps(values))
        return
    click.echo(
        f"{items} items of which {discordant:.0%} come out differently: "
        + (
            "no difference can be found with that power; take more items"
            if detectable is None
            else f"a difference of {100 * detectable:.1f} points is found with probability {power:.0%}; a smaller one more rarely"
        )
    )
