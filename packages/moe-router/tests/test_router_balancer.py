"""The routing losses: their values against the stock library, and their gradients against the uncut batch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from moe_router import RouterError, RoutingBalancer, find_moe_layers
from moe_router.balance.losses import load_balancing_loss, routing_probabilities, z_loss
from tiny_models import build, checkpoint


def gradients(
    model, batch, rows: list[list[int]], *, fractions=None, coefficients=(0.1, 0.01)
) -> dict[str, torch.Tensor]:
    """Gradient of the routing losses alone, over a batch cut into the given rows."""
    model.zero_grad()
    balancer = RoutingBalancer(model, load_balancing=coefficients[0], z_loss=coefficients[1])
    if fractions is not None:
        balancer.load_state_dict({"fractions_LE": fractions})
    balancer.begin_step(tokens=int(batch["attention_mask"].sum()))
    for part in rows:
        cut = {k: v[part] for k, v in batch.items()}
        with balancer.micro_batch(cut["attention_mask"]):
            model(**cut, use_cache=False)
            loss = balancer.loss()
        loss.backward()
    balancer.end_step()
    balancer.close()
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("architecture", ["mixtral", "qwen3_moe", "deepseek_v3"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_gradient_does_not_depend_on_the_cut(architecture: str, checkpointing: bool, padded_batch) -> None:
    model = build(architecture).train()
    if checkpointing:
        checkpoint(model, reentrant=False)
    layers = find_moe_layers(model)
    fractions = torch.rand(len(layers), layers[0].num_experts)
    fractions /= fractions.sum(1, keepdim=True)
    whole = gradients(model, padded_batch, [[0, 1, 2]], fractions=fractions)
    assert max(float(g.abs().max()) for g in whole.values()) > 1e-3
    for cut in ([[0], [1, 2]], [[2], [0], [1]]):
        parts = gradients(model, padded_batch, cut, fractions=fractions)
        assert parts.keys() == whole.keys()
        for name in whole:
            torch.testing.assert_close(
                parts[name], whole[name], rtol=1e-5, atol=1e-5 * float(whole[name].abs().max() + 1e-3)
            )


def logits_and_choices(returned) -> tuple[torch.Tensor, torch.Tensor]:
    """Of what a Mixtral's router returned: a triple since transformers 5, the logits alone before."""
    logits = returned if isinstance(returned, torch.Tensor) else returned[0]
    return logits, logits.topk(2).indices


def test_own_counts_of_each_part_would_depend_on_the_cut(padded_batch) -> None:
    """The trap that the balancer avoids, shown on the same model: local counts change the gradient."""
    model = build("mixtral").train()
    layer = find_moe_layers(model)[0]

    def grad(parts: list[list[int]]) -> torch.Tensor:
        model.zero_grad()
        for part in parts:
            seen: list = []
            handle = layer.router.register_forward_hook(lambda _m, _a, out, seen=seen: seen.append(out))
            model(input_ids=padded_batch["input_ids"][part])
            handle.remove()
            logits, indices = logits_and_choices(seen[0])
            own = torch.bincount(indices.flatten(), minlength=8) / indices.numel()
            load_balancing_loss(logits.softmax(-1), own, tokens=33).backward()
        return layer.router.weight.grad.clone()

    whole, cut = grad([[0, 1, 2]]), grad([[0], [1], [2]])
    assert (whole - cut).norm() > 0.05 * whole.norm()


def test_first_step_is_even_so_the_balance_has_no_gradient(padded_batch) -> None:
    model = build("mixtral").train()
    found = gradients(model, padded_batch, [[0, 1, 2]], coefficients=(0.1, 0.0))
    assert max(float(g.abs().max()) for g in found.values()) < 1e-6  # rounding; the uneven test's are above 1e-3


def test_value_of_one_layer_against_transformers(padded_batch) -> None:
    from transformers.models.mixtral.modeling_mixtral import load_balancing_loss_func

    model = build("mixtral", num_hidden_layers=1)
    layer = find_moe_layers(model)[0]
    seen: list = []
    layer.router.register_forward_hook(lambda _m, _a, out: seen.append(out))
    with torch.no_grad():
        model(**padded_batch)
    logits, indices = logits_and_choices(seen[0])
    mask = padded_batch["attention_mask"].flatten().bool()
    theirs = load_balancing_loss_func((logits,), 8, 2, padded_batch["attention_mask"])
    fractions = torch.bincount(indices[mask].flatten(), minlength=8) / (2 * 22)
    ours = load_balancing_loss(logits[mask].softmax(-1), fractions, tokens=22)
    torch.testing.assert_close(theirs, 2 * ours)  # theirs takes f as counts / T, which is top-k times larger


def test_step_routing_reports_this_steps_own_values(padded_batch) -> None:
    model = build("mixtral").train()
    balancer = RoutingBalancer(model, load_balancing=0.1, z_loss=0.01)
    balancer.begin_step(tokens=22)
    seen: list = []
    handles = [layer.router.register_forward_hook(lambda _m, _a, out: seen.append(out)) for layer in balancer.layers]
    with balancer.micro_batch(padded_batch["attention_mask"]):
        model(**padded_batch)
    routing = balancer.end_step()
    for handle in handles:
        handle.remove()
    mask = padded_batch["attention_mask"].flatten().bool()
    balance, z = [], []
    for n, (logits, indices) in enumerate(map(logits_and_choices, seen)):
        counts = np.bincount(indices[mask].flatten().numpy(), minlength=8)
        assert (routing.load_LE[n] == counts).all()
        assert routing.max_vio_L[n] == pytest.approx(counts.max() / counts.mean() - 1)
        probabilities = logits[mask].softmax(-1).mean(0).detach().numpy()
        balance.append(8 * (counts / counts.sum() * probabilities).sum())
        z.append(float(logits[mask].logsumexp(-1).square().mean().detach()))
    assert routing.load_balancing == pytest.approx(np.mean(balance), rel=1e-5)
    assert routing.z_loss == pytest.approx(np.mean(z), rel=1e-5)


def test_a_layer_collapsed_on_its_own_pair_shows_per_layer_where_the_pooled_value_hides_it() -> None:
    """Four layers, each using only two experts of its own: pooled over layers the load is even."""
    from transformers.models.mixtral.modeling_mixtral import load_balancing_loss_func

    logits = []
    for layer in range(4):
        x = torch.full((50, 8), -20.0)
        x[:, 2 * layer : 2 * layer + 2] = 20.0
        logits.append(x)
    pooled = load_balancing_loss_func(tuple(logits), 8, 2) / 2
    fractions = [torch.bincount(x.topk(2).indices.flatten(), minlength=8) / 100 for x in logits]
    each = [load_balancing_loss(x.softmax(-1), f, tokens=50) for x, f in zip(logits, fractions, strict=True)]
    assert float(pooled) == pytest.approx(1.0)  # looks perfect
    assert [float(v) for v in each] == pytest.approx([4.0] * 4)  # E / k: as bad as it can be


@given(st.integers(2, 12), st.integers(1, 30), st.integers(0, 10**6))
def test_even_fractions_give_exactly_one(experts: int, tokens: int, seed: int) -> None:
    logits = torch.randn(tokens, experts, generator=torch.Generator().manual_seed(seed))
    value = load_balancing_loss(logits.softmax(-1), torch.full((experts,), 1 / experts), tokens=tokens)
    assert float(value) == pytest.approx(1.0, rel=1e-5)


def test_sigmoid_scores_are_normalised_and_z_loss_by_hand() -> None:
    logits = torch.tensor([[0.0, 2.0, -1.0]])
    scores = 1 / (1 + np.exp(-np.array([0.0, 2.0, -1.0])))
    np.testing.assert_allclose(routing_probabilities(logits, scoring="sigmoid")[0], scores / scores.sum(), rtol=1e-6)
    assert float(z_loss(logits, tokens=2)) == pytest.approx(np.log(np.exp([0, 2, -1]).sum()) ** 2 / 2)
    with pytest.raises(RouterError, match="scoring 'other'"):
        routing_probabilities(logits, scoring="other")


def test_wrong_use_is_refused(padded_batch) -> None:
    model = build("mixtral").train()
    with pytest.raises(RouterError, match="negative"):
        RoutingBalancer(model, load_balancing=-1, z_loss=0)
    balancer = RoutingBalancer(model, load_balancing=0.1, z_loss=0.0)
    with pytest.raises(RouterError, match="before begin_step"), balancer.micro_batch(None):
        pass
    with pytest.raises(RouterError, match="0 tokens"):
        balancer.begin_step(tokens=0)
    balancer.begin_step(tokens=33)  # the padding was counted by mistake
    with balancer.micro_batch(padded_batch["attention_mask"]):
        model(**padded_batch)
    with pytest.raises(RouterError, match="44 assignments were counted where 66 were due"):
        balancer.end_step()
    balancer.begin_step(tokens=22)
    with balancer.micro_batch(padded_batch["attention_mask"]), pytest.raises(RouterError, match="0 of 3 routers ran"):
        balancer.loss()
    with pytest.raises(RouterError, match="balancer state"):
        balancer.load_state_dict({"fractions_LE": torch.ones(1, 8)})


def test_reentrant_checkpointing_is_refused_because_it_cuts_the_gradient(padded_batch) -> None:
    model = build("mixtral").train()
    checkpoint(model, reentrant=True)
    balancer = RoutingBalancer(model, load_balancing=0.1, z_loss=0.0)
    balancer.begin_step(tokens=22)
    with pytest.raises(RouterError, match="reentrant"), balancer.micro_batch(padded_batch["attention_mask"]):
        model(**padded_batch, use_cache=False)


def test_aborted_step_is_forgotten_and_state_resumes(padded_batch) -> None:
    model = build("mixtral").train()

    def run(balancer: RoutingBalancer) -> None:
        balancer.begin_step(tokens=22)
        with balancer.micro_batch(padded_batch["attention_mask"]):
            model(**padded_batch)

    first = RoutingBalancer(model, load_balancing=0.1, z_loss=0.0)
    run(first)
    first.abort_step()
    run(first)
    first.end_step()
    state = first.state_dict()
    first.close()
    second = RoutingBalancer(model, load_balancing=0.1, z_loss=0.0)
    second.load_state_dict(state)
    assert torch.equal(second.state_dict()["fractions_LE"], state["fractions_LE"])
    torch.testing.assert_close(state["fractions_LE"].sum(1), torch.ones(3))
