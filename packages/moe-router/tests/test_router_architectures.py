"""Every architecture in the support matrix, against what its experts were really given."""

from __future__ import annotations

import pytest
import torch

from moe_router import RouterError, RoutingRecorder, diagnose, find_moe_layers
from moe_router.architectures.registry import ADAPTERS
from moe_router.architectures.standard import StandardAdapter
from tiny_models import SPECIFIC, build


def test_the_support_matrix_is_what_is_tested() -> None:
    assert sorted(SPECIFIC) == sorted(a for adapter in ADAPTERS for a in adapter.architectures)


@pytest.mark.parametrize("architecture", sorted(SPECIFIC))
def test_routing_equals_what_the_experts_received(architecture: str, padded_batch) -> None:
    model = build(architecture)
    layers = find_moe_layers(model)
    assert layers
    received: dict[int, list] = {n: [] for n in range(len(layers))}
    read: dict[int, list] = {n: [] for n in range(len(layers))}
    for n, layer in enumerate(layers):
        # The brute-force recording: arguments of the experts' own forward, (hidden_states, top_k_index, top_k_weights).
        layer.experts.register_forward_pre_hook(
            lambda _m, args, kwargs, n=n: received[n].append([*args, *kwargs.values()]), with_kwargs=True
        )
        layer.router.register_forward_hook(lambda _m, _a, out, n=n, layer=layer: read[n].append(layer.read(out)))
    with torch.no_grad():
        model(**padded_batch)
    tokens = padded_batch["input_ids"].numel()
    for n, layer in enumerate(layers):
        (call,), (routing,) = received[n], read[n]
        indices = next(a for a in call[1:] if not a.is_floating_point()).reshape(tokens, -1)
        weights = next(a for a in call[1:] if a.is_floating_point()).reshape(tokens, -1)
        assert routing.logits_TE.shape == (tokens, layer.num_experts)
        assert routing.indices_TK.shape == (tokens, layer.top_k)
        assert torch.equal(routing.indices_TK, indices)
        torch.testing.assert_close(routing.weights_TK.float(), weights.float(), rtol=0, atol=0)


@pytest.mark.parametrize("architecture", sorted(SPECIFIC))
def test_recorder_counts_every_token_of_every_layer(architecture: str, padded_batch) -> None:
    model = build(architecture)
    with RoutingRecorder(model) as recorder, torch.no_grad():
        model(**padded_batch)
    trace = recorder.trace(model=architecture)
    assert trace.tokens_G.tolist() == [22]
    assert (trace.counts_GLE.sum(-1) == 22 * trace.top_k).all()


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


@pytest.mark.parametrize(
    ("output", "message"),
    [
        (torch.zeros(3, 4), "a Tensor"),
        ((torch.zeros(3, 4), torch.zeros(3, 2)), "2 values"),
        ((torch.zeros(3, 4), torch.zeros(3, 2), torch.zeros(3, 2)), "expected"),
        ((torch.zeros(3, 4), torch.zeros(3, 2), torch.zeros(2, 2, dtype=torch.long)), "expected"),
    ],
)
def test_other_router_outputs_are_refused(output, message: str) -> None:
    with pytest.raises(RouterError, match=message):
        StandardAdapter().read(output)


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
