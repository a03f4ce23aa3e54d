from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from moe_train import TrainError
from moe_train.data import (
    IGNORED,
    Record,
    Sample,
    batch_indices,
    collate,
    format_instruction,
    format_response,
    load_records,
    micro_batches,
    split_records,
    tokenise,
)
from moe_train.model import embedded_path


def write(path: Path, *lines: Any) -> Path:
    path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))
    return path


def record(prompt: str, completion: str = "c") -> Record:
    return Record(prompt=({"role": "user", "content": prompt},), completion=completion, task="", source="t:1")


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return AutoTokenizer.from_pretrained(embedded_path())


class TestLoading:
    def test_every_shape_of_record(self, tmp_path: Path) -> None:
        chat = [
            {"role": "system", "content": "S"},
            {"role": "user", "content": "Q"},
            {"role": "assistant", "content": "A"},
        ]
        path = write(
            tmp_path / "d.jsonl",
            {"prompt": "p", "completion": "c", "task": "t"},
            {"question": "q", "answer": "a"},
            {"instruction": "i", "input": "x", "output": "o"},
            "",
            {"messages": chat},
        )
        records = load_records(path)
        assert [r.prompt[-1]["content"] for r in records] == ["p", "q", "i\n\nx", "Q"]
        assert [r.completion for r in records] == ["c", "a", "o", "A"]
        assert records[0].task == "t"
        assert records[3].prompt[0] == {"role": "system", "content": "S"}
        assert records[3].source.endswith("d.jsonl:5"), "empty lines count, as an editor counts them"

    def test_a_system_message_goes_where_there_is_none(self, tmp_path: Path) -> None:
        own = [
            {"role": "system", "content": "own"},
            {"role": "user", "content": "Q"},
            {"role": "assistant", "content": "A"},
        ]
        records = load_records(write(tmp_path / "d", {"prompt": "p", "completion": "c"}, {"messages": own}), system="S")
        assert [r.prompt[0]["content"] for r in records] == ["S", "own"]

    def test_formatting(self) -> None:
        assert format_instruction({"instruction": "Add", "input": ""}, "instruction") == "Add"
        assert format_instruction({"prompt": "p", "input": "x"}, "prompt") == "p"
        assert format_response({"output": "o"}, "output") == "o"

    @pytest.mark.parametrize(
        ("line", "said"),
        [
            ('{"prompt": "p", ', "not JSON"),
            ("[1]", "expected an object, found a list"),
            ({"prompt": "p"}, "needs messages, or a pair of"),
            ({}, "has no fields"),
            ({"prompt": "p", "completion": " "}, "completion must be text that is not empty"),
            ({"prompt": 3, "completion": "c"}, "prompt must be text"),
            ({"messages": []}, "at least a user's and an assistant's turn"),
            (
                {"messages": [{"role": "user", "content": "a"}, {"role": "user", "content": "b"}]},
                "must be the assistant's",
            ),
            ({"messages": [{"role": "user"}, {"role": "assistant", "content": "b"}]}, "messages[0] needs a role"),
        ],
    )
    def test_a_malformed_line_is_named(self, tmp_path: Path, line: Any, said: str) -> None:
        path = write(tmp_path / "bad.jsonl", {"prompt": "p", "completion": "c"}, line)
        with pytest.raises(TrainError) as error:
            load_records(path)
        assert "bad.jsonl:2: " in str(error.value)
        assert said in str(error.value)

    def test_a_byte_order_mark_is_no_error(self, tmp_path: Path) -> None:
        path = tmp_path / "d.jsonl"
        path.write_text('{"prompt": "p", "completion": "c"}\r\n', encoding="utf-8-sig")
        assert load_records(path)[0].prompt[0]["content"] == "p"

    def test_files_that_cannot_be_read(self, tmp_path: Path) -> None:
        (tmp_path / "latin").write_bytes('{"prompt": "é"}'.encode("latin-1"))
        for path, said in [
            (tmp_path, "is a folder"),
            (tmp_path / "no", "no such file"),
            (tmp_path / "latin", "not UTF-8"),
        ]:
            with pytest.raises(TrainError, match=said):
                load_records(path)
        with pytest.raises(TrainError, match="holds no record"):
            load_records(write(tmp_path / "empty", "", ""))


class TestSplitting:
    def test_the_same_prompt_never_stands_on_both_sides(self) -> None:
        records = [record(f"prompt {i}", f"answer {j}") for i in range(200) for j in range(3)]
        split = split_records(records, held_out=0.2)
        assert not {r.prompt_id for r in split.train} & {r.prompt_id for r in split.held_out}
        assert 60 < len(split.held_out) < 180
        assert len(split.train) + len(split.held_out) == 600

    def test_order_changes_nothing_and_duplicates_go(self) -> None:
        records = [record(f"prompt {i}") for i in range(100)]
        a = split_records(records, held_out=0.2)
        b = split_records([*reversed(records), *records, record(" prompt 3 ")], held_out=0.2)
        assert {r.id for r in a.train} == {r.id for r in b.train}
        assert [r.id for r in a.held_out] == [r.id for r in b.held_out]
        assert (a.duplicates, b.duplicates) == (0, 101)
        assert [r.prompt_id for r in a.held_out] == sorted(r.prompt_id for r in a.held_out)

    def test_a_system_message_makes_no_new_question(self) -> None:
        with_system = Record(
            prompt=({"role": "system", "content": "S"}, {"role": "user", "content": "p"}),
            completion="c",
            task="",
            source="",
        )
        assert with_system.prompt_id == record("p").prompt_id

    def test_too_few_records(self) -> None:
        with pytest.raises(TrainError, match="1 distinct records leave"):
            split_records([record("p")], held_out=0.1)


class TestTokenising:
    def test_the_loss_covers_the_answer_and_its_end(self, tokenizer: Any) -> None:
        (sample,), dropped = tokenise([record("What is 1 + 1?", "1+1=2")], tokenizer, max_length=64)
        assert dropped == 0
        assert tokenizer.decode(sample.ids[: sample.prompt_length]) == "<|user|>What is 1 + 1?<|end|><|assistant|>"
        assert tokenizer.decode(sample.ids[sample.prompt_length :]) == "1+1=2<|end|>"

    def test_the_prompt_is_what_generation_sees(self, tokenizer: Any) -> None:
        (sample,), _ = tokenise([record("What is 1 + 1?", "2")], tokenizer, max_length=64)
        asked = tokenizer.apply_chat_template(
            [{"role": "user", "content": "What is 1 + 1?"}], add_generation_prompt=True
        )
        assert sample.ids[: sample.prompt_length] == list(asked["input_ids"] if hasattr(asked, "keys") else asked)

    def test_without_a_template_it_is_plain_text(self) -> None:
        plain = AutoTokenizer.from_pretrained(embedded_path())
        plain.chat_template = None
        (sample,), _ = tokenise([record("1 + 1?", "2")], plain, max_length=64)
        assert plain.decode(sample.ids) == "1 + 1?\n\n2<|end|>"
        assert plain.decode(sample.ids[sample.prompt_length :]) == "2<|end|>"

    def test_too_long(self, tokenizer: Any) -> None:
        long, short = record("word " * 50), record("word")
        with pytest.raises(TrainError, match=r"t:1: \d+ tokens, over data.max_length=20"):
            tokenise([short, long], tokenizer, max_length=20)
        samples, dropped = tokenise([short, long], tokenizer, max_length=20, too_long="drop")
        assert (len(samples), dropped) == (1, 1)
        with pytest.raises(TrainError, match="all 1 samples are over"):
            tokenise([long], tokenizer, max_length=20, too_long="drop")

    def test_a_template_that_refuses_the_turns_is_one_line(self) -> None:
        strict = AutoTokenizer.from_pretrained(embedded_path())
        strict.chat_template = (  # as Mixtral's own
            "{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
            "{{ raise_exception('Roles must alternate') }}{% endif %}{{ m['content'] }}{% endfor %}"
        )
        turns = ({"role": "system", "content": "s"}, {"role": "user", "content": "u"})
        with pytest.raises(TrainError, match=r"data f:3: .* refuses the turns system, user \(Roles must alternate\)"):
            tokenise([Record(prompt=turns, completion="c", task="", source="f:3")], strict, max_length=50)

    def test_a_template_that_rewrites_the_prompt_is_refused(self) -> None:
        odd = AutoTokenizer.from_pretrained(embedded_path())
        odd.chat_template = "{{ messages | length }}{% for m in messages %}{{ m['content'] }}{% endfor %}"
        with pytest.raises(TrainError, match="writes the prompt differently"):
            tokenise([record("p")], odd, max_length=20)


def sample(length: int, prompt: int = 1, start: int = 1) -> Sample:
    return Sample(list(range(start, start + length)), prompt, record("p"))


class TestBatching:
    def test_collate(self) -> None:
        batch = collate([sample(3, 1), sample(5, 2)], pad_id=0)
        assert batch.input_ids_BS.tolist() == [[1, 2, 3, 0, 0], [1, 2, 3, 4, 5]]
        assert batch.attention_mask_BS.tolist() == [[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]]
        assert batch.labels_BS.tolist() == [[IGNORED, 2, 3, IGNORED, IGNORED], [IGNORED, IGNORED, 3, 4, 5]]
        assert batch.lengths_B == [3, 5]
        assert batch.completion_tokens == 5
        assert batch.input_ids_BS.dtype == torch.long

    @given(st.lists(st.integers(2, 40), min_size=1, max_size=30), st.integers(8, 120))
    def test_micro_batches_hold_every_sample_once_within_the_budget(self, lengths: list[int], budget: int) -> None:
        groups = micro_batches([sample(n, start=i) for i, n in enumerate(lengths)], max_tokens=budget)
        assert sorted(s.ids[0] for g in groups for s in g) == sorted(range(len(lengths)))
        assert all(len(g) == 1 or len(g) * max(len(s.ids) for s in g) <= budget for g in groups)

    @given(st.integers(1, 50), st.integers(1, 20), st.integers(0, 5))
    def test_every_epoch_shows_every_sample_once(self, count: int, batch_size: int, seed: int) -> None:
        steps = -(-3 * count // batch_size)
        shown = [i for step in range(steps) for i in batch_indices(count, batch_size=batch_size, step=step, seed=seed)]
        for epoch in range(3):
            assert sorted(shown[epoch * count : (epoch + 1) * count]) == list(range(count))

    def test_epochs_and_seeds_differ(self) -> None:
        first, second = (batch_indices(100, batch_size=100, step=s, seed=0) for s in (0, 1))
        assert first != second
        assert first != batch_indices(100, batch_size=100, step=0, seed=1)
