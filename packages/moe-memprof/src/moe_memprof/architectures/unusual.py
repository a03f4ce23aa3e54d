"""Architectures whose blocks are their own: DBRX, JetMoE, Doge, Llama 4, LongCat, Zaya, OpenAI's privacy filter."""

from __future__ import annotations

from collections.abc import Callable
from math import isqrt
from typing import Any

from moe_memprof.architectures.base import Attention, Dense, Experts, Layer, Model
from moe_memprof.architectures.blocks import block, check_top_k, fused_experts, gqa, mlp, moe, windows
from moe_memprof.architectures.decoder import decoder
from moe_memprof.architectures.mla import latent_attention
from moe_memprof.architectures.settings import Settings
from moe_memprof.architectures.weights import Weights

CHUNKED, FULL = "chunked_attention", "full_attention"


def dbrx(c: Settings, **place: Any) -> Model:
    """DBRX: one projection for query, key and value; all experts of a layer in two dimensions."""
    hidden, heads = c.size("hidden_size"), c.size("n_heads")
    attention, ffn = c.sub("attn_config", "dbrx.attn_config"), c.sub("ffn_config", "dbrx.ffn_config")
    a = Attention(
        heads=heads, kv_heads=attention.size("kv_n_heads"), head_dim=hidden // heads, value_dim=hidden // heads
    )
    count, top_k, width = ffn.size("moe_num_experts"), ffn.size("moe_top_k"), ffn.size("ffn_hidden_size")
    check_top_k(ffn, top_k, count)
    experts = Experts(count=count, top_k=top_k, intermediate=width)

    def layer(w: Weights, _: int) -> Layer:
        here = w.at("norm_attn_norm", role="attention")
        here.norm("norm_1", hidden)
        here.linear("attn.Wqkv", hidden + 2 * a.kv_heads * a.head_dim, hidden)
        here.linear("attn.out_proj", hidden, hidden)
        here.norm("norm_2", hidden)
        w.linear("ffn.router.layer", count, hidden, role="router")
        for name in ("w1", "v1", "w2"):
            w.parameter(f"ffn.experts.mlp.{name}", count * width, hidden, role="routed expert")
        return Layer(mixer=a, feed_forward=experts)

    return decoder(
        c, layer, layers=c.size("n_layers"), root="transformer", stack="blocks", embedding="wte", norm="norm_f", **place
    )


def jetmoe(c: Settings, **place: Any) -> Model:
    """The query and output projections of the attention are experts too, chosen by a router of their own."""
    hidden, kv_heads, dim = c.size("hidden_size"), c.size("num_key_value_heads"), c.size("kv_channels")
    count, top_k, width = c.size("num_local_experts"), c.size("num_experts_per_tok"), c.size("intermediate_size")
    check_top_k(c, top_k, count)
    a = Attention(heads=kv_heads * top_k, kv_heads=kv_heads, head_dim=dim, value_dim=dim)
    experts = Experts(count=count, top_k=top_k, intermediate=width, bias=True)

    def expert_module(w: Weights, first: int, second: int) -> None:
        w.parameter("bias", hidden, role="routed expert")
        w.parameter("input_linear.weight", count, first, hidden, role="routed expert")
        w.parameter("output_linear.weight", count, hidden, second, role="routed expert")
        w.linear("router.layer", count, hidden, role="router")

    def layer(w: Weights, _: int) -> Layer:
        expert_module(w.at("mlp"), 2 * width, width)
        w.norm("input_layernorm", hidden)
        w.norm("post_attention_layernorm", hidden)
        expert_module(w.at("self_attention.experts"), kv_heads * dim, kv_heads * dim)
        w.linear("self_attention.kv_proj", 2 * kv_heads * dim, hidden, role="attention")
        return Layer(mixer=a, feed_forward=experts)

    return decoder(c, layer, **place)


def doge(c: Settings, **place: Any) -> Model:
    """Experts are single neurons, rows of two embedding tables, found by product keys."""
    hidden, bias = c.size("hidden_size"), c.flag("attention_bias")

    def dynamic_mask(w: Weights, a: Attention) -> None:
        w.parameter("A", a.kv_heads)
        w.linear("dt_proj", a.kv_heads, a.kv_heads * a.head_dim, bias=bias)

    attention = gqa(c, bias=bias, qk_norm="head", extra=dynamic_mask)
    width, mlp_bias = c.size("intermediate_size"), c.flag("mlp_bias")

    def experts(w: Weights, _: int) -> Experts:
        count, top_k = c.size("num_experts"), c.size("num_experts_per_tok")
        check_top_k(c, top_k, count)
        w = w.at("mlp", role="shared expert")
        w.linear("router_gate", 2 * isqrt(count), hidden, role="router")
        w.embedding("down_embed", count, hidden, role="routed expert")
        w.embedding("up_embed", count, hidden, role="routed expert")
        w.linear("gate_proj", width, hidden, bias=mlp_bias)
        w.linear("up_proj", width, hidden, bias=mlp_bias)
        w.linear("down_proj", hidden, width, bias=mlp_bias)
        return Experts(count=count, top_k=top_k, intermediate=1, fused=False, gated=False, shared_intermediate=width)

    def residuals(w: Weights, _: int) -> None:
        w.parameter("input_residual", hidden, role="other")
        w.parameter("post_attention_residual", hidden, role="other")

    layer = block(attention, experts if c.flag("is_moe") else mlp(c, bias=mlp_bias), hidden=hidden, extra=residuals)
    return decoder(c, layer, **place)


def llama4_text(c: Settings, **place: Any) -> Model:
    """Llama 4's decoder: experts stored transposed, a shared expert, chunked attention."""
    hidden, layers = c.size("hidden_size"), c.size("num_hidden_layers")
    every = c.size("no_rope_layer_interval")
    rotated = c.raw("no_rope_layers") or [int((i + 1) % every != 0) for i in range(layers)]
    types = c.layer_types(layers, lambda i: CHUNKED if rotated[i] else FULL)
    attention = gqa(c, bias=c.flag("attention_bias"), window=windows(c, types, CHUNKED, "attention_chunk_size"))
    step = c.size("interleave_moe_layer_step")
    chosen = c.raw("moe_layers")
    sparse_layers = set(range(step - 1, layers, step) if chosen is None else chosen)
    experts = moe(
        c,
        experts="num_local_experts",
        width="intermediate_size",
        module="feed_forward",
        router="router",
        router_is_linear=True,
        transposed=True,
        shared=mlp(c, module="shared_expert"),
    )
    layer = block(
        attention,
        experts,
        dense=mlp(c, "intermediate_size_mlp", module="feed_forward"),
        sparse=[i in sparse_layers for i in range(layers)],
        hidden=hidden,
    )
    return decoder(c, layer, **place)


def longcat_flash(c: Settings, **place: Any) -> Model:
    """A module layer holds two attentions and two dense MLPs; the experts run beside the first of these.

    So it is described as two layers, as transformers counts them in `num_hidden_layers`. Some experts are identities: the router has a
    column for each of them, and so has `gate_up_proj`, in which theirs are never used.
    """
    hidden, width, dense_width = c.size("hidden_size"), c.size("expert_ffn_hidden_size"), c.size("ffn_hidden_size")
    modules = c.size("num_hidden_layers") // 2 if "num_hidden_layers" in c.given else c.size("num_layers")
    count, identities, top_k = c.size("n_routed_experts"), c.count("zero_expert_num"), c.size("moe_topk")
    check_top_k(c, top_k, count + identities)
    found = Experts(count=count, top_k=top_k, intermediate=width, identities=identities)

    def half(w: Weights, i: int, which: int) -> tuple[Attention, Dense]:
        attention = latent_attention(
            c, module=f"self_attn.{which}", query_always_compressed=True, head_dim=c.raw("qk_head_dim")
        )
        a = attention(w, i)
        dense = mlp(c, dense_width, module=f"mlps.{which}")(w, i)
        for name in ("input_layernorm", "post_attention_layernorm"):
            w.norm(f"{name}.{which}", hidden)
        return a, dense

    described: list[Layer] = []

    def layer(w: Weights, i: int) -> Layer:
        first, second = w.at("", layer=2 * i), w.at("", layer=2 * i + 1)
        experts = first.at("mlp.experts", role="routed expert")
        experts.parameter("gate_up_proj", count + identities, 2 * width, hidden)
        experts.parameter("down_proj", count, hidden, width)
        router = first.at("mlp.router", role="router")
        router.linear("classifier", count + identities, hidden, bias=c.flag("router_bias"))
        a, dense = half(first, i, 0)
        described.append(Layer(mixer=a, feed_forward=found, beside=dense))
        a, dense = half(second, i, 1)
        described.append(Layer(mixer=a, feed_forward=dense))
        return described[-1]

    return decoder(c, layer, layers=modules, described=described, **place)


def zaya(c: Settings, **place: Any) -> Model:
    """Attention over convolved, compressed queries and keys; a router that is an MLP, with one class for skipping the experts."""
    hidden, layers = c.size("hidden_size"), c.size("num_hidden_layers")
    heads, kv_heads = c.size("num_attention_heads"), c.size("num_key_value_heads")
    dim, bias = c.size("head_dim", hidden // heads), c.flag("attention_bias")
    types = c.layer_types(layers, lambda _: "hybrid")
    window = windows(c, types, "hybrid_sliding")
    channels, kv_width = (heads + kv_heads) * dim, kv_heads * dim

    def attention(w: Weights, i: int) -> Attention:
        w = w.at("self_attn", role="attention")
        w.linear("o_proj", hidden, heads * dim, bias=bias)
        qkv = w.at("qkv_proj")
        qkv.linear("q_proj", heads * dim, hidden, bias=bias)
        qkv.linear("k_proj", kv_width, hidden, bias=bias)
        qkv.linear("v_proj_current", kv_width // 2, hidden, bias=bias)
        qkv.linear("v_proj_delayed", kv_width // 2, hidden, bias=bias)
        qkv.conv("conv_qk_depthwise", channels, 1, c.size("cca_time0"), bias=True)
        qkv.conv("conv_qk_grouped", channels, dim, c.size("cca_time1"), bias=True)
        w.add("qk_norm.temp", (kv_heads,), "norm", "norm")
        return Attention(
            heads=heads, kv_heads=kv_heads, head_dim=dim, value_dim=dim, qk_norm="head", bias=bias, window=window[i]
        )

    count, top_k, width = c.size("num_experts"), c.size("num_experts_per_tok"), c.size("moe_intermediate_size")
    inner = c.size("router_hidden_size")
    check_top_k(c, top_k, count)

    def experts(w: Weights, i: int) -> Experts:
        gate = w.at("mlp.gate", role="router")
        if i:
            gate.parameter("router_states_scale", inner)
        gate.linear("down_proj", inner, hidden, bias=True)
        gate.norm("router_mlp.norm", inner)
        gate.linear("router_mlp.fc1", inner, inner, bias=True)
        gate.linear("router_mlp.fc2", inner, inner, bias=True)
        gate.linear("router_mlp.out_proj", count + 1, inner)
        fused_experts(w.at("mlp.experts", role="routed expert"), count, hidden, width)
        return Experts(count=count, top_k=top_k, intermediate=width)

    def scales(w: Weights, _: int) -> None:
        for name in ("post_attention_residual_scale", "post_mlp_residual_scale"):
            for stream in ("hidden_states", "residual"):
                w.parameter(f"{name}.{stream}_scale", hidden, role="other")
                w.parameter(f"{name}.{stream}_bias", hidden, role="other")

    def after(w: Weights) -> None:
        w.parameter("input_hidden_states_scale", hidden, role="other")
        w.parameter("input_hidden_states_bias", hidden, role="other")

    return decoder(
        c,
        block(attention, experts, hidden=hidden, extra=scales),
        after=after,
        head_bias=c.flag("lm_head_bias"),
        **place,
    )


ARCHITECTURES: dict[str, Callable[[Settings], Model]] = {
    "dbrx": dbrx,
    "doge": doge,
    "jetmoe": jetmoe,
    "llama4": lambda c: llama4_text(c.sub("text_config")),
    "llama4_text": llama4_text,
    "longcat_flash": longcat_flash,
    "zaya": zaya,
}
