"""The report's plots, as SVG text.

Shapes: L layers, E experts.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import matplotlib as mpl

mpl.use("Agg")  # no window, whatever the machine has

import numpy as np
from matplotlib import pyplot as plt

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

BEFORE, AFTER, INK, PALE = "#9aa5b1", "#2563eb", "#1f2933", "#e4e7eb"
_STAGES = ("#bfdbfe", "#e4e7eb", "#bbf7d0", "#fde68a", "#fecaca", "#ddd6fe")
_STYLE: Any = {
    "font.family": "sans-serif",
    "font.size": 9.5,
    "text.color": INK,
    "axes.edgecolor": "#9aa5b1",
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "xtick.color": "#52606d",
    "ytick.color": "#52606d",
    "legend.frameon": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "moe-train",  # the same run gives the same bytes
}


def _svg(draw: Callable[[], Figure], description: str) -> str:
    with mpl.rc_context(_STYLE):
        figure = draw()
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", bbox_inches="tight", metadata={"Date": None}, transparent=True)
        plt.close(figure)
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    # Fluid width, and words for those who do not see it.
    text = re.sub(
        r'<svg ([^>]*?)width="[^"]*" height="[^"]*"|<svg ',
        lambda m: f'<svg role="img" {m.group(1) or ""}',
        text,
        count=1,
    )
    text = re.sub(r'(<svg [^>]*?) (?:width|height)="[\d.]+pt"', r"\1", text, count=1)
    return text.replace(">", f"><title>{description}</title>", 1)


def _window(values: Sequence[float]) -> int:
    return max(1, len(values) // 20)


def _smooth(steps: Sequence[int], values: Sequence[float]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The means over windows of a twentieth of the steps, each at the middle of its window."""
    kernel = np.ones(_window(values)) / _window(values)
    return np.convolve(steps, kernel, mode="valid"), np.convolve(values, kernel, mode="valid")


def loss_plot(metrics: Sequence[dict[str, Any]], held_out: tuple[float, float]) -> str:
    """Training loss per step, with the held-out loss before and after."""

    def draw() -> Figure:
        figure, axes = plt.subplots(figsize=(8.4, 3.0))
        steps, losses = [m["step"] for m in metrics], [m["loss"] for m in metrics]
        axes.plot(steps, losses, color=AFTER, linewidth=0.8, alpha=0.45)
        window = _window(losses)
        if window > 1:
            axes.plot(*_smooth(steps, losses), color=AFTER, linewidth=1.8, label=f"training, mean of {window} steps")
        axes.plot(
            [0, steps[-1]],
            held_out,
            "o",
            color=INK,
            markersize=6,
            clip_on=False,
            zorder=5,
            label="held-out records, before and after",
        )
        axes.set(xlabel="step", ylabel="nats per completion token", ylim=(0, None), xlim=(0, steps[-1]))
        axes.legend()
        return figure

    return _svg(draw, "Training loss by step, and held-out loss before and after")


def routing_plot(metrics: Sequence[dict[str, Any]]) -> str:
    """Normalised load entropy and MaxVio of every layer over the steps."""

    def draw() -> Figure:
        figure, (left, right) = plt.subplots(1, 2, figsize=(8.4, 2.8))
        steps = [m["step"] for m in metrics]
        colours = plt.get_cmap("viridis")(np.linspace(0.05, 0.85, len(metrics[0]["load_entropy"])))
        for layer, colour in enumerate(colours):
            for ax, key in ((left, "load_entropy"), (right, "max_vio")):
                values = [m[key][layer] for m in metrics]
                ax.plot(steps, values, color=colour, linewidth=0.5, alpha=0.25)
                ax.plot(*_smooth(steps, values), color=colour, linewidth=1.5, label=f"layer {layer}")
        left.set(title="Load entropy (1 = even)", xlabel="step", ylim=(None, 1.005))
        right.set(title="MaxVio (0 = even)", xlabel="step", ylim=(0, None))
        if len(colours) <= 8:
            left.legend(fontsize=8, ncols=2)
        figure.tight_layout()
        return figure

    return _svg(draw, "Load entropy and MaxVio of every layer by step")


def load_plot(before_LE: NDArray[np.float64], after_LE: NDArray[np.float64]) -> str:
    """Share of the routed tokens of every expert, layer by layer, before and after.

    Args:
        before_LE: load fractions, [layers, experts], each row summing to 1.
        after_LE: the same after training.
    """

    def draw() -> Figure:
        layers = len(before_LE)
        figure, axes = plt.subplots(1, 3, figsize=(9.6, 0.9 + 0.32 * layers), sharey=True, layout="constrained")
        top = max(before_LE.max(), after_LE.max())
        change = after_LE - before_LE
        reach = max(float(np.abs(change).max()), 1e-9)
        _heat(axes[0], before_LE, "before", "Blues", 0, top)
        _heat(axes[1], after_LE, "after", "Blues", 0, top)
        _heat(axes[2], change, "change", "RdBu_r", -reach, reach)
        axes[0].set_ylabel("MoE layer")
        for ax in axes:
            ax.set_xlabel("expert")
        return figure

    return _svg(draw, "Share of routed tokens per expert and layer, before, after and the change")


def _heat(axes: Axes, values_LE: NDArray[np.float64], title: str, cmap: str, low: float, high: float) -> None:
    image = axes.imshow(values_LE, cmap=cmap, vmin=low, vmax=high, aspect="auto")
    axes.set_title(title)
    layers, experts = values_LE.shape
    axes.set_yticks(range(layers) if layers <= 16 else range(0, layers, 4))
    axes.set_xticks(range(experts) if experts <= 16 else range(0, experts, max(1, experts // 8)))
    for spine in axes.spines.values():
        spine.set_visible(False)
    if layers * experts <= 160:
        for (layer, expert), value in np.ndenumerate(values_LE):
            red, green, blue, _ = np.ravel(image.to_rgba(np.asarray(value)))
            dark = 0.299 * red + 0.587 * green + 0.114 * blue < 0.55
            points = round(100 * value)
            text = f"{points:+d}" if low < 0 and points else str(points)
            axes.text(expert, layer, text, ha="center", va="center", fontsize=7, color="white" if dark else INK)
    axes.figure.colorbar(image, ax=axes, format=lambda v, _: f"{100 * v:.0f} %", shrink=0.9)


def memory_plot(samples: Sequence[dict[str, Any]], planned: int | None) -> str:
    """Memory of the process over time, stages shaded, with the planned peak in bytes."""

    def draw() -> Figure:
        figure, axes = plt.subplots(figsize=(8.4, 2.8))
        key = "device_allocated" if any(s.get("device_allocated") for s in samples) else "rss"
        times = _without_pauses([s["t"] for s in samples])
        used = np.array([(s.get(key) or 0) / 2**30 for s in samples])
        axes.fill_between(times, used, color=AFTER, alpha=0.15, linewidth=0)
        axes.plot(
            times,
            used,
            color=AFTER,
            linewidth=1.4,
            label="torch on the device" if key != "rss" else "process (resident)",
        )
        _shade_stages(axes, samples, times)
        if planned:
            axes.axhline(planned / 2**30, color="#dc2626", linestyle="--", linewidth=1, label="planned peak")
        axes.set(xlabel="seconds", ylabel="GiB", ylim=(0, None), xlim=(0, times[-1]))
        axes.legend(loc="lower right")
        return figure

    return _svg(draw, "Memory over time with the stages of the run")


def _without_pauses(clock: Sequence[float]) -> NDArray[np.float64]:
    """Seconds since the first sample; the time between a stop and its resumption is cut out."""
    steps = np.diff(np.asarray(clock, dtype=float))
    pauses = steps > max(30.0, 20 * float(np.median(steps)) if steps.size else 0.0)
    return np.concatenate([[0.0], np.cumsum(np.where(pauses, 0.0, steps))])


def _shade_stages(axes: Axes, samples: Sequence[dict[str, Any]], times: NDArray[np.float64]) -> None:
    colours: dict[str, str] = {}
    begin = 0
    for i in range(1, len(samples) + 1):
        if i < len(samples) and samples[i]["phase"] == samples[begin]["phase"]:
            continue
        phase = samples[begin]["phase"]
        if phase:
            colours.setdefault(phase, _STAGES[len(colours) % len(_STAGES)])
            end = times[min(i, len(samples) - 1)]
            axes.axvspan(times[begin], end, color=colours[phase], alpha=0.35, linewidth=0)
            if end - times[begin] > 0.06 * times[-1]:
                middle = (times[begin] + end) / 2
                axes.text(
                    middle, 1.01, phase, transform=axes.get_xaxis_transform(), ha="center", va="bottom", fontsize=8
                )
        begin = i


def accuracy_plot(tasks: Sequence[dict[str, Any]]) -> str:
    """Accuracy by task before and after, with Wilson 95 % intervals.

    Args:
        tasks: rows of task, n, before, after (shares of right answers).
    """

    def draw() -> Figure:
        crowded = len(tasks) > 10
        height = 0.9 + (0.36 if crowded else 0.5) * len(tasks)
        figure, axes = plt.subplots(figsize=(7.2, height))
        rows = np.arange(len(tasks))[::-1]
        for offset, key, colour in ((0.18, "before", BEFORE), (-0.18, "after", AFTER)):
            shares = np.array([t[key] for t in tasks])
            low, high = np.array([_wilson(t[key], t["n"]) for t in tasks]).T
            axes.barh(rows + offset, shares, height=0.32, color=colour, label=key)
            axes.hlines(rows + offset, low, high, color=INK, linewidth=1)
            for row, share, top in zip(rows, shares, high, strict=True):
                axes.text(top + 0.012, row + offset, f"{share:.0%}", va="center", fontsize=7 if crowded else 8.5)
        axes.set_yticks(rows, [t["task"] for t in tasks])
        axes.set(xlim=(0, 1.1), ylim=(-0.6, len(tasks) - 0.4), xlabel="right answers")
        axes.xaxis.set_major_formatter(lambda v, _: f"{100 * v:.0f} %" if v <= 1 else "")
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, 1.0 + 0.45 / height), ncols=2)
        return figure

    return _svg(draw, "Accuracy by task before and after")


def _wilson(share: float, n: int, z: float = 1.959964) -> tuple[float, float]:
    """Wilson's score interval (1927) of a share of n."""
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * float(np.sqrt(share * (1 - share) / n + z * z / (4 * n * n)))
    return max(0.0, min(share, centre - half)), min(1.0, max(share, centre + half))
