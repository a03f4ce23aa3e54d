"""The replay of a step: by hand where the sum is short, and what must hold of every replay."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moe_memprof.architectures.base import Attention, Dense, Experts, Layer, Model, StateMixer
from moe_memprof.architectures.registry import describe
from moe_memprof.replay import step
from moe_memprof.replay.checkpointing import checkpoint
from moe_memprof.replay.engine import F32, Memory, Tensor, backward, fresh, record, weight
from moe_memprof.replay.how import How
from moe_memprof.replay.ops import add, matmul, mul, unary
from moe_memprof.replay.step import Task, replay
from published import MIXTRAL_8X7B, QWEN3_30B_A3B

HOW = How(sequences=2, length=32, hidden=64, width=4, base_trains=True)
ATTENTION = Attention(heads=4, kv_heads=2, head_dim=16, value_dim=16)
EXPERTS = Experts(count=4, top_k=2, intermediate=48)


def scalar(m: Memory, x: Tensor) -> Tensor:
    size, width = x.elements, x.width
    return record(m, (1, F32), [x], lambda _g, _s: [fresh(m, size, width)])


def test_a_product_by_hand() -> None:
    """y = x W: x is kept for W's gradient; going back, W's gradient stays and x's is not made."""
    m = Memory()
    x, w = fresh(m, 6, 4), weight(m, 12, 4, trains=True)  # [2, 3] by [3, 4]
    y = matmul(m, x, w, 2)
    assert y.elements == 8
    assert m.live == 24 + 32
    loss = scalar(m, y)
    del x, y
    assert m.live == 24 + 4  # y is not needed any more, x is
    m.peak()
    backward(m, loss)
    del loss
    # the loss, its gradient, the gradient of y, x, and the gradient of W
    assert m.peak().bytes == 4 + 24 + 32 + 48
    assert m.live == 48 == m.parts["gradients"]


def test_a_gradient_for_two_is_copied_once_one_of_them_is_added_to() -> None:
    """Y = x + x hands the same gradient on twice; their sum needs bytes of its own."""
    m = Memory()
    w = weight(m, 10, 4, trains=True)
    x = unary(m, mul(m, w, fresh(m, 10, 4)))
    loss = scalar(m, add(m, x, x))
    del x
    m.peak()
    backward(m, loss)
    del loss
    assert m.parts["gradients"] == 40
    # the operand kept for w's gradient, the loss, and at the highest point the shared gradient, the sum, and the next gradient
    assert m.peak().bytes >= 40 + 2 * 40


def test_a_checkpointed_layer_keeps_its_input_alone_and_ends_with_the_same_gradients() -> None:
    def layer(m: Memory, w: Tensor, x: Tensor) -> Tensor:
        return unary(m, matmul(m, unary(m, x, save="in"), w, 2), save="in")

    ends, kept = [], []
    for checkpointed in (False, True):
        m = Memory()
        w = weight(m, 36, 4, trains=True)
        x = record(m, (12, 4), [weight(m, 12, 4, trains=True)], lambda _g, _s, m=m: [fresh(m, 12, 4)])

        def run(y: Tensor, m: Memory = m, w: Tensor = w) -> Tensor:
            return layer(m, w, y)

        y = checkpoint(m, run, x) if checkpointed else run(x)
        loss = scalar(m, y)
        del x, y
        kept.append(m.live - 4)
        backward(m, loss)
        del loss
        ends.append(m.live)
    assert kept[1] == 48 < kept[0]
    assert ends[0] == ends[1] == 36 * 4 + 12 * 4


LAYERS = st.builds(
    Layer,
    mixer=st.sampled_from([
        ATTENTION, replace(ATTENTION, qk_norm="head"), replace(ATTENTION, sinks=True), replace(ATTENTION, rope_dim=8),
        Attention(heads=4, kv_heads=4, head_dim=16, value_dim=8, query_rank=12, kv_rank=8, rope_dim=4),
        StateMixer(kind="gated_delta_net", width=64, state=100, heads=4, keys=64, head_keys=16),
    ]),
    feed_forward=st.sampled_from([
        Dense(intermediate=96), EXPERTS, replace(EXPERTS, shared_intermediate=32), replace(EXPERTS, bias=True),
        replace(EXPERTS, fused=False),
    ]),
    beside=st.sampled_from([None, Dense(intermediate=32)]),
    norms=st.sampled_from([2, 4]),
)  # fmt: skip
HOWS = st.builds(
    How,
    sequences=st.integers(1, 3), length=st.integers(1, 40), hidden=st.just(64), width=st.sampled_from([2, 4]),
    base_trains=st.booleans(), rank=st.just(4), adapts_attention=st.just(True), adapts_experts=st.booleans(),
    device=st.sampled_from(["cpu", "cuda"]), padded=st.booleans(), attention=st.sampled_from(["sdpa", "eager"]),
    experts=st.sampled_from(["grouped_mm", "eager", "batched_mm"]), kernels=st.booleans(),
    expert_lora=st.sampled_from(["peft", "grouped"]),
    linear_bits=st.sampled_from([0, 4]),
).map(lambda h: replace(h, rank=0, adapts_attention=False, adapts_experts=False, linear_bits=0) if h.base_trains else h)  # fmt: skip
TASKS = st.builds(
    Task,
    loss=st.sampled_from(["stock", "completion", "chunked", "liger"]), wanted=st.just(20),
    checkpointing=st.sampled_from(["none", "non-reentrant", "reentrant"]), accumulating=st.booleans(),
)  # fmt: skip


def model(layers: list[Layer], family: str = "mixtral") -> Model:
    return Model(model_type=family, hidden=64, vocabulary=50, layers=tuple(layers), tied=False, tensors=())


FAMILIES = st.sampled_from(
    ["mixtral", "qwen2_moe", "qwen3_moe", "gpt_oss", "deepseek_v3", "glm4_moe", "phimoe", "llama4", "olmoe"]
)


@given(st.lists(LAYERS, min_size=1, max_size=3), HOWS, TASKS, FAMILIES)
@settings(max_examples=150, deadline=None)
def test_everything_but_gradients_is_given_back(layers: list[Layer], how: How, task: Task, family: str) -> None:
    moments = replay(model(layers, family), how, task)
    last = moments[-1]
    assert all(m.bytes >= 0 for m in moments)
    ended = sum(m.change for m in moments)
    # Of the last stretch the parts are those of its highest point, which may be before the gradient of the table of embeddings is there.
    gradients = 0 if task.accumulating else last.parts["gradients"] + 50 * 64 * how.width
    positions = last.parts["positions"]
    assert 0 <= ended - positions <= gradients
    assert len(moments) == 2 * len(layers) + 4


@given(st.lists(LAYERS, min_size=1, max_size=2), HOWS, TASKS, st.integers(1, 16))
@settings(max_examples=60, deadline=None)
def test_longer_sequences_never_take_less(layers: list[Layer], how: How, task: Task, more: int) -> None:
    peaks = [
        max(m.bytes for m in replay(model(layers), h, task)) for h in (how, replace(how, length=how.length + more))
    ]
    assert peaks[0] <= peaks[1]


def test_layers_put_together_are_what_a_replay_of_each_of_them_gives() -> None:
    """Six alike are replayed as two kinds; written as six different ones (by a window that changes nothing) the result is the same."""
    alike = [Layer(mixer=ATTENTION, feed_forward=EXPERTS)] * 6
    different = [Layer(mixer=replace(ATTENTION, window=1000 + i), feed_forward=EXPERTS) for i in range(6)]
    for task in (Task(wanted=20), Task(wanted=20, checkpointing="non-reentrant")):
        for how in (HOW, replace(HOW, base_trains=False, rank=4, adapts_attention=True, adapts_experts=True)):
            one, other = (replay(model(layers), how, task) for layers in (alike, different))
            assert [m.bytes for m in one] == [m.bytes for m in other]


def test_experts_that_get_everything_take_most_when_they_come_one_after_the_other() -> None:
    how = replace(HOW, experts="eager")
    layers = [Layer(mixer=ATTENTION, feed_forward=EXPERTS)]
    even, uneven = (
        max(m.bytes for m in replay(model(layers), h, Task(wanted=20)))
        for h in (how, replace(how, loads=(128, 0, 0, 0)))
    )
    assert even != uneven


@pytest.mark.parametrize("config", [MIXTRAL_8X7B, QWEN3_30B_A3B], ids=["mixtral", "qwen3"])
def test_each_kind_of_layer_is_replayed_once(config: dict, monkeypatch) -> None:
    """However many layers there are; the first is a kind of its own."""
    calls = []
    real = step.decoder_layer
    monkeypatch.setattr(step, "decoder_layer", lambda *a: calls.append(1) or real(*a))
    described = describe({**config, "num_hidden_layers": 94})
    moments = replay(described, replace(HOW, hidden=described.hidden), Task(wanted=20))
    assert (len(calls), len(moments)) == (2, 2 * 94 + 4)
