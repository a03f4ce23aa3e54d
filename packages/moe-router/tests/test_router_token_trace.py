"""The full trace against the recorder's sums, against plain loops, and on disk."""

from __future__ import annotations

import base64
import tracemalloc

import numpy as np
import pytest
import torch

from moe_router import RouterError, RoutingRecorder, RoutingTrace, find_moe_layers
from moe_router.summary import summarise_tokens
from moe_router.token_trace import TokenTrace, from_routed_experts
from test_router_architectures import HERE
from tiny_models import build

ARRAYS = ("counts_ULE", "first_ULE", "idle_UL", "pairs_U", "repeats_UL", "tokens_U", "sequences_U", "unit_group_U")


def record(model, batches, path, *, weights: bool = True, **kwargs) -> tuple[RoutingTrace, TokenTrace]:
    with RoutingRecorder(model, tokens=path, weights=weights, name="tiny", **kwargs) as recorder, torch.no_grad():
        for group, batch in batches:
            with recorder.group(group):
                model(**batch)
    return recorder.trace(), TokenTrace.load(path)


@pytest.mark.parametrize("architecture", ["mixtral", "olmoe", "zaya", "jetmoe", "longcat_flash"])
def test_sums_of_the_full_trace_are_the_recorders(architecture: str, padded_batch, tmp_path) -> None:
    if architecture not in HERE:
        pytest.skip(f"this release of transformers has no {architecture}")
    model = build(architecture)
    other = {k: v[:, :7].flip(1) for k, v in padded_batch.items()}
    streamed, full = record(model, [("a", padded_batch), ("b", other), ("a", other)], tmp_path / "t")
    summed = summarise_tokens(full)
    for name in ARRAYS:
        assert (getattr(summed, name) == getattr(streamed, name)).all(), name
    assert (summed.coactivation_LEE == streamed.coactivation_LEE).all()
    assert (summed.transitions_LEE == streamed.transitions_LEE).all()
    np.testing.assert_allclose(summed.mass_GLE, streamed.mass_GLE, rtol=2e-3)
    assert (summed.groups, summed.layers, summed.model) == (streamed.groups, streamed.layers, "tiny")


def test_tokens_are_the_decisions_row_by_row(padded_batch, tmp_path) -> None:
    model = build("olmoe")
    read: list[list] = [[] for _ in find_moe_layers(model)]
    for layer, seen in zip(find_moe_layers(model), read, strict=True):
        layer.attach(seen.append)
    _, full = record(model, [("a", padded_batch)], tmp_path / "t")
    keep = padded_batch["attention_mask"].reshape(-1).bool()
    for n, (routing,) in enumerate(read):
        assert (full.experts_TLK[:, n] == routing.indices_TK[keep].numpy()).all()
        np.testing.assert_allclose(full.weights_TLK[:, n], routing.weights_TK[keep].numpy(), rtol=1e-3, atol=1e-6)
    assert full.token_ids_T.tolist() == padded_batch["input_ids"].reshape(-1)[keep].tolist()
    assert full.lengths_N.tolist() == [11, 7, 4]
    size = (tmp_path / "t").stat().st_size
    assert full.experts_TLK.dtype == np.uint8
    assert (
        size < 22 * (3 * 3 * 3 + 4) + 1500
    )  # k bytes and 2 k of weights for a token and layer, its id, and the header


def test_generated_tokens_go_on_with_their_sequence(padded_batch, tmp_path) -> None:
    model = build("mixtral")
    model.generation_config.eos_token_id = None
    left = {k: v.flip(1) for k, v in padded_batch.items()}
    with RoutingRecorder(model, tokens=tmp_path / "t") as recorder:
        out = model.generate(**left, max_new_tokens=5, min_new_tokens=5, do_sample=False, pad_token_id=0)
    full = TokenTrace.load(tmp_path / "t")
    assert full.lengths_N.tolist() == [11 + 4, 7 + 4, 4 + 4]
    expected = [t for row, pad in zip(out.tolist(), (0, 4, 7), strict=True) for t in row[pad:-1]]
    assert full.token_ids_T.tolist() == expected
    assert recorder.trace().tokens_G.tolist() == [22, 12]


def test_packed_sequences_are_told_apart_by_position(padded_batch, tmp_path) -> None:
    model = build("mixtral")
    ids = padded_batch["input_ids"][:1]
    position_ids = torch.tensor([[0, 1, 2, 3, 0, 1, 2, 3, 4, 5, 6]])
    trace, full = record(model, [("a", {"input_ids": ids, "position_ids": position_ids})], tmp_path / "t")
    assert trace.sequences_G.tolist() == [2]
    assert trace.tokens_U.tolist() == [4, 7]
    assert full.lengths_N.tolist() == [4, 7]
    assert trace.pairs_U.tolist() == [3, 6]


def test_more_sequences_than_units_are_added_in_turn(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("moe_router.streaming.MAX_UNITS", 16)
    model = build("mixtral")
    ids = torch.randint(3, 90, (40, 3), generator=torch.Generator().manual_seed(0))
    trace, full = record(model, [("a", {"input_ids": ids})], tmp_path / "t")
    assert trace.sequences_U.tolist() == [3] * 8 + [2] * 8
    for name in ARRAYS:
        assert (getattr(summarise_tokens(full), name) == getattr(trace, name)).all(), name


def test_memory_of_the_sums_does_not_grow_with_the_text() -> None:
    """Bytes held by the recorder's tensors, after one pass and after thirty."""
    model = build("mixtral")

    def held(recorder) -> int:
        group = recorder._groups["all"]
        tensors = [v for s in group.sums.values() for v in vars(s).values() if torch.is_tensor(v)]
        return sum(t.numel() * t.element_size() for t in tensors)

    ids = torch.randint(3, 90, (300, 4))
    with RoutingRecorder(model) as recorder, torch.no_grad():
        model(input_ids=ids)
        before = held(recorder)
        tracemalloc.start()
        for _ in range(30):
            model(input_ids=ids)
    assert held(recorder) == before
    assert recorder.trace().tokens_G.tolist() == [31 * 1200]


def test_a_failure_inside_leaves_no_file(padded_batch, tmp_path) -> None:
    model = build("mixtral")
    handle = model.lm_head.register_forward_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError), RoutingRecorder(model, tokens=tmp_path / "t"), torch.no_grad():
        model(**padded_batch)
    handle.remove()
    with pytest.raises(RouterError, match="no token was recorded"), RoutingRecorder(model, tokens=tmp_path / "t"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_types_are_counted(padded_batch, tmp_path) -> None:
    model = build("mixtral")
    kinds = padded_batch["input_ids"] % 3
    names = ("zero", "one", "two")
    with RoutingRecorder(model, types=names, tokens=tmp_path / "t") as recorder, torch.no_grad():
        with recorder.typed(kinds):
            model(**padded_batch)
        with pytest.raises(RouterError, match="the recorder has 3"), recorder.typed(kinds + 1):
            pass
    trace, full = recorder.trace(), TokenTrace.load(tmp_path / "t")
    types_CLE = trace.types_FCLE.sum(0)
    assert (types_CLE.sum(0) == trace.counts_GLE[0]).all()
    assert (summarise_tokens(full).types_FCLE == trace.types_FCLE).all()
    assert (trace.types_FCLE.sum((1, 2, 3)) > 0).sum() == 3  # a fold for each sequence
    expected = [
        [int((full.experts_TLK[np.asarray(full.type_T) == c, 1] == e).sum()) for e in range(8)] for c in range(3)
    ]
    assert types_CLE[:, 1].tolist() == expected


def test_routed_experts_of_engines() -> None:
    rng = np.random.default_rng(0)
    requests = [rng.integers(0, 8, (n, 3, 2)) for n in (5, 9)]
    plain = from_routed_experts(requests, num_experts=8, layers=3, top_k=2, group=["x", "y"])
    buffers = [base64.b64encode(r.astype(np.int32).tobytes()).decode() for r in requests]
    encoded = from_routed_experts(buffers, num_experts=8, layers=3, top_k=2, group=["x", "y"])
    assert (plain.experts_TLK == np.concatenate(requests)).all()
    assert (plain.experts_TLK == encoded.experts_TLK).all()
    assert plain.lengths_N.tolist() == [5, 9]
    assert summarise_tokens(plain).tokens_G.tolist() == [5, 9]
    with pytest.raises(RouterError, match="request 0: experts 0 to 7 where there are 4"):
        from_routed_experts(requests, num_experts=4, layers=3, top_k=2)
    with pytest.raises(RouterError, match=r"request 0: not \[tokens, 4, 2\]"):
        from_routed_experts(requests, num_experts=8, layers=4, top_k=2)
    with pytest.raises(RouterError, match="no token"):
        from_routed_experts([], num_experts=8, layers=4, top_k=2)


def test_parts_do_not_change_the_sums(monkeypatch) -> None:
    rng = np.random.default_rng(1)
    trace = from_routed_experts(
        [rng.integers(0, 6, (n, 2, 3)) for n in (1, 40, 7, 30, 2)], num_experts=6, layers=2, top_k=3
    )
    whole = summarise_tokens(trace)
    monkeypatch.setattr(TokenTrace.chunks, "__defaults__", (11,))
    parts = summarise_tokens(trace)
    for name in (*ARRAYS, "coactivation_LEE", "transitions_LEE", "mass_GLE"):
        assert (getattr(whole, name) == getattr(parts, name)).all(), name
    first = trace.experts_TLK[:, :, 0]
    same = [
        sum(
            first[t, n] == first[t - 1, n]
            for a, b in zip(trace.starts_N, trace.starts_N[1:], strict=False)
            for t in range(a + 1, b)
        )
        for n in range(2)
    ]
    assert whole.repeats_UL.sum(0).tolist() == same


def test_experts_beyond_the_layers_are_refused() -> None:
    from dataclasses import replace

    trace = from_routed_experts([np.zeros((4, 2, 1))], num_experts=6, layers=2, top_k=1)
    broken = trace.experts_TLK.copy()
    broken[2, 1] = 6
    with pytest.raises(RouterError, match="moe layer 1 holds experts beyond its 6"):
        summarise_tokens(replace(trace, experts_TLK=broken))
