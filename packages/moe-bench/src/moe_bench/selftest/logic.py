"""The prover and the rule checkers against formal labels, human labels and gold answers.

Every function reads one folder of the data and returns rows; a folder that is not there gives none.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from moe_bench.checkers.base import Checker, assess
from moe_bench.checkers.deduction import DeductionChecker
from moe_bench.checkers.rules import solve
from moe_bench.checkers.rules.rows import RowChecker
from moe_bench.checkers.rules.sorting import SortingChecker
from moe_bench.checkers.rules.tracking import TrackingChecker
from moe_bench.logic import Decision, Prover, Reader, UnreadableError, Verdict, fault
from moe_bench.selftest.row import Row

_BBH = "Suzgun et al. 2022, arXiv 2210.09261: Codex with chain of thought, counted in the outputs they published"
_TASKS = (
    "boolean_expressions",
    "dyck_languages",
    "logical_deduction_three_objects",
    "logical_deduction_five_objects",
    "logical_deduction_seven_objects",
    "navigate",
    "tracking_shuffled_objects_three_objects",
    "tracking_shuffled_objects_five_objects",
    "tracking_shuffled_objects_seven_objects",
    "web_of_lies",
    "word_sorting",
)


def selftest_logic(data: Path) -> list[Row]:
    """Rows for every set of logic problems that a folder of test data holds."""
    return [
        *deduction_sets(data / "logic_llm"),
        *prontoqa_explanations(data / "logic_llm"),
        *rows_set(data / "logic_llm"),
        *folio(data),
        *located_mistakes(data / "big_bench_mistake"),
        *bbh_answers(data / "bbh"),
    ]


def deduction_sets(folder: Path) -> Iterator[Row]:
    """ProntoQA and ProofWriter (open world): labels computed by their authors; every decided statement with a proof that is replayed."""
    verdicts = {"A": Verdict.PROVED, "B": Verdict.DISPROVED, "C": Verdict.UNKNOWN}
    for name, file, bar in (
        ("ProntoQA", "prontoqa_dev.json", 1.0),
        ("ProofWriter, open world", "proofwriter_dev.json", 0.99),
    ):
        path = folder / file
        if not path.is_file():
            continue
        items = json.loads(path.read_text(encoding="utf-8"))
        right, read, replayed, proofs, different, unread = 0, 0, 0, 0, list[str](), list[str]()
        for item in items:
            statement = item["question"].split("?", 1)[1].strip()
            decision = _decided(item["context"], statement, forward=True)
            if decision is None:
                unread.append(f"{item['id']}: not in the language")
                continue
            read += 1
            if decision.proof is not None:
                proofs += 1
                wrong = fault(decision.proof)
                replayed += wrong is None
            if decision.verdict is verdicts[item["answer"]]:
                right += 1
            else:
                different.append(f"{item['id']}: {decision.verdict}, label {item['answer']}; {decision.note}")
        yield Row.share(
            checker="logic", data=name, metric="coverage", hits=read, n=len(items), disagreements=tuple(unread)
        )
        if read:
            yield Row.share(
                checker="logic",
                data=name,
                metric="accuracy on what is in the language",
                hits=right,
                n=read,
                bar=bar,
                note="rules applied forwards, as the labels were computed",
                disagreements=tuple(different),
            )
        if proofs:
            yield Row.share(checker="logic", data=name, metric="proofs that replay", hits=replayed, n=proofs, bar=1.0)


def prontoqa_explanations(folder: Path) -> Iterator[Row]:
    """ProntoQA's own explanations as steps: how many are decided, how many called wrong; and their last lines denied, which is wrong."""
    path = folder / "prontoqa_dev.json"
    if not path.is_file():
        return
    items = json.loads(path.read_text(encoding="utf-8"))
    checker = DeductionChecker()
    steps, valid, alarms, caught, listed = 0, 0, 0, 0, list[str]()
    for item in items:
        problem = f"{item['context']} {item['question']}"
        explanation = item["explanation"]
        found = assess(problem, explanation, [checker])
        steps += len(explanation)
        valid += sum(step.status == "valid" for step in found.steps)
        if found.first_invalid is not None:
            alarms += 1
            listed.append(
                f"{item['id']}: step {found.first_invalid} called wrong: {found.steps[found.first_invalid].reason}"
            )
        denied = _denied(explanation[-1])
        caught += assess(problem, [*explanation[:-1], denied], [checker]).first_invalid == len(explanation) - 1
    yield Row.share(checker="deduction", data="ProntoQA explanations", metric="steps called valid", hits=valid, n=steps)
    yield Row.share(
        checker="deduction",
        data="ProntoQA explanations",
        metric="false alarms",
        hits=alarms,
        n=len(items),
        bar=0.0,
        at_most=True,
        disagreements=tuple(listed),
    )
    yield Row.share(
        checker="deduction",
        data="ProntoQA explanations, last line denied",
        metric="recall",
        hits=caught,
        n=len(items),
        bar=1.0,
    )


def rows_set(folder: Path) -> Iterator[Row]:
    """LogicalDeduction: which option holds in every row that the problem allows."""
    path = folder / "logicaldeduction_dev.json"
    if not path.is_file():
        return
    checker = RowChecker()
    answers = []
    for item in json.loads(path.read_text(encoding="utf-8")):
        problem = "\n".join([item["context"], "Options:", *item["options"]])
        found = checker.solve(problem)
        answers.append((item["id"], found.strip("()") if found else None, item["answer"]))
    yield from _solved("rows", "LogicalDeduction", answers)


def folio(data: Path) -> Iterator[Row]:
    """FOLIO, natural text: how much of it is in the language, and whether what is proved or refuted agrees with the labels.

    Premises that cannot be read are left out: what follows from the others follows all the same. That nothing follows says nothing here.
    """
    sets: list[tuple[str, list[tuple[str, str, str]]]] = []
    if (path := data / "folio" / "train.jsonl").is_file():
        lines = map(json.loads, path.read_text(encoding="utf-8").splitlines())
        sets.append(("FOLIO train", [("\n".join(x["premises"]), x["conclusion"], x["label"]) for x in lines]))
    if (path := data / "logic_llm" / "folio_dev.json").is_file():
        labels = {"A": "True", "B": "False", "C": "Uncertain"}
        items = json.loads(path.read_text(encoding="utf-8"))
        told = [(x["context"], x["question"].split("?", 1)[1].strip(), labels[x["answer"]]) for x in items]
        sets.append(("FOLIO dev", told))
    for name, problems in sets:
        right, decided, sentences, read, different = 0, 0, 0, 0, list[str]()
        for number, (premises, conclusion, label) in enumerate(problems):
            reader = Reader([premises, conclusion])
            reading = reader.text(premises)
            understood = len({rule.text for rule in reading.rules})
            read, sentences = read + understood, sentences + understood + len(reading.unread)
            decision = _decided(premises, conclusion, forward=False, whole=False)
            if decision is None or decision.verdict is Verdict.UNKNOWN:
                continue
            decided += 1
            same = label == ("True" if decision.verdict is Verdict.PROVED else "False")
            right += same
            if not same:
                different.append(f"{name} {number}: {decision.verdict}, label {label}")
        yield Row.share(checker="logic", data=name, metric="premises in the language", hits=read, n=sentences)
        yield Row.share(
            checker="logic", data=name, metric="conclusions proved or refuted", hits=decided, n=len(problems)
        )
        if decided:
            yield Row.share(
                checker="logic",
                data=name,
                metric="accuracy on what is proved or refuted",
                hits=right,
                n=decided,
                disagreements=tuple(different),
            )


def located_mistakes(folder: Path) -> Iterator[Row]:
    """BIG-Bench-Mistake: the first wrong step, as people found it, or that there is none."""
    sets: tuple[tuple[str, Checker], ...] = (
        ("word_sorting", SortingChecker()),
        ("tracking_shuffled_objects", TrackingChecker()),
    )
    for name, checker in sets:
        path = folder / f"{name}.jsonl"
        if not path.is_file():
            continue
        items = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        different = []
        for number, item in enumerate(items):
            found = assess(item["input"], item["steps"], [checker])
            first = found.first_invalid
            if first != item["mistake_index"]:
                why = "" if first is None else f": {found.steps[first].reason}"
                different.append(f"{name} {number}: first wrong step {first}, label {item['mistake_index']}{why}")
        yield Row.share(
            checker=checker.name,
            data=f"BIG-Bench-Mistake {name}",
            metric="mistake location, exact",
            hits=len(items) - len(different),
            n=len(items),
            bar=0.8,
            disagreements=tuple(different),
        )


def bbh_answers(folder: Path) -> Iterator[Row]:
    """BIG-Bench Hard: final answers of the tasks that a rule checker simulates, beside Codex's."""
    outputs = folder / "code_davinci_002_outputs.jsonl"
    codex: dict[str, list[bool]] = defaultdict(list)
    if outputs.is_file():
        for line in outputs.read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            if row["mode"] == "cot":
                said = row["prediction"].split("the answer is ")[-1].strip().removesuffix(".")
                codex[row["task"]].append(said == row["target"])
    for task in _TASKS:
        path = folder / f"{task}.json"
        if path.is_file():
            items = json.loads(path.read_text(encoding="utf-8"))["examples"]
            answers = [(f"{task} {i}", solve(item["input"]), item["target"]) for i, item in enumerate(items)]
            grades = codex.get(task)
            beside = {"published": sum(grades) / len(grades), "source": _BBH} if grades else {}
            yield from _solved("rules", f"BBH {task}", answers, **beside)


def _solved(checker: str, data: str, answers: Sequence[tuple[str, str | None, str]], **others: Any) -> Iterator[Row]:
    decided = [(key, found, gold) for key, found, gold in answers if found is not None]
    yield Row.share(checker=checker, data=data, metric="coverage", hits=len(decided), n=len(answers))
    if decided:
        different = tuple(f"{key}: {found}, gold {gold}" for key, found, gold in decided if found != gold)
        yield Row.share(
            checker=checker,
            data=data,
            metric="accuracy on what was decided",
            hits=len(decided) - len(different),
            n=len(decided),
            disagreements=different,
            **others,
        )


def _decided(premises: str, statement: str, *, forward: bool, whole: bool = True) -> Decision | None:
    """What premises say of a statement; None where it, or (`whole`) one of them, is not in the language."""
    reader = Reader([premises, statement])
    reading = reader.text(premises)
    if whole and reading.unread:
        return None
    try:
        return Prover(reading.rules, forward=forward).decide(reader.statement(statement))
    except UnreadableError:
        return None


def _denied(sentence: str) -> str:
    """The contrary of "X is Y"."""
    return sentence.replace(" is not ", " is ") if " is not " in sentence else sentence.replace(" is ", " is not ", 1)
