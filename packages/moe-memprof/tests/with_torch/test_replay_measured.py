"""The replay of a step against the live bytes that torch's profiler sees, by kind of attention, mixer and experts implementation."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from moe_memprof.architectures.registry import describe
from moe_memprof.measure import measure_step
from moe_memprof.replay.how import How
from moe_memprof.replay.step import Task, replay

pytestmark = pytest.mark.slow

SIZES = {
    "vocab_size": 256, "hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2, "pad_token_id": 0,
}  # fmt: skip
MIXTRAL = {
    "model_type": "mixtral",
    "intermediate_size": 96,
    "num_local_experts": 4,
    "num_experts_per_tok": 2,
    "sliding_window": None,
}
MODELS: dict[str, dict[str, Any]] = {
    "mixtral": MIXTRAL,
    "windowed": {**MIXTRAL, "sliding_window": 32},
    "qwen2_moe": {"moe_intermediate_size": 48, "shared_expert_intermediate_size": 80, "num_experts": 8, "num_experts_per_tok": 2,
                  "intermediate_size": 128, "mlp_only_layers": [0]},
    "gpt_oss": {"intermediate_size": 64, "num_local_experts": 4, "num_experts_per_tok": 2, "head_dim": 16,
                "layer_types": ["full_attention"] * 3},
    "deepseek_v3": {"q_lora_rank": 32, "kv_lora_rank": 16, "qk_nope_head_dim": 16, "qk_rope_head_dim": 8, "v_head_dim": 16,
                    "num_key_value_heads": 4, "intermediate_size": 128, "moe_intermediate_size": 48, "n_routed_experts": 8,
                    "num_experts_per_tok": 2, "n_group": 2, "topk_group": 1, "first_k_dense_replace": 1, "n_shared_experts": 1},
    "qwen3_next": {"moe_intermediate_size": 48, "shared_expert_intermediate_size": 48, "num_experts": 8, "num_experts_per_tok": 2,
                   "head_dim": 16, "linear_num_value_heads": 4, "linear_num_key_heads": 2, "linear_key_head_dim": 16,
                   "linear_value_head_dim": 16, "layer_types": ["linear_attention", "full_attention", "linear_attention"]},
    "jamba": {"intermediate_size": 96, "num_experts": 4, "num_experts_per_tok": 2, "attn_layer_period": 3, "attn_layer_offset": 1,
              "expert_layer_period": 2, "expert_layer_offset": 1, "mamba_dt_rank": 8},
    "gemma4_text": {"intermediate_size": 96, "moe_intermediate_size": 48, "num_experts": 4, "top_k_experts": 2, "enable_moe_block": True,
                    "head_dim": 16, "global_head_dim": 16, "hidden_size_per_layer_input": 0, "num_kv_shared_layers": 0,
                    "final_logit_softcapping": 30.0,
                    "layer_types": ["sliding_attention", "sliding_attention", "full_attention"], "sliding_window": 512},
    "lfm2_moe": {"moe_intermediate_size": 48, "intermediate_size": 128, "num_experts": 8, "num_experts_per_tok": 2,
                 "num_dense_layers": 1, "layer_types": ["conv", "full_attention", "conv"]},
    "llama4_text": {"intermediate_size": 64, "intermediate_size_mlp": 128, "num_local_experts": 4, "num_experts_per_tok": 1,
                    "head_dim": 16, "interleave_moe_layer_step": 2, "attention_chunk_size": 256},
}  # fmt: skip
HOW = How(sequences=2, length=64, hidden=64, width=4, base_trains=True, device="cpu")
ADAPTED = replace(HOW, base_trains=False, rank=4, adapts_attention=True, adapts_experts=True)
TASK = Task(wanted=2 * 63)


def measured(config: dict[str, Any], how: How, task: Task) -> int:
    torch.manual_seed(0)
    kind, rest = config["model_type"], {k: v for k, v in config.items() if k != "model_type"}
    made = AutoConfig.for_model(kind, **rest)
    if kind != "llama4_text":
        made._experts_implementation = how.experts
    eager = how.attention == "eager" or kind == "gpt_oss"
    dtype = torch.float32 if how.width == 4 else torch.bfloat16
    model: Any = AutoModelForCausalLM.from_config(made, dtype=dtype, attn_implementation="eager" if eager else "sdpa")
    if how.rank:
        model = _adapted(model, how.rank)
    if task.checkpointing != "none":
        reentrant = task.checkpointing == "reentrant"
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": reentrant})
        model.enable_input_require_grads()
    model.train()
    ids = torch.randint(1, config["vocab_size"], (how.sequences, how.length))
    mask = torch.ones_like(ids)
    if how.padded:
        mask[0, -3:] = 0

    def step() -> None:
        logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits
        picked = logits[:, :-1][torch.ones_like(ids[:, 1:], dtype=torch.bool)].float()
        del logits
        loss = torch.nn.functional.cross_entropy(picked, ids[:, 1:].flatten())
        del picked
        loss.backward()

    step()
    model.zero_grad(set_to_none=True)
    return measure_step(step).peak


def _adapted(model: torch.nn.Module, rank: int) -> torch.nn.Module:
    from peft import LoraConfig, get_peft_model

    names = ("attn", ".conv.", "mamba.in_proj", "mamba.out_proj")
    linears = [n for n, m in model.named_modules() if isinstance(m, torch.nn.Linear) and any(p in n for p in names)]
    experts = [n for n, p in model.named_parameters() if p.ndim == 3 and ".experts." in n]
    return get_peft_model(model, LoraConfig(r=rank, target_modules=linears, target_parameters=experts))


CASES = {
    "mixtral": ("mixtral", HOW, TASK),
    "mixtral adapted": ("mixtral", ADAPTED, TASK),
    "mixtral adapted, 16 bits, checkpointed": (
        "mixtral", replace(ADAPTED, width=2), replace(TASK, checkpointing="non-reentrant")),
    "mixtral adapted, reentrant": ("mixtral", ADAPTED, replace(TASK, checkpointing="reentrant")),
    "mixtral, eager attention": ("mixtral", replace(HOW, attention="eager"), TASK),
    "mixtral, padded": ("mixtral", replace(HOW, padded=True), TASK),
    "mixtral, windows": ("windowed", HOW, TASK),
    "mixtral, every row its weights": ("mixtral", replace(HOW, experts="batched_mm"), TASK),
    "shared experts, a dense layer": ("qwen2_moe", ADAPTED, TASK),
    "sinks": ("gpt_oss", HOW, TASK),
    "latent attention": ("deepseek_v3", replace(HOW, width=2), TASK),
    "gated delta net": ("qwen3_next", replace(ADAPTED, width=2), replace(TASK, checkpointing="non-reentrant")),
    "selective scan": ("jamba", HOW, TASK),
    "sandwich, capped logits": ("gemma4_text", HOW, replace(TASK, capped_logits=True)),
    "short convolution": ("lfm2_moe", HOW, TASK),
    "all experts": ("llama4_text", ADAPTED, TASK),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("name", CASES)
def test_replayed_peak_against_measured(name: str) -> None:
    model, how, task = CASES[name]
    config = {"model_type": model, **SIZES, **MODELS[model]}
    planned = max(moment.bytes for moment in replay(describe(config), how, task))
    assert planned == pytest.approx(measured(config, how, task), rel=0.03)


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")
def test_one_expert_after_the_other_with_its_loads() -> None:
    """Uneven routing matters where experts run one by one: a router that sends every token to the same two."""
    config = {"model_type": "mixtral", **SIZES, **MIXTRAL}
    how = replace(HOW, experts="eager", loads=(128, 128, 0, 0))
    torch.manual_seed(0)
    with pytest.MonkeyPatch.context() as patch:
        from transformers.models.mixtral import modeling_mixtral

        plain = modeling_mixtral.F.linear

        def biased(x: torch.Tensor, w: torch.Tensor, *rest: Any) -> torch.Tensor:
            out = plain(x, w, *rest)
            return out + torch.tensor([9.0, 8.0, 0.0, 0.0]) if out.shape[-1] == 4 else out

        patch.setattr(modeling_mixtral.F, "linear", biased)
        truth = measured(config, how, TASK)
    planned = max(moment.bytes for moment in replay(describe(config), how, TASK))
    assert planned == pytest.approx(truth, rel=0.03)
