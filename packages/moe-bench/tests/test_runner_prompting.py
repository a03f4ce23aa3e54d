"""Worked examples, seeds, and what of them makes another run."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moe_bench import BenchError, Item, run_items
from moe_bench.answers import extract_answer
from moe_bench.log import read_header, read_samples
from moe_bench.models import Request, Turn
from moe_bench.models.base import as_text
from moe_bench.prompting import Prompting, answer_seed, choose_examples, worked
from moe_bench.tasks import SUITES, make_items
from scripted import Scripted

ITEMS = make_items(SUITES["composition"], count_per_family=3, seed=0, split="test")
POOL = make_items(SUITES["composition"], count_per_family=8, seed=0, split="train")


@given(seed=st.integers(0, 50), count=st.integers(1, 5))
def test_examples_are_of_the_task_and_never_judged(seed: int, count: int) -> None:
    # The judged items are offered as well, in other letters.
    offered = [*POOL, *ITEMS, *(Item(prompt=i.prompt.upper() + " ", target=i.target, task=i.task) for i in ITEMS)]
    chosen = choose_examples(offered, judged=ITEMS, count=count, seed=seed)
    assert set(chosen) == set(SUITES["composition"])
    for task, examples in chosen.items():
        assert len({e.id for e in examples}) == count
        assert {e.id for e in examples} <= {i.id for i in POOL if i.task == task}
    assert choose_examples(offered, judged=ITEMS, count=count, seed=seed) == chosen


def test_another_seed_chooses_others_and_too_few_is_said() -> None:
    assert choose_examples(POOL, judged=ITEMS, count=3, seed=0) != choose_examples(POOL, judged=ITEMS, count=3, seed=1)
    with pytest.raises(BenchError, match=r"9 worked examples are asked for change, 8 are there that are not judged"):
        choose_examples(POOL, judged=ITEMS, count=9, seed=0)
    foreign = [Item(prompt=f"p{n}", target="1", task="else") for n in range(4)]
    assert {len(e) for e in choose_examples(foreign, judged=ITEMS, count=4, seed=0).values()} == {4}


def test_a_worked_example_ends_with_its_answer_marked() -> None:
    for item in POOL:
        extraction = extract_answer(worked(item))
        assert (extraction.answer, extraction.strategy) == (item.target, "hashes")
        assert worked(item).startswith(item.solution)
    marked = Item(prompt="p", target="4", task="t", solution="2+2=4\n#### 4")
    assert worked(marked) == marked.solution
    assert worked(Item(prompt="p", target="4", task="t")) == "#### 4"


def test_the_turns_of_a_request() -> None:
    example = Item(prompt="q", target="4", task=ITEMS[0].task, solution="2+2=4")
    prompting = Prompting(system="S", examples={ITEMS[0].task: (example,)}, samples=2)
    first, second = prompting.requests(ITEMS[:1])
    assert first.turns == (
        Turn("system", "S"), Turn("user", "q"), Turn("assistant", "2+2=4\n#### 4"), Turn("user", ITEMS[0].prompt),
    )  # fmt: skip
    assert (first.sample, second.sample, first.group) == (0, 1, ITEMS[0].operation)
    assert first.seed != second.seed
    assert first.hash == second.hash != Request.of(ITEMS[0].prompt).hash
    assert as_text(first.turns) == f"S\n\nq\n2+2=4\n#### 4\n\n{ITEMS[0].prompt}\n"
    assert as_text(first.turns[-1:]) == ITEMS[0].prompt
    with pytest.raises(BenchError, match="among its own worked examples"):
        Prompting(examples={ITEMS[0].task: ITEMS[:1]}).requests(ITEMS[:1])  # type: ignore[dict-item]


def test_a_seed_follows_from_the_item_alone() -> None:
    alone = Prompting(samples=3, seed=7).requests(ITEMS[5:6])
    among = [r for r in Prompting(samples=3, seed=7).requests(ITEMS) if r.item == ITEMS[5].id]
    assert [r.seed for r in alone] == [r.seed for r in among]
    assert len({answer_seed(s, i.id, n) for s in range(3) for i in ITEMS for n in range(4)}) == 3 * 12 * 4


def test_what_is_asked_stands_in_the_header_and_must_not_change(tmp_path) -> None:
    script = {item.prompt: item.target for item in ITEMS}
    examples = choose_examples(POOL, judged=ITEMS, count=2, seed=0)
    prompting = Prompting(examples=examples)
    run_items(Scripted(script), ITEMS, tmp_path, suite="s", model_name="m", prompting=prompting)
    assert read_header(tmp_path)["settings"]["few_shot"]["change"] == [e.id for e in examples["change"]]
    assert {s["prompt_hash"] for s in read_samples(tmp_path)} == {r.hash for r in prompting.requests(ITEMS)}
    other = Prompting(examples=choose_examples(POOL, judged=ITEMS, count=2, seed=1))
    with pytest.raises(BenchError, match=r"begun with another settings .few_shot: "):
        run_items(Scripted(script), ITEMS, tmp_path, suite="s", model_name="m", prompting=other)


def test_greedy_answers_are_not_asked_for_twice(tmp_path) -> None:
    class Greedy(Scripted):
        @property
        def settings(self):
            return {"decoding": "greedy"}

    with pytest.raises(BenchError, match="2 greedy answers to one item would all be the same"):
        run_items(Greedy({}), ITEMS, tmp_path, suite="s", model_name="m", prompting=Prompting(samples=2))
