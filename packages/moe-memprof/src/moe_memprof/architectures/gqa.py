"""Architectures of grouped-query attention and fused experts: Mixtral and those near it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal

from moe_memprof.architectures.base import Experts, Model
from moe_memprof.architectures.blocks import (
    Part,
    block,
    first_dense,
    gqa,
    mlp,
    moe,
    shared_mlp,
    sparse_steps,
    sparse_types,
    windows,
)
from moe_memprof.architectures.decoder import decoder
from moe_memprof.architectures.settings import Settings
from moe_memprof.architectures.weights import Weights

SLIDING, FULL = "sliding_attention", "full_attention"


def mixtral(c: Settings, **place: Any) -> Model:
    """Mixtral: experts in every layer."""
    hidden, layers = c.size("hidden_size"), c.size("num_hidden_layers")
    attention = gqa(c, window=[c.raw("sliding_window")] * layers)
    return decoder(
        c, block(attention, moe(c, experts="num_local_experts", width="intermediate_size"), hidden=hidden), **place
    )


def minimax_m2(c: Settings, **place: Any) -> Model:
    """MiniMax M2: Mixtral with a norm over all queries and over all keys."""
    hidden = c.size("hidden_size")
    experts = moe(c, experts="num_local_experts", width="intermediate_size")
    return decoder(c, block(gqa(c, qk_norm="full"), experts, hidden=hidden), **place)


def olmoe(c: Settings, **place: Any) -> Model:
    """OLMoE: norms over all queries and keys."""
    hidden, heads = c.size("hidden_size"), c.size("num_attention_heads")
    # transformers sizes these norms without regard to a head_dim in the config.
    norms = (hidden, hidden // heads * c.size("num_key_value_heads", heads))
    attention = gqa(c, bias=c.flag("attention_bias"), qk_norm="full", full_norms=norms)
    return decoder(
        c, block(attention, moe(c, experts="num_experts", width="intermediate_size"), hidden=hidden), **place
    )


def flex_olmo(c: Settings, **place: Any) -> Model:
    """FlexOlmo: OLMoE with its norms after the blocks."""
    hidden = c.size("hidden_size")
    attention = gqa(c, bias=c.flag("attention_bias"), qk_norm="full")
    experts = moe(c, experts="num_experts", width="intermediate_size")
    norms = ("post_attention_layernorm", "post_feedforward_layernorm")
    return decoder(c, block(attention, experts, norms=norms, hidden=hidden), **place)


def qwen2_moe(c: Settings, **place: Any) -> Model:
    """Qwen 1.5 and 2 MoE: a gated shared expert, biases on query, key and value."""
    hidden, layers = c.size("hidden_size"), c.size("num_hidden_layers")

    def sliding(i: int) -> str:
        return SLIDING if c.flag("use_sliding_window") and i % 2 == 0 and i < c.count("max_window_layers") else FULL

    attention = gqa(c, bias=c.flag("qkv_bias"), bias_out=False, window=windows(c, c.layer_types(layers, sliding)))
    shared = mlp(c, "shared_expert_intermediate_size", module="shared_expert")
    experts = moe(c, experts="num_experts", width="moe_intermediate_size", shared=shared, shared_gate=True)
    return decoder(c, block(attention, experts, dense=mlp(c), sparse=sparse_steps(c, layers), hidden=hidden), **place)


def qwen3_moe(c: Settings, **place: Any) -> Model:
    """Qwen3 MoE: a norm per head, no shared expert."""
    hidden, layers = c.size("hidden_size"), c.size("num_hidden_layers")
    window = c.raw("sliding_window") if c.flag("use_sliding_window") else None
    attention = gqa(c, bias=c.flag("attention_bias"), qk_norm="head", window=[window] * layers)
    experts = moe(c, experts="num_local_experts", width="moe_intermediate_size")
    return decoder(c, block(attention, experts, dense=mlp(c), sparse=sparse_steps(c, layers), hidden=hidden), **place)


def gpt_oss(c: Settings, **place: Any) -> Model:
    """gpt-oss: attention sinks, biases everywhere, experts stored transposed."""
    hidden, layers = c.size("hidden_size"), c.size("num_hidden_layers")
    types = c.layer_types(layers, lambda i: FULL if i % 2 else SLIDING)
    attention = gqa(c, bias=c.flag("attention_bias"), sinks=True, window=windows(c, types))
    return decoder(c, block(attention, _gpt_oss_experts(c), hidden=hidden), **place)


def openai_privacy_filter(c: Settings) -> Model:
    """OpenAI's privacy filter: gpt-oss as an encoder, with a head that labels each token."""
    hidden, layers = c.size("hidden_size"), c.size("num_hidden_layers")
    attention = gqa(c, bias=c.flag("attention_bias"), sinks=True, window=[c.size("sliding_window") + 1] * layers)
    labels = c.mapping("id2label")
    count = len(labels) or c.size("num_labels", 33)
    model = decoder(c, block(attention, _gpt_oss_experts(c), hidden=hidden), head=False, float32=("sinks",))
    head = Weights()
    head.linear("score", count, hidden, bias=True, role="embedding")
    return replace(model, tensors=model.tensors + tuple(head.specs))


def phimoe(c: Settings, **place: Any) -> Model:
    """Phi-3.5 MoE: LayerNorm, a router that is a linear map."""
    hidden, layers = c.size("hidden_size"), c.size("num_hidden_layers")
    attention = gqa(c, bias=c.flag("attention_bias"), window=[c.raw("sliding_window")] * layers)
    experts = moe(c, experts="num_local_experts", width="intermediate_size", router="router", router_is_linear=True)
    layer = block(attention, experts, hidden=hidden, norm_bias=True)
    return decoder(c, layer, norm_bias=True, head_bias=c.flag("lm_head_bias"), **place)


def glm4_moe(c: Settings, **place: Any) -> Model:
    """GLM-4.5: grouped-query attention around DeepSeek's experts."""
    hidden, layers = c.size("hidden_size"), c.size("num_hidden_layers")
    qk_norm: Literal["head", "none"] = "head" if c.flag("use_qk_norm") else "none"
    attention = gqa(c, bias=c.flag("attention_bias"), bias_out=False, qk_norm=qk_norm)
    layer = block(attention, _deepseek_experts(c), dense=mlp(c), sparse=first_dense(c, layers), hidden=hidden)
    return decoder(c, layer, **place)


def dots1(c: Settings, **place: Any) -> Model:
    """dots.llm1: a norm per head, DeepSeek's experts."""
    hidden, layers = c.size("hidden_size"), c.size("num_hidden_layers")
    late = c.raw("max_window_layers", 0)
    types = c.layer_types(layers, lambda i: SLIDING if c.raw("sliding_window") is not None and i >= late else FULL)
    attention = gqa(c, bias=c.flag("attention_bias"), qk_norm="head", window=windows(c, types))
    layer = block(attention, _deepseek_experts(c), dense=mlp(c), sparse=first_dense(c, layers), hidden=hidden)
    return decoder(c, layer, **place)


def solar_open(c: Settings, **place: Any) -> Model:
    """Solar Open: grouped-query attention, DeepSeek's experts in every layer."""
    attention = gqa(c, bias=c.flag("attention_bias"), bias_out=False)
    return decoder(c, block(attention, _deepseek_experts(c), hidden=c.size("hidden_size")), **place)


def ernie4_5_moe(c: Settings, **place: Any) -> Model:
    """ERNIE 4.5: experts between two layer numbers, a bias for balancing that is a parameter."""
    hidden, layers = c.size("hidden_size"), c.size("num_hidden_layers")
    first, last, step = c.count("moe_layer_start_index"), c.raw("moe_layer_end_index"), c.size("moe_layer_interval")
    last = layers - 1 if last == -1 else last
    sparse = [(i + 1) % step == 0 and first <= i <= last for i in range(layers)]
    width, shared = c.size("moe_intermediate_size"), c.count("moe_num_shared_experts")
    experts = moe(
        c,
        experts="moe_num_experts",
        top_k="moe_k",
        width=width,
        shared=mlp(c, width * shared, module="shared_experts", bias=c.flag("use_bias")) if shared else None,
        extra=lambda w, e: w.parameter("gate.moe_statics.e_score_correction_bias", 1, e.count, role="router"),
    )
    dense = mlp(c, bias=c.flag("use_bias"))
    layer = block(gqa(c, bias=c.flag("use_bias")), experts, dense=dense, sparse=sparse, hidden=hidden)
    return decoder(c, layer, head_bias=c.flag("use_bias"), float32=("gate.weight", "moe_statics"), **place)


def exaone_moe(c: Settings, **place: Any) -> Model:
    """EXAONE MoE: a norm per head, dense first layers, shared experts."""
    hidden, layers = c.size("hidden_size"), c.size("num_hidden_layers")
    pattern = c.raw("sliding_window_pattern", 0) if c.raw("sliding_window") is not None else 0

    def sliding(i: int) -> str:
        return SLIDING if isinstance(pattern, int) and pattern and (i + 1) % pattern else FULL

    attention = gqa(c, qk_norm="head", window=windows(c, c.layer_types(layers, sliding)))
    width = c.size("moe_intermediate_size")
    experts = moe(c, experts="num_experts", width=width, shared=shared_mlp(c, width * c.count("num_shared_experts")))
    sparse = sparse_types(c, layers, lambda i: i >= c.count("first_k_dense_replace"))
    return decoder(c, block(attention, experts, dense=mlp(c), sparse=sparse, hidden=hidden), **place)


def hunyuan_v1_moe(c: Settings, **place: Any) -> Model:
    """Hunyuan A13B: a shared MLP as wide as one expert; experts per token may differ by layer."""
    hidden, layers = c.size("hidden_size"), c.size("num_hidden_layers")
    attention = gqa(
        c,
        bias=c.flag("attention_bias"),
        qk_norm="head",
        norm_names=("query_layernorm", "key_layernorm"),
    )

    def by_layer(key: str) -> int | list[int]:
        return c.sequence(key, layers, ()) if isinstance(c.raw(key), list) else c.size(key)

    experts = moe(
        c,
        experts=by_layer("num_experts"),
        top_k=by_layer("moe_topk"),
        width="intermediate_size",
        router="gate.wg",
        router_is_linear=True,
        shared=mlp(c, module="shared_mlp"),
    )
    return decoder(c, block(attention, experts, hidden=hidden), **place)


def hy_v3(c: Settings, **place: Any) -> Model:
    """Hunyuan V3: a norm per head, a dense first layer, shared experts."""
    hidden, layers = c.size("hidden_size"), c.size("num_hidden_layers")
    attention = gqa(c, bias=c.flag("attention_bias"), qk_norm="head")
    width, bias = c.size("moe_intermediate_size"), c.flag("mlp_bias")
    # With no shared experts transformers builds one as wide as a dense MLP.
    shared_width = width * c.count("num_shared_experts") or c.size("intermediate_size")
    shared = mlp(c, shared_width, module="shared_experts", bias=bias)
    experts = moe(c, experts="num_experts", width=width, shared=shared)
    sparse = sparse_types(c, layers, lambda i: i >= 1)
    return decoder(c, block(attention, experts, dense=mlp(c, bias=bias), sparse=sparse, hidden=hidden), **place)


def cohere2_moe(c: Settings, **place: Any) -> Model:
    """Command A MoE: one norm a layer, dense first layers of their own width."""
    hidden, layers = c.size("hidden_size"), c.size("num_hidden_layers")
    dense = c.count("first_k_dense_replace")

    def sliding(i: int) -> str:
        key, place_in = (
            ("prefix_dense_sliding_window_pattern", i) if i < dense else ("sliding_window_pattern", i - dense)
        )
        return SLIDING if (place_in + 1) % c.size(key) else FULL

    attention = gqa(c, bias=c.flag("attention_bias"), window=windows(c, c.layer_types(layers, sliding)))
    width, shared = c.size("intermediate_size"), c.count("num_shared_experts")
    experts = moe(c, experts="num_experts", width=width, shared=shared_mlp(c, width * shared) if shared else None)
    sparse = sparse_types(c, layers, lambda i: i >= dense)
    first = mlp(c, c.count("prefix_dense_intermediate_size")) if not all(sparse) else None
    layer = block(attention, experts, dense=first, sparse=sparse, norms=("input_layernorm",), hidden=hidden)
    return decoder(c, layer, **place)


def mellum(c: Settings, **place: Any) -> Model:
    """Mellum: Qwen3 MoE with sliding windows."""
    hidden, layers = c.size("hidden_size"), c.size("num_hidden_layers")
    types = c.layer_types(layers, lambda _: FULL)
    attention = gqa(c, bias=c.flag("attention_bias"), qk_norm="head", window=windows(c, types))
    experts = moe(c, experts="num_local_experts", width="moe_intermediate_size")
    sparse = sparse_types(c, layers, lambda _: True)
    return decoder(c, block(attention, experts, dense=mlp(c), sparse=sparse, hidden=hidden), **place)


def aria_text(c: Settings, **place: Any) -> Model:
    """Aria's decoder: experts stored transposed, shared experts."""
    width = c.size("intermediate_size")
    experts = moe(
        c,
        experts="moe_num_experts",
        top_k="moe_topk",
        width=width,
        router="router",
        transposed=True,
        shared=mlp(c, width * c.count("moe_num_shared_experts"), module="shared_experts", bias=c.flag("mlp_bias")),
    )
    return decoder(c, block(gqa(c, bias=c.flag("attention_bias")), experts, hidden=c.size("hidden_size")), **place)


def _gpt_oss_experts(c: Settings) -> Part[Experts]:
    return moe(
        c,
        experts="num_local_experts",
        width="intermediate_size",
        router="router",
        router_bias=True,
        transposed=True,
        bias=True,
    )


def _deepseek_experts(c: Settings) -> Part[Experts]:
    width = c.size("moe_intermediate_size")
    shared = shared_mlp(c, width * c.count("n_shared_experts"))
    return moe(c, experts="n_routed_experts", width=width, shared=shared)


ARCHITECTURES: dict[str, Callable[[Settings], Model]] = {
    "aria_text": aria_text,
    "cohere2_moe": cohere2_moe,
    "dots1": dots1,
    "ernie4_5_moe": ernie4_5_moe,
    "exaone_moe": exaone_moe,
    "flex_olmo": flex_olmo,
    "glm4_moe": glm4_moe,
    "gpt_oss": gpt_oss,
    "hunyuan_v1_moe": hunyuan_v1_moe,
    "hy_v3": hy_v3,
    "mellum": mellum,
    "minimax_m2": minimax_m2,
    "mixtral": mixtral,
    "olmoe": olmoe,
    "openai_privacy_filter": openai_privacy_filter,
    "phimoe": phimoe,
    "qwen2_moe": qwen2_moe,
    "qwen3_moe": qwen3_moe,
    "solar_open": solar_open,
}
