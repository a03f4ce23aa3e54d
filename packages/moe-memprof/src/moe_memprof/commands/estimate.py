"""`moe-memprof estimate`: what a fine-tune takes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from moe_memprof.commands.options import budget_options, make_budget, make_spec, mendable, run_options


@click.command()
@click.argument("model")
@run_options
@budget_options
@click.option("--layers", is_flag=True, help="What each layer takes as well.")
@click.option("--routing", type=click.Path(dir_okay=False), metavar="TRACE",
              help="Loads of the experts: a trace of moe-router, or JSON [[...], ...].")  # fmt: skip
@click.option("--picture", type=click.Path(dir_okay=False), help="Write the step, layer by layer, as an SVG file.")
@click.option("--json", "as_json", is_flag=True, help="Print the estimate as JSON.")
@mendable
def estimate(
    model: str,
    gpu: str | None,
    available: float | None,
    memory_fraction: float,
    layers: bool,
    routing: str | None,
    picture: str | None,
    as_json: bool,
    **options: Any,
) -> None:
    """What fine-tuning MODEL takes: a folder, a config.json, or a hub id in the local cache.

    With --gpu or --available the exit code says whether it fits: 0 yes, 1 no.
    """
    from moe_memprof.estimate import estimate as make

    budget = make_budget(gpu, available, memory_fraction)
    spec = make_spec(model, options)
    loads = None
    if routing:
        from moe_memprof.routing import busiest_share, read_loads

        loads = read_loads(Path(routing))
        share = busiest_share(loads, spec.parallel.expert_parallel)
        spec = replace(spec, parallel=replace(spec.parallel, hottest_share=share))
    made = make(spec)
    if picture:
        from moe_memprof.picture import write_picture

        write_picture(picture, spec)
    if as_json:
        values = made.to_dict()
        if budget is not None:
            values |= {"budget": budget.bytes, "fits": made.peak <= budget.bytes}
        click.echo(json.dumps(values, indent=1))
    else:
        from rich.console import Console

        from moe_memprof.advice import advice
        from moe_memprof.report import render_estimate, render_layers

        console = Console()
        render_estimate(console, made, budget=None if budget is None else budget.bytes)
        if layers:
            render_layers(console, spec)
        if routing or spec.parallel.expert_parallel > 1:
            from moe_memprof.report import render_routing
            from moe_memprof.routing import bands, capacities

            render_routing(console, bands(spec, loads), capacities(spec, loads))
        for line in advice(spec, made, budget=None if budget is None else budget.bytes):
            console.print(f"[cyan]·[/] {line}", highlight=False)
    raise SystemExit(0 if budget is None or made.peak <= budget.bytes else 1)
