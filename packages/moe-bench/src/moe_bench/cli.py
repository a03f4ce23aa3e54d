"""The `moe-bench` command: a group, and one line for each verb."""

from __future__ import annotations

import click

from moe_bench import __version__
from moe_bench.commands.check import check
from moe_bench.commands.compare import compare
from moe_bench.commands.datasets import datasets
from moe_bench.commands.fetch import fetch
from moe_bench.commands.plan import plan
from moe_bench.commands.run import run
from moe_bench.commands.selftest import selftest
from moe_bench.commands.show import show
from moe_bench.commands.suites import suites
from moe_bench.commands.validate import validate


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="moe-bench")
def main() -> None:
    """Does a language model reason better, and is that sure?"""


main.add_command(run)
main.add_command(show)
main.add_command(suites)
main.add_command(datasets)
main.add_command(fetch)
main.add_command(compare)
main.add_command(plan)
main.add_command(check)
main.add_command(selftest)
main.add_command(validate)
