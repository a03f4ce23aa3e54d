"""What a run shows while it runs."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.panel import Panel
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from moe_memprof.report import size

if TYPE_CHECKING:
    from moe_memprof.receipts import Receipt
    from moe_train.export import Exported
    from moe_train.memory import MemoryPlan
    from moe_train.verify import Proof
    from moe_train.workflow import Outcome

_COLOURS = {"better": "green", "equivalent": "cyan", "worse": "red", "not enough data": "yellow"}
_BUSY = 40
"""Percent of the cores that others take, from which on threads that wait for one another are said to cost time."""


class Screen:
    """The terminal side of a run."""

    def __init__(self, console: Console) -> None:
        self.console = console

    def header(self, environment: dict[str, Any], data: dict[str, Any], run: Path, *, converted: str = "") -> None:
        """Where it runs and on what."""
        e, packages = environment, environment["packages"]
        where = e.get("gpu", f"{e['cpus']} CPU cores")
        table = Table.grid(padding=(0, 2))
        table.add_column(style="dim")
        table.add_column()
        table.add_row(
            "environment",
            f"{where}, {size(e['memory_available'])} of memory free, Python {e['python']}, "
            f"torch {packages['torch']}, transformers {packages['transformers']}, peft {packages['peft']}",
        )
        if e["device"] == "cpu" and e["threads"] > 1 and e["cpu_busy"] > _BUSY:
            table.add_row(
                "",
                f"[yellow]other programs take {e['cpu_busy']:.0f} % of the cores: threads=1 may be many times faster[/]",
            )
        if converted:
            table.add_row(
                "base",
                f"the checkpoint's weights were converted from {converted}: as they are stored they cannot be trained on",
            )
        train, items = data["train"], data["test_items"]
        table.add_row(
            "train",
            f"{train['count']:,} records{_by_task(train['by_task'])}, {train['completion_tokens']:,} completion tokens",
        )
        judged = f"{data['held_out']['count']:,} records held out for the loss"
        if items["count"]:
            judged += f"; {items['count']:,} test items to answer{_by_task(items['by_task'])}"
        table.add_row("judge", judged)
        table.add_row("", "no prompt is on both sides (content hashes compared)")
        if data["duplicates_dropped"] or data["too_long_dropped"]:
            table.add_row("dropped", f"{data['duplicates_dropped']} duplicates, {data['too_long_dropped']} too long")
        table.add_row("run", str(run))
        self.console.print(Panel(table, title="moe-train", title_align="left", border_style="dim"))

    def plan(self, plan: MemoryPlan) -> None:
        """The memory plan, part by part."""
        from moe_memprof.report import render_estimate

        if plan.estimate is None:
            self.console.print(f"[yellow]memory plan: not made ({plan.reason})[/]")
            return
        render_estimate(self.console, plan.estimate)

    def proof(self, proof: Proof) -> None:
        """The trainability proof, component by component."""
        table = Table(
            title="What trains, shown on one real batch",
            title_justify="left",
            title_style="bold",
            box=None,
            padding=(0, 2, 0, 0),
        )
        table.add_column("component", no_wrap=True)
        quantised = any(c.quantised for c in proof.components)
        columns = [
            "weights",
            "tensors",
            *(["quantised", "size"] if quantised else []),
            "adapted / asked",
            "trainable",
            "gradient ≠ 0",
        ]
        for column in columns:
            table.add_column(column, justify="right")
        table.add_column("")
        for c in proof.components:
            good = c.matched == c.adapted == c.gradient_nonzero
            state = "[dim]frozen[/]" if c.frozen else ("[green]trains[/]" if good else "[red]does not agree[/]")
            adapted = f"{c.adapted} / {c.matched}" if c.adapted or c.matched else "–"
            gradient = f"{c.gradient_nonzero} / {c.adapted}" if c.adapted else "–"
            table.add_row(
                c.component,
                f"{c.parameters:,}",
                str(c.tensors),
                *([str(c.quantised or "–"), f"{c.bytes / 2**20:,.1f} MiB"] if quantised else []),
                adapted,
                f"{c.trainable_parameters or 0:,}",
                gradient,
                state,
            )
        self.console.print(table)
        if proof.experts_reached is not None:
            self.console.print(
                f"experts: {proof.experts_with_gradient} of the {proof.experts_reached} "
                "that tokens with a loss were routed to received a gradient"
            )

    @contextmanager
    def progress(self, title: str, *, total: int, unit: str) -> Iterator[Callable[[int, int], None]]:
        """A bar; call the result with (done, total)."""
        with self._bar(unit) as bar:
            task = bar.add_task(title, total=total)
            yield lambda done, _total: bar.update(task, completed=done)
        if not self.console.is_terminal:
            self.console.print(f"{title}: {total} {unit}")

    @contextmanager
    def training(self, *, steps: int, done: int) -> Iterator[Callable[[dict[str, Any]], None]]:
        """A bar with the loss, the mean of an eighth of the steps; without a terminal, a line now and then."""
        title = "training" if done == 0 else f"training (from step {done})"
        every = max(1, steps // 8)
        recent: deque[float] = deque(maxlen=every)
        with self._bar("steps", "{task.fields[state]}") as bar:
            task = bar.add_task(title, total=steps, completed=done, state="")

            def on_step(line: dict[str, Any]) -> None:
                recent.append(line["loss"])
                state = f"loss {sum(recent) / len(recent):.3f}  {line['tokens_per_s']:,.0f} tok/s"
                if "max_vio" in line:
                    entropy = sum(line["load_entropy"]) / len(line["load_entropy"])
                    state += f"  load entropy {entropy:.2f}  MaxVio {max(line['max_vio']):.2f}"
                bar.update(task, completed=line["step"], state=state)
                if not self.console.is_terminal and (line["step"] % every == 0 or line["step"] == steps):
                    self.console.print(
                        f"step {line['step']}/{steps}  {state}  lr {line['learning_rate']:.1e}  memory {size(line['memory'])}",
                        soft_wrap=True,
                    )

            yield on_step

    def memory(self, receipt: Receipt | None, peaks: dict[str, int]) -> None:
        """The plan beside the measurement."""
        parts = [f"{phase} {size(peak)}" for phase, peak in peaks.items()]
        self.console.print(f"memory, process peak by stage: {', '.join(parts)}")
        if receipt is not None:
            for line in receipt_lines(receipt):
                self.console.print(line)

    def stopped(self, run: Path) -> None:
        """After Ctrl-C."""
        self.console.print(
            f"[yellow]stopped[/]; `moe-train resume {run}` goes on from the last checkpoint", soft_wrap=True
        )

    def doing(self, what: str) -> None:
        """A part of some longer work begins."""
        self.console.print(f"[dim]{what} …[/]")

    def exported(self, done: Exported) -> None:
        """What was written, and how near it is to what was trained."""
        check = done.check
        table = Table(box=None, padding=(0, 2, 0, 0), title="Against the trained model", title_justify="left")
        for column in ("", "KL, nats/token", "max Δ logit", "same token", "same experts"):
            table.add_column(column, justify="left" if not column else "right")
        for name, found in (("exported, reloaded", check.exported), ("the base", check.base)):
            experts = "–" if found.same_experts is None else f"{found.same_experts:.2%}"
            table.add_row(
                name, f"{found.kl:.2e}", f"{found.largest_logit_difference:.2e}", f"{found.same_choice:.2%}", experts
            )
        self.console.print(table)
        what = {"adapter": "adapter", "merged": "whole model"}.get(done.form, f"whole model in {done.form}")
        text = f"{done.folder}: {what}, {size(done.bytes)} in {done.files} file{'s' if done.files > 1 else ''}"
        if done.rounding_error is not None:
            text += (
                f"\nadded to the {done.onto} weights of {done.base}, in {done.dtype}, names as in {done.names}: "
                f"rounding changed the update by {done.rounding_error:.1%} of its size"
            )
        text += f"\n{check.kept:.2%} of the fine-tune kept (by KL, over {check.tokens} held-out tokens, computed in {check.dtype})"
        self.console.print(Panel(text, title="exported", title_align="left", border_style="green"))

    def verdict(self, outcome: Outcome) -> None:
        """The end: the comparison, the verdict, the report."""
        from moe_bench.report import render_comparison

        if outcome.answers is not None:
            self.console.print("[bold]What it was trained for[/]")
            render_comparison(self.console, outcome.answers)
        if outcome.retained is not None:
            self.console.print("[bold]What the base could do already[/]")
            render_comparison(self.console, outcome.retained)
        losses = outcome.losses
        text = f"[bold]{outcome.verdict}[/] by {outcome.judged_by}\n"
        kept = outcome.retained
        if kept is not None:  # a gain that cost something else is not to be read as a gain alone
            text += (
                f"what the base could do already: [{_COLOURS[kept.verdict]}]{kept.verdict}[/], "
                f"{100 * kept.accuracy_a:.1f} % → {100 * kept.accuracy_b:.1f} % of {kept.n} items (p = {kept.p_value:.2g})\n"
            )
        text += (
            f"held-out loss {losses.before:.3f} → {losses.after:.3f} nats per token "
            f"(95 % interval of the change {losses.low:+.3f} to {losses.high:+.3f}, p = {losses.p_value:.2g}, {losses.records} records)\n"
            f"report: {outcome.report}"
        )
        colour = _COLOURS.get(outcome.verdict, "white")
        self.console.print(Panel(text, title="verdict", title_align="left", border_style=colour))

    def _bar(self, unit: str, extra: str = "") -> Progress:
        columns: list[Any] = [TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn(unit)]
        if extra:
            columns.append(TextColumn(extra))
        # Without a terminal a bar cannot be redrawn: plain lines are printed instead.
        live = self.console.is_terminal
        return Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=self.console, disable=not live)


def receipt_lines(receipt: Receipt) -> list[str]:
    """The receipt in words: one line for each phase that was measured."""
    return [
        f"memory of a {reading.phase}'s tensors: planned {size(reading.estimated)}, measured {size(reading.measured)} "
        f"({reading.error:+.1%})"
        for reading in receipt.readings
    ]


def _by_task(counts: dict[str, int]) -> str:
    """Counts by task in brackets: all of up to eight, else the largest four and the sum of the rest."""
    named = {task: n for task, n in counts.items() if task}
    shown = named if len(named) <= 8 else dict(sorted(named.items(), key=lambda item: -item[1])[:4])
    parts = [f"{n:,} {task}" for task, n in shown.items()]
    if len(shown) < len(named):
        parts.append(f"{sum(named.values()) - sum(shown.values()):,} of {len(named) - len(shown)} other tasks")
    return f" ({', '.join(parts)})" if parts else ""
