"""Two runs over the same items, compared item by item."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from moe_bench.errors import BenchError
from moe_bench.log import read_header, read_samples
from moe_bench.stats import (
    discordance,
    equivalence_p_value,
    holm,
    mcnemar_exact,
    minimum_detectable_difference,
    paired_difference_interval,
)

SCHEMA = "moe-bench/comparison@1"
VERDICTS = ("better", "worse", "equivalent", "not enough data")


@dataclass(frozen=True, kw_only=True)
class TaskComparison:
    """The comparison on the items of one task."""

    task: str
    n: int
    accuracy_a: float
    accuracy_b: float
    difference: float
    """accuracy_b − accuracy_a."""
    ci_low: float
    ci_high: float
    """Newcombe's interval of the difference, not adjusted for the number of tasks."""
    p_value: float
    """Exact McNemar."""
    p_adjusted: float
    """Holm over the tasks."""
    verdict: str


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Run B against run A."""

    name_a: str
    name_b: str
    n: int
    accuracy_a: float
    accuracy_b: float
    only_a: int
    """Items that A alone answered right."""
    only_b: int
    difference: float
    ci_low: float
    ci_high: float
    p_value: float
    p_equivalence: float
    """TOST on ±margin."""
    alpha: float
    margin: float
    detectable: float | None
    """The smallest difference these items would have found at 80 % power, given how often the two disagree; None where they
    disagree too rarely to show any."""
    verdict: str
    """better, worse, equivalent or not enough data."""
    tasks: tuple[TaskComparison, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, schema moe-bench/comparison@1."""
        return {"schema": SCHEMA, **asdict(self)}


def compare_runs(
    run_a: Path, run_b: Path, *, tasks: Sequence[str] | None = None, alpha: float = 0.05, margin: float = 0.05
) -> Comparison:
    """Compare run B with run A on the same items.

    Args:
        run_a: folder of the first run, the baseline.
        run_b: folder of the second.
        tasks: compare the items of these tasks alone, and list them in this order; None compares all.
        alpha: level of every test and interval.
        margin: differences within ±margin count as equivalent when that can be shown.

    Raises:
        BenchError: when the runs cannot be paired: other items, another scorer, other generation limits, one
            unfinished, or a task in `tasks` that they do not have.
    """
    samples_a, samples_b = _answers(run_a), _answers(run_b)
    _refuse_unlike(run_a, run_b, samples_a, samples_b)
    by_task = _ids_by_task(samples_a, tasks, run_a)
    ids = [item for members in by_task.values() for item in members]
    table = discordance([samples_a[i]["correct"] for i in ids], [samples_b[i]["correct"] for i in ids])
    n = table.n
    interval = paired_difference_interval(table, alpha=alpha)
    p_value, p_same = mcnemar_exact(table), equivalence_p_value(table, margin=margin)
    difference = (table.only_b - table.only_a) / n
    return Comparison(
        name_a=str(read_header(run_a)["model"]),
        name_b=str(read_header(run_b)["model"]),
        n=n,
        accuracy_a=(table.both + table.only_a) / n,
        accuracy_b=(table.both + table.only_b) / n,
        only_a=table.only_a,
        only_b=table.only_b,
        difference=difference,
        ci_low=interval.low,
        ci_high=interval.high,
        p_value=p_value,
        p_equivalence=p_same,
        alpha=alpha,
        margin=margin,
        detectable=minimum_detectable_difference(n, discordant=(table.only_a + table.only_b) / n, alpha=alpha)
        if table.only_a + table.only_b
        else None,
        verdict=verdict(difference, p_value, p_same, alpha=alpha),
        tasks=_by_task(by_task, samples_a, samples_b, alpha=alpha, margin=margin),
    )


def verdict(difference: float, p_value: float, p_equivalence: float, *, alpha: float) -> str:
    """Better or worse when the difference is significant, equivalent when that is, else not enough data."""
    if p_value <= alpha:
        return "better" if difference > 0 else "worse"
    return "equivalent" if p_equivalence <= alpha else "not enough data"


def _answers(run: Path) -> dict[str, dict[str, Any]]:
    header, found = read_header(run), read_samples(run)
    samples = {sample["id"]: sample for sample in found}
    if len(found) > len(samples):
        raise BenchError(f"run {run}: has several answers to an item; only runs with one answer to each are compared")
    asked = header["items"]["count"]
    if len(samples) != asked:
        raise BenchError(f"run {run}: {len(samples)} of its {asked} items are answered; finish it first")
    return samples


def _refuse_unlike(run_a: Path, run_b: Path, a: Mapping[str, Any], b: Mapping[str, Any]) -> None:
    header_a, header_b = read_header(run_a), read_header(run_b)
    if header_a["scorer"] != header_b["scorer"]:
        raise BenchError(
            f"runs {run_a} and {run_b}: scored by versions {header_a['scorer']} and {header_b['scorer']} of the scorer; run one again"
        )
    if a.keys() != b.keys():
        raise BenchError(
            f"runs {run_a} and {run_b}: {len(a.keys() - b.keys())} items are only in the first and {len(b.keys() - a.keys())} only in "
            "the second (an item is its prompt and target); run both on the same items"
        )
    for key in ("max_new_tokens", "decoding", "chat_template"):
        x, y = header_a["settings"].get(key), header_b["settings"].get(key)
        if x != y:
            raise BenchError(
                f"runs {run_a} and {run_b}: {key} is {x} in the first and {y} in the second; run one again"
            )


def _ids_by_task(samples: Mapping[str, dict[str, Any]], tasks: Sequence[str] | None, run: Path) -> dict[str, list[str]]:
    ids: dict[str, list[str]] = {}
    for item, sample in samples.items():
        ids.setdefault(sample["task"], []).append(item)
    if tasks is None:
        return dict(sorted(ids.items()))
    missing = [task for task in tasks if task not in ids]
    if missing or not tasks:
        raise BenchError(
            f"run {run}: has no items of {', '.join(missing) or 'no task'}; it has {', '.join(sorted(ids))}"
        )
    return {task: ids[task] for task in tasks}


def _by_task(
    ids: Mapping[str, Sequence[str]],
    a: Mapping[str, dict[str, Any]],
    b: Mapping[str, dict[str, Any]],
    *,
    alpha: float,
    margin: float,
) -> tuple[TaskComparison, ...]:
    tables = {
        task: discordance([a[i]["correct"] for i in members], [b[i]["correct"] for i in members])
        for task, members in ids.items()
    }
    p_values = {task: mcnemar_exact(table) for task, table in tables.items()}
    adjusted = dict(zip(tables, holm(list(p_values.values())), strict=True))
    rows: Sequence[TaskComparison] = [
        TaskComparison(
            task=task,
            n=table.n,
            accuracy_a=(table.both + table.only_a) / table.n,
            accuracy_b=(table.both + table.only_b) / table.n,
            difference=(table.only_b - table.only_a) / table.n,
            ci_low=paired_difference_interval(table, alpha=alpha).low,
            ci_high=paired_difference_interval(table, alpha=alpha).high,
            p_value=p_values[task],
            p_adjusted=adjusted[task],
            verdict=verdict(
                table.only_b - table.only_a, adjusted[task], equivalence_p_value(table, margin=margin), alpha=alpha
            ),
        )
        for task, table in tables.items()
    ]
    return tuple(rows)
