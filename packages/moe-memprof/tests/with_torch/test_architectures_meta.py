"""The inventory against transformers' own classes, built on the meta device: every model type, names, shapes and kinds exactly."""

from __future__ import annotations

import re
from typing import Any

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from transformers.models.auto.configuration_auto import CONFIG_MAPPING  # noqa: E402

from moe_memprof.architectures.registry import SUPPORTED, describe  # noqa: E402

# Two sets of sizes, no two alike that could be taken for each other, and every option the other way round.
ODD: tuple[dict[str, Any], ...] = (
    {
        "vocab_size": 97,
        "hidden_size": 84,
        "intermediate_size": 52,
        "moe_intermediate_size": 22,
        "num_attention_heads": 6,
        "num_key_value_heads": 3,
        "head_dim": 10,
        "num_hidden_layers": 5,
        "num_experts": 11,
        "num_local_experts": 11,
        "n_routed_experts": 11,
        "num_experts_per_tok": 2,
        "n_shared_experts": 3,
        "num_shared_experts": 3,
        "shared_expert_intermediate_size": 38,
        "shared_intermediate_size": 38,
        "q_lora_rank": 26,
        "kv_lora_rank": 18,
        "qk_rope_head_dim": 8,
        "qk_nope_head_dim": 12,
        "v_head_dim": 14,
        "index_n_heads": 4,
        "index_head_dim": 16,
        "first_k_dense_replace": 2,
        "pad_token_id": None,
        "attention_bias": True,
        "mlp_bias": True,
        "use_bias": True,
        "tie_word_embeddings": True,
    },
    {
        "vocab_size": 101,
        "hidden_size": 120,
        "intermediate_size": 34,
        "moe_intermediate_size": 46,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 26,
        "num_hidden_layers": 7,
        "num_experts": 7,
        "num_local_experts": 7,
        "n_routed_experts": 7,
        "num_experts_per_tok": 3,
        "n_shared_experts": 1,
        "num_shared_experts": 1,
        "shared_expert_intermediate_size": 28,
        "shared_intermediate_size": 28,
        "q_lora_rank": None,
        "kv_lora_rank": 36,
        "qk_rope_head_dim": 4,
        "qk_nope_head_dim": 22,
        "v_head_dim": 20,
        "index_n_heads": 2,
        "index_head_dim": 24,
        "first_k_dense_replace": 0,
        "pad_token_id": None,
        "attention_bias": False,
        "mlp_bias": False,
        "use_bias": False,
        "tie_word_embeddings": False,
    },
)

# What a model type cannot do without, or has of its own; one entry per set above, after the shrunken default.
OWN: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any]]] = {
    "axk1": ({}, {}, {"q_lora_rank": 30}),
    "axk2": ({}, {"gated_norm_rank": 9}, {"q_lora_rank": 30}),
    "dbrx": (
        {"n_layers": 2, "attn_config": {"rope_theta": 1e4}},
        {
            "n_layers": 3,
            "d_model": 60,
            "n_heads": 6,
            "attn_config": {"rope_theta": 1e4, "kv_n_heads": 3},
            "ffn_config": {"moe_num_experts": 7, "moe_top_k": 2, "ffn_hidden_size": 26},
            "tie_word_embeddings": False,
        },
        {"n_layers": 1, "attn_config": {"rope_theta": 5e5, "kv_n_heads": 8, "clip_qkv": 8}},
    ),
    "deepseek_v2": ({"num_experts_per_tok": 2}, {}, {}),
    "deepseek_v32": ({}, {}, {"q_lora_rank": 30, "mlp_layer_types": ["sparse", "dense"] * 3 + ["sparse"]}),
    "doge": ({}, {"is_moe": True, "num_experts": 50}, {"is_moe": True, "num_experts": 49}),
    "dots1": ({"n_routed_experts": 8, "n_shared_experts": 2, "num_experts_per_tok": 3}, {}, {"n_shared_experts": 2}),
    "ernie4_5_moe": (
        {},
        {"moe_num_experts": 9, "moe_k": 4, "moe_num_shared_experts": 0, "moe_layer_interval": 2},
        {"moe_num_experts": 5, "moe_k": 2, "moe_layer_start_index": 2, "moe_layer_end_index": 4},
    ),
    "flint": ({}, {"mlp_only_layers": [3], "decoder_sparse_step": 2}, {}),
    "glm4_moe": ({}, {"use_qk_norm": True}, {}),
    "glm_moe_dsa": (
        {},
        {"index_topk_pattern": "FSSFS"},
        {"q_lora_rank": 30, "index_topk_freq": 3, "index_skip_topk_offset": 1},
    ),
    "granitemoehybrid": (
        {},
        {
            "layers_block_type": ["mamba", "attention", "mamba", "mamba", "attention"],
            "mamba_n_heads": 8,
            "mamba_d_head": 21,
            "mamba_n_groups": 2,
            "mamba_proj_bias": True,
            "mamba_conv_bias": False,
        },
        {"num_local_experts": 0, "mamba_n_heads": 12, "mamba_d_head": 20, "mamba_d_state": 9, "mamba_d_conv": 3},
    ),
    "hunyuan_v1_moe": (
        {"head_dim": 128, "num_experts": 4, "moe_topk": [2, 2, 3, 1]},
        {"moe_topk": [3, 1, 2, 1, 4]},
        {"moe_topk": 3},
    ),
    "hy_v4": ({}, {"hc_mult": 3}, {"q_lora_rank": 30, "indexer_types": ["full", "shared", "shared"] * 2 + ["full"]}),
    "jamba": (
        {"num_hidden_layers": 9},
        {"mamba_dt_rank": 7, "mamba_proj_bias": True, "attn_layer_period": 3, "attn_layer_offset": 1},
        {"mamba_conv_bias": False, "expert_layer_period": 3, "expert_layer_offset": 2, "mamba_d_state": 5},
    ),
    "jetmoe": ({}, {"kv_channels": 10, "num_local_experts": 5}, {"kv_channels": 12, "num_key_value_heads": 5}),
    "kimi_linear": (
        {},
        {
            "linear_attn_config": {
                "full_attn_layers": [2, 5],
                "kda_layers": [1, 3, 4],
                "head_dim": 11,
                "num_heads": 5,
                "short_conv_kernel_size": 3,
            },
            "q_lora_rank": None,
        },
        {"q_lora_rank": 30, "num_experts_per_token": 3, "first_k_dense_replace": 2},
    ),
    "laguna": (
        {},
        {"num_attention_heads_per_layer": [6, 3, 9, 6, 3], "gating": "per-channel"},
        {"gating": "per-head", "layer_types": ["sliding_attention"] * 6 + ["full_attention"]},
    ),
    "lfm2_moe": (
        {"layer_types": ["conv", "conv", "full_attention", "conv"]},
        {"layer_types": ["conv", "full_attention", "conv", "conv", "conv"], "conv_bias": True, "tie_embedding": False},
        {"layer_types": ["full_attention"] + ["conv"] * 6, "num_dense_layers": 1, "conv_L_cache": 5},
    ),
    "llama4_text": (
        {},
        {"intermediate_size_mlp": 75, "interleave_moe_layer_step": 2},
        {"intermediate_size_mlp": 75, "moe_layers": [0, 5]},
    ),
    "llama4": (
        {},
        {"text_config": {"num_hidden_layers": 3, "hidden_size": 40}},
        {"text_config": {"num_hidden_layers": 2}},
    ),
    "longcat_flash": (
        {"num_layers": 2},
        {"num_layers": 3, "zero_expert_num": 4, "ffn_hidden_size": 38, "expert_ffn_hidden_size": 19, "moe_topk": 3},
        {"num_hidden_layers": 4, "q_lora_rank": 30, "zero_expert_num": 0, "moe_topk": 2},
    ),
    "mimo_v2_flash": ({}, {}, {"layer_types": ["sliding_attention"] * 7}),
    "minimax": ({}, {}, {"layer_types": ["linear_attention"] * 5 + ["full_attention"] * 2}),
    "nemotron_h": (
        {},
        {"hybrid_override_pattern": "MEM*-ME", "moe_latent_size": 33, "mamba_n_groups": 4, "use_conv_bias": False},
        {"layers_block_type": ["mamba", "moe", "attention", "mlp", "moe"], "mamba_num_heads": 12, "mamba_head_dim": 8},
    ),
    "olmoe": ({}, {"head_dim": 14}, {}),
    "phimoe": ({}, {"lm_head_bias": True}, {"lm_head_bias": False}),
    "qwen2_moe": ({}, {"qkv_bias": False, "decoder_sparse_step": 2}, {"mlp_only_layers": [1, 4]}),
    "qwen3_moe": ({}, {"decoder_sparse_step": 2}, {"mlp_only_layers": [1, 4]}),
    "qwen3_next": (
        {},
        {"full_attention_interval": 3, "linear_num_value_heads": 6, "linear_num_key_heads": 2, "mlp_only_layers": [0]},
        {"layer_types": ["full_attention"] + ["linear_attention"] * 6, "linear_key_head_dim": 20},
    ),
    "qwen3_5_moe": (
        {},
        {"text_config": {"num_hidden_layers": 3, "hidden_size": 40}},
        {"text_config": {"num_hidden_layers": 2}},
    ),
    "qwen3_5_moe_text": (
        {},
        {"linear_num_value_heads": 6, "linear_num_key_heads": 2, "linear_value_head_dim": 22},
        {"layer_types": ["full_attention"] + ["linear_attention"] * 6, "linear_key_head_dim": 20},
    ),
    "zaya": ({}, {"num_experts_per_tok": 1, "cca_time1": 3}, {"num_experts_per_tok": 1, "router_hidden_size": 23}),
}


def overrides(model_type: str, variant: int) -> dict[str, Any]:
    """The config.json, without its model type, of variant 0 (the default, fewer layers), 1 or 2."""
    config = CONFIG_MAPPING[model_type]
    known = set(config.__dataclass_fields__)
    common = {"num_hidden_layers": 4} if variant == 0 else ODD[variant - 1]
    values = {key: value for key, value in common.items() if key in known}
    return values | OWN.get(model_type, ({}, {}, {}))[variant]


def built(model_type: str, values: dict[str, Any]) -> torch.nn.Module:
    """The model of transformers, without storage."""
    config = CONFIG_MAPPING[model_type](**values)
    with torch.device("meta"):
        for auto in ("CausalLM", "ImageTextToText", "Seq2SeqLM", "TokenClassification"):
            factory = getattr(transformers, f"AutoModelFor{auto}")
            if type(config) in factory._model_mapping:
                return factory.from_config(config)
        if type(config) in transformers.AutoModel._model_mapping:
            return transformers.AutoModel.from_config(config)
    raise AssertionError(model_type)


def collapse(names: list[str]) -> list[str]:
    """Names with their numbers taken out, for a message one can read."""
    return sorted({re.sub(r"\.\d+\.", ".{i}.", name) for name in names})


@pytest.mark.parametrize("variant", [0, 1, 2])
@pytest.mark.parametrize("model_type", SUPPORTED)
def test_names_shapes_and_kinds(model_type: str, variant: int) -> None:
    values = overrides(model_type, variant)
    model = built(model_type, values)
    expected = {name: tuple(p.shape) for name, p in model.named_parameters()}
    found = describe({"model_type": model_type, **values})
    ours = {tensor.name: tensor.shape for tensor in found.tensors}
    assert len(ours) == len(found.tensors), "a name twice"
    assert collapse(list(ours.keys() - expected.keys())) == [], "too much"
    assert collapse(list(expected.keys() - ours.keys())) == [], "missing"
    assert {name: (ours[name], shape) for name, shape in expected.items() if ours[name] != shape} == {}

    modules = dict(model.named_modules())
    wrong = {}
    for tensor in found.tensors:
        module = modules[tensor.name.rpartition(".")[0]]
        is_linear = isinstance(module, torch.nn.Linear)
        is_embedding = isinstance(module, torch.nn.Embedding)
        is_conv = isinstance(module, torch.nn.modules.conv._ConvNd)
        is_norm = "Norm" in type(module).__name__ and not is_embedding
        kind = (
            "linear"
            if is_linear
            else "embedding"
            if is_embedding
            else "conv"
            if is_conv
            else "norm"
            if is_norm
            else "parameter"
        )
        if tensor.kind != kind:
            wrong[re.sub(r"\.\d+\.", ".{i}.", tensor.name)] = (tensor.kind, type(module).__name__)
    assert wrong == {}

    kept = model._keep_in_fp32_modules_strict or ()
    pattern = re.compile("|".join(kept) if kept else "(?!)")
    assert {t.name for t in found.tensors if t.dtype == "float32"} == {
        name for name in expected if pattern.search(name)
    }
    assert found.tied == (
        bool(getattr(model.config, "tie_word_embeddings", False)) and "lm_head.weight" not in expected
    )
