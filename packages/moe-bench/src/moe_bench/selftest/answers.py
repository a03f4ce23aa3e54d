"""Extraction and equivalence of final answers against grades and labels of others.

Every function reads one folder of the data and returns rows; a folder that is not there gives none.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from moe_bench.answers import extract_answer, judge
from moe_bench.answers.expressions import ExpressionJudge, math_verify_version
from moe_bench.item import Item
from moe_bench.scoring import score
from moe_bench.selftest.row import Row

_MODELS = ("6b_finetuning", "6b_verification", "175b_finetuning", "175b_verification")
_BBH_SOURCE = "Suzgun et al. 2022, arXiv 2210.09261: Codex, average over the 23 tasks"
_BBH_PUBLISHED = {"cot": 0.739, "direct": 0.566}


def selftest_answers(data: Path) -> list[Row]:
    """Rows for every set of graded answers that a folder of test data holds.

    Without math-verify the rows that need it are left out.
    """
    rows = [*gsm8k_samples(data / "gsm8k"), *processbench_answers(data)]
    if math_verify_version() is not None:
        rows += [*math_verify_cases(data / "math_verify_cases"), *inspect_cases(data / "inspect_ai")]
    return [*rows, *bbh_outputs(data / "bbh")]


def gsm8k_samples(folder: Path) -> Iterator[Row]:
    """Graded solutions of four models to GSM8K's test set, by its authors (Cobbe et al. 2021)."""
    path = folder / "example_model_solutions.jsonl"
    if not path.is_file():
        return
    total, different = 0, []
    for number, row in enumerate(_lines(path)):
        gold = extract_answer(row["ground_truth"], "number").answer or ""
        for model in _MODELS:
            found, strategy, correct = _graded(row[model]["solution"], gold, "number")
            total += 1
            if correct != row[model]["is_correct"]:
                different.append(
                    f"problem {number}, {model}: {found!r} by {strategy}, gold {gold!r}, their grade {not correct}"
                )
    yield _agreement("GSM8K sample outputs", total, different, bar=0.998)


def processbench_answers(data: Path) -> Iterator[Row]:
    """ProcessBench's labels of final answers, where GSM8K's test set or MATH-500 has the problem's gold answer."""
    golds = {
        "gsm8k": ("number", data / "gsm8k" / "test.jsonl", "question", "answer"),
        "math": ("expression", data / "math" / "math500.jsonl", "problem", "answer"),
    }
    counted, noise, listed = 0, 0, list[str]()
    for subset, (kind, gold_path, problem, answer) in golds.items():
        path = data / "processbench" / f"{subset}.jsonl"
        if not path.is_file() or not gold_path.is_file() or (kind == "expression" and math_verify_version() is None):
            continue
        known = {_squeezed(row[problem]): row[answer] for row in _lines(gold_path)}
        total, different = 0, []
        for row in _lines(path):
            gold = known.get(_squeezed(row["problem"]))
            if gold is None:
                continue
            gold = extract_answer(gold, "number").answer or "" if kind == "number" else gold
            found, strategy, correct = _graded("\n\n".join(row["steps"]), gold, kind)
            total += 1
            if correct != row["final_answer_correct"]:
                same = found is not None and _squeezed(found) == _squeezed(gold)
                noise += same
                why = "the label is wrong: answer and gold are the same characters" if same else f"compared by {kind}"
                different.append(f"{row['id']}: {found!r} by {strategy}, gold {gold!r}, label {not correct}; {why}")
        yield _agreement(f"ProcessBench final answers, {subset}", total, different, bar=0.99)
        counted, listed = counted + total, listed + different
    if counted:
        yield _agreement("ProcessBench final answers, both", counted, listed, bar=0.99)
        yield Row(
            checker="answers",
            data="ProcessBench final answers, both, without wrong labels",
            metric="agreement",
            value=1 - (len(listed) - noise) / (counted - noise),
            n=counted - noise,
            note=f"{noise} items set aside whose label says wrong although answer and gold are the same characters",
        )


def math_verify_cases(folder: Path) -> Iterator[Row]:
    """math-verify's own cases: through the worker with each case's settings, and through extraction and judging as in a run."""
    path = folder / "cases.jsonl"
    if not path.is_file():
        return
    worker = ExpressionJudge()
    total, library, ours = 0, [], []
    for number, case in enumerate(_lines(path)):
        total += 1
        options: dict[str, Any] = {"notations": case["match_types"], "strict": case["strict"]}
        options["set_relation"] = case.get("allow_set_relation_comp", case["set_relation"])
        if case["precision"] is not None:
            options["float_rounding"] = case["precision"]
        expected = bool(case["expected"])
        found = worker.compare(case["gold"], case["pred"], options)
        if found.equal != expected:
            library.append(f"case {number} ({case['test']}): {found.error or found.equal}, expected {expected}")
        gold = extract_answer(case["gold"], "expression").answer or ""
        answer, strategy, correct = _graded(case["pred"], gold, "expression")
        if correct != expected:
            ours.append(
                f"case {number} ({case['test']}): {answer!r} by {strategy}, gold {gold!r}: {correct}, expected {expected}"
            )
    worker.close()
    version = f"math-verify {math_verify_version()}"
    yield _agreement("math-verify's cases, in the worker", total, library, bar=250 / 252, note=version)
    yield _agreement("math-verify's cases, as in a run", total, ours, bar=250 / 252, note=version)


def inspect_cases(folder: Path) -> Iterator[Row]:
    """Inspect's cases for its mathematics scorer: outputs, targets, correct or not."""
    path = folder / "math_cases.json"
    if not path.is_file():
        return
    cases = json.loads(path.read_text(encoding="utf-8"))
    different = []
    for number, case in enumerate(cases):
        found, strategy, correct = _graded(case["output"], case["target"], "expression")
        if correct != (case["expected"] == "C"):
            different.append(
                f"case {number}: {found!r} by {strategy}, target {case['target']!r}, expected {case['expected']}"
            )
    yield _agreement("Inspect's mathematics cases", len(cases), different)


def bbh_outputs(folder: Path) -> Iterator[Row]:
    """Codex's outputs on the 27 tasks of BIG-Bench Hard: our grade beside the plainest rule, and the average beside the paper's.

    The plain rule: what follows the last "the answer is" (of an answer without reasoning: all of it) is the target, character by
    character. The paper's average takes the tasks with three sizes (logical deduction, tracking) as one each.
    """
    path = folder / "code_davinci_002_outputs.jsonl"
    if not path.is_file():
        return
    prompts: dict[str, list[dict[str, str]]] = {}
    grades: dict[tuple[str, str], list[bool]] = defaultdict(list)
    different: dict[tuple[str, str], list[str]] = defaultdict(list)
    for row in _lines(path):
        task, mode = row["task"], row["mode"]
        if task not in prompts:
            prompts[task] = json.loads((folder / f"{task}.json").read_text(encoding="utf-8"))["examples"]
        item = Item(prompt=prompts[task][row["i"]]["input"], target=row["target"], task=task)
        result = score(item, row["prediction"])
        plain = row["prediction"].split("the answer is ")[-1].strip()
        plain = plain.removesuffix(".") if mode == "cot" else plain
        grades[mode, task].append(result["correct"])
        if result["correct"] != (plain == row["target"]):
            different[mode, task].append(
                f"{task} {row['i']}: {result['answer']!r} by {result['strategy']}, target {row['target']!r}: {result['correct']}"
            )
    for mode, published in _BBH_PUBLISHED.items():
        groups: dict[str, list[float]] = defaultdict(list)
        for (m, task), correct in grades.items():
            if m == mode:
                groups[re.sub(r"_(?:three|five|seven)_objects$", "", task)].append(sum(correct) / len(correct))
        total = sum(len(correct) for (m, _), correct in grades.items() if m == mode)
        listed = [line for (m, _), lines in different.items() if m == mode for line in lines]
        yield _agreement(f"BBH outputs ({mode}), with the plain rule", total, listed)
        yield Row(
            checker="answers",
            data=f"BBH outputs ({mode}), Codex's average",
            metric="accuracy",
            value=sum(sum(shares) / len(shares) for shares in groups.values()) / len(groups),
            n=total,
            published=published,
            source=_BBH_SOURCE,
        )
    for (mode, task), correct in grades.items():
        if mode == "cot":
            lines = different[mode, task]
            yield Row(
                checker="answers",
                data=f"BBH outputs (cot), {task}",
                metric="accuracy",
                value=sum(correct) / len(correct),
                n=len(correct),
                note=f"agreement with the plain rule {1 - len(lines) / len(correct):.3f}",
            )


def _graded(text: str, gold: str, kind: str) -> tuple[str | None, str, bool]:
    answer, strategy = extract_answer(text, kind)
    return answer, strategy, answer is not None and judge(answer, gold, kind).correct


def _agreement(data: str, total: int, different: list[str], *, bar: float | None = None, note: str = "") -> Row:
    return Row.share(
        checker="answers",
        data=data,
        metric="agreement",
        hits=total - len(different),
        n=total,
        bar=bar,
        note=note,
        disagreements=tuple(different),
    )


def _squeezed(text: str) -> str:
    return re.sub(r"\s+", "", text)


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    with path.open(encoding="utf-8") as file:
        for line in file:
            yield json.loads(line)
