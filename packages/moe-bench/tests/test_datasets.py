"""Published sets: small files of each format, faults by place, whole real files, a run on one; items out and in again."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from moe_bench import BenchError, load_items
from moe_bench.answers import judge
from moe_bench.cli import main
from moe_bench.datasets import DATASETS, load_dataset, names_a_dataset
from moe_bench.tasks import make_items

DATA = os.environ.get("MOE_TEST_DATA")
ROWS: dict[str, Any] = {
    "gsm8k": ({"question": "What is 2+2?", "answer": "2+2=<<2+2=4>>4\n#### 1,004"}, "1004"),
    "math": (
        {"problem": "What is $x$?", "solution": "So.", "answer": r"\frac{1}{2}", "subject": "Algebra", "level": 2},
        r"\frac{1}{2}",
    ),
    "svamp": ({"Body": "Ann has 3 pens", "Question": "How many?", "Answer": "3.0", "Type": "Sum", "ID": "c-1"}, "3"),
    "processbench": ({"id": "a", "problem": "P", "steps": ["one", "two"], "label": 1}, "1"),
    "mr_gsm8k": ({"question": "Q", "ground_truth_answer": "7", "model_output_solution_first_error_step": 2}, "7"),
    "folio": ({"premises": ["All are."], "conclusion": "One is.", "label": "Uncertain"}, "Uncertain"),
}
LOGIC = {
    "id": "x",
    "context": "C.",
    "question": "Q?",
    "options": ["A) True", "B) False"],
    "answer": "B",
    "explanation": ["one", "two"],
}


def written(tmp_path: Path, name: str, values: Any) -> Path:
    path = tmp_path / name
    path.write_text(values if isinstance(values, str) else json.dumps(values) + "\n")
    return path


@pytest.mark.parametrize("name", sorted(ROWS))
def test_a_record_of_each_set_in_lines(name: str, tmp_path: Path) -> None:
    row, target = ROWS[name]
    (item,) = load_dataset(f"{name}:{written(tmp_path, 'x.jsonl', row)}")
    assert item.target == target
    assert item.metadata["set"] == name
    assert item.metadata["index"] == 0
    assert judge(target, item.target, item.metadata["answer_kind"], options=item.metadata.get("choices", ())).correct
    for key in row:
        if key in ("question", "problem", "Question", "conclusion"):
            broken = written(tmp_path, "y.jsonl", {k: v for k, v in row.items() if k != key})
            with pytest.raises(BenchError, match=rf"y\.jsonl:1: needs a {key}"):
                load_dataset(f"{name}:{broken}")


@pytest.mark.parametrize("name", ["prontoqa", "proofwriter", "logicaldeduction"])
def test_options_by_letter(name: str, tmp_path: Path) -> None:
    (item,) = load_dataset(f"{name}:{written(tmp_path, 'dev.json', [LOGIC])}")
    assert item.target == "(B)"
    assert item.prompt.endswith("(A) True\n(B) False")
    assert item.solution == "one\ntwo"
    with pytest.raises(BenchError, match="record 0: answer 'E' is none of its 2 options"):
        load_dataset(f"{name}:{written(tmp_path, 'dev.json', [{**LOGIC, 'answer': 'E'}])}")


def test_a_task_or_a_folder_of_tasks(tmp_path: Path) -> None:
    for task in ("word_sorting", "navigate"):
        written(tmp_path, f"{task}.json", {"canary": "c", "examples": [{"input": f"{task}?", "target": "Yes"}]})
    assert [item.task for item in load_dataset(f"bbh:{tmp_path}")] == ["navigate", "word_sorting"]
    assert [item.operation for item in load_dataset(f"bbh:{tmp_path / 'navigate.json'}")] == ["tracking"]


def test_one_s_own_columns(tmp_path: Path) -> None:
    table = written(tmp_path, "mine.csv", 'Q,A,k\n"What, then?",4,number\nNext?,5,number\nNext?,5,number\n')
    items = load_dataset(f"csv:{table}?prompt=Q&target=A&answer_kind=k")
    assert [(i.prompt, i.target, i.task, i.metadata["answer_kind"]) for i in items] == [
        ("What, then?", "4", "mine", "number"),
        ("Next?", "5", "mine", "number"),
    ]
    with pytest.raises(BenchError, match=r"mine\.csv:2: needs a prompt"):
        load_dataset(f"csv:{table}")
    with pytest.raises(BenchError, match="colour is none of prompt"):
        load_dataset(f"csv:{table}?colour=Q")


@pytest.mark.parametrize(
    ("text", "why"),
    [("gsm8k:none.jsonl", "cannot be read"), ("gsm9k:x.jsonl", "did you mean gsm8k"), ("math:/", "cannot be read")],
)
def test_what_cannot_be_read(text: str, why: str) -> None:
    with pytest.raises(BenchError, match=why):
        load_dataset(text)


def test_files_are_told_from_sets(tmp_path: Path) -> None:
    assert names_a_dataset("gsm8k:x.jsonl")
    assert not names_a_dataset("x.jsonl")
    assert not names_a_dataset(str(written(tmp_path, "x.jsonl", "{}")))
    assert not names_a_dataset(r"C:\data\x.jsonl")


def test_a_run_on_a_set_with_worked_examples(tmp_path: Path) -> None:
    rows = "".join(
        json.dumps({"question": f"What is {n} + 1?", "answer": f"{n}+1={n + 1}\n#### {n + 1}"}) + "\n" for n in range(4)
    )
    path = written(tmp_path, "test.jsonl", rows)
    outputs = written(
        tmp_path,
        "out.jsonl",
        "".join(json.dumps({"prompt": f"What is {n} + 1?", "output": f"It is {n + 1}."}) + "\n" for n in range(4)),
    )
    arguments = ["run", "--outputs", str(outputs), "--data", f"gsm8k:{path}", "-o", str(tmp_path / "run"), "--json"]
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code == 0, done.output
    shown = CliRunner().invoke(main, ["datasets", "--json"])
    assert set(json.loads(shown.output)["datasets"]) == set(DATASETS)
    assert "prompt=COLUMN" in CliRunner().invoke(main, ["datasets"]).output


def test_items_go_out_and_come_in_again_with_their_metadata(tmp_path: Path) -> None:
    items = make_items(["addition"], count_per_family=3, seed=0, split="test")
    items += load_dataset(f"gsm8k:{written(tmp_path, 'x.jsonl', ROWS['gsm8k'][0])}")
    path = written(tmp_path, "items.jsonl", "".join(json.dumps(item.to_dict()) + "\n" for item in items))
    again = load_items(path)
    assert [item.to_dict() for item in again] == [item.to_dict() for item in items]


@pytest.mark.realdata
@pytest.mark.skipif(DATA is None, reason="MOE_TEST_DATA does not name the folder of real data")
@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("gsm8k:gsm8k/train.jsonl", 7473), ("gsm8k:gsm8k/test.jsonl", 1319), ("math:math/math500.jsonl", 500),
        ("svamp:math/svamp.jsonl", None),
        ("processbench:processbench/gsm8k.jsonl", 200), ("mr_gsm8k:mr_gsm8k/subset.jsonl", None), ("bbh:bbh", 6511),
        ("prontoqa:logic_llm/prontoqa_dev.json", None), ("proofwriter:logic_llm/proofwriter_dev.json", None),
        ("logicaldeduction:logic_llm/logicaldeduction_dev.json", None), ("folio:folio/train.jsonl", None),
        ("folio_dev:logic_llm/folio_dev.json", None),
    ],
)  # fmt: skip
def test_whole_real_files(text: str, count: int | None) -> None:
    name, _, file = text.partition(":")
    items = load_dataset(f"{'prontoqa' if name == 'folio_dev' else name}:{Path(str(DATA)) / file}")
    assert len(items) >= 100
    if count is not None:
        assert 0.99 * count <= len(items) <= count  # an item that stands there twice counts once
    if name == "bbh":
        assert len({item.task for item in items}) == 27
    judged = [i for i in items[:400] if i.metadata.get("answer_kind") != "expression"]
    right = [
        judge(i.target, i.target, i.metadata.get("answer_kind"), options=i.metadata.get("choices", ())).correct
        for i in judged
    ]
    assert sum(right) >= 0.99 * len(right)
