"""Runs and comparisons for the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from moe_bench.compare import Comparison

_COLOURS = {"better": "green", "worse": "red", "equivalent": "cyan", "not enough data": "yellow"}
_BAR = 5


def p_text(p: float) -> str:
    """A p-value: three decimals, or a power of ten when it is small."""
    return f"{p:.3f}" if p >= 0.001 else f"{p:.1e}"


def bar(share: float, colour: str) -> Text:
    """A share as a bar of five cells with its percentage."""
    filled = round(share * _BAR)
    return Text.assemble(("█" * filled, colour), ("░" * (_BAR - filled), "dim"), f" {share:>4.0%}")


def render_comparison(console: Console, comparison: Comparison) -> None:
    """One card: the verdict, the numbers behind it, and every task."""
    c = comparison
    level = f"{1 - c.alpha:.0%}"
    table = Table(box=None, padding=(0, 1, 0, 0))
    for heading in ("task", "before", "after", f"change [{level}]", "p, Holm", "verdict"):
        table.add_column(heading, justify="right" if heading in {"before", "p, Holm"} else "left", no_wrap=True)
    for t in c.tasks:
        table.add_row(
            t.task,
            f"{t.accuracy_a:.0%}",
            bar(t.accuracy_b, "blue"),
            f"{100 * t.difference:+.0f} [{100 * t.ci_low:+.0f}, {100 * t.ci_high:+.0f}]",
            p_text(t.p_adjusted),
            Text(t.verdict, style=_COLOURS[t.verdict]),
        )
    console.print(table)
    lines = Text.assemble(
        (c.verdict, f"bold {_COLOURS[c.verdict]}"),
        f": {100 * c.accuracy_a:.1f} % → {100 * c.accuracy_b:.1f} % right on {c.n} items{_drawn(c)}, "
        f"{100 * c.difference:+.1f} points ({level} interval {100 * c.ci_low:+.1f} to {100 * c.ci_high:+.1f}), "
        f"{c.test} p = {p_text(c.p_value)}\n",
        (
            f"{_turned(c)}; {_power(c)}; equivalent means within ±{100 * c.margin:.0f} points",
            "dim",
        ),
    )
    console.print(Panel(lines, title=f"{c.name_a} → {c.name_b}", title_align="left", border_style=_COLOURS[c.verdict]))


def _drawn(c: Comparison) -> str:
    """How many answers there are to an item, and which items go together, where that is not one and none."""
    drawn = ""
    if (c.answers_a, c.answers_b) != (1, 1):
        counts = str(c.answers_a) if c.answers_a == c.answers_b else f"{c.answers_a} and {c.answers_b}"
        drawn = f" by {'the mean' if c.score == 'mean' else c.score} of {counts} answers"
    return drawn + (f", those of one {c.cluster} together ({c.units} clusters)" if c.cluster else "")


def _turned(c: Comparison) -> str:
    if c.test == "exact McNemar":
        return f"{c.only_b} items became right, {c.only_a} became wrong"
    return f"{c.only_b} items are right more often, {c.only_a} less often"


def _power(c: Comparison) -> str:
    if c.detectable is not None:
        return f"a true difference of {100 * c.detectable:.1f} points would have been found with 80 % power"
    if c.test == "exact McNemar":
        return "the two disagree too rarely to show any difference at 80 % power"
    least = 2 * 0.5**c.units
    if least > c.alpha:
        return f"{c.units} clusters cannot give a p-value below {p_text(least)}, whatever the difference"
    return "the differences are all the same, so what these items could show is not known"


def render_run(console: Console, header: dict[str, Any], samples: Sequence[dict[str, Any]]) -> None:
    """A run's accuracy by task, with Wilson intervals; with several answers to an item, intervals over items."""
    several = any(sample.get("sample", 0) for sample in samples)
    table = Table(title=f"{header['model']} on {header['suite']}", title_justify="left", box=None, padding=(0, 2, 0, 0))
    for heading in (
        "task",
        "items",
        *(["answers"] if several else []),
        "right",
        *(["any", "majority"] if several else []),
        "95 % interval",
        "cut off",
        "tokens",
    ):
        table.add_column(heading, justify="left" if heading in {"task", "right"} else "right")
    tasks = sorted({sample["task"] for sample in samples})
    for task in [*tasks, None] if len(tasks) > 1 else tasks:
        rows = [s for s in samples if task in (None, s["task"])]
        items = len({s["id"] for s in rows})
        low, high = _interval(rows)
        counted = [s["tokens"] for s in rows if s["tokens"] is not None]
        table.add_row(
            "all" if task is None else task,
            str(items),
            *([str(len(rows))] if several else []),
            bar(sum(s["correct"] for s in rows) / len(rows), "blue"),
            *([f"{_mean_score(rows, score):.0%}" for score in ("any", "majority")] if several else []),
            f"{low:.0%} to {high:.0%}",
            str(sum(not s["ended"] for s in rows)),
            f"{sum(counted) / len(counted):.0f}" if counted else "not said",
            style="bold" if task is None else "",
        )
    console.print(table)
    _render_breakdown(console, samples)
    for name, reason in header.get("broken_plugins", {}).items():
        console.print(f"[yellow]plug-in {name} cannot be used:[/] {reason}", highlight=False)
    if header.get("settings", {}).get("not_applied"):
        console.print(f"[dim]of the model's generation_config not applied: {header['settings']['not_applied']}[/]")


def _mean_score(rows: Sequence[dict[str, Any]], score: str) -> float:
    """Mean over items of what their answers come to."""
    from moe_bench.draws import score_of

    by_item: dict[str, list[dict[str, Any]]] = {}
    for row in sorted(rows, key=lambda row: row.get("sample", 0)):
        by_item.setdefault(row["id"], []).append(row)
    return sum(score_of(answers, score) for answers in by_item.values()) / len(by_item)


def _render_breakdown(console: Console, samples: Sequence[dict[str, Any]]) -> None:
    """Where items have levels: accuracy by reasoning operation and level, with intervals over all levels."""
    levelled = [s for s in samples if "level" in s.get("metadata", {})]
    if not levelled:
        return
    levels = sorted({s["metadata"]["level"] for s in levelled})
    operations = list(dict.fromkeys(s["operation"] for s in levelled))
    table = Table(title="right, by operation and level", title_justify="left", box=None, padding=(0, 2, 0, 0))
    table.add_column("operation")
    for level in levels:
        table.add_column(f"level {level}", justify="right")
    table.add_column("all levels", justify="left")
    table.add_column("95 % interval", justify="right")
    for operation in [*operations, None] if len(operations) > 1 else operations:
        rows = [s for s in levelled if operation in (None, s["operation"])]
        cells = [[s["correct"] for s in rows if s["metadata"]["level"] == level] for level in levels]
        low, high = _interval(rows)
        table.add_row(
            "all" if operation is None else operation,
            *(f"{sum(cell) / len(cell):.0%}" if cell else "" for cell in cells),
            bar(sum(s["correct"] for s in rows) / len(rows), "blue"),
            f"{low:.0%} to {high:.0%}",
            style="bold" if operation is None else "",
        )
    console.print(table)


def _interval(rows: Sequence[dict[str, Any]]) -> tuple[float, float]:
    """Wilson's interval. Answers to one item go together, so where there are several the effective number of answers is used:
    p (1 − p) over the variance that the items' shares show (Kish 1965), at least the items and at most the answers.
    """
    from moe_bench.stats import wilson_interval

    by_item: dict[str, list[bool]] = {}
    for row in rows:
        by_item.setdefault(row["id"], []).append(row["correct"])
    shares = [sum(answers) / len(answers) for answers in by_item.values()]
    items, p = len(shares), sum(shares) / len(shares)
    spread = sum((share - p) ** 2 for share in shares) / (items - 1) / items if items > 1 else 0.0
    effective = min(max(p * (1 - p) / spread, items), len(rows)) if spread > 0 else items
    interval = wilson_interval(p * effective, effective)
    return interval.low, interval.high


def render_observed(console: Console, observed: Mapping[str, dict[str, Any]], run: Path) -> None:
    """What observers found: a line to each, as they put it in the `summary` of their result, and where the rest stands."""
    for name, values in observed.items():
        result = values["result"]
        if result is None:
            console.print(
                f"[bold]{name}[/]: {len(values['parts'])} parts that its observer cannot join, in {run}/observed/{name}.json"
            )
            continue
        for line in result.get("summary", ()):
            console.print(f"[bold]{name}[/]: {line}", highlight=False)
        picture = f", picture {values['picture']}" if values["picture"] else f" (no picture: {values['no_picture']})"
        part = (
            ""
            if values["answers"] == values["of"]
            else f", seen while {values['answers']} of {values['of']} answers were given"
        )
        console.print(f"[dim]{name}: {run}/observed/{name}.json{picture}{part}[/]", highlight=False)


def render_sample(console: Console, sample: dict[str, Any]) -> None:
    """One item from prompt to verdict."""
    right = sample["correct"]
    method = f", compared as {sample['method']}" if sample.get("method") not in (None, "none") else ""
    late = "; the comparison took too long and was stopped" if sample.get("timed_out") else ""
    partial = sample.get("partial")
    body = Text.assemble(
        ("prompt\n", "dim"),
        sample["prompt"],
        ("\n\noutput\n", "dim"),
        sample["output"] or "(nothing)",
        *([("\n\nworked solution\n", "dim"), sample["reference"]] if sample.get("reference") and not right else []),
        ("\n\nanswer  ", "dim"),
        f"{sample['answer']}" if sample["answer"] is not None else ("none found", "yellow"),
        (f"   found as {sample['strategy']}{method}{late}", "dim"),
        ("\ntarget  ", "dim"),
        sample["target"],
        (f"\npartial credit {partial['credit']:.2f} by {partial['measure']}", "dim") if partial and not right else "",
        "" if sample["ended"] else ("\ncut off at the token limit", "yellow"),
    )
    number = f" answer {sample['sample']}" if sample.get("sample") else ""
    title = f"{sample['task']} {sample['id']}{number} · " + ("right" if right else "wrong")
    console.print(Panel(body, title=title, title_align="left", border_style="green" if right else "red"))
