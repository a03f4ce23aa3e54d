"""`moe-bench run`: answer items and score them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from moe_bench.commands import FOLDER, mendable
from moe_bench.errors import BenchError

if TYPE_CHECKING:
    from moe_bench.item import Item


@click.command()
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
@mendable
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
