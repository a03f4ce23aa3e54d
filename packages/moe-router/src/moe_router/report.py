"""Traces and models for the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from moe_router.metrics.drift import js_divergence
from moe_router.metrics.load import dead_experts, gini, load_fractions, max_violation, normalised_entropy
from moe_router.trace import RoutingTrace

if TYPE_CHECKING:
    from moe_router.architectures.base import MoELayer
    from moe_router.architectures.support import Support
    from moe_router.comparison import LayerDrift
    from moe_router.doctor.findings import Finding

_CELLS = " ▁▂▃▄▅▆▇█"


def load_strip(load_E: Any, *, width: int = 32) -> str:
    """A load as one character per expert, or per group of neighbouring experts where there are more than `width`.

    A half-high cell is an even share.
    """
    shares = load_fractions(load_E)
    per_cell = -(-shares.size // width)
    cells = [shares[i : i + per_cell].mean() * shares.size for i in range(0, shares.size, per_cell)]
    return "".join(_CELLS[min(8, 0 if value == 0 else max(1, round(4 * value)))] for value in cells)


def summarise(trace: RoutingTrace) -> list[dict[str, Any]]:
    """One row for every layer: the load and how even it is, over all groups."""
    counts_LE, mass_LE = trace.counts_GLE.sum(0), trace.mass_GLE.sum(0)
    return [
        {
            "layer": name,
            "load": [round(float(v), 6) for v in load_fractions(counts_E)],
            "entropy": normalised_entropy(counts_E),
            "gini": gini(counts_E),
            "max_violation": max_violation(counts_E),
            "dead": dead_experts(counts_E),
            "weight_mass": [round(float(v), 6) for v in load_fractions(mass_E)],
        }
        for name, counts_E, mass_E in zip(trace.layers, counts_LE, mass_LE, strict=True)
    ]


def render_trace(console: Console, trace: RoutingTrace) -> None:
    """Every layer's load and how even it is."""
    console.print(
        f"[bold]{trace.model or 'trace'}[/]  {int(trace.tokens_G.sum()):,} tokens, {len(trace.layers)} MoE layers, "
        f"{trace.num_experts} experts, top-{trace.top_k}"
    )
    table = _table("layer", "load by expert", "entropy", "Gini", "MaxVio", "dead")
    for row, counts_E in zip(summarise(trace), trace.counts_GLE.sum(0), strict=True):
        dead = str(len(row["dead"])) if row["dead"] else "–"
        values = (f"{row['entropy']:.3f}", f"{row['gini']:.3f}", f"{row['max_violation']:.2f}", dead)
        table.add_row(row["layer"], Text(load_strip(counts_E), style="blue"), *values)
    console.print(table)
    if len(trace.groups) > 1:
        groups = _table("group", "tokens", "divergence from the rest, mean over layers (bits)")
        for g, name in enumerate(trace.groups):
            rest_LE = np.delete(trace.counts_GLE, g, axis=0).sum(0)
            apart = float(np.mean([js_divergence(p, q) for p, q in zip(trace.counts_GLE[g], rest_LE, strict=True)]))
            groups.add_row(name, f"{int(trace.tokens_G[g]):,}", f"{apart:.4f}")
        console.print(groups)


def render_comparison(console: Console, rows: Sequence[LayerDrift]) -> None:
    """How far two traces lie apart, layer by layer, with 95 % intervals over sequences."""
    from moe_router.pages.words import labels

    tokens = rows[0].flipped_tokens is not None
    table = _table(
        "layer", "Jensen–Shannon (bits)", "q", *(["tokens flipped", "saturation"] if tokens else ["total variation"])
    )
    for row, name in zip(rows, labels(tuple(row.layer for row in rows)), strict=True):
        q = "–" if row.q_value is None else f"{row.q_value:.3f}"
        if row.flipped_tokens is None or row.router_saturation is None:
            own = [f"{row.total_variation:.3f}"]
        else:
            own = [
                f"{row.flipped_tokens:.1%}{_interval(row.flipped_interval, '.1%')}",
                f"{row.router_saturation:.3f}",
            ]
        table.add_row(name, f"{row.js_divergence:.4f}{_interval(row.js_interval, '.4f')}", q, *own)
    console.print(table)
    few = ", too few here" if rows[0].q_value is None else "; q is the false discovery rate of the divergence"
    console.print(f"in brackets 95 % intervals over sequences{few}", style="dim")


def _interval(limits: tuple[float, float] | None, form: str) -> str:
    return "" if limits is None else f" [{limits[0]:{form}}–{limits[1]:{form}}]"


def render_layers(console: Console, layers: Sequence[MoELayer], *, parameters: int) -> None:
    """The MoE layers of a model."""
    console.print(f"{len(layers)} MoE layers, {parameters:,} parameters in all")
    table = _table("block", "router", "experts", "top-k", "scoring", "adapter")
    for layer in layers:
        router = type(layer.router).__name__
        table.add_row(layer.name, router, str(layer.num_experts), str(layer.top_k), layer.scoring, layer.adapter.name)
    console.print(table)


def render_findings(console: Console, findings: Sequence[Finding], *, checks: int) -> None:
    """What the doctor found."""
    colours = {"error": "red", "warning": "yellow", "note": "blue"}
    for finding in findings:
        console.print(
            f"[bold {colours[finding.severity]}]{finding.severity}[/]  [bold]{escape(finding.title)}[/]  ({finding.check})"
        )
        console.print(f"  measured: {escape(finding.evidence)}", highlight=False)
        console.print(f"  mend:     {escape(finding.mend)}", highlight=False)
    counts = {s: sum(f.severity == s for f in findings) for s in colours}
    said = ", ".join(f"{n} {s}{'' if n == 1 else 's'}" for s, n in counts.items() if n) or "nothing found"
    console.print(f"{checks} checks: {said}")


def render_support(console: Console, supported: Sequence[Support], *, note: str, plugged: Sequence[str]) -> None:
    """The support matrix."""
    table = Table(box=None, padding=(0, 2, 0, 0))
    for heading in ("architecture", "further model types", "adapter", "scoring"):
        table.add_column(heading, no_wrap=heading != "further model types")
    for support in supported:
        kinds = [t for t in support.model_types if t != support.name]
        table.add_row(support.name, ", ".join(kinds), support.adapter, support.scoring)
    console.print(table)
    for support in supported:
        if support.note:
            console.print(f"[bold]{support.name}[/]: {support.note}")
    types = sum(len(support.model_types) for support in supported)
    console.print(f"{len(supported)} architectures, {types} model types")
    console.print(note)
    if plugged:
        console.print(f"adapters of other packages, tried first: {', '.join(plugged)}")


def _table(*headings: str) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0))
    for i, heading in enumerate(headings):
        table.add_column(heading, justify="left" if i < 2 else "right")
    return table
