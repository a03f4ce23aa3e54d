"""The report as one self-contained HTML file."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, select_autoescape
from markupsafe import Markup

from moe_router import __version__
from moe_router.metrics.significance import GroupComparison
from moe_router.operations.steps import OUTSIDE
from moe_router.pages.analysis import Analysis
from moe_router.pages.figures import as_svg, pictures
from moe_router.pages.words import findings, labels


def render(analysis: Analysis) -> str:
    """The page."""
    environment = Environment(
        loader=PackageLoader("moe_router", "pages"),
        autoescape=select_autoescape(["jinja"]),
        trim_blocks=True,
        lstrip_blocks=True,
    )
    trace = analysis.trace
    drawn = {name: Markup(as_svg(picture)) for name, picture in pictures(analysis).items()}
    same = len(set(trace.experts_L)) == 1
    return environment.get_template("page.html.jinja").render(
        model=trace.model,
        version=__version__,
        tokens=f"{int(trace.tokens_U.sum()):,}",
        sequences=f"{int(trace.sequences_U.sum()):,}",
        groups=trace.groups,
        operations=OUTSIDE in trace.types,
        experts=trace.num_experts if same else f"{min(trace.experts_L)} to {trace.num_experts}",
        top_k=trace.top_k,
        source=trace.metadata.get("data", ""),
        findings=findings(analysis),
        layers=analysis.layers,
        names=labels(trace.layers),
        title=Path(trace.model).name or "a model",
        any_idle=any(layer.idle for layer in analysis.layers),
        intervals=all(layer.entropy_interval for layer in analysis.layers),
        comparisons=[_row(analysis, c) for c in analysis.comparisons],
        not_compared=analysis.not_compared,
        edges=analysis.edges[:8],
        svg=drawn,
    )


def write(analysis: Analysis, path: Path) -> None:
    """Write the page at once: a stop leaves the old one or the new."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            file.write(render(analysis))
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _row(analysis: Analysis, found: GroupComparison) -> dict[str, Any]:
    trace = analysis.trace
    group = trace.groups.index(found.groups[0])
    top = int(found.jsd_L.argmax())
    layers = len(found.jsd_L)
    few = layers > 0.05 * found.exchanges
    return {
        "name": found.groups[0],
        "sequences": int(trace.sequences_G[group]),
        "tokens": f"{int(trace.tokens_G[group]):,}",
        "layers": "not enough sequences" if few else f"{int((found.jsd_q_L <= 0.05).sum())} of {layers}",
        "experts": "–" if few else int((found.p_adjusted_LE <= 0.05).sum()),
        "largest": f"{found.jsd_L[top]:.3f} bits, {labels(trace.layers)[top]} ({found.jsd_null_L[top]:.3f})",
    }
