"""Architectures of grouped-query attention with gates, sinks or heads that differ by layer; Granite's experts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from moe_memprof.architectures.base import Attention, Model
from moe_memprof.architectures.blocks import (
    Part,
    block,
    first_dense,
    gqa,
    merged_mlp,
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


def afmoe(c: Settings, **place: Any) -> Model:
    """Arcee's AFMoE: a gate on the attention's output, four norms a layer."""
    hidden, layers = c.size("hidden_size"), c.size("num_hidden_layers")
    every = c.size("global_attn_every_n_layers")
    types = c.layer_types(layers, lambda i: SLIDING if (i + 1) % every else FULL)
    width = c.size("num_attention_heads") * c.size("head_dim")
    attention = gqa(
        c,
        bias=c.flag("attention_bias"),
        qk_norm="head",
        gate=("gate_proj", width),
        window=windows(c, types),
    )
    expert = c.size("moe_intermediate_size")
    experts = moe(
        c,
        experts="num_experts",
        width=expert,
        router="router.gate",
        router_is_linear=True,
        shared=shared_mlp(c, expert * c.count("num_shared_experts")),
        extra=lambda w, e: w.parameter("expert_bias", e.count, role="router"),
    )
    norms = ("input_layernorm", "post_attention_layernorm", "pre_mlp_layernorm", "post_mlp_layernorm")
    sparse = first_dense(c, layers, "num_dense_layers")
    return decoder(c, block(attention, experts, dense=mlp(c), sparse=sparse, norms=norms, hidden=hidden), **place)


def beam(c: Settings, **place: Any) -> Model:
    """Beam: a gate with a bias per head, four norms a layer."""
    hidden, layers = c.size("hidden_size"), c.size("num_hidden_layers")
    types = c.layer_types(layers, lambda i: SLIDING if (i + 1) % 6 and i < layers - 1 else FULL)
    attention = gqa(
        c,
        bias=c.flag("attention_bias"),
        qk_norm="head",
        gate=("gate_proj", c.size("num_attention_heads") * c.size("head_dim")),
        window=windows(c, types),
        extra=lambda w, a: w.parameter("gate_bias", a.heads),
    )
    experts = moe(c, experts="num_experts", width="moe_intermediate_size")
    norms = (
        "input_layernorm",
        "post_attention_layernorm",
        "pre_feedforward_layernorm",
        "post_feedforward_layernorm",
    )
    sparse = sparse_types(c, layers, lambda i: i >= 3)
    layer = block(attention, experts, dense=mlp(c), sparse=sparse, norms=norms, hidden=hidden)
    return decoder(c, layer, float32=("e_score_correction_bias", "mlp.gate.weight"), **place)


def flint(c: Settings, **place: Any) -> Model:
    """Flint: attention sinks, a norm per head, one shared expert."""
    hidden, layers = c.size("hidden_size"), c.size("num_hidden_layers")
    types = c.layer_types(layers, lambda i: FULL if i < 2 or i % 4 == 1 or i == layers - 1 else SLIDING)
    attention = gqa(c, bias=c.flag("attention_bias"), qk_norm="head", sinks=True, window=windows(c, types))
    shared = mlp(c, "shared_expert_intermediate_size", module="shared_expert")
    experts = moe(c, experts="num_experts", width="moe_intermediate_size", shared=shared)
    if c.raw("mlp_only_layers") is None:
        c = c.with_values({"mlp_only_layers": [0, 1]})
    layer = block(attention, experts, dense=mlp(c), sparse=sparse_steps(c, layers), hidden=hidden)
    return decoder(c, layer, float32=("gate.weight", "sinks"), **place)


def kolibri1(c: Settings, **place: Any) -> Model:
    """Kolibri 1: four norms a layer, one shared expert."""
    types = c.layer_types(c.size("num_hidden_layers"), lambda i: SLIDING if (i + 1) % 5 else FULL)
    attention = gqa(c, qk_norm="head", window=windows(c, types))
    shared = mlp(c, "shared_expert_intermediate_size", module="shared_experts")
    experts = moe(c, experts="num_local_experts", width="moe_intermediate_size", shared=shared)
    norms = ("input_layernorm", "post_attention_layernorm", "post_self_attn_layernorm", "post_mlp_layernorm")
    return decoder(c, block(attention, experts, norms=norms, hidden=c.size("hidden_size")), **place)


def laguna(c: Settings, **place: Any) -> Model:
    """Laguna: the number of heads may differ by layer; a gate per head or per channel."""
    hidden, layers = c.size("hidden_size"), c.size("num_hidden_layers")
    heads = c.sequence("num_attention_heads_per_layer", layers, [c.size("num_attention_heads")] * layers)
    types = c.layer_types(layers, lambda _: FULL)
    per_head, dim = c.raw("gating") in (True, "per-head"), c.size("head_dim")

    def with_heads(count: int, window: int | None) -> Part[Attention]:
        return gqa(
            c,
            heads=count,
            bias=c.flag("attention_bias"),
            qk_norm="head",
            gate=("g_proj", count if per_head else count * dim),
            window=[window] * layers,
        )

    attention = [with_heads(count, window) for count, window in zip(heads, windows(c, types), strict=True)]
    experts = moe(
        c,
        experts="num_experts",
        width="moe_intermediate_size",
        shared=mlp(c, "shared_expert_intermediate_size", module="shared_experts"),
        extra=lambda w, e: w.parameter("gate.e_score_correction_bias", e.count, role="router"),
    )
    sparse = sparse_types(c, layers, lambda i: i >= 1)
    return decoder(c, block(attention, experts, dense=mlp(c), sparse=sparse, hidden=hidden), **place)


def mimo_v2_flash(c: Settings, **place: Any) -> Model:
    """MiMo V2 Flash: sliding layers have twice the key heads and sinks; values have a head size of their own."""
    hidden, layers = c.size("hidden_size"), c.size("num_hidden_layers")
    types = c.layer_types(layers, lambda i: FULL if i == 0 or not (i + 1) % 6 else SLIDING)
    heads, dim, value, bias = (
        c.size("num_attention_heads"),
        c.size("head_dim"),
        c.size("v_head_dim"),
        c.flag("attention_bias"),
    )
    full = Attention(heads=heads, kv_heads=c.size("num_key_value_heads"), head_dim=dim, value_dim=value, bias=bias)
    window = c.raw("sliding_window") if c.raw("sliding_window_size") is None else c.size("sliding_window_size") + 1
    sliding = replace(full, kv_heads=2 * full.kv_heads, sinks=True, window=window)

    def attention(w: Weights, i: int) -> Attention:
        a = sliding if types[i] == SLIDING else full
        w = w.at("self_attn", role="attention")
        if a.sinks:
            w.parameter("sinks", heads)
        w.linear("q_proj", heads * dim, hidden, bias=bias)
        w.linear("k_proj", a.kv_heads * dim, hidden, bias=bias)
        w.linear("v_proj", a.kv_heads * value, hidden, bias=bias)
        w.linear("o_proj", hidden, heads * value)
        return a

    experts = moe(c, experts="n_routed_experts", width="moe_intermediate_size")
    sparse = sparse_types(c, layers, lambda i: i >= 1)
    return decoder(c, block(attention, experts, dense=mlp(c), sparse=sparse, hidden=hidden), **place)


def granitemoe(c: Settings, **place: Any) -> Model:
    """Granite's three attention-only kinds: plain, with a shared MLP, with sliding windows and sinks."""
    layers = c.size("num_hidden_layers")
    swa = c.kind == "granitemoe_swa"
    types = c.layer_types(layers, lambda i: SLIDING if swa and i % 4 else FULL)
    attention = gqa(c, bias=c.flag("attention_bias"), sinks=swa, window=windows(c, types) if swa else ())
    width = c.count("shared_intermediate_size")
    shared = merged_mlp(c, width, module="shared_mlp", names=("input_linear", "output_linear"))
    experts = moe(
        c,
        experts="num_local_experts",
        width="intermediate_size",
        module="block_sparse_moe",
        router="router",
        shared=shared if width and c.kind != "granitemoe" else None,
        shared_outside=True,
    )
    return decoder(c, block(attention, experts, hidden=c.size("hidden_size")), **place)


ARCHITECTURES: dict[str, Callable[[Settings], Model]] = {
    "afmoe": afmoe,
    "beam": beam,
    "flint": flint,
    "granitemoe": granitemoe,
    "granitemoe_swa": granitemoe,
    "granitemoeshared": granitemoe,
    "kolibri1": kolibri1,
    "laguna": laguna,
    "mimo_v2_flash": mimo_v2_flash,
}
