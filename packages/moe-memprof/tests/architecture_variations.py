"""What each model type's config needs or has of its own in three variations: keys of its kind, and keys spelled the old way."""

from __future__ import annotations

from typing import Any

INDEXER = {
    "indexer_n_heads": 3,
    "indexer_kv_heads": 1,
    "indexer_head_dim": 256,
    "indexer_budget": 64,
    "indexer_compress_ratio": 4,
}

# What a model type cannot do without, or has of its own; one entry per set above, after the shrunken default.
OWN: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any]]] = {
    "axk2": ({}, {"gated_norm_rank": 9}, {}),
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
    "deepseek_ocr2_text": (
        {"num_experts_per_tok": 2, "mlp_layer_types": ["dense", "sparse", "sparse", "sparse"]},
        {"mlp_layer_types": ["dense", "sparse", "sparse", "dense", "sparse"]},
        {"mlp_layer_types": ["sparse"] * 7},
    ),
    "deepseek_v2": ({"num_experts_per_tok": 2}, {}, {}),
    "deepseek_v32": ({}, {}, {"mlp_layer_types": ["sparse", "dense"] * 3 + ["sparse"]}),
    "deepseek_v4": (
        {},
        {"compress_ratios": [0, 4, 128, 0, 4, 128], "o_groups": 3, "o_lora_rank": 11, "hc_mult": 3},
        {"compress_rates": {"compressed_sparse_attention": 6, "heavily_compressed_attention": 9}, "num_hash_layers": 1},
    ),
    "diffusion_gemma_text": (
        {"num_experts": 6, "top_k_experts": 2, "moe_intermediate_size": 24},
        {"top_k_experts": 2, "num_global_key_value_heads": 1, "global_head_dim": 18},
        {"top_k_experts": 2, "layer_types": ["sliding_attention"] * 5 + ["full_attention"] * 2},
    ),
    "dots3_note_text": (
        {},
        {
            "num_key_value_heads": 6,
            "swa_num_attention_heads": 4,
            "swa_num_key_value_heads": 4,
            "swa_q_lora_rank": 13,
            "moe_layer_freq": [1, 0, 1, 1, 0],
        },
        {
            "num_key_value_heads": 4,
            "use_dsa": False,
            "swa_v_head_dim": 17,
            "q_lora_rank": 30,
            "moe_shared_expert_intermediate_size": 15,
        },
    ),
    "dots3_note": (
        {"vision_config": {}},
        {"vision_config": {"adapter_out_dim": 84}, "audio_config": {"adapter_out_dim": 84}},
        {"vision_config": {"adapter_out_dim": 120}, "audio_config": {"adapter_out_dim": 120}},
    ),
    "dots3_note_vision_encoder": (
        {"pyramid_num_routed": [-1, -1, 4, 8]},
        {
            "pyramid_num_routed": [-1, 3, -1, 2, 6],
            "use_bias": True,
            "mlp_bias": False,
            "adapter_merge_size": 3,
            "adapter_out_dim": 33,
            "adapter_in_dim": 84,
        },
        {
            "mlp_layer_types": ["dense"] * 5 + ["sparse"] * 2,
            "num_local_experts": 5,
            "embed_dim": 48,
            "num_heads": 4,
            "adapter_in_dim": 48,
        },
    ),
    "doge": ({}, {"is_moe": True, "num_experts": 50}, {"is_moe": True, "num_experts": 49}),
    "dots1": ({"n_routed_experts": 8, "n_shared_experts": 2, "num_experts_per_tok": 3}, {}, {"n_shared_experts": 2}),
    "ernie4_5_moe": (
        {},
        {"moe_num_experts": 9, "moe_k": 4, "moe_num_shared_experts": 0, "moe_layer_interval": 2},
        {"moe_num_experts": 5, "moe_k": 2, "moe_layer_start_index": 2, "moe_layer_end_index": 4},
    ),
    "ernie4_5_vl_moe_text": (
        {},
        {"moe_num_experts": 9, "moe_k": 4, "moe_num_shared_experts": 0, "moe_intermediate_size": [22, 14]}
        | {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 2, 3]}},
        {"moe_num_experts": 5, "moe_k": 2, "moe_intermediate_size": [22, 14]}
        | {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [5, 5, 5]}},
    ),
    "flint": ({}, {"mlp_only_layers": [3], "decoder_sparse_step": 2}, {}),
    "gemma4": (
        {},
        {
            "vision_config": {"num_hidden_layers": 2, "hidden_size": 48, "num_attention_heads": 4, "head_dim": 10},
            "audio_config": {"num_hidden_layers": 2, "hidden_size": 40, "subsampling_conv_channels": [16, 6]},
        },
        {"vision_config": {"num_hidden_layers": 1, "num_key_value_heads": 3, "use_clipped_linears": True}},
    ),
    "gemma4_text": (
        {},
        {
            "enable_moe_block": True,
            "top_k_experts": 2,
            "attention_k_eq_v": True,
            "num_global_key_value_heads": 1,
            "hidden_size_per_layer_input": 0,
        },
        {
            "layer_types": ["sliding_attention", "full_attention"] * 3 + ["sliding_attention"],
            "num_kv_shared_layers": 3,
            "use_double_wide_mlp": True,
            "hidden_size_per_layer_input": 6,
            "vocab_size_per_layer_input": 89,
            "global_head_dim": 22,
        },
    ),
    "glm4_moe": ({}, {"use_qk_norm": True}, {}),
    "glm5_next_text": (
        {},
        {
            "num_hidden_layers": 5,
            "linear_attn_config": {"head_dim": 12, "num_heads": 5, "short_conv_kernel_size": 3},
            "qk_rope_head_dim": 0,
            "num_key_value_heads": 6,
        },
        {
            "qk_rope_head_dim": 0,
            "num_key_value_heads": 4,
            "index_kpool": 8,
            "hc_mult": 3,
            "indexer_types": ["full", "shared"] * 3 + ["full"],
        },
    ),
    "glm_moe_dsa": (
        {},
        {"index_topk_pattern": "FSSFS"},
        {"index_topk_freq": 3, "index_skip_topk_offset": 1},
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
    "hy_v4": ({}, {"hc_mult": 3}, {"indexer_types": ["full", "shared", "shared"] * 2 + ["full"]}),
    "inkling_text": (
        {},
        {"local_layer_ids": [0, 3], "swa_head_dim": 12, "swa_num_key_value_heads": 2, "dense_mlp_idx": 2},
        {"dense_intermediate_size": 55, "dense_mlp_idx": 1, "conv_kernel_size": 3, "d_rel": 5, "rel_extent": 33},
    ),
    "inkling2_text": (
        {"num_hidden_layers": 7},
        {"swa_head_dim": 12, "swa_num_key_value_heads": 2, "sliding_window_size": 40},
        {"layer_types": ["hybrid", "hybrid_sliding"] * 3 + ["hybrid"], "conv_kernel_size": 3, "d_rel": 5},
    ),
    "inkling_vision": ({}, {"patch_size": 30, "num_hidden_layers": 9}, {"patch_size": 28, "temporal_patch_size": 6}),
    "inkling2_vision": ({}, {"text_hidden_size": 84}, {"text_hidden_size": 120, "projector_bias": True}),
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
        {"num_hidden_layers": 4, "zero_expert_num": 0, "moe_topk": 2},
    ),
    "mimo_v2_flash": ({}, {}, {"layer_types": ["sliding_attention"] * 7}),
    "minimax": ({}, {}, {"layer_types": ["linear_attention"] * 5 + ["full_attention"] * 2}),
    "minimax_m3_vl_text": (
        {},
        {
            "sparse_attention_config": {"sparse_attention_freq": [0, 1, 0, 1, 1], "sparse_index_dim": 12},
            "moe_layer_freq": [0, 1, 1, 0, 1],
            "dense_intermediate_size": 61,
        },
        {"layer_types": ["minimax_m3_sparse"] * 2 + ["full_attention"] * 5},
    ),
    "mistral_large4_text": (
        {},
        {"kv_source_layers": [0, 0, 2, 2, 2], "no_rope_layers": [1, 0, 1, 0, 0], "index_topk_pattern": "FSFSF"},
        {"no_rope_layer_interval": 3, "index_topk_freq": 2},
    ),
    "muse_spark_audio": (
        {"patch_sizes": [4, 3], "hidden_sizes": [8, 12], "depths": [2, 1], "num_hidden_layers": 2},
        {
            "patch_sizes": [4, 3],
            "hidden_sizes": [8, 12],
            "depths": [2, 1],
            "num_hidden_layers": 2,
            "out_hidden_size": 84,
        },
        {
            "out_hidden_size": 120,
            "patch_sizes": [5],
            "hidden_sizes": [6],
            "depths": [1],
            "num_hidden_layers": 1,
            "conv_kernel_size": 3,
        },
    ),
    "muse_spark_text": (
        {},
        {"moe_hidden_size": 31, "mlp_layer_types": ["sparse", "dense", "sparse", "sparse", "dense"]},
        {"moe_hidden_size": 44},
    ),
    "nemotron_h": (
        {},
        {"hybrid_override_pattern": "MEM*-ME", "moe_latent_size": 33, "mamba_n_groups": 4, "use_conv_bias": False},
        {"layers_block_type": ["mamba", "moe", "attention", "mlp", "moe"], "mamba_num_heads": 12, "mamba_head_dim": 8},
    ),
    "nllb-moe": (
        {"encoder_layers": 4, "decoder_layers": 4, "num_experts": 3},
        {
            "encoder_layers": 3,
            "decoder_layers": 2,
            "d_model": 48,
            "encoder_ffn_dim": 14,
            "decoder_ffn_dim": 10,
            "decoder_attention_heads": 8,
            "decoder_sparse_step": 1,
            "router_bias": True,
        },
        {"encoder_layers": 2, "decoder_layers": 3, "encoder_sparse_step": 0, "decoder_sparse_step": 2},
    ),
    "olmoe": ({}, {"head_dim": 14}, {}),
    "openai_privacy_filter": ({}, {"id2label": {"0": "a", "1": "b", "2": "c"}}, {"num_labels": 5}),
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
    "qwen3_omni_moe_talker_text": (
        {"shared_expert_intermediate_size": 33},
        {"shared_expert_intermediate_size": 21},
        {"shared_expert_intermediate_size": 22},
    ),
    "qwen4_exp": (
        {"text_config": INDEXER | {"num_hidden_layers": 3}},
        {"text_config": INDEXER},
        {"text_config": INDEXER},
    ),
    "qwen4_exp_text": (
        INDEXER,
        INDEXER
        | {
            "eos_token_id": 3,
            "ple_layer_ids": [2, 3],
            "ngram_vocab_size_base": 1000,
            "ple_embed_dim": 80,
            "hc_count": 3,
        },
        INDEXER
        | {
            "eos_token_id": 3,
            "ple_layer_ids": [5],
            "ngram_vocab_size_base": 500,
            "heads_per_ngram": 2,
            "full_attention_interval": 2,
        },
    ),
    "step3p5": (
        {},
        {
            "pad_token_id": 1,
            "moe_layers_enum": "1,3",
            "attention_other_setting": {"num_attention_heads": 9},
            "share_expert_dim": 31,
        },
        {
            "pad_token_id": 1,
            "num_nextn_predict_layers": 2,
            "layer_types": ["full_attention", "sliding_attention"] * 4 + ["sliding_attention"],
            "num_sliding_attention_heads": 8,
            "gating": "per-channel",
        },
    ),
    "switch_transformers": (
        {"num_layers": 4, "num_decoder_layers": 3, "num_sparse_encoder_layers": 2},
        {"num_layers": 3, "d_model": 26, "d_kv": 5, "d_ff": 17, "num_heads": 3, "num_sparse_decoder_layers": 1},
        {"num_layers": 2, "num_sparse_encoder_layers": 2, "num_sparse_decoder_layers": 0, "router_bias": True},
    ),
    "unlimited_ocr_text": ({}, {"first_k_dense_replace": 2}, {"mlp_bias": True}),
    "zaya": ({}, {"num_experts_per_tok": 1, "cca_time1": 3}, {"num_experts_per_tok": 1, "router_hidden_size": 23}),
}
