"""Contradictions against PRMBench's modified solutions, and false alarms on solutions that people call right.

Every function reads one folder of the data and returns rows; a folder that is not there gives none.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from moe_bench.checkers.base import Checker, Status
from moe_bench.checkers.consistency import DETECTORS, ConsistencyChecker
from moe_bench.selftest.row import Row

_PRMBENCH = "Song et al. 2025, arXiv 2501.03124, leaderboard of github.com/ssmisya/PRMBench: step contradiction, Gemini-2.0-thinking-exp"
_ANNOUNCED = re.compile(r"incorrect|wrong|mistak|contradict|erroneous|error|false|flaw|instead|misinterp", re.I)
"""Words by which many of PRMBench's modified steps announce that they are wrong. No checker looks for them."""


def selftest_consistency(data: Path) -> list[Row]:
    """Rows for the contradictions of PRMBench, and the false alarms on GSM8K, MATH-500 and ProcessBench."""
    checkers = (ConsistencyChecker(),)
    return [
        *prmbench(data / "prmbench", checkers, "consistency"),
        *_by_detector(data / "prmbench"),
        *gold_solutions(data),
        *correct_solutions(data / "processbench"),
        *bbh_outputs(data / "bbh"),
    ]


def prmbench(folder: Path, checkers: Sequence[Checker], name: str) -> Iterator[Row]:
    """Step contradictions: alarms on the original solutions, and what is found in the modified ones."""
    items = _prmbench(folder)
    if not items:
        return
    alarms, alarmed_steps, original_steps = list[str](), 0, 0
    found_any, found_first, missed = 0, 0, list[str]()
    flagged, on_error, on_modified = 0, 0, 0
    announced, announced_found = 0, 0
    table: Counter[tuple[bool, bool]] = Counter()
    for item in items:
        problem, original, modified = item["question"], item["original_process"], item["modified_process"]
        of_original = _invalid(checkers, problem, original)
        original_steps += len(original)
        alarmed_steps += len(of_original)
        if of_original:
            alarms.append(f"{item['idx']}: {_first(of_original)}")
        invalid = _invalid(checkers, problem, modified)
        wrong = {n - 1 for n in item["error_steps"] if 0 < n <= len(modified)}
        changed = wrong | {n - 1 for n in item["modified_steps"]}
        hit = bool(wrong & invalid.keys())
        found_any += hit
        found_first += bool(invalid) and min(invalid) == min(wrong, default=-1)
        flagged += len(invalid)
        on_error += len(wrong & invalid.keys())
        on_modified += len(changed & invalid.keys())
        tells = any(_ANNOUNCED.search(modified[n]) for n in wrong)
        announced += tells
        announced_found += tells and hit
        table.update((n in wrong, n in invalid) for n in range(len(modified)))
        if not hit:
            missed.append(
                f"{item['idx']}: wrong steps {sorted(n + 1 for n in wrong)}, {_first(invalid) or 'nothing found'}"
            )
    data, n = "PRMBench step contradictions", len(items)
    yield Row.share(
        checker=name,
        data=f"{data}, original solutions",
        metric="false alarms",
        hits=len(alarms),
        n=n,
        bar=0.01,
        at_most=True,
        disagreements=tuple(alarms),
        note="some originals are wrong themselves; each alarm is listed",
    )
    yield Row.share(
        checker=name,
        data=f"{data}, steps of original solutions",
        metric="false alarms",
        hits=alarmed_steps,
        n=original_steps,
    )
    yield Row.share(
        checker=name,
        data=data,
        metric="recall, any wrong step",
        hits=found_any,
        n=n,
        note=f"{announced} of the {n} solutions announce an error by a word (incorrectly, mistakenly, ...), which no checker looks for; "
        f"found are {announced_found} of these and {found_any - announced_found} of the {n - announced} others",
        disagreements=tuple(missed),
    )
    yield Row.share(
        checker=name, data=data, metric="recall, first flagged is the first wrong step", hits=found_first, n=n
    )
    if flagged:
        yield Row.share(
            checker=name,
            data=data,
            metric="precision of flagged steps",
            hits=on_error,
            n=flagged,
            note=f"{on_modified} of {flagged} are on steps that were modified; later steps that rest on a wrong one are not labelled wrong",
        )
    yield Row(
        checker=name,
        data=data,
        metric="PRMScore",
        value=_prmscore(table),
        n=sum(table.values()),
        published=0.713,
        source=_PRMBENCH,
        note="mean of the F1 of right and of wrong steps, unflagged counted as right; open process reward models are at 0.48 on average "
        f"there; calling every step right comes to {_prmscore(_nothing_flagged(table)):.2f}",
    )


def gold_solutions(data: Path) -> Iterator[Row]:
    """Alarms on the worked solutions of GSM8K and MATH-500."""
    for name, path, problem, solution, split in (
        ("GSM8K train", data / "gsm8k" / "train.jsonl", "question", "answer", r"\n"),
        ("GSM8K test", data / "gsm8k" / "test.jsonl", "question", "answer", r"\n"),
        ("MATH-500", data / "math" / "math500.jsonl", "problem", "solution", r"(?<=[.])\s+|\n\n"),
    ):
        if not path.is_file():
            continue
        pairs = [
            (
                str(number),
                row[problem],
                [s for s in re.split(split, re.sub(r"<<[^<>\n]*>>", "", row[solution])) if s.strip()],
            )
            for number, row in enumerate(_lines(path))
        ]
        yield _alarms(f"{name}, gold solutions", pairs)


def correct_solutions(folder: Path) -> Iterator[Row]:
    """Alarms on ProcessBench's solutions in which people found no wrong step, and what is found in the others."""
    for subset in ("gsm8k", "math"):
        path = folder / f"{subset}.jsonl"
        if not path.is_file():
            continue
        rows = list(_lines(path))
        yield _alarms(
            f"ProcessBench {subset}, correct solutions",
            [(r["id"], r["problem"], r["steps"]) for r in rows if r["label"] == -1],
        )
        wrong = [r for r in rows if r["label"] != -1]
        found = [(_invalid((ConsistencyChecker(),), r["problem"], r["steps"]), r["label"]) for r in wrong]
        flagged = [(min(invalid), label) for invalid, label in found if invalid]
        yield Row.share(
            checker="consistency",
            data=f"ProcessBench {subset}, wrong solutions",
            metric="flagged",
            hits=len(flagged),
            n=len(wrong),
            note=f"first flagged step at the first wrong one in {sum(a == b for a, b in flagged)}, after it in "
            f"{sum(a > b for a, b in flagged)}, before it in {sum(a < b for a, b in flagged)}",
        )


def bbh_outputs(folder: Path) -> Iterator[Row]:
    """Codex's chains of thought on the tasks of BIG-Bench Hard: alarms where the answer is right, and where it is wrong."""
    path = folder / "code_davinci_002_outputs.jsonl"
    if not path.is_file():
        return
    prompts: dict[str, list[dict[str, str]]] = {}
    right, wrong = list[tuple[str, str, list[str]]](), list[tuple[str, str, list[str]]]()
    for row in _lines(path):
        if row["mode"] != "cot":
            continue
        task, text = row["task"], row["prediction"]
        if task not in prompts:
            prompts[task] = json.loads((folder / f"{task}.json").read_text(encoding="utf-8"))["examples"]
        steps = [s for s in re.split(r"\n|(?<=[.])\s+", text) if s.strip()]
        same = text.split("the answer is ")[-1].strip().removesuffix(".") == row["target"]
        (right if same else wrong).append((f"{task} {row['i']}", prompts[task][row["i"]]["input"], steps))
    yield _alarms("BBH outputs (cot) with the right answer", right)
    flagged = _alarms("BBH outputs (cot) with a wrong answer", wrong)
    yield replace(flagged, metric="flagged", disagreements=(), note="most wrong ones contradict nothing that they say")


def _by_detector(folder: Path) -> Iterator[Row]:
    """What each kind of contradiction finds in PRMBench."""
    items = _prmbench(folder)
    for name, find in DETECTORS.items() if items else ():
        hits = 0
        for item in items:
            wrong = {n - 1 for n in item["error_steps"]}
            hits += any(f.step in wrong for f in find(item["question"], item["modified_process"]))
        yield Row.share(
            checker="consistency",
            data="PRMBench step contradictions, by kind",
            metric=f"recall, {name}",
            hits=hits,
            n=len(items),
        )


def _alarms(data: str, solutions: Sequence[tuple[str, str, list[str]]]) -> Row:
    alarms = list[str]()
    for number, problem, steps in solutions:
        invalid = _invalid((ConsistencyChecker(),), problem, steps)
        if invalid:
            alarms.append(f"{number}: {_first(invalid)}")
    return Row.share(
        checker="consistency",
        data=data,
        metric="false alarms",
        hits=len(alarms),
        n=len(solutions),
        disagreements=tuple(alarms),
    )


def _invalid(checkers: Sequence[Checker], problem: str, steps: Sequence[str]) -> dict[int, str]:
    """The steps called invalid, each with the reason."""
    found: dict[int, str] = {}
    for checker in checkers:
        for finding in checker.check(problem, steps):
            if finding.status is Status.INVALID:
                found.setdefault(finding.step, finding.checker)
    return found


def _first(invalid: dict[int, str]) -> str:
    return f"step {min(invalid) + 1} by {invalid[min(invalid)]}" if invalid else ""


def _prmscore(table: Counter[tuple[bool, bool]]) -> float:
    """Half of the F1 of right steps and half of that of wrong ones (Song et al. 2025); counts by (wrong, flagged)."""
    both, missed, alarms, neither = table[True, True], table[True, False], table[False, True], table[False, False]
    of_wrong = 2 * both / (2 * both + missed + alarms)
    of_right = 2 * neither / (2 * neither + missed + alarms)
    return (of_wrong + of_right) / 2


def _nothing_flagged(table: Counter[tuple[bool, bool]]) -> Counter[tuple[bool, bool]]:
    return Counter({(wrong, False): sum(n for (w, _), n in table.items() if w == wrong) for wrong in (True, False)})


@cache
def _prmbench(folder: Path) -> tuple[dict[str, Any], ...]:
    path = next(iter(sorted(folder.glob("*step_contradiction*.jsonl"))), None)
    return () if path is None else tuple(_lines(path))


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    with path.open(encoding="utf-8") as file:
        for line in file:
            yield json.loads(line)
