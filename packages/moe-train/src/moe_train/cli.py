"""The `moe-train` command."""

from __future__ import annotations

import functools
import json
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from moe_train import __version__
from moe_train.errors import GateFailed, TrainError

if TYPE_CHECKING:
    from moe_train.config import RunConfig
    from moe_train.console import Screen

_VERDICT_CODES = {"better": 0, "equivalent": 0, "not enough data": 0, "worse": 1}


def _mendable(command: Callable[..., Any]) -> Callable[..., Any]:
    """Errors a user can mend become one line and exit code 2; a result that failed its check, exit code 1."""

    @functools.wraps(command)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        try:
            return command(*args, **kwargs)
        except TrainError as error:
            click.echo(f"error: {error}", err=True)
            raise SystemExit(1 if isinstance(error, GateFailed) else 2) from None
        except KeyboardInterrupt:
            raise SystemExit(130) from None

    return wrapped


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="moe-train")
def main() -> None:
    """Fine-tune Mixture-of-Experts language models for reasoning, and prove what was trained.

    `moe-train run` alone fine-tunes the small model that ships with it, in about a minute, to show the whole line.
    """


@main.command()
@click.argument("arguments", nargs=-1, metavar="[CONFIG] [KEY=VALUE]...")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON instead of words.")
@_mendable
def run(arguments: tuple[str, ...], as_json: bool) -> None:
    """Plan, prove, evaluate, train, evaluate again, compare and report.

    CONFIG is a YAML file; KEY=VALUE sets one key of it, as in training.steps=200. Without a CONFIG and without data.path,
    the quickstart runs. The exit code is 1 when the model came out worse.
    """
    config = _config(arguments)
    from moe_train.workflow import start

    _finish(start(config, _screen(quiet=as_json)), as_json=as_json)


@main.command()
@click.argument("folder", metavar="RUN", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON instead of words.")
@_mendable
def resume(folder: Path, as_json: bool) -> None:
    """Go on with a run that was stopped: killed, interrupted, or out of disk."""
    _quiet_libraries()
    from moe_train.workflow import resume as go_on

    _finish(go_on(folder, _screen(quiet=as_json)), as_json=as_json)


@main.command()
@click.argument("arguments", nargs=-1, metavar="[CONFIG] [KEY=VALUE]...")
@click.option("--json", "as_json", is_flag=True, help="Print the plan as JSON.")
@_mendable
def plan(arguments: tuple[str, ...], as_json: bool) -> None:
    """Everything `run` would do and nothing run: data, memory, and the proof of what trains.

    The model is loaded and one batch goes forward and backward for the proof; no file is written. The exit code is 1 when
    the memory does not suffice.
    """
    config = _config(arguments)
    from moe_train.planning import make_plan

    made = make_plan(config, _screen(quiet=as_json))
    if as_json:
        click.echo(json.dumps(made.to_dict(), indent=1))
    raise SystemExit(0 if made.fits is not False else 1)


@main.command()
@click.argument("folder", metavar="RUN", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print the comparison as JSON.")
@_mendable
def evaluate(folder: Path, as_json: bool) -> None:
    """Show a finished run's verdict again, computed anew from its samples and losses, and rewrite its report."""
    _quiet_libraries()
    from moe_train.workflow import conclude

    _finish(conclude(folder, _screen(quiet=as_json)), as_json=as_json)


@main.command()
@click.argument("folder", metavar="RUN", type=click.Path(path_type=Path))
@click.option("--to", required=True, metavar="DIR", type=click.Path(path_type=Path), help="The folder to make.")
@click.option("--merge", is_flag=True, help="Add the adapter to the base's weights and write the whole model.")
@click.option(
    "--quantise",
    type=click.Choice(["nf4", "int8"]),
    help="As --merge, with experts and linears quantised for moe-train to read.",
)
@click.option(
    "--onto", type=click.Choice(["trained", "original"]), default="trained", show_default=True,
    help="Of a run on a quantised base: merge into the weights that were trained on, made dense, or into the checkpoint's own.",
)  # fmt: skip
@click.option(
    "--dtype",
    type=click.Choice(["base", "bfloat16", "float32"]),
    default="base",
    show_default=True,
    help="Of merged weights.",
)
@click.option(
    "--names", type=click.Choice(["checkpoint", "transformers-5"]), default="checkpoint", show_default=True,
    help="Names and pieces of merged weights: the base checkpoint's, which inference engines read, or fused as in transformers 5.",
)  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print the account of the export as JSON.")
@_mendable
def export(
    folder: Path, to: Path, merge: bool, quantise: str | None, onto: str, dtype: str, names: str, as_json: bool
) -> None:
    """Write a finished run's adapter, or the whole model, and prove by loading it that the fine-tune is in it.

    What is written is loaded by transformers and PEFT in a process without moe-train, and its logits and routing on held-out
    records are compared with the trained model's and the base's. The exit code is 1, and nothing is written, when the fine-tune is
    not there.
    """
    _quiet_libraries()
    from moe_train.export import export_run

    form = quantise or ("merged" if merge else "adapter")
    screen = _screen(quiet=as_json)
    done = export_run(folder, to, form=form, onto=onto, dtype=dtype, names=names, tell=screen.doing)
    screen.exported(done)
    if as_json:
        click.echo(json.dumps(done.to_dict(), indent=1))


@main.group()
def config() -> None:
    """The configuration: its keys, a check, the effective values."""


@config.command()
@click.option("--json", "as_json", is_flag=True, help="Print a JSON schema, for editors.")
def schema(as_json: bool) -> None:
    """Every key with its meaning."""
    from rich.console import Console
    from rich.table import Table

    from moe_train.config import RunConfig, config_keys

    if as_json:
        click.echo(json.dumps(RunConfig.model_json_schema(), indent=1))
        return
    defaults = _flat(RunConfig.model_construct().model_dump(mode="json"))
    table = Table(box=None, padding=(0, 2))
    for column in ("key", "default", "meaning"):
        table.add_column(column, overflow="fold")
    for key, meaning in config_keys().items():
        table.add_row(key, json.dumps(defaults[key]), meaning)
    Console().print(table)


@config.command()
@click.argument("arguments", nargs=-1, metavar="[CONFIG] [KEY=VALUE]...")
@_mendable
def validate(arguments: tuple[str, ...]) -> None:
    """Check a configuration without loading anything; every mistake is named."""
    _config(arguments)
    click.echo("valid")


@config.command()
@click.argument("arguments", nargs=-1, metavar="[CONFIG] [KEY=VALUE]...")
@_mendable
def show(arguments: tuple[str, ...]) -> None:
    """The effective configuration as YAML, defaults included."""
    from moe_train.config import dump_config

    click.echo(dump_config(_config(arguments)), nl=False)


def _config(arguments: tuple[str, ...]) -> RunConfig:
    """The configuration of `[CONFIG] [KEY=VALUE]...`; the quickstart's where neither names data."""
    from moe_train.config import load_config, quickstart_values

    _quiet_libraries()
    overrides = [argument for argument in arguments if "=" in argument]
    files = [argument for argument in arguments if "=" not in argument]
    if len(files) > 1:
        raise TrainError(f"arguments {' and '.join(files)}: expected one CONFIG, and key=value for the rest")
    path = Path(files[0]) if files else None
    own_data = any(o.startswith(("data.path=", "data.tasks=", "data=")) for o in overrides)
    return load_config(path, overrides, base=None if path or own_data else quickstart_values())


def _quiet_libraries() -> None:
    """Keep the progress bars and advice of the libraries off the screen; errors still show."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")  # it tells of every attempt to reach the hub
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    # PEFT imports bitsandbytes where it is installed, which tells of kernels that nothing here uses.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    # torch's profiler, which measures one step, writes its start and stop to the screen.
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")


def _screen(*, quiet: bool) -> Screen:
    from rich.console import Console

    from moe_train.console import Screen

    return Screen(Console(stderr=quiet))


def _finish(outcome: Any, *, as_json: bool) -> None:
    if as_json:
        click.echo((outcome.run / "result.json").read_text(encoding="utf-8"), nl=False)
    raise SystemExit(_VERDICT_CODES[outcome.verdict])


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) and value else {f"{prefix}{key}": value}
    return flat
