"""The text decoders of models that also see or hear; their towers stand in `towers.py`."""

from __future__ import annotations

from collections.abc import Callable
from math import isqrt
from typing import Any

from moe_memprof.architectures.base import Attention, Experts, Model
from moe_memprof.architectures.blocks import (
    Part,
    block,
    check_top_k,
    first_dense,
    fused_experts,
    gqa,
    merged_mlp,
    mlp,
    moe,
    sparse_steps,
    sparse_types,
    windows,
)
from moe_memprof.architectures.decoder import decoder
from moe_memprof.architectures.mla import deepseek_experts
from moe_memprof.architectures.settings import Settings
from moe_memprof.architectures.state import gated_delta_net
from moe_memprof.architectures.weights import Weights

SLIDING, FULL, INDEXED, LINEAR = "sliding_attention", "full_attention", "indexed_attention", "linear_attention"


def qwen3_vl_moe_text(c: Settings, **place: Any) -> Model:
    """Qwen3-VL and the thinker of Qwen3-Omni: Qwen3 MoE."""
    layers = c.size("num_hidden_layers")
    attention = gqa(c, bias=c.flag("attention_bias"), qk_norm="head")
    experts = moe(c, experts="num_experts", width="moe_intermediate_size")
    sparse = sparse_steps(c, layers)
    return decoder(c, block(attention, experts, dense=mlp(c), sparse=sparse, hidden=c.size("hidden_size")), **place)


def ernie4_5_vl_moe_text(c: Settings, **place: Any) -> Model:
    """ERNIE 4.5 VL: experts for text and, in the same layer, smaller ones for images; shared experts for both.

    The layer's `Experts` are those for text; the others have as many and the same top-k.
    """
    hidden, layers, bias = c.size("hidden_size"), c.size("num_hidden_layers"), c.flag("use_bias")
    widths = c.raw("moe_intermediate_size", [1536, 512])
    if not isinstance(widths, list) or len(widths) != 2:
        raise c.wrong("moe_intermediate_size", "a list of two widths, for text and for images")
    count, top_k, shared = c.size("moe_num_experts"), c.size("moe_k"), c.count("moe_num_shared_experts")
    check_top_k(c, top_k, count)
    shared_width = widths[0] * shared

    def experts(w: Weights, _: int) -> Experts:
        for kind, width in zip(("text_moe", "vision_moe"), widths, strict=True):
            here = w.at(f"mlp.{kind}")
            here.parameter("gate.weight", count, hidden, role="router")
            here.parameter("gate.moe_statics.e_score_correction_bias", 1, count, role="router")
            fused_experts(here.at("experts", role="routed expert"), count, hidden, width)
        if shared:
            inner = w.at("mlp.shared_experts", role="shared expert")
            inner.linear("gate_proj", shared_width, hidden, bias=bias)
            inner.linear("up_proj", shared_width, hidden, bias=bias)
            inner.linear("down_proj", hidden, shared_width, bias=bias)
        return Experts(count=count, top_k=top_k, intermediate=widths[0], shared_intermediate=shared_width)

    sparse = sparse_types(c, layers, lambda i: i >= 1)
    layer = block(gqa(c, bias=bias), experts, dense=mlp(c, bias=bias), sparse=sparse, hidden=hidden)
    return decoder(c, layer, float32=("gate.weight", "moe_statics"), **place)


def glm4v_moe_text(c: Settings, **place: Any) -> Model:
    """GLM-4.5V: GLM-4.5 without norms on queries and keys."""
    layers = c.size("num_hidden_layers")
    attention = gqa(c, bias=c.flag("attention_bias"), bias_out=False)
    sparse = first_dense(c, layers)
    layer = block(attention, deepseek_experts(c), dense=mlp(c), sparse=sparse, hidden=c.size("hidden_size"))
    return decoder(c, layer, **place)


def ocr_text(c: Settings, **place: Any) -> Model:
    """DeepSeek-OCR 2 and Unlimited-OCR: DeepSeek's experts around ordinary attention."""
    layers, hidden, bias = c.size("num_hidden_layers"), c.size("hidden_size"), c.flag("mlp_bias")
    first = c.count("first_k_dense_replace", 1)
    sparse = sparse_types(c, layers, lambda i: i >= first)
    attention = gqa(c, bias=c.flag("attention_bias"), head_dim=hidden // c.size("num_attention_heads"))
    experts, dense = deepseek_experts(c, bias=bias), mlp(c, bias=bias)
    return decoder(c, block(attention, experts, dense=dense, sparse=sparse, hidden=hidden), **place)


def minimax_m3_vl_text(c: Settings, **place: Any) -> Model:
    """MiniMax M3: a norm per head, gate and up of the dense and shared MLPs in one map, an indexer in sparse layers."""
    layers, hidden = c.size("num_hidden_layers"), c.size("hidden_size")
    sparse_attention = c.mapping("sparse_attention_config")
    old = {"index_n_heads": "sparse_num_index_heads", "index_head_dim": "sparse_index_dim"}
    c = c.with_values({key: sparse_attention[name] for key, name in old.items() if name in sparse_attention})
    often = c.with_values(sparse_attention).sequence("sparse_attention_freq", layers, [0] * layers)
    types = c.layer_types(layers, lambda i: "minimax_m3_sparse" if often[i] else FULL)
    heads, dim = c.size("index_n_heads"), c.size("index_head_dim")

    def indexer(w: Weights, _: Attention) -> None:
        w = w.at("indexer")
        w.linear("q_proj", heads * dim, hidden)
        w.linear("k_proj", dim, hidden)
        w.norm("q_norm", dim)
        w.norm("k_norm", dim)

    plain, indexed = gqa(c, qk_norm="head"), gqa(c, qk_norm="head", extra=indexer)
    names = ("gate_up_proj", "down_proj")
    experts = moe(
        c,
        experts="num_local_experts",
        width="intermediate_size",
        shared=merged_mlp(c, c.size("shared_intermediate_size"), module="shared_experts", names=names),
    )
    every = c.sequence("moe_layer_freq", layers, [1] * layers)
    layer = block(
        [plain if kind == FULL else indexed for kind in types],
        experts,
        dense=merged_mlp(c, c.size("dense_intermediate_size"), module="mlp", names=names),
        sparse=sparse_types(c, layers, lambda i: bool(every[i])),
        hidden=hidden,
    )
    return decoder(c, layer, **place)


def muse_spark_text(c: Settings, **place: Any) -> Model:
    """Muse Spark: experts in a narrower space, gates on the residual stream, a gate on the attention's output."""
    layers, hidden, narrow = c.size("num_hidden_layers"), c.size("hidden_size"), c.size("moe_hidden_size")
    heads = c.size("num_attention_heads")
    types = c.layer_types(layers, lambda i: SLIDING if (layers - 1 - i) % 4 else FULL)
    attention = gqa(
        c,
        bias=c.flag("attention_bias"),
        gate=("gate_proj", heads * c.size("head_dim")),
        window=windows(c, types),
    )
    count, top_k, width = c.size("num_local_experts"), c.size("num_experts_per_tok"), c.size("moe_intermediate_size")
    check_top_k(c, top_k, count)

    def experts(w: Weights, _: int) -> Experts:
        w = w.at("mlp")
        w.parameter("gate.weight", count, hidden, role="router")
        w.linear("pre_expert_proj", narrow, hidden, role="shared expert")
        w.norm("pre_expert_norm", narrow)
        fused_experts(w.at("experts", role="routed expert"), count, narrow, width)
        w.norm("experts.post_expert_norm", narrow)
        w.linear("post_expert_proj", hidden, narrow, role="shared expert")
        return Experts(count=count, top_k=top_k, intermediate=width)

    def gates(w: Weights, _: int) -> None:
        w.parameter("post_attention_residual_gate.gate", hidden, role="other")
        w.parameter("post_feedforward_residual_gate.gate", hidden, role="other")

    layer = block(
        attention,
        experts,
        dense=mlp(c),
        sparse=sparse_types(c, layers, lambda _: True),
        norms=("input_layernorm", "pre_feedforward_layernorm", "post_feedforward_layernorm"),
        hidden=hidden,
        extra=gates,
    )
    kept = ("post_attention_residual_gate", "post_feedforward_residual_gate", "mlp.gate.weight")
    return decoder(c, layer, float32=kept, **place)


def qwen4_exp_text(c: Settings, **place: Any) -> Model:
    """Qwen4: delta nets and indexed attention, several residual streams, embeddings of n-grams in some layers."""
    layers, hidden = c.size("num_hidden_layers"), c.size("hidden_size")
    every = c.size("full_attention_interval", 4)
    types = c.layer_types(layers, lambda i: LINEAR if (i + 1) % every else INDEXED)
    streams, low = c.size("hc_count"), c.size("hc_lowrank")
    wide = streams * hidden
    n_gram_layers = sorted(set(c.raw("ple_layer_ids", [])))

    def indexer(w: Weights, _: Attention) -> None:
        dim = c.size("indexer_head_dim")
        w = w.at("indexer")
        w.linear("index_qk_proj", (c.size("indexer_n_heads") + c.size("indexer_kv_heads")) * dim, hidden)
        w.norm("q_layernorm", dim)
        w.norm("k_layernorm", dim)

    full = gqa(c, bias=c.flag("attention_bias"), qk_norm="head", query_holds_gate=True, extra=indexer)
    linear = gated_delta_net(c, split=True)
    shared = mlp(c, "shared_expert_intermediate_size", module="shared_expert")
    experts = moe(c, experts="num_experts", width="moe_intermediate_size", shared=shared, shared_gate=True)

    def streams_of(w: Weights, name: str, combine: bool = True) -> None:
        w = w.at(name, role="other")
        w.norm("hc_norm", wide)
        w.linear("input_mix_weight_down", low, wide)
        w.linear("input_mix_weight_up", wide, low)
        if combine:
            w.linear("block_inject_weight", streams, wide)

    def extra(w: Weights, i: int) -> None:
        streams_of(w, "attn_hyper_connection")
        streams_of(w, "mlp_hyper_connection")
        if i + 1 not in n_gram_layers:
            return
        w = w.at("ple", role="embedding")
        width = c.size("ple_embed_dim", hidden)
        heads = (c.size("ngram_size") - 1) * c.size("heads_per_ngram")
        rows = n_gram_rows(c, n_gram_layers.index(i + 1), heads)
        w.embedding("ple_embedding.ngram_embedding", rows, width // heads)
        w.linear("key_proj", wide, width, role="other")
        w.linear("value_proj", hidden, width, role="other")
        for name in ("norm_key", "norm_query", "norm_conv"):
            w.norm(name, wide)
        w.at("", role="other").conv("conv1d", wide, 1, c.size("ple_conv_kernel_size"))

    layer = block([linear if kind == LINEAR else full for kind in types], experts, norms=(), hidden=hidden, extra=extra)
    return decoder(c, layer, norm=None, after=lambda w: streams_of(w, "hyper_connection_mixer", combine=False), **place)


def n_gram_rows(c: Settings, index: int, heads: int) -> int:
    """Rows of a layer's n-gram table: one prime per head, the next ones above the base, padded to a multiple."""
    prime = c.size("ngram_vocab_size_base") - 1
    total = 0
    for number in range((index + 1) * heads):
        prime += 1
        while not _is_prime(prime):
            prime += 1
        if number >= index * heads:
            total += prime
    multiple = c.size("make_ngram_vocab_size_divisible_by")
    return -(-total // multiple) * multiple


def _is_prime(value: int) -> bool:
    return value > 1 and all(value % divisor for divisor in range(2, isqrt(value) + 1))


def step3p5_text(c: Settings, **place: Any) -> Model:
    """Step 3.5: a norm per head, a gate per head or channel; sliding layers may have another number of heads."""
    hidden, extra = c.size("hidden_size"), c.count("num_nextn_predict_layers")
    layers = c.size("num_hidden_layers")
    # The lists of real configs have entries for the multi-token prediction layers at their end.
    cut = {
        key: c.raw(key)[:layers]
        for key in ("layer_types", "mlp_layer_types")
        if isinstance(c.raw(key), list) and len(c.raw(key)) == layers + extra
    }
    c = c.with_values(cut)
    types = c.layer_types(layers, lambda _: FULL)
    named = c.raw("moe_layers_enum")
    chosen = (
        {int(i) for i in (named.split(",") if isinstance(named, str) else named) if str(i).strip()}
        if named is not None
        else set(range(3, layers))
    )
    heads, dim = c.size("num_attention_heads"), c.size("head_dim")
    other = c.mapping("attention_other_setting")
    sliding_heads = c.size("num_sliding_attention_heads", other.get("num_attention_heads", heads))
    of_layer = c.per_layer(layers) or [
        c.with_values({"num_attention_heads": sliding_heads}) if kind == SLIDING else c for kind in types
    ]
    per_head = c.raw("gating", True) in (True, "per-head")

    def attention(own: Settings, window: int | None) -> Part[Attention]:
        count = own.size("num_attention_heads")
        return gqa(
            own,
            bias=own.flag("attention_bias"),
            qk_norm="head",
            gate=("g_proj", count if per_head else count * dim),
            window=[window] * layers,
        )

    bias = c.flag("mlp_bias")
    shared = mlp(c, "share_expert_dim", module="shared_experts", bias=bias)
    experts = moe(c, experts="n_routed_experts", width="moe_intermediate_size", shared=shared)
    layer = block(
        [attention(own, window) for own, window in zip(of_layer, windows(c, types), strict=True)],
        experts,
        dense=mlp(c, bias=bias),
        sparse=sparse_types(c, layers, lambda i: i in chosen),
        hidden=hidden,
    )
    return decoder(c, layer, **place)


def qwen3_omni_moe_talker_text(c: Settings) -> Model:
    """The talker's decoder alone; it embeds audio codes."""
    attention = gqa(c, bias=c.flag("attention_bias"), qk_norm="head")
    shared = mlp(c, "shared_expert_intermediate_size", module="shared_expert")
    experts = moe(c, experts="num_experts", width="moe_intermediate_size", shared=shared, shared_gate=True)
    layer = block(attention, experts, hidden=c.size("hidden_size"))
    return decoder(c, layer, root="", head=False, embedding="codec_embedding")


def bare(describe: Callable[..., Model]) -> Callable[[Settings], Model]:
    """The decoder without prefix and head, which is all that transformers builds from such a config."""
    return lambda c: describe(c, root="", head=False)


ARCHITECTURES: dict[str, Callable[[Settings], Model]] = {
    "deepseek_ocr2_text": bare(ocr_text),
    "ernie4_5_vl_moe_text": bare(ernie4_5_vl_moe_text),
    "glm4v_moe_text": bare(glm4v_moe_text),
    "minimax_m3_vl_text": minimax_m3_vl_text,
    "muse_spark_text": bare(muse_spark_text),
    "qwen3_omni_moe_talker_text": qwen3_omni_moe_talker_text,
    "qwen3_omni_moe_text": bare(qwen3_vl_moe_text),
    "qwen3_vl_moe_text": bare(qwen3_vl_moe_text),
    "qwen4_exp": lambda c: qwen4_exp_text(c.sub("text_config")),
    "qwen4_exp_text": qwen4_exp_text,
    "step3p5": bare(step3p5_text),
    "unlimited_ocr_text": bare(ocr_text),
}
