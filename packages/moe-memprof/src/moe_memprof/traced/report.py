"""The second opinion for the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

from moe_memprof.plan import Estimate
from moe_memprof.report import KIB, count, size
from moe_memprof.traced.opinion import traced_estimate
from moe_memprof.traced.result import Traced

if TYPE_CHECKING:
    from moe_memprof.spec import RunSpec


def trace_with_progress(console: Console, spec: RunSpec) -> Traced:
    """`traced_estimate` with a line that says what it is at."""
    with console.status("importing torch and transformers") as status:
        return traced_estimate(spec, progress=status.update)


def render_traced(console: Console, traced: Traced, estimate: Estimate | None = None) -> None:
    """Both opinions on the step and their difference; alone, the traced one part by part.

    Args:
        console: where to print.
        traced: the traced estimate.
        estimate: the closed forms' one; None where they do not know the architecture.
    """
    if len(traced.depths) == 2:
        how = f"{traced.model_type}'s code run on fake tensors with {traced.depths[0]} and {traced.depths[1]} of {traced.layers} layers"
    else:
        how = f"{traced.model_type}'s code run on fake tensors with all {traced.layers} layers"
    if estimate is None:
        console.print(
            f"[bold]Traced plan, the only opinion[/]  {traced.model_type} has no closed forms here; "
            f"{count(traced.estimate.parameters)} parameters, {count(traced.estimate.trainable_parameters)} trainable"
        )
        console.print(_parts(traced))
    else:
        closed = estimate.phase("step")
        console.print(
            Text.assemble(
                ("Second opinion on the step", "bold"),
                f"  closed forms {size(closed.peak)}, traced {size(traced.peak)} ",
                (f"({100 * traced.difference(estimate):+.1f} %)", "bold"),
            )
        )
    console.print(Text(f"{how}, at {traced.step.moment}; {traced.seconds:.0f} s", style="dim"))
    for note in traced.notes:
        console.print(Text(f"note: {note}", style="yellow"))
    console.print(Text("not traced: " + "; ".join(traced.estimate.not_modelled), style="dim"))


def _parts(traced: Traced) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("part", no_wrap=True)
    table.add_column("size", justify="right", no_wrap=True)
    table.add_column("known", style="dim")
    for part in sorted(traced.step.parts, key=lambda p: -p.bytes):
        if part.bytes >= KIB:
            table.add_row(part.name, size(part.bytes), part.kind)
    table.add_section()
    table.add_row("sum", size(traced.peak), "", style="bold")
    for phase in traced.estimate.phases:
        if phase.name != "step":
            table.add_row(f"{phase.name}, in comparison", size(phase.peak), "")
    return table
