"""`moe-bench check`: a solution, step by step, with what each checker says of it."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from moe_bench.checkers.base import Assessment, Checker, Status, assess
from moe_bench.checkers.registry import GROUPS, make_checkers
from moe_bench.commands import FOLDER, mendable
from moe_bench.errors import BenchError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

    from moe_bench.checkers.reference import Located

SCHEMA = "moe-bench/check@1"
_PROBLEM = ("problem", "question", "prompt")
_SOLUTION = ("solution", "output", "answer", "response")
_MARKS = {Status.VALID: ("✓", "green"), Status.INVALID: ("✗", "red"), Status.UNCHECKED: ("·", "dim")}


@dataclass(frozen=True, kw_only=True)
class Solution:
    """What is judged."""

    name: str
    problem: str
    steps: tuple[str, ...]
    target: str = ""
    """The right answer, where it is given."""
    reference: str = ""
    """A right worked solution, where one is given."""


@click.command()
@click.argument("file", required=False, type=FOLDER)
@click.option("--problem", help="The problem, where the solution is given by --solution.")
@click.option("--solution", help="The solution; it is divided into steps.")
@click.option("--only", multiple=True, type=click.Choice(GROUPS), help="Only this checker; may be given several times.")
@click.option("--nli", metavar="NAME", help="Also ask this installed model of natural-language inference.")
@click.option(
    "--reference", is_flag=True,
    help='Also say where a solution goes wrong with the right one at hand: lines with "target" and "reference". Apart from the verdicts.',
)  # fmt: skip
@click.option("--wrong", is_flag=True, help="Show only solutions with an invalid step.")
@click.option("--json", "as_json", is_flag=True, help="Print the verdicts as JSON.")
@mendable
def check(
    file: Path | None,
    problem: str | None,
    solution: str | None,
    only: tuple[str, ...],
    nli: str | None,
    reference: bool,
    wrong: bool,
    as_json: bool,
) -> None:
    """Judge every step of a solution: valid, invalid, or unchecked, with the reason and the place.

    FILE is JSON lines, each with "problem" and "steps" (a list) or "solution" (a text); a run's samples.jsonl is read too, and - is
    standard input. Exits with 1 when a step is invalid.
    """
    if (file is None) == (solution is None):
        raise BenchError("give either a FILE of solutions or --problem TEXT --solution TEXT")
    if file is not None and problem is not None:
        raise BenchError("--problem goes with --solution; in a FILE every line has its own problem")
    solutions = list(
        read_solutions(file) if file is not None else [_of_text("solution", problem or "", solution or "")]
    )
    checkers = make_checkers(only or GROUPS, nli=nli)
    judged = [(s, assess(s.problem, s.steps, checkers)) for s in solutions]
    located = _located(solutions) if reference else {}
    if as_json:
        found = report(judged, checkers)
        for entry, one in zip(found["solutions"], solutions, strict=True):
            if one.name in located:
                entry["with_reference"] = asdict(located[one.name])
        click.echo(json.dumps(found, indent=1, ensure_ascii=False))
    else:
        from rich.console import Console

        console = Console(highlight=False)
        for one, assessment in judged:
            if assessment.first_invalid is not None or not wrong:
                render(console, one, assessment)
            if one.name in located:
                at = located[one.name]
                where = "right" if at.first_error is None else f"goes wrong in step {at.first_error + 1}"
                console.print(
                    f"{one.name}, with the right solution at hand (a heuristic): {where}: {at.reason}", markup=False
                )
        console.print(f"[dim]checked by {', '.join(c.name for c in checkers)}[/]")
        if len(judged) > 1:
            _render_totals(console, judged)
        for name, reason in _broken_models().items():
            console.print(f"[yellow]NLI model {name} cannot be used:[/] {reason}")
    if any(assessment.first_invalid is not None for _, assessment in judged):
        raise SystemExit(1)


def _located(solutions: Sequence[Solution]) -> dict[str, Located]:
    """Where each solution goes wrong for which the right one is there.

    Raises:
        BenchError: there is none.
    """
    from moe_bench.checkers.reference import locate

    found = {
        s.name: locate(s.problem, s.steps, answer=s.target, solution=s.reference)
        for s in solutions
        if s.target and s.reference
    }
    if not found:
        raise BenchError(
            '--reference: no line has both "target" (the right answer) and "reference" (a right worked solution)'
        )
    return found


def read_solutions(path: Path) -> Iterator[Solution]:
    """The solutions in a file of JSON lines.

    Raises:
        BenchError: the file cannot be read, or a line has no problem or solution; with the line's number.
    """
    try:
        text = sys.stdin.read() if str(path) == "-" else path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BenchError(f"{path}: cannot be read ({error})") from error
    number = 0
    for number, line in enumerate(text.splitlines(), start=1):
        if line.strip():
            yield _of_line(f"{path}:{number}", line)
    if not text.strip():
        raise BenchError(
            f'{path}: is empty; it needs a JSON object on every line, with "problem" and "steps" or "solution"'
        )


def _of_line(place: str, line: str) -> Solution:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise BenchError(f"{place}: not JSON ({error.msg}); every line needs a JSON object") from error
    if not isinstance(row, dict):
        raise BenchError(f'{place}: not a JSON object; it needs {{"problem": ..., "steps": [...]}}')
    problem = next((row[key] for key in _PROBLEM if isinstance(row.get(key), str)), None)
    if problem is None:
        raise BenchError(f"{place}: no problem; it needs a text under one of {', '.join(_PROBLEM)}")
    name = str(row["id"]) if "id" in row else place
    if "steps" in row:
        steps = row["steps"]
        if not isinstance(steps, list) or not all(isinstance(s, str) for s in steps):
            raise BenchError(f'{place}: "steps" is not a list of texts')
        return Solution(name=name, problem=problem, steps=tuple(steps), **_right(row))
    solution = next((row[key] for key in _SOLUTION if isinstance(row.get(key), str)), None)
    if solution is None:
        raise BenchError(f'{place}: no solution; it needs "steps", or a text under one of {", ".join(_SOLUTION)}')
    right = _right(row)
    return replace(
        _of_text(name, problem, solution), target=right.get("target", ""), reference=right.get("reference", "")
    )


def _right(row: dict[str, Any]) -> dict[str, str]:
    """The right answer and worked solution of a line, where they are there."""
    return {key: row[key] for key in ("target", "reference") if isinstance(row.get(key), str)}


def _of_text(name: str, problem: str, solution: str) -> Solution:
    from moe_bench.steps import split_steps

    return Solution(name=name, problem=problem, steps=tuple(split_steps(solution)))


def report(judged: Sequence[tuple[Solution, Assessment]], checkers: Sequence[Checker]) -> dict[str, Any]:
    """The verdicts as plain values with a schema; steps are counted from 0."""
    from moe_bench.checkers.quality import quality

    return {
        "schema": SCHEMA,
        "checkers": {c.name: c.version for c in checkers},
        "broken_nli_models": _broken_models(),
        "solutions": [
            {
                "name": solution.name,
                "problem": solution.problem,
                "first_invalid": assessment.first_invalid,
                "coverage": assessment.coverage,
                "valid_before_error": assessment.valid_before_error,
                "quality": quality(solution.problem, solution.steps).to_dict(),
                "steps": [
                    {
                        "text": text,
                        "status": verdict.status,
                        "reason": verdict.reason,
                        "findings": [asdict(finding) for finding in verdict.findings],
                    }
                    for text, verdict in zip(solution.steps, assessment.steps, strict=True)
                ],
            }
            for solution, assessment in judged
        ],
    }


def render(console: Console, solution: Solution, assessment: Assessment) -> None:
    """The problem, every step with its mark and reason, and what it comes to."""
    from rich.console import Group
    from rich.padding import Padding
    from rich.panel import Panel
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 1))
    table.add_column(justify="right", style="dim", no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for number, (text, verdict) in enumerate(zip(solution.steps, assessment.steps, strict=True), start=1):
        mark, colour = _MARKS[verdict.status]
        table.add_row(str(number), Text(mark, style=f"bold {colour}"), _marked(text, assessment, number - 1))
        for said in _reasons(assessment, number - 1):
            table.add_row("", "", Text(said, style=colour if verdict.status is not Status.VALID else "dim green"))
    parts: list[Any] = [Padding(table, (1, 0))] if solution.steps else [Text("no steps", style="yellow")]
    if solution.problem.strip():
        parts.insert(0, Text(solution.problem.strip(), style="italic"))
    parts.append(_summary(assessment))
    wrong = assessment.first_invalid is not None
    console.print(
        Panel(Group(*parts), title=Text(solution.name), title_align="left", border_style="red" if wrong else "blue")
    )


def _reasons(assessment: Assessment, step: int) -> list[str]:
    """Why a step has its verdict: every finding of that kind, for unchecked what stood in the way."""
    verdict = assessment.steps[step]
    reasons = [f"{f.reason} ({f.checker})" for f in verdict.findings if f.status is verdict.status]
    return list(dict.fromkeys(reasons))


def _marked(text: str, assessment: Assessment, step: int) -> Text:
    """A step's text with the claims marked that were decided."""
    from rich.text import Text

    shown = Text(text)
    styles = {Status.VALID: "green", Status.INVALID: "bold red underline", Status.UNCHECKED: "yellow"}
    for finding in sorted(assessment.steps[step].findings, key=lambda f: f.status is Status.INVALID):
        if finding.span is not None:
            shown.stylize(styles[finding.status], *finding.span)
    return shown


def _summary(assessment: Assessment) -> Text:
    from rich.text import Text

    total = len(assessment.steps)
    counts = {s: sum(v.status is s for v in assessment.steps) for s in Status}
    line = Text()
    if assessment.first_invalid is not None:
        line.append(f"step {assessment.first_invalid + 1} is the first invalid one", style="bold red")
    else:
        line.append("no invalid step found", style="bold")
        if counts[Status.VALID] < total:
            line.append("; what is unchecked may still be wrong")
    line.append(
        f"  ({counts[Status.VALID]} valid, {counts[Status.INVALID]} invalid, {counts[Status.UNCHECKED]} unchecked of {total} steps)",
        style="dim",
    )
    return line


def _render_totals(console: Console, judged: Sequence[tuple[Solution, Assessment]]) -> None:
    wrong = sum(a.first_invalid is not None for _, a in judged)
    steps = sum(len(a.steps) for _, a in judged)
    decided = sum(v.status is not Status.UNCHECKED for _, a in judged for v in a.steps)
    share = f", {decided} of {steps} steps decided ({decided / steps:.0%})" if steps else ""
    console.print(f"[bold]{wrong} of {len(judged)} solutions[/] have an invalid step{share}")


def _broken_models() -> dict[str, str]:
    from moe_bench.checkers.consistency.entailment import installed

    return dict(installed().broken)
