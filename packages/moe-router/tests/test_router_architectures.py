"""Every architecture in the support matrix, against what its experts were really given."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import transformers

from moe_router import RouterError, RoutingRecorder, diagnose, find_moe_layers
from moe_router.architectures.registry import ADAPTERS
from moe_router.architectures.support import ARCHITECTURES
from tiny_models import SPECIFIC, build, inputs

HERE = [a for a in SPECIFIC if (Path(transformers.__file__).parent / "models" / a / f"modeling_{a}.py").is_file()]
"""Those that the installed transformers has: all 72 in 5.23."""
INDEXED = sorted(set(HERE) - {"llama4", "jetmoe", "switch_transformers", "nllb_moe", "doge"})
"""Architectures whose experts receive weights and indices as arguments."""


def run(model, batch) -> tuple[list, list[list]]:
    """The layers, and every decision delivered for them in one forward pass."""
    layers = find_moe_layers(model)
    assert layers
    read: list[list] = [[] for _ in layers]
    handles = [h for layer, seen in zip(layers, read, strict=True) for h in layer.attach(seen.append)]
    with torch.no_grad():
        model(**inputs(model, batch))
    for handle in handles:
        handle.remove()
    return layers, read


def keep_calls(module, calls: list) -> None:
    """The tensors a module is called with, in `calls`."""
    module.register_forward_pre_hook(
        lambda _m, args, kwargs: calls.append([x.clone() for x in (*args, *kwargs.values()) if torch.is_tensor(x)]),
        with_kwargs=True,
    )


def test_the_support_matrix_is_what_is_tested() -> None:
    assert sorted(SPECIFIC) == [support.name for support in ARCHITECTURES]
    assert len(ARCHITECTURES) == 72
    assert {s.adapter for s in ARCHITECTURES} <= {a.name for a in ADAPTERS}


@pytest.mark.parametrize("architecture", INDEXED)
def test_routing_equals_what_the_experts_received(architecture: str, padded_batch) -> None:
    """The brute-force recording: the arguments of the experts' own forward, (hidden states, indices, weights)."""
    model = build(architecture)
    received: list[list] = [[] for _ in find_moe_layers(model)]
    for layer, calls in zip(find_moe_layers(model), received, strict=True):
        keep_calls(layer.experts, calls)
    layers, read = run(model, padded_batch)
    assert any(calls for calls in received)
    for layer, calls, routings in zip(layers, received, read, strict=True):
        assert len(calls) == len(routings) == (0 if layer.stream == "vision" else 1)
        for call, routing in zip(calls, routings, strict=True):
            tokens = call[0].numel() // call[0].shape[-1]
            assert tokens >= padded_batch["input_ids"].numel()
            indices = next(a for a in call[1:] if not a.is_floating_point()).reshape(tokens, -1)
            weights = next(a for a in call[1:] if a.is_floating_point()).reshape(tokens, -1)
            assert routing.logits_TE.shape[0] == tokens
            assert routing.logits_TE.shape[1] - layer.num_experts in {0, 1}
            assert routing.indices_TK.shape == (tokens, layer.top_k)
            assert int(routing.indices_TK.max()) < layer.num_experts
            assert torch.equal(routing.indices_TK, indices)
            torch.testing.assert_close(routing.weights_TK.float(), weights.float(), rtol=0, atol=0)
            assert not routing.normalised
            assert layer.adapter.name == next(s.adapter for s in ARCHITECTURES if s.name == architecture)
            assert layer.tested


@pytest.mark.parametrize("architecture", INDEXED)
def test_weights_follow_from_the_logits_by_the_scoring_stated(architecture: str, padded_batch) -> None:
    """Two weights of a token stand to one another as the scores of their experts, however they are normalised and scaled."""
    model = build(architecture)
    score = {
        "softmax": lambda x: x.exp(),
        "sigmoid": lambda x: x.sigmoid(),
        "sqrtsoftplus": lambda x: torch.nn.functional.softplus(x).sqrt(),
    }
    if architecture in {"gemma4", "diffusion_gemma"}:  # a scale for every expert, 1 before training
        for name, parameter in model.named_parameters():
            assert "per_expert_scale" not in name or (parameter == 1).all()
    layers, read = run(model, padded_batch)
    checked = 0
    for layer, routings in zip(layers, read, strict=True):
        for routing in routings:
            s_TK = score[layer.scoring](routing.logits_TE.double().gather(-1, routing.indices_TK))
            w_TK = routing.weights_TK.double()
            if architecture == "phimoe":  # sparsemixer: each choice has a softmax of its own, over what is near enough
                assert (w_TK <= 1).all()
                continue
            busy = slice(None) if routing.idle_TK is None else ~routing.idle_TK.any(-1)
            left, right = (w_TK * s_TK.sum(-1, keepdim=True))[busy], (s_TK * w_TK.sum(-1, keepdim=True))[busy]
            torch.testing.assert_close(left, right, rtol=2e-4, atol=1e-7)
            checked += 1
    assert checked or architecture == "phimoe"


def rows_of(tokens_TH: torch.Tensor, rows_NH: torch.Tensor) -> list[int]:
    """Which token every row is."""
    return [int((tokens_TH == row).all(-1).nonzero()[0]) for row in rows_NH]


@pytest.fixture
def distinct_batch() -> dict[str, torch.Tensor]:
    """Tokens that differ, so that a row among an expert's inputs tells its token."""
    ids = torch.arange(3, 36).reshape(3, 11)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


@pytest.mark.parametrize("architecture", ["switch_transformers", "nllb_moe"])
@pytest.mark.filterwarnings("ignore:.*one-hot mask:UserWarning")
def test_experts_in_a_list_receive_and_return_what_was_read(architecture: str, distinct_batch) -> None:
    """Each token's rows are found among the inputs of every expert; the block's output is their weighted sum."""
    model = build(architecture)
    found = find_moe_layers(model)
    assert {layer.stream for layer in found} == {"encoder", "decoder"}
    calls = [{e: [] for e in range(layer.num_experts)} for layer in found]
    outputs: list[list] = [[] for _ in found]
    blocks: list[list] = [[] for _ in found]
    for layer, per_expert, out, block in zip(found, calls, outputs, blocks, strict=True):
        for e, seen in per_expert.items():
            keep_calls(layer.experts[f"expert_{e}"], seen)
        layer.block.register_forward_hook(lambda _m, _a, o, out=out: out.append(o))
        keep_calls(layer.block, block)
    layers, read = run(model, distinct_batch)
    dropped = 0
    for layer, per_expert, out, block, routings in zip(layers, calls, outputs, blocks, read, strict=True):
        (routing,), ((hidden, *_),) = routings, block
        tokens_TH = hidden.reshape(-1, hidden.shape[-1])
        expected = torch.zeros_like(tokens_TH)
        ran = {(t, e) for e, seen in per_expert.items() for (rows,) in seen for t in rows_of(tokens_TH, rows)}
        stated = set()
        for t in range(len(tokens_TH)):
            for k in range(layer.top_k):
                e = int(routing.indices_TK[t, k])
                if not routing.idle_TK[t, k]:
                    stated.add((t, e))
                    with torch.no_grad():
                        expected[t] += routing.weights_TK[t, k] * layer.experts[f"expert_{e}"](tokens_TH[t])
                else:
                    assert routing.weights_TK[t, k] == 0
                    dropped += 1
        if architecture == "switch_transformers":
            assert stated == ran
        else:  # experts 0 and 1 run also where their weight is 0
            assert stated <= ran
            assert {e for _, e in ran} == {0, 1}
            expected = expected * (1 - layer.experts.moe_token_dropout)
        torch.testing.assert_close(out[0].reshape(expected.shape), expected)
    assert dropped or architecture == "nllb_moe"


def test_nllb_moe_read_as_its_router_decides_where_the_stock_code_does_so(padded_batch) -> None:
    """With experts that follow the mask, as before and after the releases that take it for indices."""
    model = build("nllb_moe")

    def forward(self, hidden_states, router_mask, router_probs):
        out = torch.zeros_like(hidden_states)
        for e in range(self.num_experts):
            tokens = (router_probs[:, e] > 0).nonzero()[:, 0]
            if len(tokens):
                out[tokens] += self[f"expert_{e}"](hidden_states[tokens]) * router_probs[tokens, e, None]
        return out

    for layer in find_moe_layers(model):
        layer.experts.forward = forward.__get__(layer.experts)
    layers, read = run(model, padded_batch)
    for layer, (routing,) in zip(layers, read, strict=True):
        assert len(routing.indices_TK[~routing.idle_TK].unique()) > 2, layer.name
        torch.testing.assert_close(routing.weights_TK.sum(-1)[~routing.idle_TK.any(-1)].mean(), torch.tensor(1.0))


def test_jetmoe_rows_and_output(distinct_batch) -> None:
    model = build("jetmoe")
    found = find_moe_layers(model)
    assert [layer.name.rpartition(".")[2] for layer in found[:2]] == ["experts", "mlp"]
    calls: list[list] = [[] for _ in found]
    inputs_: list[list] = [[] for _ in found]
    outputs: list[list] = [[] for _ in found]
    sizes: list[list] = [[] for _ in found]
    for n, layer in enumerate(found):
        keep_calls(layer.router, inputs_[n])
        layer.experts.register_forward_pre_hook(lambda _m, args, n=n: calls[n].append(args[0]))
        layer.experts.register_forward_pre_hook(lambda _m, args, n=n: sizes[n].append(args[1]))
        layer.block.register_forward_hook(lambda _m, _a, o, n=n: outputs[n].append(o))
    layers, read = run(model, distinct_batch)
    for n, layer in enumerate(layers):
        (routing,), ((tokens_TH,),) = read[n], inputs_[n]
        ran = {(t, e) for e, rows in enumerate(calls[n][0].split(sizes[n][0])) for t in rows_of(tokens_TH, rows)}
        assert ran == {(t, int(e)) for t, row in enumerate(routing.indices_TK) for e in row}
        torch.testing.assert_close(routing.weights_TK, routing.logits_TE.gather(-1, routing.indices_TK).softmax(-1))
        if layer.name.endswith("mlp"):
            expected = layer.block.bias.repeat(len(tokens_TH), 1).detach().clone()
            for t, row in enumerate(routing.indices_TK.tolist()):
                for k, e in enumerate(row):
                    a, b = (layer.block.input_linear.weight[e] @ tokens_TH[t]).chunk(2)
                    expected[t] += (
                        routing.weights_TK[t, k]
                        * (layer.block.output_linear.weight[e] @ (layer.block.activation(a) * b)).detach()
                    )
            torch.testing.assert_close(outputs[n][0].reshape(expected.shape), expected)


def test_llama4_experts_receive_scaled_rows(padded_batch) -> None:
    model = build("llama4")
    found = find_moe_layers(model)
    calls: list[list] = [[] for _ in found]
    blocks: list[list] = [[] for _ in found]
    for n, layer in enumerate(found):
        keep_calls(layer.experts, calls[n])
        keep_calls(layer.block, blocks[n])
    layers, read = run(model, padded_batch)
    for n, layer in enumerate(layers):
        (routing,), tokens_TH = read[n], blocks[n][0][0].reshape(-1, 32)
        rows_ETH = calls[n][0][0].reshape(layer.num_experts, *tokens_TH.shape)
        expected = torch.zeros_like(rows_ETH)
        for t, row in enumerate(routing.indices_TK.tolist()):
            for k, e in enumerate(row):
                expected[e, t] = tokens_TH[t] * routing.weights_TK[t, k]
        torch.testing.assert_close(rows_ETH, expected)
        assert routing.indices_TK.shape[1] == layer.top_k == 2


def test_doge_output_is_the_weighted_sum_of_the_rows_read(padded_batch) -> None:
    model = build("doge")
    found = find_moe_layers(model)
    blocks: list[list] = [[] for _ in found]
    outputs: list[list] = [[] for _ in found]
    for n, layer in enumerate(found):
        keep_calls(layer.block, blocks[n])
        layer.block.register_forward_hook(lambda _m, _a, o, n=n: outputs[n].append(o[0]))
    layers, read = run(model, padded_batch)
    for n, layer in enumerate(layers):
        (routing,), block, tokens_TH = read[n], layer.block, blocks[n][0][0].reshape(-1, 32)
        with torch.no_grad():
            expected = block.down_proj(block.act_fn(block.gate_proj(tokens_TH)) * block.up_proj(tokens_TH))
            for t, row in enumerate(routing.indices_TK.tolist()):
                for k, e in enumerate(row):
                    hidden = block.act_fn(block.down_embed.weight[e] @ tokens_TH[t]) * routing.weights_TK[t, k]
                    expected[t] += hidden * block.up_embed.weight[e]
        torch.testing.assert_close(outputs[n][0].reshape(expected.shape), expected)


@pytest.mark.parametrize("architecture", HERE)
@pytest.mark.filterwarnings("ignore:.*one-hot mask:UserWarning")
def test_recorder_counts_every_token_of_every_layer(architecture: str, padded_batch) -> None:
    """In each stream of positions; an image tower is built but sees no image."""
    model = build(architecture)
    streams = {layer.stream for layer in find_moe_layers(model)} - {"vision"}
    for stream in streams:
        with RoutingRecorder(model, stream=stream) as recorder, torch.no_grad():
            model(**inputs(model, padded_batch))
        trace = recorder.trace(model=architecture)
        if architecture == "diffusion_gemma" and stream == "decoder":
            assert trace.tokens_G[0] > 22  # a canvas of its own length
        else:
            assert trace.tokens_G.tolist() == [22]
        due_L = trace.tokens_G.sum() * np.array(trace.top_k_L)
        assert (trace.counts_GLE.sum((0, 2)) + trace.idle_UL.sum(0) == due_L).all()
        assert trace.first_GLE.sum() > 0
        assert trace.coactivation_LEE.sum() == (0 if trace.top_k == 1 else trace.coactivation_LEE.sum())
        assert (trace.transitions_LEE.sum((1, 2)) > 0).all()
        assert trace.sequences_G.tolist() == [3]


def test_dense_model_has_no_layers_and_says_what_was_looked_for() -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {
        "vocab_size": 50,
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
    }
    model = LlamaForCausalLM(LlamaConfig(**sizes))
    assert find_moe_layers(model) == []
    assert "found no module that holds experts" in diagnose(model)
    with pytest.raises(RouterError, match="no MoE layer to record"):
        RoutingRecorder(model)


def test_unreadable_moe_is_refused_with_what_was_found() -> None:
    class SecretMoE(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.pick = torch.nn.Linear(4, 3)
            self.experts = torch.nn.ModuleList(torch.nn.Linear(4, 4) for _ in range(3))

    model = torch.nn.Sequential(torch.nn.Linear(4, 4), SecretMoE())
    with pytest.raises(RouterError, match=r"looks like an MoE.*1 \(SecretMoE\)"):
        find_moe_layers(model)


def test_peft_wrapped_model_is_read_too(padded_batch) -> None:
    from peft import LoraConfig, get_peft_model

    plain = build("qwen3_moe")
    with RoutingRecorder(plain) as recorder, torch.no_grad():
        plain(**padded_batch)
    expected = recorder.trace().counts_GLE
    config = LoraConfig(
        r=2,
        target_modules=["q_proj"],
        target_parameters=["mlp.experts.gate_up_proj", "mlp.experts.down_proj"],
        task_type="CAUSAL_LM",
    )
    with pytest.warns(FutureWarning, match="is_gradient_checkpointing"):
        wrapped = get_peft_model(plain, config)
    with RoutingRecorder(wrapped) as recorder, torch.no_grad():
        wrapped(**padded_batch)
    assert (recorder.trace().counts_GLE == expected).all()
    assert all(layer.num_experts == 8 for layer in recorder.layers)
