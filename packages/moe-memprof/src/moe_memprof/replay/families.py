"""What of a model type's code changes a step's memory: which router, which norm, which order.

Read from transformers 5.23; a model type that is not here is replayed as the nearest to all, and said to be heuristic.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Literal

Router = Literal[
    "softmax normalised wide",
    "softmax normalised",
    "softmax",
    "softmax narrow",
    "sigmoid grouped",
    "sigmoid",
    "sigmoid narrow",
    "softmax after",
    "softmax after narrow",
    "softmax from wide",
    "softmax from wide plain",
    "sparsemixer",
    "scores into inputs",
    "normed",
]
"""How scores come about and which dtype the weights have: wide is fp32 and narrow the model's; `after` is softmax over the chosen."""


@dataclass(frozen=True, kw_only=True)
class Family:
    """A way of writing a decoder."""

    router: Router = "softmax normalised wide"
    norm: Literal["narrow", "wide", "scaled wide", "scaled", "layer"] = "narrow"
    """Where RMSNorm multiplies by its weight: after the cast back, before it, or by 1 + weight; or torch's LayerNorm."""
    rotation: Literal["halves", "halves wide", "halves remade", "chunks", "complex", "none"] = "halves"
    """Rotary positions: of both halves at once, with fp32 tables, with tables made anew in every layer, of each half, of complex
    numbers."""
    unit_queries: bool = False
    """Queries and keys are divided by their root mean square after they are rotated."""
    norms: Literal["before", "after"] = "before"
    """Where the two norms of a layer stand."""
    shared_first: bool = False
    """Shared experts run before the routed ones."""
    shared_gate: bool = False
    """Their output is multiplied by a sigmoid gate of one column."""
    scaled_residual: bool = False
    """What is added to the stream is multiplied by a number."""
    scaled_embedding: Literal["", "inside", "outside"] = ""
    """Embeddings are multiplied by a number, inside the embedding's module or outside."""
    scaled_logits: bool = False
    joined_projections: bool = False
    """Queries, keys and values come out of one linear and are clamped."""
    own_loop: bool = False
    """Experts run one after the other, whatever implementation is asked for."""
    two_masks: bool = False
    """A mask for windows is made even where no layer has one."""
    gate: Literal["linear", "query"] = "linear"
    """Where attention is gated: a linear of its own, or the query's with twice the width."""
    layer: Literal["plain", "sandwich"] = "plain"
    """A sandwich has norms around each block, and dense layers and experts side by side (Gemma 4)."""
    exact: bool = True
    """Its replay was held against measurements."""


_SIGMOID = Family(router="sigmoid grouped")
_SOFTMAX = Family(router="softmax normalised")
FAMILIES: dict[str, Family] = {
    "mixtral": Family(),
    "olmoe": Family(router="softmax"),
    "qwen2_moe": Family(router="softmax", shared_first=True, shared_gate=True),
    "qwen3_moe": _SOFTMAX,
    "qwen3_next": Family(
        router="softmax normalised", norm="scaled wide", shared_first=True, shared_gate=True, gate="query"
    ),
    "gpt_oss": Family(router="softmax after narrow", norm="wide", rotation="chunks", two_masks=True),
    "deepseek_v2": Family(router="softmax from wide plain"),
    "deepseek_v3": _SIGMOID,
    "glm4_moe": _SIGMOID,
    "dots1": _SIGMOID,
    "minimax_m2": Family(router="sigmoid"),
    "granitemoe": Family(router="softmax after", scaled_residual=True, scaled_embedding="outside", scaled_logits=True),
    "ernie4_5_moe": Family(router="softmax from wide", shared_first=True, rotation="halves remade"),
    "phimoe": Family(router="sparsemixer", norm="layer"),
    "flex_olmo": Family(router="softmax", norm="wide", rotation="halves wide", norms="after"),
    "dbrx": Family(router="softmax narrow", norm="layer", joined_projections=True, own_loop=True),
    "jamba": Family(router="softmax", rotation="none"),
    "llama4": Family(router="scores into inputs", rotation="complex", unit_queries=True),
    "gemma4": Family(router="normed", norm="scaled", scaled_embedding="inside", layer="sandwich", two_masks=True),
    "lfm2_moe": Family(router="sigmoid narrow"),
}
_SAME = {
    "qwen3_next": ("qwen3_5_moe",),
    "qwen3_moe": ("qwen3_vl_moe",),
    "deepseek_v3": ("kimi_k2", "glm4_moe_lite"),
}
"""Model types with the blocks of another."""


_WIDE = frozenset({
    "afmoe", "axk1", "axk2", "bailing_hybrid", "beam", "deepseek_ocr2", "deepseek_v32", "diffusion_gemma", "dots3_note", "exaone_moe",
    "flint", "glm4v_moe", "glm5_next", "glm_moe_dsa", "hy_v3", "hy_v4", "kimi_linear", "kolibri1", "longcat_flash", "mimo_v2_flash",
    "mistral_large4", "muse_spark", "nemotron_h", "openai_privacy_filter", "solar_open", "unlimited_ocr",
})  # fmt: skip
"""Routers that cast their input and weight to fp32, of model types that are not above; read off tiny models in bfloat16."""
_WIDE_WEIGHTS = frozenset({"minimax", "minimax_m3_vl", "step3p7"})
"""Routers whose weights alone stay in fp32."""


@cache
def family_of(model_type: str) -> Family:
    """How a model type is written; `exact` is false where that is a guess."""
    name = model_type.removesuffix("_text")
    for like, others in _SAME.items():
        if name in others:
            name = like
    if name in FAMILIES:
        return FAMILIES[name]
    router: Router = "sigmoid grouped" if name in _WIDE else "softmax normalised"
    return Family(router="softmax normalised wide" if name in _WIDE_WEIGHTS else router, exact=False,
                  norm="layer" if name == "nllb_moe" else "narrow")  # fmt: skip
