"""Two runs over the same items, compared item by item."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from moe_bench.errors import BenchError
from moe_bench.log import read_header, read_samples
from moe_bench.pairs import Answers, Pairs, pair
from moe_bench.stats import holm

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
    """Interval of the difference, not adjusted for the number of tasks."""
    p_value: float
    p_adjusted: float
    """Holm over the tasks."""
    verdict: str


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Run B against run A."""

    name_a: str
    name_b: str
    n: int
    """Items."""
    answers_a: int
    """Answers to each item in A."""
    answers_b: int
    score: str
    """What several answers to an item come to, of `moe_bench.draws.SCORES`."""
    cluster: str | None
    """Key of the metadata by which items go together; None where each stands alone."""
    units: int
    """Items, or clusters of them: what the test takes for independent."""
    accuracy_a: float
    accuracy_b: float
    """Mean scores over items."""
    only_a: int
    """Items on which A alone is right, or more often than B."""
    only_b: int
    difference: float
    ci_low: float
    ci_high: float
    """Newcombe's interval where items are right or wrong, else the bootstrap's."""
    test: str
    """exact McNemar where items are right or wrong, else sign-flip permutation."""
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
    run_a: Path,
    run_b: Path,
    *,
    tasks: Sequence[str] | None = None,
    alpha: float = 0.05,
    margin: float = 0.05,
    score: str = "mean",
    cluster: str | None = None,
) -> Comparison:
    """Compare run B with run A on the same items.

    Args:
        run_a: folder of the first run, the baseline.
        run_b: folder of the second.
        tasks: compare the items of these tasks alone, and list them in this order; None compares all.
        alpha: level of every test and interval.
        margin: differences within ±margin count as equivalent when that can be shown.
        score: what several answers to an item come to, of `moe_bench.draws.SCORES`.
        cluster: key of the items' metadata: those with one value there are taken to go together.

    Raises:
        BenchError: when the runs cannot be paired: other items, another scorer, other generation limits, one
            unfinished, a task in `tasks` that they do not have, or any and majority of different numbers of answers.
    """
    answers_a, answers_b = _answers(run_a), _answers(run_b)
    _refuse_unlike(run_a, run_b, answers_a, answers_b)
    each_a, each_b = (len(next(iter(answers.values()))) for answers in (answers_a, answers_b))
    if score != "mean" and each_a != each_b:
        raise BenchError(
            f"runs {run_a} and {run_b}: {each_a} and {each_b} answers to an item; {score} of more is easier, so compare their means"
        )
    by_task = _ids_by_task(answers_a, tasks, run_a)
    pairs = pair(
        answers_a, answers_b, [item for members in by_task.values() for item in members], score=score, cluster=cluster
    )
    p_value, p_same = pairs.p_value, pairs.equivalence(margin=margin)
    (mean_a, mean_b), (only_a, only_b) = pairs.means, pairs.ahead
    interval = pairs.interval(alpha=alpha)
    each = {
        task: pair(answers_a, answers_b, members, score=score, cluster=cluster) for task, members in by_task.items()
    }
    return Comparison(
        name_a=str(read_header(run_a)["model"]),
        name_b=str(read_header(run_b)["model"]),
        n=pairs.n,
        answers_a=each_a,
        answers_b=each_b,
        score=score,
        cluster=cluster,
        units=pairs.units,
        accuracy_a=mean_a,
        accuracy_b=mean_b,
        only_a=only_a,
        only_b=only_b,
        difference=mean_b - mean_a,
        ci_low=interval.low,
        ci_high=interval.high,
        test=pairs.test,
        p_value=p_value,
        p_equivalence=p_same,
        alpha=alpha,
        margin=margin,
        detectable=pairs.detectable(alpha=alpha),
        verdict=verdict(mean_b - mean_a, p_value, p_same, alpha=alpha),
        tasks=_by_task(each, alpha=alpha, margin=margin),
    )


def verdict(difference: float, p_value: float, p_equivalence: float, *, alpha: float) -> str:
    """Better or worse when the difference is significant, equivalent when that is, else not enough data."""
    if p_value <= alpha:
        return "better" if difference > 0 else "worse"
    return "equivalent" if p_equivalence <= alpha else "not enough data"


def _answers(run: Path) -> dict[str, list[dict[str, Any]]]:
    header, answers = read_header(run), dict[str, list[dict[str, Any]]]()
    for sample in sorted(
        read_samples(run), key=lambda sample: sample.get("sample", 0)
    ):  # a line stands where it was answered
        answers.setdefault(sample["id"], []).append(sample)
    asked, each = header["items"]["count"], header["settings"].get("samples", 1)
    done = sum(map(len, answers.values()))
    if len(answers) != asked or any(len(found) != each for found in answers.values()):
        what = "items are answered" if each == 1 else f"items, {each} answers to each, are answered {done} times"
        raise BenchError(f"run {run}: {len(answers)} of its {asked} {what}; finish it first")
    return answers


def _refuse_unlike(run_a: Path, run_b: Path, a: Answers, b: Answers) -> None:
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


def _ids_by_task(answers: Answers, tasks: Sequence[str] | None, run: Path) -> dict[str, list[str]]:
    ids: dict[str, list[str]] = {}
    for item, found in answers.items():
        ids.setdefault(found[0]["task"], []).append(item)
    if tasks is None:
        return dict(sorted(ids.items()))
    missing = [task for task in tasks if task not in ids]
    if missing or not tasks:
        raise BenchError(
            f"run {run}: has no items of {', '.join(missing) or 'no task'}; it has {', '.join(sorted(ids))}"
        )
    return {task: ids[task] for task in tasks}


def _by_task(each: Mapping[str, Pairs], *, alpha: float, margin: float) -> tuple[TaskComparison, ...]:
    p_values = {task: pairs.p_value for task, pairs in each.items()}
    adjusted = dict(zip(each, holm(list(p_values.values())), strict=True))
    rows = []
    for task, pairs in each.items():
        mean_a, mean_b = pairs.means
        interval = pairs.interval(alpha=alpha)
        found = verdict(mean_b - mean_a, adjusted[task], pairs.equivalence(margin=margin), alpha=alpha)
        rows.append(
            TaskComparison(
                task=task, n=pairs.n, accuracy_a=mean_a, accuracy_b=mean_b, difference=mean_b - mean_a, ci_low=interval.low,
                ci_high=interval.high, p_value=p_values[task], p_adjusted=adjusted[task], verdict=found,
            )
        )  # fmt: skip
    return tuple(rows)
