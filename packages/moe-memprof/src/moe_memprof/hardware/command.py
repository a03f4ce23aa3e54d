"""`moe-memprof hardware`: what this machine has, settings to start from, and the table of GPUs."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

from moe_memprof.commands.options import CONTEXT, mendable

if TYPE_CHECKING:
    from moe_memprof.hardware.detect import Hardware


@click.command()
@click.option("--gpu", help="Advise for this GPU of the table, rather than for this machine.")
@click.option(
    "--model", "models", multiple=True, help="Hold this model against it (a folder, a config.json, a cached hub id)."
)
@click.option("--stock", is_flag=True, help="For transformers, bitsandbytes and PEFT as they are.")
@click.option("--all", "whole", is_flag=True, help="Print the whole table.")
@click.option("--json", "as_json", is_flag=True, help="Print all of it as JSON.")
@mendable
def hardware(gpu: str | None, models: tuple[str, ...], stock: bool, whole: bool, as_json: bool) -> None:
    """The memory of this machine, settings to start from, and the table of GPUs."""  # fmt: skip
    from moe_memprof.hardware import GPUS, TABLE, advise, detect, known_models, lookup
    from moe_memprof.spec import read_config

    found = detect()
    row = None if gpu is None else lookup(gpu)
    configs = {model: read_config(model) for model in models} if models else known_models()
    advice = advise(found if row is None else row, configs=configs, baseline=CONTEXT, stock=stock)
    if as_json:
        values = {**found.to_dict(), "table": dict(GPUS), "advice": advice.to_dict()}
        values["gpu"] = None if row is None else row.to_dict()
        if whole:
            values["rows"] = [spec.to_dict() for spec in TABLE.values()]
        click.echo(json.dumps(values, indent=1))
        return
    from rich.console import Console

    from moe_memprof.hardware.report import render_advice, render_row, render_table

    console = Console()
    if whole:
        render_table(console, TABLE.values())
        return
    if row is not None:
        render_row(console, row)
    else:
        _machine(found)
    console.print()
    render_advice(console, advice)
    if row is None:
        click.echo("\n--gpu NAME advises for another GPU, --all lists the table")


def _machine(found: Hardware) -> None:
    from moe_memprof.report import size

    click.echo(f"memory: {size(found.total)}, {size(found.available)} free, {found.cpus} CPUs")
    if found.limit is not None:
        click.echo(f"limit of this control group: {size(found.limit)}")
    for gpu in found.gpus:
        row = gpu.row
        known = f"{row.name} of the table" if row is not None else "not in the table"
        click.echo(f"GPU: {gpu.name}, {size(gpu.total)}, {size(gpu.free)} free ({known})")
    if not found.gpus:
        click.echo("GPU: none seen by nvidia-smi, amd-smi, rocm-smi or sysctl")
