"""Five architectures on every release of transformers that is supported, against what the experts really receive and return.

Written to run on transformers 4.57 as well, where experts are lists of modules and blocks decide for themselves.
"""

from __future__ import annotations

import pytest
import torch
import transformers

from moe_router import RouterError, RoutingRecorder, find_moe_layers
from moe_router.architectures.structure import listed_experts
from tiny_models import build

FIVE = ["mixtral", "qwen3_moe", "olmoe", "gpt_oss", "deepseek_v3"]
RELEASE = tuple(int(n) for n in transformers.__version__.split(".")[:2])


@pytest.fixture
def ids() -> torch.Tensor:
    """Tokens that differ, so that a row among an expert's inputs tells its token."""
    return torch.arange(3, 36).reshape(3, 11)


@pytest.mark.parametrize("architecture", FIVE)
def test_executed_experts_and_weights(architecture: str, ids) -> None:
    model = build(architecture)
    layers = find_moe_layers(model)
    assert len(layers) == (2 if architecture == "deepseek_v3" else 3)
    read: list[list] = [[] for _ in layers]
    received: list[list] = [[] for _ in layers]
    blocks: list[list] = [[] for _ in layers]
    rows: list[dict[int, torch.Tensor]] = [{} for _ in layers]
    for n, layer in enumerate(layers):
        layer.attach(read[n].append)
        layer.experts.register_forward_pre_hook(
            lambda _m, args, kwargs, n=n: received[n].extend(
                x for x in (*args, *kwargs.values()) if torch.is_tensor(x)
            ),
            with_kwargs=True,
        )
        layer.block.register_forward_hook(lambda _m, a, o, n=n: blocks[n].append((a[0], o)))
        for e, expert in enumerate(listed_experts(layer.experts)):
            expert.register_forward_pre_hook(lambda _m, a, n=n, e=e: rows[n].__setitem__(e, a[0].clone()))
    with torch.no_grad():
        model(input_ids=ids)
    for n, layer in enumerate(layers):
        (routing,) = read[n]
        assert routing.indices_TK.shape == routing.weights_TK.shape == (33, layer.top_k)
        assert routing.logits_TE.shape == (33, layer.num_experts)
        hidden_TH = blocks[n][0][0].reshape(33, -1)
        if listed_experts(layer.experts):
            compare_with_modules(layer, routing, hidden_TH, rows[n], blocks[n][0][1])
            continue
        indices = next(x for x in received[n][1:] if not x.is_floating_point()).reshape(33, -1)
        weights = next(x for x in received[n][1:] if x.is_floating_point())
        if weights.shape[-1] == layer.num_experts:  # gpt-oss of transformers 4 scatters them
            weights = weights.gather(-1, indices)
        assert torch.equal(routing.indices_TK, indices)
        torch.testing.assert_close(routing.weights_TK, weights.reshape(33, -1), rtol=0, atol=0)


def compare_with_modules(layer, routing, hidden_TH, rows, output) -> None:
    """The rows every expert received, and the block's output as the weighted sum of what the experts return."""
    ran = {(int((hidden_TH == row).all(-1).nonzero()[0]), e) for e, received in rows.items() for row in received}
    assert ran == {(t, e) for t, chosen in enumerate(routing.indices_TK.tolist()) for e in chosen}
    with torch.no_grad():
        shared = getattr(layer.block, "shared_experts", None)
        expected_TH = torch.zeros_like(hidden_TH) if shared is None else shared(hidden_TH)
        for t, chosen in enumerate(routing.indices_TK.tolist()):
            for k, e in enumerate(chosen):
                expected_TH[t] += routing.weights_TK[t, k] * layer.experts[e](hidden_TH[t][None])[0]
    output = output[0] if isinstance(output, tuple) else output
    torch.testing.assert_close(output.reshape(33, -1), expected_TH, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("architecture", FIVE)
def test_logits_are_raw_or_said_not_to_be(architecture: str, ids) -> None:
    """The router's own weight and input give the logits again."""
    model = build(architecture)
    layers = find_moe_layers(model)
    read: list[list] = [[] for _ in layers]
    hidden: list[list] = [[] for _ in layers]
    for n, layer in enumerate(layers):
        layer.attach(read[n].append)
        layer.router.register_forward_pre_hook(lambda _m, a, n=n: hidden[n].append(a[0].reshape(33, -1)))
    with torch.no_grad():
        model(input_ids=ids)
    for n, layer in enumerate(layers):
        (routing,), (hidden_TH,) = read[n], hidden[n]
        expected = torch.nn.functional.linear(hidden_TH, layer.router.weight, getattr(layer.router, "bias", None))
        got = routing.logits_TE
        assert routing.normalised == ((5, 0) <= RELEASE < (5, 6) and architecture in {"mixtral", "qwen3_moe", "olmoe"})
        if routing.normalised:
            expected, got = expected.log_softmax(-1), got.log_softmax(-1)
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("architecture", FIVE)
def test_recorder(architecture: str, padded_batch) -> None:
    with RoutingRecorder(build(architecture)) as recorder, torch.no_grad():
        recorder.model(**padded_batch)
    assert recorder.trace().tokens_G.tolist() == [22]


def test_a_block_that_decides_otherwise_is_found_out() -> None:
    """A list of experts beside a linear gate whose block takes the smallest scores: the rows its experts receive give it away."""

    class LowestMoeBlock(torch.nn.Module):
        def __init__(self, lowest: bool) -> None:
            super().__init__()
            self.gate = torch.nn.Linear(8, 4, bias=False)
            self.experts = torch.nn.ModuleList(torch.nn.Linear(8, 8) for _ in range(4))
            self.top_k, self.lowest = 2, lowest

        def forward(self, x):
            scores = self.gate(x).softmax(-1)
            weights, indices = (-scores if self.lowest else scores).topk(2, -1)
            weights = weights.abs() / weights.abs().sum(-1, keepdim=True)
            out = torch.zeros_like(x)
            for e, expert in enumerate(self.experts):
                t, k = torch.where(indices == e)
                if len(t):
                    out[t] += expert(x[t]) * weights[t, k, None]
            return out

    torch.manual_seed(0)
    for lowest in (False, True):
        model = torch.nn.Sequential(LowestMoeBlock(lowest))
        with pytest.warns(UserWarning, match=r"not among the tested architectures.*\(0: Linear beside ModuleList\)"):
            (layer,) = find_moe_layers(model)
        seen: list = []
        layer.attach(seen.append)
        if lowest:
            with pytest.raises(RouterError, match="needs an adapter of its own"):
                model(torch.randn(20, 8))
        else:
            model(torch.randn(20, 8))
            assert seen[0].indices_TK.shape == (20, 2)
