"""What of a layer differs by architecture and is not in its sizes: precision of the router, kind of norm, order. Read off tiny models of all 72 in bfloat16 (transformers 5.23)."""

from __future__ import annotations

_BOTH = frozenset(
    "afmoe axk1 axk2 bailing_hybrid beam deepseek_ocr2 deepseek_v2 deepseek_v3 deepseek_v32 diffusion_gemma dots1 dots3_note exaone_moe flint "
    "gemma4 glm4_moe glm4_moe_lite glm4v_moe glm5_next glm_moe_dsa hy_v3 hy_v4 kimi_linear kolibri1 longcat_flash mimo_v2_flash "
    "mistral_large4 muse_spark nemotron_h openai_privacy_filter solar_open unlimited_ocr".split()
)
FLOAT_ROUTER = _BOTH | {"ernie4_5_moe"}
"""The router's input and weight are cast to float32."""
FLOAT_WEIGHTS = _BOTH | {"minimax", "minimax_m2", "minimax_m3_vl", "mixtral", "step3p7"}
"""The routing weights that the experts receive are float32; elsewhere they are in the model's dtype."""
LAYER_NORM = frozenset({"phimoe", "dbrx", "nllb_moe"})
"""The norms are torch's LayerNorm."""
SHARED_FIRST = frozenset({"qwen2_moe", "qwen3_next", "qwen3_5_moe", "ernie4_5_moe"})
"""Shared experts run before the routed ones."""


def architecture(model_type: str) -> str:
    """The architecture of a text model's own type."""
    return model_type.removesuffix("_text")
