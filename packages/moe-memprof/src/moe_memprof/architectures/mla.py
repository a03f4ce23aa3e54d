"""Architectures of multi-head latent attention: DeepSeek and those after it.

Keys and values are compressed to `kv_lora_rank` numbers a token, the query to `q_lora_rank` where that is set; `qk_rope_head_dim` of a
head's size is rotated and shared by all heads.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from moe_memprof.architectures.base import Attention, Experts, Layer, Model
from moe_memprof.architectures.blocks import PRE_NORM, Part, block, first_dense, mlp, moe, sparse_types
from moe_memprof.architectures.decoder import decoder
from moe_memprof.architectures.settings import Settings
from moe_memprof.architectures.weights import Weights


def latent_attention(
    c: Settings,
    *,
    module: str = "self_attn",
    query_always_compressed: bool = False,
    query_never_compressed: bool = False,
    rope: bool = True,
    head_dim: int | None = None,
    sinks: bool = False,
    window: int | None = None,
    gated: bool = False,
    query_weight: Callable[[Weights, Attention], None] | None = None,
    extra: Callable[[Weights, Attention, int], None] | None = None,
) -> Part[Attention]:
    """The projections of multi-head latent attention. `query_weight` replaces `q_b_proj`."""
    hidden, heads = c.size("hidden_size"), c.size("num_attention_heads")
    rank, rope_dim = c.size("kv_lora_rank"), c.size("qk_rope_head_dim") if rope else 0
    plain, value = c.size("qk_nope_head_dim"), c.size("v_head_dim")
    head_dim = head_dim or plain + rope_dim
    compressed = query_always_compressed or c.raw("q_lora_rank") is not None
    query_rank = c.size("q_lora_rank") if compressed and not query_never_compressed else 0
    bias = c.flag("attention_bias")
    a = Attention(
        heads=heads,
        kv_heads=heads,
        head_dim=head_dim,
        value_dim=value,
        query_rank=query_rank,
        kv_rank=rank,
        rope_dim=rope_dim,
        bias=bias,
        sinks=sinks,
        window=window,
        gated=gated,
    )

    def write(w: Weights, i: int) -> Attention:
        w = w.at(module, role="attention")
        if sinks:
            w.parameter("sinks", heads)
        if query_rank:
            w.linear("q_a_proj", query_rank, hidden, bias=bias)
            w.norm("q_a_layernorm", query_rank)
            if query_weight is None:
                w.linear("q_b_proj", heads * a.head_dim, query_rank)
            else:
                query_weight(w, a)
        else:
            w.linear("q_proj", heads * a.head_dim, hidden)
        w.linear("kv_a_proj_with_mqa", rank + rope_dim, hidden, bias=bias)
        w.norm("kv_a_layernorm", rank)
        w.linear("kv_b_proj", heads * (plain + value), rank)
        w.linear("o_proj", hidden, heads * value, bias=bias)
        if extra is not None:
            extra(w, a, i)
        return a

    return write


def indexer(w: Weights, c: Settings, query_width: int) -> None:
    """The small attention that picks which tokens the large one sees (DeepSeek sparse attention)."""
    hidden, heads, dim = c.size("hidden_size"), c.size("index_n_heads"), c.size("index_head_dim")
    w = w.at("indexer")
    w.linear("wq_b", heads * dim, query_width)
    w.linear("wk", dim, hidden)
    w.norm("k_norm", dim, bias=True)
    w.linear("weights_proj", heads, hidden)


def hyper_connections(w: Weights, c: Settings, names: Sequence[str], rows: int, scales: int) -> None:
    """Several residual streams mixed by small learned maps, one set before each sublayer."""
    streams = c.size("hc_mult")
    for name in names:
        here = w.at(name, role="other")
        here.parameter("fn", rows, streams * c.size("hidden_size"))
        here.parameter("base", rows)
        here.parameter("scale", scales)


def hyper_head(w: Weights, c: Settings) -> None:
    """What joins the residual streams after the last layer."""
    streams = c.size("hc_mult")
    w = w.at("hc_head", role="other")
    w.parameter("hc_fn", streams, streams * c.size("hidden_size"))
    w.parameter("hc_base", streams)
    w.parameter("hc_scale", 1)


def indexer_types(c: Settings, layers: int) -> list[str]:
    """Which layers have an indexer of their own (`full`) and which use the one before (`shared`)."""
    pattern = c.raw("index_topk_pattern")
    if c.raw("indexer_types") is None and pattern is not None:
        found = [{"F": "full", "S": "shared"}.get(p, p) for p in pattern]
        if len(found) != layers:
            raise c.wrong("index_topk_pattern", f"one letter for each of the {layers} layers")
        return found
    every, first = max(c.count("index_topk_freq", 1), 1), c.count("index_skip_topk_offset", 2)
    return c.sequence("indexer_types", layers, lambda i: "shared" if max(i - first + 1, 0) % every else "full")


def deepseek_experts(
    c: Settings, *, bias: bool = False, extra: Callable[[Weights, Experts], None] | None = None
) -> Part[Experts]:
    """Routed experts, and shared ones as a single MLP of their widths together."""
    width = c.size("moe_intermediate_size")
    shared = mlp(c, width * c.count("n_shared_experts"), module="shared_experts", bias=bias)
    return moe(c, experts="n_routed_experts", width=width, shared=shared, extra=extra)


def layer_of(
    c: Settings,
    attention: Part[Attention],
    sparse: Sequence[bool],
    *,
    bias: bool = False,
    extra: Callable[[Weights, int], None] | None = None,
) -> Part[Layer]:
    """DeepSeek's layer around an attention."""
    experts = deepseek_experts(c, bias=bias)
    dense = mlp(c, bias=bias)
    return block(attention, experts, dense=dense, sparse=sparse, hidden=c.size("hidden_size"), extra=extra)


def deepseek_v2(c: Settings, **place: Any) -> Model:
    """DeepSeek V2."""
    bias, layers = c.flag("mlp_bias"), c.size("num_hidden_layers")
    return decoder(c, layer_of(c, latent_attention(c), first_dense(c, layers), bias=bias), **place)


def deepseek_v3(c: Settings, **place: Any) -> Model:
    """DeepSeek V3 and R1, Kimi K2; Mistral 4 has the same tensors."""
    layers = c.size("num_hidden_layers")
    return decoder(c, layer_of(c, latent_attention(c), first_dense(c, layers)), **place)


def glm4_moe_lite(c: Settings, **place: Any) -> Model:
    """GLM-4.7 Flash."""
    sparse = sparse_types(c, c.size("num_hidden_layers"), lambda i: i >= 1)
    return decoder(c, layer_of(c, latent_attention(c), sparse), **place)


def sparse_attention(c: Settings, **place: Any) -> Model:
    """deepseek_v32 and glm_moe_dsa: an indexer beside the attention, in glm's case in some layers only."""
    if c.raw("num_experts") is not None:
        c = c.with_values({"n_routed_experts": c.size("num_experts")})
    layers = c.size("num_hidden_layers")
    own = indexer_types(c, layers) if c.kind == "glm_moe_dsa" else ["full"] * layers

    def extra(w: Weights, a: Attention, i: int) -> None:
        if own[i] != "shared":
            indexer(w, c, a.query_rank)

    attention = latent_attention(c, query_always_compressed=True, extra=extra)
    sparse = sparse_types(c, layers, lambda i: i >= c.count("first_k_dense_replace"))
    return decoder(c, layer_of(c, attention, sparse), **place)


def given_sparse(c: Settings, layers: int) -> list[bool]:
    """`mlp_layer_types`, or the keys of DeepSeek's own configs that transformers turns into it."""
    first, often = c.count("first_k_dense_replace", 1), c.raw("moe_layer_freq", 1)
    if isinstance(often, list):
        chosen = [bool(here) for here in c.sequence("moe_layer_freq", layers, ())]
    else:
        chosen = [i % c.size("moe_layer_freq", 1) == 0 for i in range(layers)]

    def otherwise(i: int) -> bool:
        return i >= first and chosen[i]

    return sparse_types(c, layers, otherwise)


def axk1(c: Settings, **place: Any) -> Model:
    """A.X K1: a norm after the experts."""
    layers, hidden = c.size("num_hidden_layers"), c.size("hidden_size")
    experts = deepseek_experts(c, extra=lambda w, _: w.norm("post_mlp_layernorm", hidden))
    attention = latent_attention(c, query_always_compressed=True)
    layer = block(attention, experts, dense=mlp(c), sparse=given_sparse(c, layers), hidden=hidden)
    return decoder(c, layer, **place)


def axk2(c: Settings, **place: Any) -> Model:
    """A.X K2: norms with a low-rank gate, an indexer, the attention's gate beside the query."""
    layers, hidden, rank = c.size("num_hidden_layers"), c.size("hidden_size"), c.size("gated_norm_rank")
    sparse = given_sparse(c, layers)

    def query_and_gate(w: Weights, a: Attention) -> None:
        w.linear("q_gate_proj", a.heads * (a.head_dim + a.value_dim), 2 * a.query_rank)

    def gated_norms(w: Weights, i: int) -> None:
        for name in PRE_NORM:
            if name == "post_attention_layernorm" and not sparse[i]:
                w.norm(name, hidden)
                continue
            w.norm(f"{name}.norm", hidden)
            w.linear(f"{name}.mlp.fc1", rank, hidden)
            w.linear(f"{name}.mlp.fc2", hidden, rank)

    attention = latent_attention(
        c,
        query_always_compressed=True,
        gated=True,
        query_weight=query_and_gate,
        extra=lambda w, a, _: indexer(w, c, a.query_rank),
    )
    layer = block(
        attention, deepseek_experts(c), dense=mlp(c), sparse=sparse, norms=(), extra=gated_norms, hidden=hidden
    )

    def counted(w: Weights, i: int) -> Layer:
        return replace(layer(w, i), norms=len(PRE_NORM))

    return decoder(c, counted, **place)


def hy_v4(c: Settings, **place: Any) -> Model:
    """Hunyuan V4: several residual streams, sinks, a gate, an indexer in some layers."""
    layers = c.size("num_hidden_layers")
    own = c.sequence("indexer_types", layers, lambda i: "full" if i == 0 or (i - 1) % 4 == 0 else "shared")

    def extra(w: Weights, a: Attention, i: int) -> None:
        if own[i] != "shared":
            indexer(w, c, a.query_rank)
        w.linear("gate_proj", a.heads * a.value_dim, c.size("hidden_size"))

    attention = latent_attention(c, query_always_compressed=True, sinks=True, gated=True, extra=extra)
    layer = layer_of(
        c,
        attention,
        sparse_types(c, layers, lambda i: i >= 1),
        extra=lambda w, _: hyper_connections(w, c, ("attn_hc", "ffn_hc"), 2 * c.size("hc_mult"), 2),
    )
    kept = ("fn", "scale", "base", "weights_proj", "k_norm", "sinks", "lm_head")
    return decoder(c, layer, after=lambda w: hyper_head(w, c), float32=kept, **place)


ARCHITECTURES: dict[str, Callable[[Settings], Model]] = {
    "axk1": axk1,
    "axk2": axk2,
    "deepseek_v2": deepseek_v2,
    "deepseek_v3": deepseek_v3,
    "deepseek_v32": sparse_attention,
    "glm4_moe_lite": glm4_moe_lite,
    "glm_moe_dsa": sparse_attention,
    "hy_v4": hy_v4,
    "mistral4": deepseek_v3,
}
