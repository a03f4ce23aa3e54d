"""`moe-bench run`: answer items and score them."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from moe_bench.commands import FOLDER, mendable
from moe_bench.errors import BenchError

if TYPE_CHECKING:
    from rich.console import Console

    from moe_bench.item import Item
    from moe_bench.models.base import Answering, Sampling
    from moe_bench.observers import Watch
    from moe_bench.ranks import Ranks

_AT_LEAST_1 = click.IntRange(min=1)


@click.command()
@click.option("--model", help="Folder or hub id of a transformers model; with --server, the name that the server uses.")
@click.option("--adapter", type=FOLDER, help="Folder of a PEFT adapter to put on the model.")
@click.option(
    "--server", metavar="URL", help="An OpenAI-compatible server, up to and with /v1, instead of a local model."
)
@click.option(
    "--outputs", type=FOLDER, help="A JSONL file of outputs to score: output, and id or prompt, on every line."
)
@click.option("--suite", help="A built-in suite; see `moe-bench suites`.")
@click.option(
    "--data", metavar="FILE|SET:FILE",
    help="A JSONL file of items with prompt and target, instead of a suite; or a published set, as in gsm8k:test.jsonl (see `datasets`).",
)  # fmt: skip
@click.option(
    "--per-task", default=50, show_default=True, type=_AT_LEAST_1, help="Test items of each family of the suite."
)
@click.option("--level", type=_AT_LEAST_1, help="Only items of this level, of a suite whose families have levels.")
@click.option(
    "--annotate",
    metavar="NAME",
    help="Let this installed annotator tell each item's reasoning operation (moe-router: operations).",
)
@click.option("--limit", type=_AT_LEAST_1, help="Only the first so many items.")
@click.option(
    "--few-shot", default=0, show_default=True, type=click.IntRange(min=0), help="Worked examples before each item."
)
@click.option(
    "--examples",
    metavar="FILE|SET:FILE",
    help="Where to take them from, as --data; for a suite, its train split by default.",
)
@click.option("--system", default="", help="A system message.")
@click.option("--plain", is_flag=True, help="Put prompts as they are, although the model has a chat template.")
@click.option(
    "--samples", default=1, show_default=True, type=_AT_LEAST_1, help="Answers to every item; needs a temperature."
)
@click.option("--temperature", default=0.0, show_default=True, type=click.FloatRange(min=0), help="0 is greedy.")
@click.option(
    "--top-p", default=1.0, show_default=True, type=click.FloatRange(0, 1, min_open=True), help="Nucleus to draw from."
)
@click.option("--seed", default=0, show_default=True, help="Of the draws and of the choice of worked examples.")
@click.option("--max-new-tokens", default=256, show_default=True, type=_AT_LEAST_1, help="Where an answer is cut.")
@click.option("--stop", multiple=True, help="A text at which an answer ends; may be given several times.")
@click.option(
    "--stop-on-answer/--write-on",
    default=True,
    show_default=True,
    help="End an answer with the line of its `####` or \\boxed{}.",
)
@click.option("--batch", default=32, show_default=True, type=_AT_LEAST_1, help="Answers generated together, at most.")
@click.option(
    "--dtype",
    type=click.Choice(["bfloat16", "float16", "float32"]),
    help="Of the weights.  [default: bfloat16 on a GPU]",
)
@click.option(
    "--concurrency", default=8, show_default=True, type=_AT_LEAST_1, help="Requests to a server at the same time."
)
@click.option("--per-minute", type=_AT_LEAST_1, help="Requests to a server in any minute, at most.")
@click.option(
    "--timeout",
    default=300.0,
    show_default=True,
    type=click.FloatRange(0, min_open=True),
    help="Seconds for a request.",
)
@click.option(
    "--key-variable", default="OPENAI_API_KEY", show_default=True, help="Environment variable with the server's key."
)
@click.option("--observe", help="Observers of what happens meanwhile, such as routing,memory.")
@click.option("-o", "--output", required=True, type=FOLDER, help="The run's folder; one that exists is gone on with.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
@mendable
def run(output: Path, as_json: bool, observe: str | None, **asked: Any) -> None:
    """Answer a suite's test items, or your own, and score them. A stopped run goes on where it was.

    Greedy answers do not depend on the batch except where two tokens are as likely as each other to rounding. Drawn answers follow from
    the seed, the item and the number of the answer, and so not on what else is asked. Across machines, GPUs, dtypes and versions,
    and from servers, neither is promised. Several processes (torchrun, accelerate) share a run.
    """
    from rich.console import Console

    from moe_bench.log import read_header, read_samples
    from moe_bench.observed import read_observed
    from moe_bench.observers import installed, make_watch
    from moe_bench.prompting import Prompting
    from moe_bench.ranks import Ranks
    from moe_bench.report import render_observed, render_run
    from moe_bench.runner import run_items

    items, name, pool = _items(asked)
    ranks = Ranks.from_environment()
    plugins = installed()
    watch = make_watch([part for part in (observe or "").split(",") if part], plugins)
    examples = _examples(asked, items, pool)
    prompting = Prompting(system=asked["system"], examples=examples, samples=asked["samples"], seed=asked["seed"])
    watch.start()
    with watch.phase("load"):
        model, model_name = _model(asked, watch, ranks)
    console = Console(stderr=as_json)
    try:
        with _progress(console, ranks) as progress:
            summary = run_items(
                model,
                items,
                output,
                suite=name,
                model_name=model_name,
                prompting=prompting,
                watch=watch,
                plugins=plugins,
                ranks=ranks,
                progress=progress,
            )
    finally:
        ranks.close()
    if not ranks.first:
        return
    if as_json:
        result = {
            "run": str(output), "items": summary.items, "answers": summary.answers, "correct": summary.correct,
            "accuracy": summary.accuracy,
        }  # fmt: skip
        click.echo(json.dumps({"schema": "moe-bench/summary@1", **result}))
        return
    render_run(console, read_header(output), read_samples(output))
    render_observed(console, read_observed(output), output)


def _items(asked: dict[str, Any]) -> tuple[list[Item], str, list[Item]]:
    """The items to be answered, with their operations; the name of their set; what worked examples may be drawn from."""
    from moe_bench.annotators import annotated

    items, name, pool = _chosen(asked)
    return (annotated(items, asked["annotate"]) if asked["annotate"] else items), name, pool


def _chosen(asked: dict[str, Any]) -> tuple[list[Item], str, list[Item]]:
    from moe_bench.tasks import SUITES, make_items

    suite, data, limit = asked["suite"], asked["data"], asked["limit"]
    if (suite is None) == (data is None):
        raise BenchError("run: give either --suite or --data")
    level = asked["level"]
    if data is not None:
        if level is not None:
            raise BenchError("run: --level goes with --suite; choose the items of a file when you write it")
        return _read(data)[:limit], Path(data.partition("?")[0]).name, []
    if suite not in SUITES:
        raise BenchError(f"suite {suite!r} is unknown; known are {', '.join(SUITES)}")
    items = make_items(SUITES[suite], count_per_family=asked["per_task"], seed=0, split="test", level=level)[:limit]
    few = asked["few_shot"] if asked["examples"] is None else 0
    families = list(dict.fromkeys(item.task for item in items))
    pool = make_items(families, count_per_family=2 * few, seed=asked["seed"], split="train", level=level) if few else []
    return items, suite if level is None else f"{suite}, level {level}", pool


def _read(text: str) -> list[Item]:
    """The items of a file, or of a published set."""
    from moe_bench.datasets import load_dataset, names_a_dataset
    from moe_bench.item import load_items

    return load_dataset(text) if names_a_dataset(text) else load_items(Path(text))


def _examples(asked: dict[str, Any], items: list[Item], pool: list[Item]) -> dict[str, tuple[Item, ...]]:
    from moe_bench.prompting import choose_examples

    if not asked["few_shot"]:
        return {}
    if asked["examples"] is not None:
        pool = _read(asked["examples"])
    elif asked["data"] is not None:
        raise BenchError("few-shot: --data has no train split; name a file of worked examples with --examples")
    return choose_examples(pool, judged=items, count=asked["few_shot"], seed=asked["seed"])


def _model(asked: dict[str, Any], watch: Watch, ranks: Ranks) -> tuple[Answering, str]:
    from moe_bench.models.base import Sampling

    sampling = Sampling(
        max_new_tokens=asked["max_new_tokens"],
        temperature=asked["temperature"],
        top_p=asked["top_p"],
        stop=tuple(asked["stop"]),
        stop_on_answer=asked["stop_on_answer"],
    )
    model, server, outputs = asked["model"], asked["server"], asked["outputs"]
    if outputs is not None and server is not None:
        raise BenchError("run: give either --server or --outputs")
    if outputs is not None:
        from moe_bench.models.replay import ReplayModel

        return ReplayModel(outputs), model or outputs.name
    if model is None:
        raise BenchError("run: give --model, or --outputs to score what is there")
    if server is None:
        return _local(asked, sampling, ranks), model if asked["adapter"] is None else f"{model} + {asked['adapter']}"
    if asked["adapter"] is not None:
        raise BenchError("run: --adapter goes with a local model; have the server load it, and name it with --model")
    if watch.observers.keys() - {"memory"}:
        raise BenchError("observe: nothing can be seen inside a server; run the model here, or leave it out")
    from moe_bench.models.served import ServedModel

    served = ServedModel(
        server,
        model,
        sampling=sampling,
        concurrency=asked["concurrency"],
        per_minute=asked["per_minute"],
        timeout=asked["timeout"],
        chat=not asked["plain"],
        key_variable=asked["key_variable"],
    )
    return served, model


def _local(asked: dict[str, Any], sampling: Sampling, ranks: Ranks) -> Answering:
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")
    try:
        import torch
        from transformers.utils.logging import disable_progress_bar
    except ImportError:
        raise BenchError("run: needs torch and transformers; pip install 'moe-bench[hf]'") from None
    from moe_bench.models.hf import HFModel

    disable_progress_bar()
    several = ranks.world > 1 and torch.cuda.is_available()
    if several and ranks.local >= torch.cuda.device_count():
        raise BenchError(
            f"process {ranks.rank}: this machine has {torch.cuda.device_count()} GPUs and none of number {ranks.local}; "
            "start fewer processes"
        )
    return HFModel.load(
        asked["model"],
        adapter=asked["adapter"],
        batch_size=asked["batch"],
        sampling=sampling,
        chat_template=not asked["plain"],
        dtype=asked["dtype"],
        device=f"cuda:{ranks.local}" if several else None,
    )


@contextmanager
def _progress(console: Console, ranks: Ranks) -> Iterator[Callable[[int, int], None] | None]:
    """A bar with the time left, of the first process."""
    if not ranks.first:
        yield None
        return
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, speed_estimate_period=120) as bar:
        several = f" (process 1 of {ranks.world})" if ranks.world > 1 else ""
        task = bar.add_task(f"answering{several}", total=None)

        def show(done: int, total: int) -> None:
            if bar.tasks[0].total is None:  # what was answered before tells nothing of the speed
                bar.reset(task, total=total, completed=done)
            bar.update(task, completed=done)

        yield show
