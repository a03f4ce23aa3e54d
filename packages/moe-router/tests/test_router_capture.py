"""The recorder's sums, against brute force, where counting is easily wrong."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from moe_router import RouterError, RoutingRecorder, find_moe_layers
from tiny_models import build, checkpoint


def brute_force(model, ids: torch.Tensor, mask: torch.Tensor) -> dict[str, np.ndarray]:
    """Counts over all unpadded tokens in plain loops, from single rows without padding."""
    layers = find_moe_layers(model)
    experts = layers[0].num_experts
    shape = (len(layers), experts)
    counts, first, mass = np.zeros(shape, int), np.zeros(shape, int), np.zeros(shape)
    pairs = np.zeros((*shape, experts), int)
    for row, keep in zip(ids, mask, strict=True):
        seen: list = []
        handles = [handle for layer in layers for handle in layer.attach(seen.append)]
        with torch.no_grad():
            model(input_ids=row[keep.bool()][None])
        for handle in handles:
            handle.remove()
        for n, routing in enumerate(seen):
            for w, i in zip(routing.weights_TK.tolist(), routing.indices_TK.tolist(), strict=True):
                first[n, i[max(range(len(w)), key=w.__getitem__)]] += 1
                for a in range(len(i)):
                    counts[n, i[a]] += 1
                    mass[n, i[a]] += w[a]
                    for b in range(len(i)):
                        pairs[n, i[a], i[b]] += a != b
    return {"counts": counts, "first": first, "mass": mass, "pairs": pairs}


@pytest.mark.parametrize("architecture", ["mixtral", "olmoe", "deepseek_v3"])
def test_sums_equal_brute_force_under_padding(architecture: str, padded_batch) -> None:
    model = build(architecture)
    with RoutingRecorder(model) as recorder, torch.no_grad():
        model(**padded_batch)
    trace = recorder.trace()
    expected = brute_force(model, padded_batch["input_ids"], padded_batch["attention_mask"])
    assert (trace.counts_GLE[0] == expected["counts"]).all()
    assert (trace.first_GLE[0] == expected["first"]).all()
    assert (trace.coactivation_LEE == expected["pairs"]).all()
    np.testing.assert_allclose(trace.mass_GLE[0], expected["mass"], rtol=1e-5)


def test_chosen_positions_alone(padded_batch) -> None:
    """The first three tokens of every row, and padding however much of it is asked for."""
    model = build("mixtral")
    ids, mask = padded_batch["input_ids"], padded_batch["attention_mask"]
    early_BS = torch.zeros_like(mask, dtype=torch.bool)
    early_BS[:, :3] = True
    with RoutingRecorder(model) as recorder, torch.no_grad():
        with recorder.group("early"), recorder.only(early_BS):
            model(**padded_batch)
        with recorder.group("early without a mask"), recorder.only(early_BS):
            model(input_ids=ids)
        with recorder.group("all"), recorder.only(torch.ones_like(mask)):
            model(**padded_batch)
    trace = recorder.trace()
    expected = brute_force(model, ids, mask * early_BS)
    assert (trace.counts_GLE[0] == expected["counts"]).all()
    assert trace.tokens_G.tolist() == [int((mask * early_BS).sum()), 3 * len(ids), int(mask.sum())]


def test_left_padding_counts_the_same_number(padded_batch) -> None:
    model = build("mixtral")
    flipped = {k: v.flip(1) for k, v in padded_batch.items()}
    with RoutingRecorder(model) as recorder, torch.no_grad():
        model(**flipped)
    assert recorder.trace().tokens_G.tolist() == [22]


@pytest.mark.parametrize("reentrant", [False, True])
def test_gradient_checkpointing_is_not_counted_twice(reentrant: bool, padded_batch) -> None:
    model = build("mixtral").train()
    checkpoint(model, reentrant=reentrant)
    with RoutingRecorder(model) as recorder:
        model(**padded_batch, labels=padded_batch["input_ids"], use_cache=False).loss.backward()
    assert recorder.trace().tokens_G.tolist() == [22]


def test_generation_with_a_cache_counts_each_token_once(padded_batch) -> None:
    model = build("mixtral")
    model.generation_config.eos_token_id = None
    left = {k: v.flip(1) for k, v in padded_batch.items()}
    with RoutingRecorder(model) as recorder:
        model.generate(**left, max_new_tokens=5, min_new_tokens=5, do_sample=False, pad_token_id=0)
    # 22 prompt tokens, and 4 of the 5 new ones go through the model for each of 3 rows.
    trace = recorder.trace()
    assert trace.groups == ("all", "all (generated)")
    assert trace.tokens_G.tolist() == [22, 3 * 4]
    assert trace.sequences_G.tolist() == [3, 3]


def test_groups_add_up(padded_batch) -> None:
    model = build("mixtral")
    with RoutingRecorder(model) as recorder, torch.no_grad():
        with recorder.group("a"):
            model(input_ids=padded_batch["input_ids"][:1])
        with recorder.group("b"):
            model(padded_batch["input_ids"][1:], padded_batch["attention_mask"][1:])
    trace = recorder.trace()
    assert trace.groups == ("a", "b")
    assert trace.tokens_G.tolist() == [11, 11]


def test_no_token_is_an_error_and_hooks_are_gone(padded_batch) -> None:
    model = build("mixtral")
    with RoutingRecorder(model) as recorder:
        pass
    with pytest.raises(RouterError, match="no token was recorded"):
        recorder.trace()
    with torch.no_grad():
        model(**padded_batch)
    with pytest.raises(RouterError, match="no token was recorded"):
        recorder.trace()


def test_bfloat16_model_is_counted(padded_batch) -> None:
    model = build("mixtral").bfloat16()
    with RoutingRecorder(model) as recorder, torch.no_grad():
        model(**padded_batch)
    trace = recorder.trace()
    assert trace.mass_GLE.sum() == pytest.approx(22 * 3, rel=1e-2)  # weights sum to 1 per token and layer


def test_mask_of_four_dimensions_is_refused(padded_batch) -> None:
    model = build("mixtral")
    mask = torch.zeros(3, 1, 11, 11)
    with RoutingRecorder(model), pytest.raises(RouterError, match="two-dimensional"), torch.no_grad():
        model(input_ids=padded_batch["input_ids"], attention_mask=mask)
