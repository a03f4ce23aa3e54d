"""Architectures of latent attention that differ by layer or mix it with other kinds: DeepSeek V4, GLM 5, Mistral Large 4, dots 3."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from moe_memprof.architectures.base import Attention, Model
from moe_memprof.architectures.blocks import Part, block, mlp, moe, shared_mlp, sparse_types
from moe_memprof.architectures.decoder import decoder
from moe_memprof.architectures.mla import (
    deepseek_experts,
    given_sparse,
    hyper_connections,
    hyper_head,
    indexer,
    indexer_types,
    latent_attention,
    layer_of,
)
from moe_memprof.architectures.settings import Settings
from moe_memprof.architectures.state import kimi_delta
from moe_memprof.architectures.weights import Weights

SLIDING, FULL, INDEXED, LINEAR = "sliding_attention", "full_attention", "indexed_attention", "linear_attention"
CSA, HCA = "compressed_sparse_attention", "heavily_compressed_attention"


def deepseek_v4(c: Settings, **place: Any) -> Model:
    """DeepSeek V4: one latent that is key and value, compressed over tokens in two ways; several residual streams."""
    hidden, layers = c.size("hidden_size"), c.size("num_hidden_layers")
    heads, dim, rank = c.size("num_attention_heads"), c.size("head_dim"), c.size("q_lora_rank")
    groups, out_rank = c.size("o_groups"), c.size("o_lora_rank")
    types = _v4_types(c, layers)
    rates = {CSA: 4, HCA: 128} | (c.raw("compress_rates") or {})
    for kind, key in ((CSA, "compress_rate_csa"), (HCA, "compress_rate_hca")):
        rates[kind] = c.size(key, rates[kind])

    def compressor(w: Weights, rate: int, width: int, norm: int) -> None:
        w.parameter("position_bias", rate, width)
        w.linear("kv_proj", width, hidden)
        w.linear("gate_proj", width, hidden)
        w.norm("kv_norm", norm)

    def attention(w: Weights, i: int) -> Attention:
        w = w.at("self_attn", role="attention")
        w.parameter("sinks", heads)
        w.linear("q_a_proj", rank, hidden)
        w.norm("q_a_norm", rank)
        w.linear("q_b_proj", heads * dim, rank)
        w.linear("kv_proj", dim, hidden)
        w.norm("kv_norm", dim)
        w.linear("o_a_proj", groups * out_rank, heads * dim // groups)
        w.linear("o_b_proj", hidden, groups * out_rank)
        here = w.at("compressor")
        if types[i] == HCA:
            compressor(here, rates[HCA], dim, dim)
        elif types[i] == CSA:
            compressor(here, rates[CSA], 2 * dim, dim)
            index, index_heads, index_dim = here.at("indexer"), c.size("index_n_heads"), c.size("index_head_dim")
            compressor(index, rates[CSA], 2 * index_dim, index_dim)
            index.linear("q_b_proj", index_heads * index_dim, rank)
            index.linear("scorer.weights_proj", index_heads, hidden)
        return Attention(
            heads=heads,
            kv_heads=1,
            head_dim=dim,
            value_dim=dim,
            query_rank=rank,
            sinks=True,
            window=c.raw("sliding_window"),
        )

    width = c.size("moe_intermediate_size")
    experts = moe(
        c,
        experts="n_routed_experts",
        width=width,
        shared=mlp(c, width, module="shared_experts", bias=c.flag("mlp_bias")),
    )
    streams = c.size("hc_mult")
    layer = block(
        attention,
        experts,
        hidden=hidden,
        extra=lambda w, _: hyper_connections(w, c, ("attn_hc", "ffn_hc"), (2 + streams) * streams, 3),
    )
    kept = ("attn_hc", "ffn_hc", "hc_head", "sinks", "position_bias", "norm")
    return decoder(c, layer, after=lambda w: hyper_head(w, c), float32=kept, **place)


def _v4_types(c: Settings, layers: int) -> list[str]:
    """`layer_types`, which transformers cuts to the layers there are, or the ratios of DeepSeek's own config, or its default."""
    given = c.raw("layer_types")
    ratios = c.raw("compress_ratios")
    if given is None and ratios is not None:
        names = {0: SLIDING, 4: CSA, 128: HCA}
        if not set(ratios) <= set(names):
            raise c.wrong("compress_ratios", "a list of 0, 4 and 128")
        given = [names[ratio] for ratio in ratios]
    if given is None:
        return [HCA if i < 2 or i % 2 == 0 else CSA for i in range(layers)]
    if not isinstance(given, list) or len(given) < layers or not set(given) <= {SLIDING, CSA, HCA}:
        raise c.wrong("layer_types", f"a list of {SLIDING}, {CSA} and {HCA} for each of the {layers} layers")
    return given[:layers]


def dots3_note_text(c: Settings, **place: Any) -> Model:
    """Dots 3: sliding layers have ranks and heads of their own; full ones an indexer."""
    layers = c.size("num_hidden_layers")
    # null leaves the types of layers as they are; transformers does the same where each layer has its own values.
    use_dsa = c.given.get("use_dsa", None if "per_layer_config" in c.given else True)
    slides = c.flag("use_sliding_window", True)
    full = FULL if use_dsa is False else INDEXED
    types = c.layer_types(layers, lambda i: full if not slides or i < 2 or i % 4 == 1 else SLIDING)
    if use_dsa is not None:
        old, new = (FULL, INDEXED) if use_dsa else (INDEXED, FULL)
        types = [new if kind == old else kind for kind in types]
    sliding = {
        "num_attention_heads": 64,
        "q_lora_rank": 1024,
        "kv_lora_rank": 1024,
        "head_dim": 256,
        "qk_nope_head_dim": 192,
        "v_head_dim": 128,
    }
    sliding = {key: c.size(f"swa_{key}", value) for key, value in sliding.items()}
    sliding["qk_rope_head_dim"] = c.size("swa_qk_rope_head_dim", sliding["head_dim"] - sliding["qk_nope_head_dim"])
    hidden = c.size("hidden_size")
    of_layer = c.per_layer(layers) or [c.with_values(sliding) if kind == SLIDING else c for kind in types]

    def with_indexer(own: Settings, indexed: bool) -> Callable[[Weights, Attention, int], None]:
        def extra(w: Weights, a: Attention, _: int) -> None:
            w.norm("k_rope_only_layernorm", a.rope_dim)
            w.linear("g_proj", a.heads, hidden)
            if indexed:
                indexer(w, own, a.query_rank)

        return extra

    attention = [
        latent_attention(
            own,
            window=own.raw("sliding_window", c.size("sliding_window_size", 512)) if kind == SLIDING else None,
            extra=with_indexer(own, kind == INDEXED),
        )
        for own, kind in zip(of_layer, types, strict=True)
    ]
    width = c.size("moe_shared_expert_intermediate_size", c.size("shared_experts_intermediate_size"))
    shared = shared_mlp(c, width * c.count("n_shared_experts"))
    experts = moe(c, experts="n_routed_experts", width="moe_intermediate_size", shared=shared)
    layer = block(attention, experts, dense=mlp(c), sparse=given_sparse(c, layers), hidden=hidden)
    return decoder(c, layer, **place)


def glm5_next_text(c: Settings, **place: Any) -> Model:
    """GLM 5: Kimi's delta attention, latent attention with an indexer in every fourth layer, several residual streams."""
    layers, hidden = c.size("num_hidden_layers"), c.size("hidden_size")
    linear = c.mapping("linear_attn_config")
    names = {
        "linear_head_dim": "head_dim",
        "linear_num_heads": "num_heads",
        "linear_conv_kernel_dim": "short_conv_kernel_size",
    }
    c = c.with_values({key: linear[old] for key, old in names.items() if old in linear})
    delta = kimi_delta(
        c, heads=c.size("linear_num_heads"), dim=c.size("linear_head_dim"), kernel=c.size("linear_conv_kernel_dim")
    )
    own = indexer_types(c, layers)

    def extra(w: Weights, a: Attention, i: int) -> None:
        if own[i] != "shared":
            indexer(w, c, a.query_rank)
            w.parameter("indexer.index_kpool_compress_ape", c.size("index_kpool"), c.size("index_head_dim"))
            w.parameter("indexer.index_kpool_compress_gate", c.size("index_head_dim"), hidden)

    full = latent_attention(c, query_always_compressed=True, rope=bool(c.count("qk_rope_head_dim")), extra=extra)
    types = c.layer_types(layers, lambda i: LINEAR if i % 4 != 3 else INDEXED)
    streams = c.size("hc_mult")
    layer = block(
        [delta if kind == LINEAR else full for kind in types],
        deepseek_experts(c),
        dense=mlp(c),
        sparse=sparse_types(c, layers, lambda i: i >= 3),
        hidden=hidden,
        extra=lambda w, _: hyper_connections(w, c, ("attn_hc", "ffn_hc"), (2 + streams) * streams, 3),
    )
    kept = ("conv1d", "dt_bias", "A_log", "attn_hc.base", "attn_hc.scale", "ffn_hc.base", "ffn_hc.scale")
    return decoder(c, layer, float32=kept, **place)


def mistral_large4_text(c: Settings, **place: Any) -> Model:
    """Mistral Large 4: no rotation in every fourth layer, keys and values that later layers borrow, an indexer."""
    if c.raw("num_experts") is not None:
        c = c.with_values({"n_routed_experts": c.size("num_experts")})
    layers, hidden, heads = c.size("num_hidden_layers"), c.size("hidden_size"), c.size("num_attention_heads")
    every = c.size("no_rope_layer_interval", 4)
    rotated = c.sequence("no_rope_layers", layers, lambda i: int((i + 1) % every != 0))
    source = c.sequence("kv_source_layers", layers, lambda i: i)
    own = indexer_types(c, layers)
    plain, rope, value, rank = (
        c.size("qk_nope_head_dim"),
        c.size("qk_rope_head_dim"),
        c.size("v_head_dim"),
        c.size("kv_lora_rank"),
    )
    bias = c.flag("attention_bias")

    def softmax_scaling(w: Weights, size: int) -> None:
        w.parameter("softmax_scaling.scale", size)
        w.parameter("softmax_scaling.bias", size)

    def attention(w: Weights, i: int) -> Attention:
        rope_here = rope if rotated[i] else 0
        w = w.at("self_attn", role="attention")
        if source[i] == i:
            w.linear("kv_a_proj_with_mqa", rank + rope_here, hidden, bias=bias)
            w.norm("kv_a_layernorm", rank)
        w.linear("kv_b_proj", heads * (plain + rope - rope_here + value), rank)
        w.linear("o_proj", hidden, heads * value, bias=bias)
        if own[i] != "shared":
            indexer(w, c, hidden)
            w.norm("indexer.q_input_norm", hidden, bias=True)
            softmax_scaling(w.at("indexer"), c.size("index_n_heads"))
        w.linear("q_proj", heads * (plain + rope), hidden)
        softmax_scaling(w, heads)
        return Attention(
            heads=heads,
            kv_heads=heads,
            head_dim=plain + rope,
            value_dim=value,
            kv_rank=rank,
            rope_dim=rope_here,
            bias=bias,
        )

    sparse = sparse_types(c, layers, lambda i: i >= c.count("first_k_dense_replace"))
    mixer: Part[Attention] = attention
    return decoder(c, layer_of(c, mixer, sparse), float32=("mlp.gate.weight",), **place)


ARCHITECTURES: dict[str, Callable[[Settings], Model]] = {
    "deepseek_v4": deepseek_v4,
    "dots3_note": lambda c: dots3_note_text(
        c.sub("text_config"), tied=c.sub("text_config").flag("tie_word_embeddings")
    ),
    "dots3_note_text": dots3_note_text,
    "glm5_next_text": lambda c: glm5_next_text(c, root="", head=False),
    "mistral_large4_text": lambda c: mistral_large4_text(c, root="", head=False),
}
