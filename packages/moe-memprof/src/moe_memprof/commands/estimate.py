"""`moe-memprof estimate`: what a fine-tune takes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from moe_memprof.commands.options import budget_options, make_budget, make_spec, mendable, run_options
from moe_memprof.errors import MemprofError

if TYPE_CHECKING:
    from moe_memprof.patterns import Pattern
    from moe_memprof.spec import RunSpec
    from moe_memprof.traced import Traced


@click.command()
@click.argument("model")
@run_options
@budget_options
@click.option("--layers", is_flag=True, help="What each layer takes as well.")
@click.option("--routing", type=click.Path(dir_okay=False), metavar="TRACE",
              help="Loads of the experts: a trace of moe-router, or JSON [[...], ...].")  # fmt: skip
@click.option("--patterns", "ways", is_flag=True,
              help="Ways of keeping frozen experts on the host: bytes saved against bytes moved.")  # fmt: skip
@click.option("--link", type=click.FloatRange(min=0, min_open=True), metavar="GB/S",
              help="What the link to the host really carries, for the patterns' seconds.")  # fmt: skip
@click.option("--picture", type=click.Path(dir_okay=False), help="Write the step, layer by layer, as an SVG file.")
@click.option(
    "--traced", is_flag=True, help="A second opinion from the model's real code on fake tensors (needs torch)."
)
@click.option("--receipts", multiple=True, type=click.Path(path_type=Path), metavar="PLACE",
              help="Receipts of your runs, or folders of runs, for the error band; runs/ where it is there.")  # fmt: skip
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
    traced: bool,
    receipts: tuple[Path, ...],
    ways: bool,
    link: float | None,
    as_json: bool,
    **options: Any,
) -> None:
    """What fine-tuning MODEL takes: a folder, a config.json, or a hub id in the local cache.

    With --gpu or --available the exit code says whether it fits: 0 yes, 1 no.
    """
    from moe_memprof.error_band import error_band, find_receipts
    from moe_memprof.estimate import estimate as make

    budget = make_budget(gpu, available, memory_fraction)
    spec = make_spec(model, options)
    loads = None
    if routing:
        from moe_memprof.routing import busiest_share, read_loads

        loads = read_loads(Path(routing))
        share = busiest_share(loads, spec.parallel.expert_parallel)
        spec = replace(spec, parallel=replace(spec.parallel, hottest_share=share))
    second = None
    try:
        made = make(spec)
    except MemprofError:
        if not traced:
            raise
        # An architecture without closed forms: the traced estimate is the only one.
        _only_traced(_trace(spec, as_json), budget=None if budget is None else budget.bytes, as_json=as_json)
    found = _patterns(spec, loads) if ways or link else []
    places = receipts or tuple(p for p in (Path("runs"),) if p.is_dir())
    made = replace(made, band=error_band(spec, made, find_receipts(places)))
    if traced:
        second = _trace(spec, as_json)
    if picture:
        from moe_memprof.picture import write_picture

        write_picture(picture, spec)
    if as_json:
        values = made.to_dict()
        if budget is not None:
            values |= {"budget": budget.bytes, "fits": made.peak <= budget.bytes}
        if second is not None:
            values["traced"] = second.to_dict()
        if found:
            values["patterns"] = [p.to_dict() for p in found]
        click.echo(json.dumps(values, indent=1))
    else:
        from rich.console import Console

        from moe_memprof.advice import advice
        from moe_memprof.report import render_estimate, render_layers

        console = Console()
        render_estimate(console, made, budget=None if budget is None else budget.bytes)
        if second is not None:
            from moe_memprof.traced import render_traced

            render_traced(console, second, made)
        if layers:
            render_layers(console, spec)
        if routing or spec.parallel.expert_parallel > 1:
            from moe_memprof.report import render_routing
            from moe_memprof.routing import bands, capacities

            render_routing(console, bands(spec, loads), capacities(spec, loads))
        if found:
            from moe_memprof.report import render_patterns

            render_patterns(console, found, link=link)
        for line in advice(spec, made, budget=None if budget is None else budget.bytes):
            console.print(f"[cyan]·[/] {line}", highlight=False)
    raise SystemExit(0 if budget is None or made.peak <= budget.bytes else 1)


def _patterns(spec: RunSpec, loads: list[list[float]] | None) -> list[Pattern]:
    from moe_memprof.patterns import patterns

    return patterns(spec, loads)


def _trace(spec: RunSpec, as_json: bool) -> Traced:
    """The traced estimate, with a progress line where the output is for people."""
    from rich.console import Console

    from moe_memprof.traced import trace_with_progress, traced_estimate

    return traced_estimate(spec) if as_json else trace_with_progress(Console(), spec)


def _only_traced(second: Traced, *, budget: int | None, as_json: bool) -> NoReturn:
    """Print a traced estimate that has no other beside it, and leave."""
    if as_json:
        click.echo(json.dumps({"traced": second.to_dict()}, indent=1))
    else:
        from rich.console import Console

        from moe_memprof.traced import render_traced

        render_traced(Console(), second, None)
    raise SystemExit(0 if budget is None or second.estimate.peak <= budget else 1)
