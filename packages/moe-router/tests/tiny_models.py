"""Tiny real models of every MoE architecture of transformers, built on the CPU."""

from __future__ import annotations

import importlib
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

TEXT: dict[str, Any] = {
    "vocab_size": 97, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 128, "sliding_window": 64,
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
    "num_experts": 8, "num_local_experts": 8, "n_routed_experts": 8, "moe_num_experts": 8,
    "num_experts_per_tok": 2, "num_experts_per_token": 2, "moe_topk": 2, "moe_k": 2, "top_k_experts": 2,
    "moe_intermediate_size": 24, "ffn_hidden_size": 48, "expert_ffn_hidden_size": 24, "shared_expert_intermediate_size": 24,
    "n_shared_experts": 1, "num_shared_experts": 1, "moe_num_shared_experts": 1,
    "n_group": 2, "num_expert_group": 2, "topk_group": 1, "first_k_dense_replace": 1, "enable_moe_block": True,
}  # fmt: skip
"""Set wherever a configuration has such a field."""
OTHER: dict[str, Any] = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 4, "num_key_value_heads": 4,
    "num_heads": 4, "head_dim": 8, "depth": 1, "embed_dim": 32, "out_hidden_size": 32, "patch_size": 4, "image_size": 16,
    "num_position_embeddings": 16, "width": 32, "layers": 1, "heads": 4, "d_model": 32, "encoder_layers": 1, "hidden_dim": 32,
    "encoder_attention_heads": 4, "encoder_ffn_dim": 48, "output_dim": 32, "num_mel_bins": 16, "max_source_positions": 30,
    "downsample_hidden_size": 16, "deepstack_visual_indexes": [0], "fullatt_block_indexes": [0],
}  # fmt: skip
"""The same for towers of images and sound, which are built but not run."""
MLA: dict[str, Any] = {
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8,
    "v_head_dim": 8,
    "num_key_value_heads": 4,
}
INDEXER: dict[str, Any] = {"index_n_heads": 2, "index_head_dim": 16, "index_topk": 4}
LINEAR: dict[str, Any] = {
    "linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 8, "linear_value_head_dim": 8,
    "layer_types": ["linear_attention", "full_attention", "linear_attention"],
}  # fmt: skip
ROPE: dict[str, Any] = {"rope_type": "default", "rope_theta": 10000.0}

# Architecture -> the class to build, and what its configuration needs beyond the sizes above; `text_config` for composite ones.
SPECIFIC: dict[str, tuple[str, dict[str, Any]]] = {
    "afmoe": ("AfmoeForCausalLM", {}),
    "aria": ("AriaTextForCausalLM", {}),
    "axk1": ("AXK1ForCausalLM", MLA),
    "axk2": ("AXK2ForCausalLM", MLA),
    "bailing_hybrid": ("BailingHybridForCausalLM", {**MLA, "layer_types": LINEAR["layer_types"]}),
    "beam": ("BeamForCausalLM", {"mlp_layer_types": ["dense", "sparse", "sparse"]}),
    "cohere2_moe": ("Cohere2MoeForCausalLM", {}),
    "dbrx": ("DbrxForCausalLM", {
        "d_model": 32, "n_heads": 4, "n_layers": 2, "max_seq_len": 128,
        "attn_config": {"kv_n_heads": 2, "rope_theta": 10000.0, "clip_qkv": 8.0},
        "ffn_config": {"ffn_hidden_size": 48, "moe_num_experts": 8, "moe_top_k": 3, "hidden_size": 32}}),
    "deepseek_ocr2": ("DeepseekOcr2ForConditionalGeneration",
        {"text_config": {**MLA, "mlp_layer_types": ["dense", "sparse", "sparse"]}}),
    "deepseek_v2": ("DeepseekV2ForCausalLM", MLA),
    "deepseek_v3": ("DeepseekV3ForCausalLM", MLA),
    "deepseek_v32": ("DeepseekV32ForCausalLM", {**MLA, **INDEXER}),
    "deepseek_v4": ("DeepseekV4ForCausalLM", {"mlp_layer_types": ["hash_moe", "moe", "moe"]}),
    "diffusion_gemma": ("DiffusionGemmaForBlockDiffusion", {}),
    "doge": ("DogeForCausalLM", {"is_moe": True, "num_experts": 16, "num_experts_per_tok": 3}),
    "dots1": ("Dots1ForCausalLM", {"routed_scaling_factor": 1.5}),
    "dots3_note": ("Dots3NoteForCausalLM", {**MLA, **INDEXER}),
    "ernie4_5_moe": ("Ernie4_5_MoeForCausalLM", {"moe_layer_start_index": 1}),
    "ernie4_5_vl_moe": ("Ernie4_5_VLMoeForConditionalGeneration",
        {"text_config": {"moe_intermediate_size": [24, 16], "rope_parameters": {**ROPE, "mrope_section": [1, 1, 2]}}}),
    "exaone_moe": ("ExaoneMoeForCausalLM", {}),
    "flex_olmo": ("FlexOlmoForCausalLM", {"num_experts_per_tok": 3}),
    "flint": ("FlintForCausalLM", {"mlp_only_layers": []}),
    "gemma4": ("Gemma4ForCausalLM", {"vocab_size_per_layer_input": 97, "hidden_size_per_layer_input": 8}),
    "glm4_moe": ("Glm4MoeForCausalLM", {}),
    "glm4_moe_lite": ("Glm4MoeLiteForCausalLM", MLA),
    "glm4v_moe": ("Glm4vMoeForConditionalGeneration",
        {"text_config": {"rope_parameters": {**ROPE, "mrope_section": [1, 1, 2], "partial_rotary_factor": 1.0}}}),
    "glm5_next": ("Glm5NextForConditionalGeneration", {"text_config": {**MLA, **INDEXER, "index_topk": 16, "qk_rope_head_dim": 0,
         "layer_types": ["linear_attention", "indexed_attention", "linear_attention"],
         "mlp_layer_types": ["dense", "sparse", "sparse"]}}),
    "glm_moe_dsa": ("GlmMoeDsaForCausalLM", {**MLA, **INDEXER}),
    "gpt_oss": ("GptOssForCausalLM", {}),
    "granitemoe": ("GraniteMoeForCausalLM", {}),
    "granitemoe_swa": ("GraniteMoeSWAForCausalLM", {}),
    "granitemoehybrid": ("GraniteMoeHybridForCausalLM",
        {"mamba_n_heads": 8, "mamba_d_head": 8, "mamba_expand": 2, "mamba_n_groups": 1, "mamba_d_state": 8,
         "layer_types": ["mamba", "attention", "mamba"]}),
    "granitemoeshared": ("GraniteMoeSharedForCausalLM", {}),
    "hunyuan_v1_moe": ("HunYuanMoEV1ForCausalLM", {}),
    "hy_v3": ("HYV3ForCausalLM", {}),
    "hy_v4": ("HYV4ForCausalLM", {**INDEXER, "index_head_dim": 64}),
    "inkling": ("InklingForCausalLM", {}),
    "inkling2": ("Inkling2ForCausalLM", {}),
    "jamba": ("JambaForCausalLM",
        {"expert_layer_period": 2, "expert_layer_offset": 1, "attn_layer_period": 2, "attn_layer_offset": 1,
         "use_mamba_kernels": False, "mamba_d_state": 8, "mamba_dt_rank": 4}),
    "jetmoe": ("JetMoeForCausalLM", {"kv_channels": 8}),
    "kimi_linear": ("KimiLinearForCausalLM", {**MLA, "layer_types": LINEAR["layer_types"]}),
    "kolibri1": ("Kolibri1ForCausalLM", {}),
    "laguna": ("LagunaForCausalLM", {}),
    "lfm2_moe": ("Lfm2MoeForCausalLM", {"num_dense_layers": 1, "layer_types": ["conv", "full_attention", "conv"]}),
    "llama4": ("Llama4ForCausalLM", {"num_experts_per_tok": 2}),
    "longcat_flash": ("LongcatFlashForCausalLM", {**MLA, "num_layers": 2, "zero_expert_num": 4}),
    "mellum": ("MellumForCausalLM", {}),
    "mimo_v2_flash": ("MiMoV2FlashForCausalLM", {}),
    "minimax": ("MiniMaxForCausalLM", {"block_size": 16}),
    "minimax_m2": ("MiniMaxM2ForCausalLM", {}),
    "minimax_m3_vl": ("MiniMaxM3VLForCausalLM", {}),
    "mistral4": ("Mistral4ForCausalLM",
        {**MLA, "rope_parameters": {**ROPE, "partial_rotary_factor": 0.5, "llama_4_scaling_beta": 0.1,
                                    "original_max_position_embeddings": 64}}),
    "mistral_large4": ("MistralLarge4ForConditionalGeneration", {"text_config": MLA}),
    "mixtral": ("MixtralForCausalLM", {"sliding_window": None}),
    "muse_spark": ("MuseSparkForConditionalGeneration",
        {"audio_config": {"patch_sizes": (4,), "hidden_sizes": (32,), "depths": (1,)}}),
    "nemotron_h": ("NemotronHForCausalLM", {}),
    "nllb_moe": ("NllbMoeForConditionalGeneration",
        {"d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48,
         "encoder_attention_heads": 4, "decoder_attention_heads": 4, "encoder_sparse_step": 2, "decoder_sparse_step": 2}),
    "olmoe": ("OlmoeForCausalLM", {"num_experts_per_tok": 3}),
    "openai_privacy_filter": ("OpenAIPrivacyFilterForTokenClassification", {}),
    "phimoe": ("PhimoeForCausalLM", {"sliding_window": None}),
    "qwen2_moe": ("Qwen2MoeForCausalLM", {}),
    "qwen3_5_moe": ("Qwen3_5MoeForCausalLM", LINEAR),
    "qwen3_moe": ("Qwen3MoeForCausalLM", {}),
    "qwen3_next": ("Qwen3NextForCausalLM", LINEAR),
    "qwen3_omni_moe": ("Qwen3OmniMoeThinkerForConditionalGeneration", {"vision_start_token_id": 95}),
    "qwen3_vl_moe": ("Qwen3VLMoeForConditionalGeneration", {}),
    "qwen4_exp": ("Qwen4ExpForCausalLM",
        {**LINEAR, "indexer_n_heads": 2, "indexer_kv_heads": 1, "indexer_head_dim": 8, "indexer_budget": 8,
         "indexer_compress_ratio": 2}),
    "solar_open": ("SolarOpenForCausalLM", {}),
    "step3p7": ("Step3p7ForConditionalGeneration", {"text_config": {"mlp_layer_types": ["dense", "sparse", "sparse"]}}),
    "switch_transformers": ("SwitchTransformersForConditionalGeneration",
        {"d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 4, "num_decoder_layers": 4, "num_heads": 4,
         "num_sparse_encoder_layers": 2, "num_sparse_decoder_layers": 2, "expert_capacity": 1}),
    "unlimited_ocr": ("UnlimitedOcrForConditionalGeneration", {}),
    "zaya": ("ZayaForCausalLM", {"num_experts_per_tok": 1}),
}  # fmt: skip


def configured(cls: Any, extra: dict[str, Any], sizes: dict[str, Any] | None = None) -> Any:
    """A configuration of a class, shrunk: the sizes it has a field for, the same for what it is composed of, then `extra`."""
    try:
        stock: Any = cls()
    except AttributeError:  # DbrxConfig() does not build
        stock = None
    parts = getattr(cls, "sub_configs", {})
    kwargs = {
        name: value
        for name, value in (sizes or TEXT).items()
        if name not in parts and (stock is None or _has(stock, name))
    }
    for name, part in parts.items():
        kind = type(getattr(stock, name)) if part.__name__ == "AutoConfig" else part
        if kind.__name__ not in ("NoneType", "dict") and stock is not None:
            text = not any(word in name for word in ("vision", "audio", "projector"))
            kwargs[name] = configured(kind, extra.get(name, {}), TEXT if text else OTHER).to_dict()
    kwargs.update({k: v for k, v in extra.items() if k not in parts or stock is None})
    return cls(**kwargs)


def _has(config: Any, name: str) -> bool:
    try:
        return hasattr(config, name)
    except (AttributeError, ValueError, RuntimeError) as error:  # a field that differs between layers is there too
        return "per-layer" in str(error)


def build(architecture: str, **changes: Any) -> PreTrainedModel:
    """A tiny model of an architecture in fp32, with routers far from indifferent."""
    class_name, extra = SPECIFIC[architecture]
    module = importlib.import_module(f"transformers.models.{architecture}.modeling_{architecture}")
    cls = getattr(module, class_name)
    torch.manual_seed(3)
    model: PreTrainedModel = cls._from_config(configured(cls.config_class, {**extra, **changes})).float().eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 2 and _routes(name):
                parameter.normal_(0, 1)
        for name, buffer in model.named_buffers():
            if name.endswith("tid2eid"):
                buffer.copy_(torch.randint(0, 8, buffer.shape))
        # Selection biases are buffers in some architectures and frozen parameters in others; zero, they would change nothing.
        for name, tensor in (*model.named_buffers(), *model.named_parameters()):
            if "correction_bias" in name or "balancing_biases" in name or name.endswith("expert_bias"):
                tensor.normal_(0, 0.3)
    return model


def _routes(name: str) -> bool:
    return "gate.weight" in name or "router" in name


def checkpoint(model: PreTrainedModel, *, reentrant: bool) -> None:
    """Switch gradient checkpointing on, under its old or new name."""
    kwargs = {"use_reentrant": reentrant}
    if hasattr(model, "activation_checkpointing_enable"):
        model.activation_checkpointing_enable(activation_checkpointing_kwargs=kwargs)
    else:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=kwargs)
    model.enable_input_require_grads()


def inputs(model: nn.Module, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The batch as the model's call; an encoder-decoder reads it on both sides."""
    if not getattr(model.config, "is_encoder_decoder", False):
        return batch
    return {**batch, "decoder_input_ids": batch["input_ids"], "decoder_attention_mask": batch["attention_mask"]}
