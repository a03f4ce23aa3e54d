"""Estimates and receipts for the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

from moe_memprof.plan import ErrorBand, Estimate, Phase
from moe_memprof.receipts import Receipt, summarise

if TYPE_CHECKING:
    from moe_memprof.patterns import Pattern
    from moe_memprof.routing import Band, Capacity
    from moe_memprof.spec import RunSpec

KIB, MIB, GIB = 2**10, 2**20, 2**30
_BAR = 16


def size(number: float) -> str:
    """Bytes as KiB below a tenth of a MiB, as GiB from one on, as MiB between."""
    if abs(number) >= GIB:
        return f"{number / GIB:.2f} GiB"
    return f"{number / MIB:.1f} MiB" if abs(number) >= MIB / 10 or not number else f"{number / KIB:.1f} KiB"


def count(n: int) -> str:
    """A number of parameters in billions, millions or thousands."""
    for unit, name in ((10**9, "B"), (10**6, "M"), (10**3, "K")):
        if n >= unit:
            return f"{n / unit:.2f}{name}"
    return str(n)


def render_estimate(console: Console, estimate: Estimate, *, budget: int | None = None) -> None:
    """The phases, and the binding one part by part.

    Args:
        console: where to print.
        estimate: what to show.
        budget: bytes there are, to say whether it fits.
    """
    console.print(
        f"[bold]Memory plan[/]  {count(estimate.parameters)} parameters, {count(estimate.active_parameters)} active per token, "
        f"{count(estimate.trainable_parameters)} trainable"
    )
    binding = estimate.binding
    console.print(_phases(estimate, binding))
    console.print(_parts(binding, reasons=console.width >= 120))
    if budget is not None:
        fits = estimate.peak <= budget
        verdict = Text("fits" if fits else "does not fit", style="bold green" if fits else "bold red")
        console.print(Text.assemble(verdict, f": {size(estimate.peak)} of {size(budget)}{_margin(estimate, budget)}"))
    if estimate.band is not None:
        console.print(Text(_band(estimate.band), style="dim"))
    console.print(Text("not modelled: " + "; ".join(estimate.not_modelled), style="dim"))


def _margin(estimate: Estimate, budget: int) -> str:
    """What the band makes of the verdict, where it does not stand on one side."""
    band = estimate.band
    if band is None or band.low is None or band.high is None or not band.low <= budget < band.high:
        return ""
    return ", within the error band: try it before you count on it"


def _band(band: ErrorBand) -> str:
    if band.low is None or band.high is None:
        return f"error band: none; {band.basis}"
    return f"error band: {size(band.low)} to {size(band.high)} ({band.basis})"


def _phases(estimate: Estimate, binding: Phase) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("phase")
    table.add_column("peak", justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    table.add_column("at")
    for phase in estimate.phases:
        filled = round(_BAR * phase.peak / binding.peak)
        style = "bold" if phase is binding else ""
        table.add_row(phase.name, size(phase.peak), Text("█" * filled, style="blue"), phase.moment, style=style)
    return table


def _parts(phase: Phase, *, reasons: bool) -> Table:
    table = Table(
        title=f"the binding phase, {phase.name}: at {phase.moment}",
        title_justify="left",
        box=None,
        padding=(0, 2, 0, 0),
    )
    table.add_column("part", no_wrap=True)
    table.add_column("size", justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    table.add_column("how it is known" if reasons else "known", style="dim", no_wrap=not reasons)
    top = max(part.bytes for part in phase.parts)
    for part in sorted(phase.parts, key=lambda p: -p.bytes):
        if part.bytes >= KIB:
            filled = max(1, round(_BAR * part.bytes / top))
            known = f"{part.kind}: {part.formula}" if reasons else part.kind
            table.add_row(part.name, size(part.bytes), Text("█" * filled, style="cyan"), known)
    table.add_section()
    table.add_row("sum", size(phase.peak), "", "", style="bold")
    return table


def render_receipts(console: Console, receipts: Sequence[Receipt]) -> None:
    """Estimated beside measured, and the error over all."""
    table = Table(box=None, padding=(0, 2, 0, 0))
    for heading in ("run", "phase", "estimated", "measured", "error"):
        table.add_column(heading, justify="left" if heading in {"run", "phase"} else "right")
    for receipt in receipts:
        for reading in receipt.readings:
            table.add_row(
                receipt.label,
                reading.phase,
                size(reading.estimated),
                size(reading.measured),
                f"{100 * reading.error:+.1f} %",
            )
    console.print(table)
    summary = summarise(receipts)
    console.print(
        f"{summary.readings} readings: median error {100 * summary.median_absolute_error:.1f} %, worst {100 * summary.worst_error:+.1f} %"
    )


def render_routing(console: Console, bands: Sequence[Band], capacities: Sequence[Capacity]) -> None:
    """The peak by how tokens fall on experts, and what capacity factors would cost and drop."""
    table = Table(box=None, padding=(0, 2, 0, 0), title="routing", title_justify="left")
    for heading in ("band", "busiest rank, of an even share", "peak"):
        table.add_column(heading, justify="left" if heading == "band" else "right")
    for band in bands:
        table.add_row(band.name, f"{band.busiest:.2f}", size(band.peak))
    console.print(table)
    if len({band.peak for band in bands}) == 1:
        console.print("on one device the routed rows are the same however they fall", style="dim")
    table = Table(
        box=None, padding=(0, 2, 0, 0), title="capacity factors, where a layer has them", title_justify="left"
    )
    for heading in ("factor", "slots per layer", "routed activations", "dropped"):
        table.add_column(heading, justify="right")
    for capacity in capacities:
        dropped = "-" if capacity.dropped is None else f"{100 * capacity.dropped:.2f} %"
        table.add_row(f"{capacity.factor:g}", f"{capacity.rows:,}", size(capacity.bytes), dropped)
    console.print(table)


def render_patterns(console: Console, patterns: Sequence[Pattern], *, link: float | None) -> None:
    """Ways of keeping experts: what is on the device, the peak, what is moved, and the seconds of it over a link of `link` GB/s."""
    table = Table(
        box=None,
        padding=(0, 2, 0, 0),
        title="where the experts are: on the device, or fetched for each micro-batch and each generated token",
        title_justify="left",
    )
    columns = ["pattern", "resident", "step's peak", "moved a step", "moved a token"]
    for heading in columns + (["seconds"] if link else []):
        table.add_column(heading, justify="left" if heading == "pattern" else "right")
    for p in patterns:
        cells = [p.name, size(p.resident), size(p.peak), size(p.moved), size(p.moved_per_token)]
        table.add_row(*cells, *([f"{p.moved / (link * 1e9):.2f}"] if link else []))
    console.print(table)


def render_layers(console: Console, spec: RunSpec) -> None:
    """Every kind of layer: its weights, what it keeps from forward to backward pass, and how high each pass rises."""
    from moe_memprof.breakdown import breakdown

    table = Table(box=None, padding=(0, 2, 0, 0), title="layers", title_justify="left")
    for heading in ("layers", "kind", "weights", "kept", "forward peak", "backward peak"):
        table.add_column(heading, justify="left" if heading in {"layers", "kind"} else "right")
    for row in breakdown(spec):
        table.add_row(
            row.numbers, row.kind, size(row.weights), size(row.kept), size(row.forward_rise), size(row.backward_rise)
        )
    console.print(table)
