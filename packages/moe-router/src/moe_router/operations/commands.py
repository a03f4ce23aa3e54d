"""`moe-router operations`: classify the steps of solutions, label by hand, retrain."""

from __future__ import annotations

import json
from pathlib import Path

import click

from moe_router.errors import mendable

FILE = click.Path(path_type=Path)
MODEL = click.option("--model", type=FILE, help="Weights of one's own; the shipped ones without.")


@click.group()
def operations() -> None:
    """What the steps of a solution do: setup, plan, recall, calculate, transform, deduce, compare, cases, check, conclude."""


@operations.command()
@click.argument("steps", type=FILE)
@MODEL
@click.option("--json", "as_json", is_flag=True, help="One JSON object for every step.")
@mendable
def classify(steps: Path, model: Path | None, as_json: bool) -> None:
    """The operation of every step of STEPS: a text file, a step to a line, or a JSONL file with step, steps, completion or text."""
    from rich.console import Console
    from rich.table import Table

    from moe_router.operations.annotate import read_steps
    from moe_router.operations.classifier import OperationClassifier, shipped

    classifier = OperationClassifier.load(model) if model else shipped()
    found = list(read_steps(steps))
    names, sure = classifier.classify(found), classifier.probabilities(found).max(1, initial=0)
    if as_json:
        for step, name, probability in zip(found, names, sure, strict=True):
            click.echo(json.dumps({"step": step, "operation": name, "probability": round(float(probability), 4)}))
        return
    table = Table("operation", "probability", "step", box=None, pad_edge=False)
    for step, name, probability in zip(found, names, sure, strict=True):
        table.add_row(name, f"{probability:.2f}", " ".join(step.split())[:200].replace("[", "\\["))
    Console().print(table)


@operations.command()
@click.argument("steps", type=FILE)
@click.option(
    "-o",
    "--out",
    type=FILE,
    required=True,
    help="Labels, one to a line; what is there already is kept and not asked again.",
)
@MODEL
@mendable
def annotate(steps: Path, out: Path, model: Path | None) -> None:
    """Label the steps of STEPS by hand, one key each; every answer is saved at once."""
    from rich.console import Console

    from moe_router.operations.annotate import annotate as ask
    from moe_router.operations.annotate import read_steps
    from moe_router.operations.classifier import OperationClassifier, shipped

    console = Console()
    given = ask(read_steps(steps), out, OperationClassifier.load(model) if model else shipped(), console)
    console.print(f"{given} labelled, in {out}")


@operations.command()
@click.argument("labels", type=FILE, nargs=-1)
@click.option("-o", "--out", type=FILE, required=True, help="Where the weights go.")
@click.option(
    "--per-operation", type=click.IntRange(50), default=400, show_default=True, help="Examples of our own for each."
)
@mendable
def train(labels: tuple[Path, ...], out: Path, per_operation: int) -> None:
    """Fit the classifier to LABELS, JSONL with text and operation, on top of the examples that come with the package."""
    from moe_router.operations.generate import examples
    from moe_router.operations.training import read_labels
    from moe_router.operations.training import train as fit

    own = [example for path in labels for example in read_labels(path)]
    trained = fit(list(examples(per_operation)), own=own)
    out.parent.mkdir(parents=True, exist_ok=True)
    trained.classifier.save(out)
    click.echo(
        f"{out}: macro F1 {trained.macro_f1:.3f} on examples of patterns left out of training, "
        f"calibration error {trained.calibration_error:.3f}; {len(own)} labels of your own"
    )
