"""`moe-bench compare`: two runs, one verdict."""

from __future__ import annotations

import json
from pathlib import Path

import click

from moe_bench.commands import FOLDER, mendable
from moe_bench.draws import SCORES


@click.command()
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
@click.option(
    "--score",
    default="mean",
    show_default=True,
    type=click.Choice(SCORES),
    help="What several answers to an item come to.",
)
@click.option("--cluster", metavar="KEY", help="Items with the same value of KEY in their metadata go together.")
@click.option("--json", "as_json", is_flag=True, help="Print the comparison as JSON.")
@mendable
def compare(
    run_a: Path,
    run_b: Path,
    alpha: float,
    margin: float,
    require: str | None,
    score: str,
    cluster: str | None,
    as_json: bool,
) -> None:
    """Compare RUN_B with the baseline RUN_A, item by item. The exit code is 1 when B is worse."""
    from moe_bench.compare import compare_runs

    comparison = compare_runs(run_a, run_b, alpha=alpha, margin=margin, score=score, cluster=cluster)
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
