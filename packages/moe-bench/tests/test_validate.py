"""Faults planted in generated problems, each found; clean ones pass; near-duplicates against counting every pair."""

from __future__ import annotations

import json
import os
from pathlib import Path
from random import Random
from typing import Any

import pytest
from click.testing import CliRunner

from moe_bench import BenchError
from moe_bench.cli import main
from moe_bench.tasks import FAMILIES, make_items
from moe_bench.validate import Report, Row, read_rows, validate
from moe_bench.validate.similar import jaccard, near_pairs, plain, shingles, signatures

DATA = os.environ.get("MOE_TEST_DATA")


def clean(count: int = 3) -> list[dict[str, Any]]:
    return [item.to_dict() for item in make_items(FAMILIES, count_per_family=count, seed=0, split="test")]


def report_of(tmp_path: Path, rows: list[dict[str, Any]], **more: Any) -> Report:
    path = tmp_path / "set.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return validate(read_rows(path), **more)


def found(report: Report, check: str) -> list[tuple[str, str, tuple[int, ...]]]:
    return [(f.severity, f.what, f.lines) for f in report.findings if f.check == check]


def test_generated_problems_have_no_error(tmp_path: Path) -> None:
    report = report_of(tmp_path, clean())
    assert report.ok
    assert not found(report, "duplicates")
    assert not found(report, "answers")


@pytest.mark.parametrize(
    ("change", "check", "severity", "line"),
    [
        (lambda r: {**r, "prompt": "  "}, "empty fields", "error", 5),
        (lambda r: {**r, "target": ""}, "empty fields", "error", 5),
        (lambda r: {**r, "answer_kind": "numbr"}, "answers", "error", 5),
        (lambda r: {**r, "target": "about seven or so", "answer_kind": "number"}, "answers", "error", 5),
        (lambda r: {**r, "target": "12", "solution": "So 3 * 4 = 13."}, "answers", "warning", 5),
        (lambda r: {**r, "prompt": r["prompt"] + " canary GUID 26b5c67b"}, "canaries", "note", 5),
        (lambda r: {**r, "prompt": r["prompt"] + " cafÃ©"}, "encoding", "warning", 5),
        (lambda r: {**r, "prompt": r["prompt"] * 200}, "lengths", "warning", 5),
    ],
)
def test_a_planted_fault_is_found_where_it_is(
    change: Any, check: str, severity: str, line: int, tmp_path: Path
) -> None:
    rows = clean()
    rows[line - 1] = change(rows[line - 1])
    report = report_of(tmp_path, rows)
    assert (severity, (line,)) in [(s, lines) for s, _, lines in found(report, check)]
    assert report.ok is (severity != "error")


def test_duplicates_with_the_same_and_with_another_answer(tmp_path: Path) -> None:
    rows = clean()
    rows += [{**rows[0], "prompt": rows[0]["prompt"].upper() + " "}, {**rows[1], "target": "something else"}]
    kinds = found(report_of(tmp_path, rows), "duplicates")
    assert [(severity, lines) for severity, _, lines in kinds] == [
        ("error", (2, len(rows))),
        ("error", (len(rows) - 1,)),
    ]


def test_near_duplicates_and_other_numbers(tmp_path: Path) -> None:
    text = (
        "Mia buys 14 red pens and 6 blue cups at the market on Monday and gives half of all of them to her two brothers"
    )
    words = text.split(" ")
    near = [{"prompt": " ".join(words), "target": "10"}, {"prompt": " ".join([*words, "today"]), "target": "10"}]
    numbers = [{"prompt": " ".join(words).replace("14", "18"), "target": "12"}]
    report = report_of(tmp_path, [*near, *numbers])
    assert 2 in found(report, "near-duplicates")[0][2]
    assert 3 in found(report, "templates")[0][2]
    assert report.ok


def test_always_the_same_answer_and_place(tmp_path: Path) -> None:
    rng = Random(0)
    yes = [
        {"prompt": f"Is {rng.random()} large?", "target": "yes" if i % 4 else "no", "task": "yes"} for i in range(80)
    ]
    places = [
        {"prompt": f"Which of {rng.random()}?", "target": "B" if i % 2 else "ABCD"[i // 2 % 4], "task": "abcd"}
        for i in range(120)
    ]
    even = [{"prompt": f"Which of {rng.random()}?", "target": "ABCD"[i % 4], "task": "even"} for i in range(120)]
    report = report_of(tmp_path, [*yes, *places, *even])
    assert "60 of 80 answers are 'yes'" in found(report, "balance of answers")[0][1]
    (position,) = found(report, "position of the right choice")
    assert position[1].startswith("abcd: the right choice is B")


def test_leakage_from_a_training_file(tmp_path: Path) -> None:
    rows = clean()
    training = tmp_path / "train.jsonl"
    leaked = rows[7]["prompt"]
    chat = [{"role": "user", "content": leaked.upper()}, {"role": "assistant", "content": "x"}]
    lines: list[dict[str, Any]] = [{"messages": chat}, {"question": "other", "answer": "1"}]
    training.write_text("".join(json.dumps(line) + "\n" for line in lines))
    path = tmp_path / "set.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = CliRunner().invoke(main, ["validate", str(path), "--against", str(training), "--json"])
    assert done.exit_code == 1
    leak = next(f for f in json.loads(done.output)["findings"] if f["check"] == "leakage")
    assert (leak["severity"], leak["lines"]) == ("error", [8])
    shown = CliRunner().invoke(main, ["validate", str(path)])
    assert shown.exit_code == 0
    assert "nothing found by" in shown.output


def test_signatures_estimate_the_index() -> None:
    rng, errors = Random(2), []
    for _ in range(200):
        words = [f"w{rng.random()}" for _ in range(40)]
        changed = [word if rng.random() < 0.9 else "other" for word in words]
        sets = [shingles(" ".join(words)), shingles(" ".join(changed))]
        a, b = signatures(sets)
        errors.append(float((a == b).mean()) - jaccard(*sets))
    assert abs(sum(errors) / len(errors)) < 0.01
    assert (sum(e * e for e in errors) / len(errors)) ** 0.5 < 0.06  # sqrt(J (1 - J) / 96) is 0.05 at the most


def test_pairs_are_those_that_counting_every_pair_finds() -> None:
    rng = Random(1)
    vocabulary = [f"w{i}" for i in range(60)]
    texts = [" ".join(rng.choices(vocabulary, k=25)) for _ in range(60)]
    for text in texts[:30]:  # copies with more and more words changed
        words = text.split()
        for place in rng.sample(range(25), rng.randrange(0, 5)):
            words[place] = rng.choice(vocabulary)
        texts.append(" ".join(words))
    for threshold in (0.5, 0.8):
        every = {
            (i, j)
            for i in range(len(texts)) for j in range(i + 1, len(texts))
            if plain(texts[i]) != plain(texts[j]) and jaccard(shingles(texts[i]), shingles(texts[j])) >= threshold
        }  # fmt: skip
        pairs = {(i, j) for i, j, _ in near_pairs(texts, threshold=threshold)}
        assert pairs <= every
        assert len(pairs) >= 0.9 * len(every) > 0
    assert next(near_pairs(["a b c d e f"], threshold=0.3, others=["a b c d e g", "x y z"]))[:2] == (0, 0)


FAULTS = [("", "holds no line"), ("{\n", "not JSON"), ("[1]\n", "expected an object"), ('{"a": 1}\n', "no text under")]


@pytest.mark.parametrize(("text", "why"), FAULTS)
def test_files_that_cannot_be_read(text: str, why: str, tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text(text)
    with pytest.raises(BenchError, match=why):
        read_rows(path)
    with pytest.raises(BenchError, match="cannot be read"):
        read_rows(tmp_path / "none.jsonl")


@pytest.mark.realdata
@pytest.mark.skipif(DATA is None, reason="MOE_TEST_DATA does not name the folder of real data")
def test_gsm8k_has_no_error_and_its_splits_share_nothing() -> None:
    folder = Path(str(DATA)) / "gsm8k"
    test, train = read_rows(folder / "test.jsonl"), read_rows(folder / "train.jsonl")
    assert (len(test), len(train)) == (1319, 7473)
    report = validate(test, against=train)
    assert report.ok
    assert not found(report, "leakage")
    assert isinstance(test[0], Row)
    assert test[0].target.isdigit()
