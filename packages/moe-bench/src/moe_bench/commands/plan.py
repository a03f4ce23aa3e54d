"""`moe-bench plan`: what a comparison can see before it is run."""

from __future__ import annotations

import json

import click

from moe_bench.commands import mendable


@click.command()
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
@click.option(
    "--margin",
    default=0.05,
    show_default=True,
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    help="What counts as equivalent.",
)
@click.option("--json", "as_json", is_flag=True)
@mendable
def plan(items: int, discordant: float, power: float, margin: float, as_json: bool) -> None:
    """What a comparison of so many items can see, before anything is run."""
    from moe_bench.stats import equivalence_power, minimum_detectable_difference

    equivalent = equivalence_power(items, discordant=discordant, margin=margin)
    detectable = minimum_detectable_difference(items, discordant=discordant, power=power)
    if as_json:
        values = {
            "schema": "moe-bench/plan@1",
            "items": items,
            "discordant": discordant,
            "power": power,
            "detectable": detectable,
            "margin": margin,
            "equivalent": equivalent,
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
    click.echo(
        f"where there is no difference, equivalence within ±{100 * margin:g} points is shown with probability {equivalent:.0%}"
    )
