"""The table and the advice for the terminal; both read at 80 columns."""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import Console
from rich.table import Table
from rich.text import Text

from moe_memprof.hardware.advise import Advice, Candidate
from moe_memprof.hardware.table import GpuSpec
from moe_memprof.report import size

_TIGHT = 0.9
"""Share of the budget above which a fit is called tight: estimates have an error of some percent."""
_MARK = {"measured": "", "data sheet": "~", "default share": "~"}


def number(value: float | None) -> str:
    """A rate without needless digits; nothing for None."""
    return "" if value is None else f"{value:.0f}" if value >= 100 else f"{value:g}"


def render_table(console: Console, rows: Iterable[GpuSpec]) -> None:
    """One line for each GPU."""
    table = Table(box=None, padding=(0, 1, 0, 0), header_style="bold")
    for heading in ("GPU", "GB", "usable GiB", "GB/s", "bf16", "fp8", "fp4", "arch"):
        table.add_column(heading, justify="left" if heading in {"GPU", "arch"} else "right", no_wrap=True)
    vendor = ""
    for row in rows:
        if row.vendor != vendor:
            vendor = row.vendor
            table.add_row(Text(vendor, style="bold cyan"))
        usable = f"{_MARK[row.basis]}{row.usable_gib:.2f}"
        rates = (number(row.bf16), number(row.fp8), number(row.fp4))
        table.add_row(row.name, str(row.memory_gb), usable, number(row.bandwidth), *rates, row.arch)
    console.print(table)
    console.print(
        "bf16, fp8, fp4: dense TFLOPS. usable: what the runtime reports; ~ from the data sheet, or the system's default share.",
        style="dim",
    )


def render_row(console: Console, row: GpuSpec) -> None:
    """One GPU in words."""
    console.print(f"[bold]{row.name}[/] ({row.vendor}, {row.segment}, {row.arch}): {row.source}", highlight=False)
    console.print(
        f"memory: {row.memory_gb} GB nominal, {row.usable_gib:.2f} GiB usable ({row.basis}: {row.usable_by}), "
        f"{number(row.bandwidth)} GB/s; {row.link}",
        highlight=False,
    )
    rates = [f"{name} {number(getattr(row, name))}" for name in ("bf16", "fp16", "fp8", "fp4") if getattr(row, name)]
    if rates:
        console.print(f"dense TFLOPS: {', '.join(rates)}", highlight=False)
    features = row.to_dict()["supports"]
    words = ((True, "has"), (False, "has not"), (None, "unchecked"))
    says = (
        f"{word} {', '.join(f for f, v in features.items() if v is is_)}"
        for is_, word in words
        if is_ in features.values()
    )
    console.print("; ".join(says), highlight=False)


def render_advice(console: Console, advice: Advice) -> None:
    """The preset, its notes, and the candidates."""
    head = advice.kind if advice.kind == advice.memory_class else f"{advice.kind}, {advice.memory_class}"
    console.print(f"[bold]{head}[/]: {advice.device}, {size(advice.budget)} to plan with", highlight=False)
    p = advice.preset
    console.print(
        f"start from: method {p.method}{f' ({p.quantization})' if p.quantization else ''}, {p.dtype}, "
        f"{p.micro_batch_tokens} tokens in a micro-batch, checkpointing {'on' if p.checkpointing else 'off'}, optimizer "
        f"{p.optimizer}, attention {p.attention}, experts {p.experts}, expert LoRA {p.expert_lora}",
        highlight=False,
    )
    if advice.parallel:
        console.print(f"{advice.devices} GPUs: {advice.parallel}", highlight=False)
    for note in advice.notes:
        console.print(f"[cyan]·[/] {note}", highlight=False)
    if advice.candidates:
        console.print()
        console.print(_candidates(advice))
        console.print(_assumed(advice), style="dim", highlight=False)


def _assumed(advice: Advice) -> str:
    if advice.preset.quantise_experts:
        text = (
            "qlora holds experts in 4 bits too and adapts them in grouped products; --stock estimates for transformers, bitsandbytes "
            "and PEFT as they are."
        )
    else:
        text = "qlora leaves experts in 16 bits, as transformers does; PEFT builds W + ΔW of each layer."
    text += f" full keeps {advice.preset.dtype} weights without a copy."
    return text + (" For one GPU that holds the whole model." if advice.devices > 1 else "")


def _candidates(advice: Advice) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("model", overflow="fold")
    table.add_column("method")
    table.add_column("estimated", justify="right", no_wrap=True)
    table.add_column("with these settings")
    for candidate in advice.candidates:
        peak = "" if candidate.peak is None else size(candidate.peak)
        table.add_row(candidate.model, candidate.method or "", peak, _verdict(candidate, advice))
    return table


def _verdict(candidate: Candidate, advice: Advice) -> Text:
    if candidate.fits is None:
        return Text(f"unchecked: {candidate.reason}", style="yellow")
    assert candidate.peak is not None
    share = candidate.peak / advice.budget
    if not candidate.fits:
        return Text(f"no, {share:.2f} times of it", style="red")
    return Text(
        f"fits, {100 * share:.0f} % of it{', tight' if share > _TIGHT else ''}",
        style="yellow" if share > _TIGHT else "green",
    )
