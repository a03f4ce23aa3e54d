"""The `moe-memprof` command."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import click

from moe_memprof import __version__
from moe_memprof.audit.command import audit
from moe_memprof.commands.estimate import estimate
from moe_memprof.commands.fit import fit, whatif
from moe_memprof.commands.inventory import inventory
from moe_memprof.commands.options import mendable
from moe_memprof.hardware.command import hardware


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="moe-memprof")
def main() -> None:
    """Will it fit, why not, and what did it really use?"""


main.add_command(audit)
main.add_command(estimate)
main.add_command(fit)
main.add_command(hardware)
main.add_command(inventory)
main.add_command(whatif)


@main.command()
@click.argument("receipts", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print the errors as JSON.")
@mendable
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
@mendable
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
