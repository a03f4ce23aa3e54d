"""The `moe-memprof` command."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from moe_memprof import __version__
from moe_memprof.errors import MemprofError

GIB = 2**30


def _mendable(command: Callable[..., Any]) -> Callable[..., Any]:
    """Errors a user can mend become one line and exit code 2."""

    @functools.wraps(command)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        try:
            return command(*args, **kwargs)
        except MemprofError as error:
            click.echo(f"error: {error}", err=True)
            raise SystemExit(2) from None

    return wrapped


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="moe-memprof")
def main() -> None:
    """Will it fit, why not, and what did it really use?"""


@main.command()
@click.argument("model")
@click.option("--method", type=click.Choice(["full", "lora"]), default="lora", show_default=True)
@click.option("--dtype", type=click.Choice(["float32", "bfloat16", "float16"]), default="bfloat16", show_default=True)
@click.option(
    "--batch", default=1, show_default=True, type=click.IntRange(min=1), help="Sequences in one forward pass."
)
@click.option("--seq", default=2048, show_default=True, type=click.IntRange(min=1), help="Padded tokens of a sequence.")
@click.option("--lora-rank", default=8, show_default=True, type=click.IntRange(min=1))
@click.option("--lora-attention/--no-lora-attention", default=True, show_default=True)
@click.option("--lora-experts/--no-lora-experts", default=True, show_default=True)
@click.option("--optimizer", type=click.Choice(["adamw", "sgd"]), default="adamw", show_default=True)
@click.option("--checkpointing", is_flag=True, help="Recompute activations in the backward pass.")
@click.option("--gpu", help="Name of a GPU in the table (`moe-memprof hardware`), to say whether it fits.")
@click.option(
    "--available", type=click.FloatRange(min=0, min_open=True), help="GiB there are, instead of a GPU's name."
)
@click.option("--json", "as_json", is_flag=True, help="Print the estimate as JSON.")
@_mendable
def estimate(model: str, gpu: str | None, available: float | None, as_json: bool, **options: Any) -> None:
    """What fine-tuning MODEL takes: a folder, a config.json, or a hub id in the local cache.

    With --gpu or --available the exit code says whether it fits: 0 yes, 1 no.
    """
    from moe_memprof.estimate import estimate as make
    from moe_memprof.hardware import GPUS
    from moe_memprof.spec import RunSpec, read_config

    if gpu is not None and gpu not in GPUS:
        raise MemprofError(f"--gpu {gpu!r}: not in the table, which has {', '.join(GPUS)}; or give --available GIB")
    if gpu is not None and available is not None:
        raise MemprofError("--gpu and --available are both given; keep one")
    spec = RunSpec(config=read_config(model), sequences=options.pop("batch"), length=options.pop("seq"), **options)
    made = make(spec)
    budget = None if gpu is None and available is None else int((GPUS[gpu] if gpu else available or 0) * GIB)
    if as_json:
        values = made.to_dict()
        if budget is not None:
            values |= {"budget": budget, "fits": made.peak <= budget}
        click.echo(json.dumps(values, indent=1))
    else:
        from rich.console import Console

        from moe_memprof.report import render_estimate

        render_estimate(Console(), made, budget=budget)
    raise SystemExit(0 if budget is None or made.peak <= budget else 1)


@main.command()
@click.option("--json", "as_json", is_flag=True, help="Print what is found as JSON.")
def hardware(as_json: bool) -> None:
    """The memory of this machine, and the table of GPUs."""
    from moe_memprof.hardware import GPUS, detect
    from moe_memprof.report import size

    found = detect()
    if as_json:
        click.echo(json.dumps({**found.to_dict(), "table": GPUS}, indent=1))
        return
    click.echo(f"memory: {size(found.total)}, {size(found.available)} free, {found.cpus} CPUs")
    if found.limit is not None:
        click.echo(f"limit of this control group: {size(found.limit)}")
    for gpu in found.gpus:
        click.echo(f"GPU: {gpu.name}, {size(gpu.total)}, {size(gpu.free)} free")
    if not found.gpus:
        click.echo("GPU: none seen by nvidia-smi")
    click.echo("table: " + ", ".join(f"{name} {gib}" for name, gib in GPUS.items()))


@main.command()
@click.argument("receipts", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print the errors as JSON.")
@_mendable
def compare(receipts: tuple[Path, ...], as_json: bool) -> None:
    """Estimated beside measured, from the receipts of runs, and the error over all of them."""
    from moe_memprof.receipts import Receipt, summarise

    loaded = [Receipt.load(path) for path in receipts]
    if as_json:
        click.echo(json.dumps({"schema": "moe-memprof/errors@1", **asdict(summarise(loaded))}))
        return
    from rich.console import Console

    from moe_memprof.report import render_receipts

    render_receipts(Console(), loaded)


@main.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@click.option(
    "--interval", default=0.1, show_default=True, type=click.FloatRange(min=0.01), help="Seconds between samples."
)
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Append the samples to this JSONL file.")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
@_mendable
def profile(interval: float, output: Path | None, command: tuple[str, ...]) -> None:
    """Run a program, `moe-memprof profile -- python train.py`, and print the memory it and its children took.

    The exit code is the program's own.
    """
    from moe_memprof.profiling import profile_program
    from moe_memprof.report import size

    result = profile_program(command, interval=interval, path=output)
    click.echo(
        f"peak {size(result.peak)} resident in {result.seconds:.1f} s ({result.samples} samples), exit code {result.exit_code}",
        err=True,
    )
    raise SystemExit(result.exit_code)
