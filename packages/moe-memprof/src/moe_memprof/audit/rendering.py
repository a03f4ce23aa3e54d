"""An audit for the terminal."""

from __future__ import annotations

from collections.abc import Callable

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from moe_memprof.audit.result import Audit, Finding, RoleRow
from moe_memprof.report import size

_STYLES = {"error": "bold red", "warning": "yellow", "note": "dim"}
_GAP = 1.05
"""Held to expected from which on the gap is shown in red."""


def render_audit(console: Console, audit: Audit) -> None:
    """The table by role, the gap, and the findings; from 80 columns on.

    Args:
        console: where to print.
        audit: what to show.
    """
    stack = ", ".join(str(release) for release in audit.stack.releases)
    console.print(Text.assemble(("Audit", "bold"), f"  {audit.model_type}, {audit.loading}"))
    console.print(Text(stack, style="dim"))
    console.print()
    console.print(_table(audit, wide=console.width >= 110))
    console.print()
    console.print(_verdict(audit))
    for finding in audit.findings:
        _print(console, finding)
    counts = {severity: sum(f.severity == severity for f in audit.findings) for severity in _STYLES}
    console.print()
    console.print(", ".join(f"{n} {name}{'' if n == 1 else 's'}" for name, n in counts.items()))


def _table(audit: Audit, *, wide: bool) -> Table:
    adapts = any(row.adapted for row in audit.rows)
    upcast = wide and audit.prepared != audit.held
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("role", no_wrap=True)
    if wide:
        table.add_column("parameters", justify="right", no_wrap=True)
    table.add_column("expected", justify="right", no_wrap=True)
    table.add_column("held", justify="right", no_wrap=True)
    if upcast:
        table.add_column("after k-bit prepare", justify="right", no_wrap=True)
    table.add_column("as")
    table.add_column("quantised", justify="right", no_wrap=True)
    if adapts:
        table.add_column("adapted", justify="right", no_wrap=True)
    for row in audit.rows:
        cells: list[str | Text] = [row.role]
        if wide:
            cells.append(f"{row.parameters:,}")
        cells += [size(row.expected), _held(row.held, row.expected)]
        if upcast:
            cells.append(size(row.prepared))
        cells += [", ".join(row.forms), _share(row.quantised)]
        if adapts:
            cells.append(_share(row.adapted))
        table.add_row(*cells)
    table.add_section()
    total: list[str | Text] = ["all weights"]
    if wide:
        total.append(f"{sum(row.parameters for row in audit.rows):,}")
    total += [size(audit.expected), _held(audit.held, audit.expected)]
    if upcast:
        total.append(size(audit.prepared))
    total += ["", _share(_over_all(audit.rows, lambda row: row.quantised))]
    if adapts:
        total.append(_share(_over_all(audit.rows, lambda row: row.adapted)))
    table.add_row(*total, style="bold")
    return table


def _held(held: int, expected: int) -> Text:
    return Text(size(held), style="bold red" if held > _GAP * expected else "")


def _share(share: float) -> str:
    if share in (0, 1):
        return "all" if share else "-"
    return f"{100 * share:.0f} %" if 0.01 <= share <= 0.99 else f"{100 * share:.1f} %"


def _over_all(rows: tuple[RoleRow, ...], share: Callable[[RoleRow], float]) -> float:
    return sum(share(row) * row.parameters for row in rows) / sum(row.parameters for row in rows)


def _verdict(audit: Audit) -> Text:
    if audit.held > _GAP * audit.expected:
        ratio = audit.held / audit.expected
        gap = f"{size(audit.held)} of weights where one expects {size(audit.expected)}: {ratio:.1f} times as much"
        return Text(gap, style="bold red")
    return Text(f"{size(audit.held)} of weights, as one expects", style="green")


def _print(console: Console, finding: Finding) -> None:
    style = _STYLES[finding.severity]
    cost = f"  {'+' if finding.cost > 0 else ''}{size(finding.cost)}" if finding.cost else ""
    console.print()
    console.print(Text.assemble((finding.severity, style), (f" {finding.rule}", "bold"), (cost, style)))
    console.print(Padding(Text(finding.what), (0, 0, 0, 2), expand=False))
    if finding.where:
        console.print(Padding(Text("in " + ", ".join(finding.where), style="dim"), (0, 0, 0, 2), expand=False))
    if finding.mend:
        console.print(Padding(Text.assemble(("mend: ", "green"), finding.mend), (0, 0, 0, 2), expand=False))
