"""Which positions are tokens of which sequence, read off calls of every form; and what is prompt and what is generated."""

from __future__ import annotations

import pytest
import torch

from moe_router import RouterError, RoutingRecorder
from moe_router.positions import positions_of
from moe_router.token_trace import TokenTrace
from tiny_models import build

IDS = torch.arange(3, 14)[None]
STARTS = [0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1]


@pytest.mark.parametrize(
    "packing",
    [
        {"position_ids": torch.tensor([[0, 1, 2, 3, 0, 1, 2, 3, 4, 5, 6]])},
        {
            "position_ids": torch.tensor([[0, 1, 2, 3, 0, 1, 2, 3, 4, 5, 6]]).expand(4, 1, 11)
        },  # text first, then time, height, width
        {"cu_seq_lens_q": torch.tensor([0, 4, 11], dtype=torch.int32), "cu_seq_lens_k": torch.tensor([0, 4, 11])},
        {"cu_seqlens": torch.tensor([0, 4, 11])},
        {"seq_idx": torch.tensor([[0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1]], dtype=torch.int32)},
    ],
)
def test_packed_sequences(packing) -> None:
    positions = positions_of((), {"input_ids": IDS, **packing})
    assert positions.sequence_T.tolist() == STARTS
    assert positions.sequences == 2
    assert not positions.continued


def test_rows_are_sequences_where_nothing_is_packed() -> None:
    mask = torch.tensor([[0, 0, 1, 1], [1, 1, 1, 1]])
    left = torch.tensor([[1, 1, 0, 1], [0, 1, 2, 3]])  # generate() gives padding the position 1
    positions = positions_of(
        (), {"input_ids": torch.ones(2, 4, dtype=torch.long), "attention_mask": mask, "position_ids": left}
    )
    assert positions.sequence_T.tolist() == [0] * 4 + [1] * 4
    assert positions.sequences == 2
    with pytest.raises(RouterError, match="without input_ids"):
        positions_of((), {"labels": None})


def test_a_flattened_batch_of_the_stock_collator_is_counted_like_its_sequences() -> None:
    from transformers import DataCollatorWithFlattening

    rows = [{"input_ids": list(range(3, 3 + n)), "labels": list(range(3, 3 + n))} for n in (4, 7, 2)]
    batch = DataCollatorWithFlattening(return_tensors="pt")(rows)
    batch.pop("labels")
    with RoutingRecorder(build("mixtral")) as recorder, torch.no_grad():
        recorder.model(**batch)
    packed = recorder.trace()
    assert packed.tokens_U.tolist() == [4, 7, 2]
    assert packed.pairs_U.tolist() == [3, 6, 1]


def test_a_prompt_in_chunks_is_a_prompt(tmp_path, padded_batch) -> None:
    """Several tokens on top of a cache go on with the prompt, in the same group and sequence."""
    model = build("mixtral")
    ids = padded_batch["input_ids"][:1]
    with RoutingRecorder(model, tokens=tmp_path / "t") as recorder, torch.no_grad():
        cache = model(input_ids=ids[:, :6], use_cache=True).past_key_values
        cache = model(input_ids=ids[:, 6:10], past_key_values=cache, use_cache=True).past_key_values
        model(input_ids=ids[:, 10:], past_key_values=cache, use_cache=True)
    trace = recorder.trace()
    assert trace.groups == ("all", "all (generated)")
    assert trace.tokens_G.tolist() == [10, 1]
    assert trace.sequences_G.tolist() == [1, 1]
    assert TokenTrace.load(tmp_path / "t").lengths_N.tolist() == [11]


def test_each_call_of_generate_has_sequences_of_its_own(padded_batch) -> None:
    model = build("mixtral")
    model.generation_config.eos_token_id = None
    left = {k: v.flip(1) for k, v in padded_batch.items()}
    with RoutingRecorder(model) as recorder:
        for _ in range(2):
            model.generate(**left, max_new_tokens=4, min_new_tokens=4, do_sample=False, pad_token_id=0)
    trace = recorder.trace()
    assert trace.sequences_G.tolist() == [6, 6]
    assert trace.tokens_U[trace.unit_group_U == 1].tolist() == [3] * 6


@pytest.mark.parametrize(
    "architecture", ["qwen3_next", "jamba", "granitemoehybrid", "deepseek_v3", "llama4", "gpt_oss"]
)
@pytest.mark.filterwarnings("ignore")
def test_prefill_and_decode_are_told_apart_whatever_the_cache(architecture: str, padded_batch) -> None:
    model = build(architecture)
    model.generation_config.eos_token_id = None
    left = {k: v.flip(1) for k, v in padded_batch.items()}
    with RoutingRecorder(model) as recorder:
        model.generate(**left, max_new_tokens=4, min_new_tokens=4, do_sample=False, pad_token_id=0)
    trace = recorder.trace()
    assert trace.groups == ("all", "all (generated)")
    assert trace.tokens_G.tolist() == [22, 9]
    assert trace.sequences_G.tolist() == [3, 3]
