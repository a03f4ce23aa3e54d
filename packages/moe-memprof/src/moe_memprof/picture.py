"""A picture of the step: what is live at each of its moments, by what for, as an SVG file."""

from __future__ import annotations

from collections import Counter
from html import escape
from pathlib import Path

from moe_memprof.errors import MemprofError
from moe_memprof.estimate import described
from moe_memprof.phases import how_of, resident_parts, task_of
from moe_memprof.replay.step import replay
from moe_memprof.report import GIB, MIB, size
from moe_memprof.spec import RunSpec
from moe_memprof.weights import trained

COLOURS = ("#4e79a7", "#f28e2b", "#59a14f", "#e15759", "#76b7b2", "#edc948", "#b07aa1", "#9c755f", "#ff9da7", "#bab0ac")
WIDTH, HEIGHT, LEFT, TOP, LEGEND = 960, 420, 70, 46, 230


def write_picture(path: str, spec: RunSpec) -> None:
    """Write the SVG.

    Raises:
        MemprofError: when the file cannot be written.
    """
    try:
        Path(path).write_text(draw(spec), encoding="utf-8")
    except OSError as error:
        raise MemprofError(f"--picture {path}: cannot be written ({error.strerror})") from None


def draw(spec: RunSpec) -> str:
    """The highest point of every stretch of the step, from embedding to loss and back, stacked by part."""
    model = described(spec)
    fixed: Counter[str] = Counter()
    for part in resident_parts(model, spec, trained(model, spec)):
        fixed[_short(part.name)] += part.bytes
    moments = replay(model, how_of(model, spec), task_of(spec))
    stacks = [Counter({k: max(0, v) for k, v in (fixed + m.parts).items()}) for m in moments]
    totals: Counter[str] = Counter()
    for stack in stacks:
        for name, value in stack.items():
            totals[name] = max(totals[name], value)
    # What stays lies at the bottom, what comes and goes on top of it.
    large = {name for name, value in totals.most_common(len(COLOURS) - 1) if value}
    shown = [name for name in [*fixed, *(n for n, _ in totals.most_common() if n not in fixed)] if name in large]
    rest = set(totals) - large
    top = max(sum(stack.values()) for stack in stacks)
    plot_width, plot_height = WIDTH - LEFT - LEGEND, HEIGHT - TOP - 50
    step = plot_width / len(stacks)
    bars: list[str] = []
    for i, stack in enumerate(stacks):
        y = float(TOP + plot_height)
        values = [(name, stack[name]) for name in shown] + [("other", sum(stack[n] for n in rest))]
        for colour, (name, value) in zip(COLOURS, values, strict=False):
            height = plot_height * value / top
            y -= height
            if height > 0.05:
                bars.append(
                    f'<rect x="{LEFT + i * step:.2f}" y="{y:.2f}" width="{step + 0.3:.2f}" height="{height:.2f}" fill="{colour}">'
                    f"<title>{escape(moments[i].name)}: {escape(name)} {size(value)}</title></rect>"
                )
    legend = [*shown, *(["other"] if rest else [])]
    return _page(spec, bars, legend, top, plot_width, plot_height)


def _short(name: str) -> str:
    return "weights" if name.startswith("weights:") else "LoRA" if name.startswith("LoRA:") else name


def _page(spec: RunSpec, bars: list[str], legend: list[str], top: int, plot_width: float, plot_height: float) -> str:
    unit, name = (GIB, "GiB") if top >= GIB else (MIB, "MiB")
    lines: list[str] = []
    for quarter in range(5):
        y = TOP + plot_height * (1 - quarter / 4)
        lines.append(f'<line x1="{LEFT}" x2="{LEFT + plot_width}" y1="{y:.1f}" y2="{y:.1f}" stroke="#ddd"/>')
        lines.append(f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{top * quarter / 4 / unit:.1f}</text>')
    keys = [
        f'<rect x="{LEFT + plot_width + 16}" y="{TOP + 20 * i}" width="12" height="12" fill="{colour}"/>'
        f'<text x="{LEFT + plot_width + 34}" y="{TOP + 20 * i + 10}">{escape(label)}</text>'
        for i, (colour, label) in enumerate(zip(COLOURS, legend, strict=False))
    ]
    bottom = TOP + plot_height + 18
    middle = LEFT + plot_width / 2
    title = f"{spec.config.get('model_type')}: {spec.method}, {spec.sequences} x {spec.length} tokens, peak {size(top)}"
    return "\n".join(
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="12">',
            f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
            f'<text x="{LEFT}" y="22" font-size="15" font-weight="bold">{escape(title)}</text>',
            f'<text x="{LEFT - 8}" y="{TOP - 10}" text-anchor="end">{name}</text>',
            *lines,
            *bars,
            f'<line x1="{middle}" x2="{middle}" y1="{TOP}" y2="{TOP + plot_height}" stroke="#555" stroke-dasharray="4 3"/>',
            f'<text x="{LEFT}" y="{bottom}">forward pass, first layer to last</text>',
            f'<text x="{middle + 6}" y="{bottom}">loss, then backward pass, last layer to first</text>',
            *keys,
            "</svg>",
            "",
        )
    )
