"""The report's pictures, for the page as SVG, and as files of any format matplotlib writes.

Shapes: G groups, C token types, L MoE layers, E experts.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import matplotlib as mpl

mpl.use("Agg")  # no window, whatever the machine has

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.colors import TwoSlopeNorm
from numpy.typing import NDArray

from moe_router.metrics.collaboration import coactivation_lift, transition
from moe_router.pages.analysis import Analysis, told_apart
from moe_router.pages.words import short

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_STYLE: Any = {
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.edgecolor": "#9aa5b1",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": "#52606d",
    "ytick.color": "#52606d",
    "text.color": "#1f2933",
    "axes.labelcolor": "#1f2933",
    "legend.frameon": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "moe-router",  # the same trace gives the same bytes
}


class Picture(NamedTuple):
    """A figure yet to be drawn."""

    name: str
    description: str
    """For those who do not see it."""
    draw: Callable[[], Figure]


def pictures(analysis: Analysis) -> dict[str, Picture]:
    """Those that the analysis has something for, by name."""
    made = [Picture("load", "Load of every expert in every layer, over the mean", lambda: _load(analysis))]
    made.append(Picture("evenness", "Normalised load entropy and MaxVio by layer", lambda: _evenness(analysis)))
    if analysis.comparisons:
        made.append(Picture("groups", "Divergence of each group from the rest, by layer", lambda: _groups(analysis)))
    if analysis.specialization is not None:
        made.append(
            Picture("specialisation", "Specialisation of every expert by group", lambda: _specialisation(analysis))
        )
    if analysis.affinity:
        made.append(Picture("types", "Affinity of token types and experts", lambda: _types(analysis)))
    if analysis.information_L:
        made.append(Picture("transitions", "First choices from layer to layer", lambda: _transitions(analysis)))
    if analysis.trace.coactivation_LEE is not None and analysis.trace.coactivation_LEE.any():
        made.append(Picture("coactivation", "Experts that share tokens", lambda: _coactivation(analysis)))
    return {picture.name: picture for picture in made}


def as_svg(picture: Picture) -> str:
    """The picture as SVG text of fluid width, with its description as title."""
    buffer = io.StringIO()
    _save(picture, buffer, "svg")
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r'(<svg [^>]*?) width="[^"]*"', r"\1", text, count=1)
    text = re.sub(r'(<svg [^>]*?) height="[^"]*"', r"\1", text, count=1)
    return text.replace("<svg ", '<svg role="img" ', 1).replace(">", f"><title>{picture.description}</title>", 1)


def save(picture: Picture, path: Path) -> None:
    """Write the picture to a file, in the format of its name."""
    _save(picture, path, path.suffix.lstrip(".") or "png")


def _save(picture: Picture, target: Any, kind: str) -> None:
    with mpl.rc_context(_STYLE):
        figure = picture.draw()
        extra = {"metadata": {"Date": None}} if kind == "svg" else {"dpi": 150, "facecolor": "white"}
        figure.savefig(target, format=kind, bbox_inches="tight", **extra)
        plt.close(figure)


def _grid(
    axes: Axes,
    values: NDArray[Any],
    *,
    rows: list[str],
    label: str,
    norm: Any = None,
    cmap: str = "viridis",
    of: str = "expert",
) -> None:
    image = axes.imshow(
        values, aspect="auto", interpolation="nearest", cmap=cmap, norm=norm, rasterized=values.size > 4000
    )
    axes.set_yticks(range(len(rows)), rows, fontsize=8 if len(rows) <= 24 else 6)
    if len(rows) > 40:
        axes.yaxis.set_major_locator(mpl.ticker.MaxNLocator(20, integer=True))
    axes.xaxis.set_major_locator(mpl.ticker.MaxNLocator(16, integer=True, min_n_ticks=1))
    axes.set_xlim(-0.5, values.shape[1] - 0.5)
    axes.set_xlabel(of)
    axes.spines[:].set_visible(False)
    bar = axes.figure.colorbar(image, ax=axes, shrink=0.9, pad=0.015)
    bar.set_label(label)
    bar.outline.set_visible(False)


def _height(rows: int, *, each: float = 0.23) -> float:
    return float(np.clip(1.1 + each * rows, 2.2, 9))


def _ratio_norm(values: NDArray[Any]) -> Any:
    """Around 1, which is the mean load."""
    top = max(1.5, float(np.nanquantile(values, 0.995)))
    return TwoSlopeNorm(vmin=0, vcenter=1, vmax=top)


def _load(analysis: Analysis) -> Figure:
    experts = analysis.trace.num_experts
    ratio_LE = np.full((len(analysis.layers), experts), np.nan)
    for n, layer in enumerate(analysis.layers):
        ratio_LE[n, : len(layer.share_E)] = layer.share_E * len(layer.share_E)
    figure, axes = plt.subplots(figsize=(9, _height(len(analysis.layers))))
    _grid(
        axes,
        ratio_LE,
        rows=short(analysis.trace.layers),
        label="load over mean",
        norm=_ratio_norm(ratio_LE),
        cmap="RdBu_r",
    )
    axes.set_ylabel("layer")
    return figure


def _evenness(analysis: Analysis) -> Figure:
    x = np.arange(len(analysis.layers))
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 2.5))
    for axes, field, title in ((left, "entropy", "normalised load entropy"), (right, "max_violation", "MaxVio")):
        values = [getattr(layer, field) for layer in analysis.layers]
        axes.plot(x, values, color="#2563eb", marker="o", markersize=3.5)
        intervals = [getattr(layer, f"{field}_interval") for layer in analysis.layers]
        if all(intervals):
            axes.fill_between(
                x, [i[0] for i in intervals], [i[1] for i in intervals], color="#2563eb", alpha=0.15, linewidth=0
            )
        axes.set_title(title)
        axes.set_xlabel("layer")
        axes.set_xticks(x, short(analysis.trace.layers))
        if len(x) > 16:
            axes.xaxis.set_major_locator(mpl.ticker.MaxNLocator(10, integer=True))
    left.set_ylim(top=1.0)
    right.set_ylim(bottom=0)
    return figure


def _groups(analysis: Analysis) -> Figure:
    found = analysis.comparisons
    excess_GL = np.array([c.jsd_L for c in found])
    figure, axes = plt.subplots(figsize=(9, _height(len(found), each=0.3)))
    _grid(
        axes,
        excess_GL,
        rows=[c.groups[0] for c in found],
        label="divergence from the rest (bits)",
        of="layer",
        cmap="magma_r",
    )
    axes.set_xticks(range(len(analysis.layers)), short(analysis.trace.layers))
    if len(analysis.layers) > 24:
        axes.xaxis.set_major_locator(mpl.ticker.MaxNLocator(20, integer=True))
    for g, c in enumerate(found):
        for n in np.flatnonzero(c.jsd_q_L <= 0.05):
            axes.plot(
                n, g, marker=".", color="white" if excess_GL[g, n] > excess_GL.max() / 2 else "black", markersize=4
            )
    return figure


def _specialisation(analysis: Analysis) -> Figure:
    assert analysis.specialization is not None
    found = analysis.specialization
    order_LE = np.argsort(-np.nan_to_num(found.score_LE, nan=-1), axis=1, kind="stable")
    ordered = np.take_along_axis(found.score_LE, order_LE, axis=1)
    sure = np.take_along_axis(found.p_adjusted_LE, order_LE, axis=1) <= 0.05
    figure, axes = plt.subplots(figsize=(9, _height(len(analysis.layers))))
    _grid(
        axes,
        ordered,
        rows=short(analysis.trace.layers),
        label="specialisation",
        of="experts of the layer, most specialised first",
        cmap="viridis",
    )
    middle = np.nanmax(ordered) / 2
    for n, e in np.argwhere(sure):
        color = "black" if ordered[n, e] > middle else "white"
        axes.plot(e, n, marker=".", color=color, markersize=4 if ordered.shape[1] <= 32 else 1.5)
    axes.set_ylabel("layer")
    return figure


def _types(analysis: Analysis) -> Figure:
    assert analysis.affinity_q_LCE is not None
    sure_L = (analysis.affinity_q_LCE <= 0.05).sum((1, 2))
    layer = int(np.argmax(sure_L))
    affinity = analysis.affinity[layer]
    types_FCLE = told_apart(analysis.trace)
    assert types_FCLE is not None
    counts_CE = types_FCLE.sum(0)[:, layer, : affinity.npmi_CE.shape[1]]
    # Where fewer than five meetings are to be expected, meeting never says little.
    expected_CE = counts_CE.sum(1, keepdims=True) * counts_CE.sum(0, keepdims=True) / counts_CE.sum()
    shown_CE = np.where(expected_CE >= 5, affinity.npmi_CE, np.nan)
    present: NDArray[np.bool_] = np.asarray(~np.isnan(shown_CE).all(1))
    values = shown_CE[present]
    top = max(0.05, float(np.nanquantile(np.abs(values), 0.9)))
    figure, axes = plt.subplots(figsize=(9, _height(int(present.sum()), each=0.3)))
    names = [name for name, there in zip(analysis.trace.types, present.tolist(), strict=True) if there]
    _grid(
        axes,
        values,
        rows=names,
        label="normalised PMI",
        norm=TwoSlopeNorm(vmin=-top, vcenter=0, vmax=top),
        cmap="RdBu_r",
    )
    axes.set_title(f"layer {short(analysis.trace.layers)[layer]}")
    for c, e in np.argwhere(analysis.affinity_q_LCE[layer][present][:, : values.shape[1]] <= 0.05):
        axes.plot(e, c, marker=".", color="black", markersize=3 if values.shape[1] <= 32 else 1.5)
    return figure


def _transitions(analysis: Analysis) -> Figure:
    assert analysis.trace.transitions_LEE is not None
    found = analysis.information_L
    bits = [step.bits for step in found]
    step = int(np.argmax(bits))
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.2), gridspec_kw={"width_ratios": [1, 1.15]})
    x = np.arange(len(found))
    names = short(analysis.trace.layers)
    reach = None if np.isnan([step.low for step in found]).any() else [step.high - step.bits for step in found]
    left.bar(x, bits, yerr=reach, color="#2563eb", error_kw={"ecolor": "#1f2933", "elinewidth": 1, "capsize": 2})
    left.set_title("what a first choice tells of the next (bits)")
    left.set_xticks(
        x, [f"{names[i]}→{names[i + 1]}" for i in x], rotation=60 if len(x) > 6 else 0, fontsize=7 if len(x) > 12 else 8
    )
    if len(x) > 30:
        left.set_xticks(x[:: len(x) // 15], [f"{names[i]}→{names[i + 1]}" for i in x[:: len(x) // 15]])
    before, after = analysis.trace.experts_L[step], analysis.trace.experts_L[step + 1]
    probability = transition(analysis.trace.transitions_LEE[step][:before, :after]).probability_EE
    image = right.imshow(probability, aspect="auto", interpolation="nearest", cmap="magma_r", vmin=0)
    right.set_title(f"from layer {names[step]} to layer {names[step + 1]}")
    right.set_xlabel(f"first choice in {names[step + 1]}")
    right.set_ylabel(f"first choice in {names[step]}")
    right.spines[:].set_visible(False)
    bar = figure.colorbar(image, ax=right, pad=0.02)
    bar.set_label("probability")
    bar.outline.set_visible(False)
    figure.tight_layout()
    return figure


def _coactivation(analysis: Analysis) -> Figure:
    pairs_LEE = analysis.trace.coactivation_LEE
    assert pairs_LEE is not None
    layer = analysis.edges[0].layer if analysis.edges else int(np.argmax(pairs_LEE.sum((1, 2))))
    experts = analysis.trace.experts_L[layer]
    lift = coactivation_lift(pairs_LEE[layer, :experts, :experts])
    figure, axes = plt.subplots(figsize=(5.2, 4.2))
    top = max(1.5, float(np.nanquantile(lift, 0.98)))
    _grid(
        axes,
        lift,
        rows=[str(e) for e in range(experts)],
        label="shared tokens over expected",
        norm=TwoSlopeNorm(vmin=0, vcenter=1, vmax=top),
        cmap="RdBu_r",
    )
    axes.set_title(f"layer {short(analysis.trace.layers)[layer]}")
    axes.set_ylabel("expert")
    return figure
