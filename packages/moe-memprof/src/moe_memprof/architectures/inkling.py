"""Inkling 1 and 2: short convolutions on keys, values and sublayers, relative positions, and their towers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from moe_memprof.architectures.base import Attention, Experts, Layer, Model
from moe_memprof.architectures.blocks import block, check_top_k, fused_experts, mlp, moe, sparse_types
from moe_memprof.architectures.decoder import decoder
from moe_memprof.architectures.settings import Settings
from moe_memprof.architectures.weights import Weights

SLIDING, FULL = "hybrid_sliding", "hybrid"


def _attention(c: Settings, kind: str) -> Attention:
    key, window = ("swa_", c.raw("sliding_window_size")) if kind == SLIDING else ("", None)
    names = {
        "swa_": ("swa_num_attention_heads", "swa_num_key_value_heads", "swa_head_dim"),
        "": ("num_attention_heads", "num_key_value_heads", "head_dim"),
    }[key]
    heads, kv_heads, dim = (c.size(name) for name in names)
    return Attention(heads=heads, kv_heads=kv_heads, head_dim=dim, value_dim=dim, window=window)


def _projections(w: Weights, c: Settings, a: Attention) -> None:
    hidden, relative = c.size("hidden_size"), c.size("d_rel")
    w.linear("q_proj", a.heads * a.head_dim, hidden)
    w.linear("k_proj", a.kv_heads * a.head_dim, hidden)
    w.linear("v_proj", a.kv_heads * a.head_dim, hidden)
    w.linear("r_proj", a.heads * relative, hidden)
    w.linear("o_proj", hidden, a.heads * a.head_dim)
    extent = c.size("sliding_window_size") if a.window is not None else c.size("rel_extent")
    w.parameter("rel_logits_proj.proj", relative, extent)


def inkling_text(c: Settings, **place: Any) -> Model:
    """Inkling: the router also weighs the shared experts, which are fused in three dimensions."""
    hidden, layers, kernel = c.size("hidden_size"), c.size("num_hidden_layers"), c.size("conv_kernel_size")
    local = c.raw("local_layer_ids")
    slides = set(local) if local is not None else {i for i in range(layers) if (i + 1) % 6}
    types = c.layer_types(layers, lambda i: SLIDING if i in slides else FULL)
    if c.raw("dense_intermediate_size") is not None:
        c = c.with_values(
            {
                "moe_intermediate_size": c.raw("intermediate_size"),
                "intermediate_size": c.size("dense_intermediate_size"),
            }
        )
    dense_until = c.count("dense_mlp_idx")
    count, shared, width = c.size("n_routed_experts"), c.count("n_shared_experts"), c.size("moe_intermediate_size")
    top_k = c.size("num_experts_per_tok")
    check_top_k(c, top_k, count)

    def attention(w: Weights, i: int) -> Attention:
        a = _attention(c, types[i])
        w = w.at("self_attn", role="attention")
        _projections(w, c, a)
        for name in ("k_sconv", "v_sconv"):
            w.conv(f"{name}.conv1d", a.kv_heads * a.head_dim, 1, kernel)
        w.norm("q_norm", a.head_dim)
        w.norm("k_norm", a.head_dim)
        return a

    def experts(w: Weights, _: int) -> Experts:
        w = w.at("mlp")
        w.parameter("gate.weight", count + shared, hidden, role="router")
        w.parameter("gate.global_scale", 1, role="router")
        fused_experts(w.at("experts", role="routed expert"), count, hidden, width)
        inner = w.at("shared_experts", role="shared expert")
        inner.parameter("gate_proj", shared, width, hidden)
        inner.parameter("up_proj", shared, width, hidden)
        inner.parameter("down_proj", shared, hidden, width)
        return Experts(count=count, top_k=top_k, intermediate=width, shared_intermediate=shared * width)

    dense_mlp = mlp(c)

    def dense(w: Weights, i: int) -> Any:
        w.parameter("mlp.global_scale", 1, role="dense")
        return dense_mlp(w, i)

    def convolutions(w: Weights, _: int) -> None:
        for name in ("attn_sconv", "mlp_sconv"):
            w.at(name, role="other").conv("conv1d", hidden, 1, kernel)

    layer = block(
        attention,
        experts,
        dense=dense,
        sparse=sparse_types(c, layers, lambda i: i >= dense_until),
        hidden=hidden,
        extra=convolutions,
    )
    kept = ("attn_sconv", "mlp_sconv", "k_sconv", "v_sconv", "gate.global_scale")
    # Neither Inkling ties its head.
    return decoder(
        c, layer, tied=False, after=lambda w: w.norm("embed_tokens.embed_norm", hidden), float32=kept, **place
    )


def inkling2_text(c: Settings, **place: Any) -> Model:
    """Inkling 2: sublayers read a mix of earlier blocks; convolutions whose weights depend on the token in full layers."""
    hidden, layers, kernel = c.size("hidden_size"), c.size("num_hidden_layers"), c.size("conv_kernel_size")
    types = c.layer_types(layers, lambda i: SLIDING if (i + 1) % 6 else FULL)

    def attention(w: Weights, i: int) -> Attention:
        a = _attention(c, types[i])
        w = w.at("self_attn", role="attention")
        _projections(w, c, a)
        width = a.kv_heads * a.head_dim
        for name in ("k_sconv", "v_sconv"):
            if types[i] == SLIDING:
                w.conv(f"{name}.conv1d", width, 1, kernel)
            else:
                w.parameter(f"{name}.static_weight", kernel, width)
                w.linear(f"{name}.weight_proj", a.kv_heads * kernel, hidden)
        w.linear("gate_proj", a.heads * a.head_dim, hidden)
        w.linear("sink_proj", a.heads, hidden)
        w.parameter("q_l2_clip.scale", a.heads, a.head_dim)
        w.parameter("rel_l2_clip.scale", a.heads, c.size("d_rel"))
        return Attention(
            heads=a.heads, kv_heads=a.kv_heads, head_dim=a.head_dim, value_dim=a.head_dim, gated=True, window=a.window
        )

    def around(w: Weights, i: int) -> None:
        w = w.at("", role="other")
        if i:
            queries = () if types[i] == SLIDING else (3,)
            w.parameter("attention_input.query", *queries, hidden)
        w.parameter("mlp_input.query", hidden)
        names = (
            ("input_layernorm",)
            if types[i] == SLIDING
            else (
                "q_input_layernorm",
                "k_input_layernorm",
                "v_input_layernorm",
            )
        )
        for name in (*names, "post_attention_layernorm"):
            w.norm(name, hidden)
        for name in ("post_attention_convolution", "post_mlp_convolution"):
            w.conv(f"{name}.conv1d", hidden, 1, kernel)

    experts = moe(c, experts="n_routed_experts", width="moe_intermediate_size")
    inner = block(attention, experts, norms=(), hidden=hidden, extra=around)

    def layer(w: Weights, i: int) -> Layer:
        made = inner(w, i)
        return Layer(mixer=made.mixer, feed_forward=made.feed_forward, norms=2 if types[i] == SLIDING else 4)

    def after(w: Weights) -> None:
        w.norm("embed_tokens.embed_norm", hidden)
        w.parameter("final_input.query", hidden, role="other")

    kept = (
        "mlp.gate.weight",
        "post_attention_convolution",
        "post_mlp_convolution",
        "k_sconv.conv1d",
        "v_sconv.conv1d",
        "attention_input",
        "mlp_input",
        "final_input",
    )
    return decoder(c, layer, tied=False, after=after, float32=kept, **place)


ARCHITECTURES: dict[str, Callable[[Settings], Model]] = {
    "inkling_text": inkling_text,
    "inkling2_text": inkling2_text,
}
