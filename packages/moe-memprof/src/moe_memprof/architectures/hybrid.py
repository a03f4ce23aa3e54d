"""Architectures that mix softmax attention with layers of state spaces, linear attention or short convolutions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from moe_memprof.architectures.base import Dense, Experts, Layer, Model
from moe_memprof.architectures.blocks import (
    Mixer,
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
)
from moe_memprof.architectures.decoder import decoder
from moe_memprof.architectures.mla import latent_attention
from moe_memprof.architectures.settings import Settings
from moe_memprof.architectures.state import gated_delta_net, kimi_delta, lightning, mamba, mamba2, short_conv
from moe_memprof.architectures.weights import Weights

LINEAR, FULL = "linear_attention", "full_attention"
# These classes know of no tied weights, whatever their config says.
NEVER_TIED: dict[str, Any] = {"tied": False}


def by_type(types: Sequence[str], linear: Part[Mixer], full: Part[Mixer], name: str = LINEAR) -> list[Part[Mixer]]:
    """The mixer of each layer."""
    return [linear if kind == name else full for kind in types]


def every_fourth(c: Settings, layers: int) -> list[str]:
    """Full attention in every fourth layer, or as `full_attention_interval` says."""
    every = c.size("full_attention_interval", 4)
    return c.layer_types(layers, lambda i: LINEAR if (i + 1) % every else FULL)


def qwen3_next(c: Settings, **place: Any) -> Model:
    """Qwen3-Next and Qwen3.5: gated delta nets, and gated attention in every fourth layer."""
    hidden, layers = c.size("hidden_size"), c.size("num_hidden_layers")
    attention = gqa(c, bias=c.flag("attention_bias"), qk_norm="head", query_holds_gate=True)
    newer = c.kind != "qwen3_next"
    mixers = by_type(every_fourth(c, layers), gated_delta_net(c, split=newer), attention)
    shared = mlp(c, "shared_expert_intermediate_size", module="shared_expert")
    experts = moe(c, experts="num_experts", width="moe_intermediate_size", shared=shared, shared_gate=True)
    if newer:
        return decoder(c, block(mixers, experts, hidden=hidden), **place)
    return decoder(c, block(mixers, experts, dense=mlp(c), sparse=sparse_steps(c, layers), hidden=hidden), **place)


def minimax(c: Settings, **place: Any) -> Model:
    """MiniMax 01: lightning attention in turn with softmax attention."""
    types = c.layer_types(c.size("num_hidden_layers"), lambda i: LINEAR if i % 2 else FULL)
    experts = moe(c, experts="num_local_experts", width="intermediate_size")
    return decoder(c, block(by_type(types, lightning(c), gqa(c)), experts, hidden=c.size("hidden_size")), **place)


def jamba(c: Settings, **place: Any) -> Model:
    """Jamba: Mamba layers, attention in every eighth, experts in every second."""
    layers = c.size("num_hidden_layers")

    def at(period: str, offset: str) -> list[bool]:
        return [i % c.size(period) == c.count(offset) for i in range(layers)]

    attends, count = at("attn_layer_period", "attn_layer_offset"), c.size("num_experts")
    mixers = [gqa(c) if full else mamba(c) for full in attends]
    experts = moe(c, experts=count, width="intermediate_size", module="feed_forward", router="router")
    layer = block(
        mixers,
        experts,
        dense=mlp(c, module="feed_forward"),
        sparse=[here and count > 1 for here in at("expert_layer_period", "expert_layer_offset")],
        norms=("input_layernorm", "pre_ff_layernorm"),
        hidden=c.size("hidden_size"),
    )
    return decoder(c, layer, norm="final_layernorm", **place)


def lfm2_moe(c: Settings, **place: Any) -> Model:
    """LFM2 MoE: short convolutions and a few attention layers."""
    layers = c.size("num_hidden_layers")
    c = c.with_values({"tie_word_embeddings": c.flag("tie_embedding", c.flag("tie_word_embeddings"))})
    if c.raw("layer_types") is None:
        raise c.wrong("layer_types", "a list of 'full_attention' and 'conv', one for each layer")
    attention = gqa(c, qk_norm="head", norm_names=("q_layernorm", "k_layernorm"), out="out_proj")
    mixers = by_type(c.layer_types(layers, lambda _: FULL), short_conv(c), attention, name="conv")
    experts = moe(c, experts="num_experts", width="moe_intermediate_size", module="feed_forward")
    layer = block(
        mixers,
        experts,
        dense=mlp(c, module="feed_forward", names=("w1", "w3", "w2")),
        sparse=first_dense(c, layers, "num_dense_layers"),
        norms=("operator_norm", "ffn_norm"),
        hidden=c.size("hidden_size"),
    )
    return decoder(c, layer, norm="embedding_norm", **place)


def granitemoehybrid(c: Settings, **place: Any) -> Model:
    """Granite 4: Mamba 2 and a few attention layers, a shared MLP; no experts in the dense models."""
    hidden, layers, heads = c.size("hidden_size"), c.size("num_hidden_layers"), c.size("mamba_n_heads")
    mixer = mamba2(
        c,
        module="mamba",
        heads=heads,
        width=int(c.number("mamba_expand") * hidden),
        groups=c.size("mamba_n_groups"),
        state=c.size("mamba_d_state"),
        kernel=c.size("mamba_d_conv"),
        bias=c.flag("mamba_proj_bias"),
        conv_bias=c.flag("mamba_conv_bias"),
    )
    attention = gqa(c, bias=c.flag("attention_bias"))
    mixers = by_type(c.layer_types(layers, lambda _: LINEAR), mixer, attention)
    shared = merged_mlp(
        c, c.size("shared_intermediate_size"), module="shared_mlp", names=("input_linear", "output_linear")
    )
    if not c.count("num_local_experts"):
        return decoder(c, block(mixers, shared, hidden=hidden), **place)
    experts = moe(
        c,
        experts="num_local_experts",
        width="intermediate_size",
        module="block_sparse_moe",
        router="router",
        shared=shared,
        shared_outside=True,
    )
    return decoder(c, block(mixers, experts, hidden=hidden), **place)


def bailing_hybrid(c: Settings, **place: Any) -> Model:
    """Ling 2.5 and Ring 2.5: delta attention in turn with latent attention."""
    layers, hidden, heads = c.size("num_hidden_layers"), c.size("hidden_size"), c.size("num_attention_heads")
    linear = kimi_delta(c, heads=heads, dim=c.size("head_dim"), kernel=c.size("short_conv_kernel_size"), low_rank=False)
    full = latent_attention(c, query_never_compressed=True, extra=lambda w, _a, _i: w.linear("g_proj", heads, hidden))
    every = c.size("layer_group_size")
    types = c.layer_types(layers, lambda i: LINEAR if (i + 1) % every else FULL)
    width = c.size("moe_intermediate_size")
    shared = mlp(c, width * c.count("num_shared_experts"), module="shared_experts")
    experts = moe(c, experts="num_experts", top_k="num_experts_per_token", width=width, shared=shared)
    sparse = sparse_types(c, layers, lambda i: i >= c.count("first_k_dense_replace"))
    layer = block(by_type(types, linear, full), experts, dense=mlp(c), sparse=sparse, hidden=hidden)
    return decoder(c, layer, float32=("conv1d", "dt_bias", "A_log"), **NEVER_TIED, **place)


def kimi_linear(c: Settings, **place: Any) -> Model:
    """Kimi Linear: delta attention, latent attention in every fourth layer."""
    layers, hidden = c.size("num_hidden_layers"), c.size("hidden_size")
    linear = c.mapping("linear_attn_config")
    names = {
        "linear_head_dim": "head_dim",
        "linear_num_heads": "num_heads",
        "linear_conv_kernel_dim": "short_conv_kernel_size",
    }
    c = c.with_values({key: linear[old] for key, old in names.items() if old in linear})
    heads, dim = c.size("linear_num_heads"), c.size("linear_head_dim")
    delta = kimi_delta(c, heads=heads, dim=dim, kernel=c.size("linear_conv_kernel_dim"), decay=(1, 1, heads, 1))
    full_layers = linear.get("full_attn_layers") if "kda_layers" in linear else None

    def otherwise(i: int) -> str:
        full = i + 1 in full_layers if full_layers is not None else i > 0 and i % 4 == 0
        return FULL if full else LINEAR

    width = c.size("moe_intermediate_size")
    shared = mlp(c, width * c.count("num_shared_experts"), module="shared_experts")
    experts = moe(c, experts="num_experts", top_k="num_experts_per_token", width=width, shared=shared)
    mixers = by_type(c.layer_types(layers, otherwise), delta, latent_attention(c))
    sparse = sparse_types(c, layers, lambda i: i >= c.count("first_k_dense_replace", 1))
    return decoder(c, block(mixers, experts, dense=mlp(c), sparse=sparse, hidden=hidden), **NEVER_TIED, **place)


def nemotron_h(c: Settings, **place: Any) -> Model:
    """Each layer is one thing: a state space, experts, attention or an MLP."""
    old = {
        "mamba_n_groups": "n_groups",
        "mamba_d_conv": "conv_kernel",
        "mamba_expand": "expand",
        "mamba_conv_bias": "use_conv_bias",
    }
    c = c.with_values({new: c.given[name] for name, new in old.items() if name in c.given})
    letters = {"M": LINEAR, "E": "moe", "*": FULL, "-": "mlp"}
    types = c.raw("layers_block_type")
    if types is None:
        pattern = c.raw("hybrid_override_pattern")
        types = [letters.get(letter, letter) for letter in pattern] if pattern else [LINEAR, "moe", FULL, "mlp"]
    c = c.with_values({"layers_block_type": types})
    types = c.layer_types(len(types), lambda _: FULL, key="layers_block_type")
    hidden = c.size("hidden_size")
    heads = c.size("mamba_num_heads")
    parts: dict[str, Callable[[], Part[Any]]] = {
        LINEAR: lambda: mamba2(
            c,
            module="mixer",
            heads=heads,
            width=heads * c.size("mamba_head_dim"),
            groups=c.size("n_groups"),
            state=c.size("ssm_state_size"),
            kernel=c.size("conv_kernel"),
            bias=c.flag("use_bias"),
            conv_bias=c.flag("use_conv_bias"),
        ),
        FULL: lambda: gqa(c, module="mixer"),
        "mlp": lambda: mlp(c, module="mixer", names=("up_proj", "down_proj"), bias=c.flag("mlp_bias")),
        "moe": lambda: _nemotron_experts(c),
    }
    for kind in types:
        if kind not in parts:
            raise c.wrong("layers_block_type", f"a list of {', '.join(parts)}; found {kind!r}")
    made = {kind: parts[kind]() for kind in set(types)}

    def layer(w: Weights, i: int) -> Layer:
        w.norm("norm", hidden)
        part = made[types[i]](w, i)
        if isinstance(part, Dense | Experts):
            return Layer(mixer=None, feed_forward=part, norms=1)
        return Layer(mixer=part, feed_forward=None, norms=1)

    return decoder(c, layer, layers=len(types), embedding="embeddings", norm="norm_f", **NEVER_TIED, **place)


def _nemotron_experts(c: Settings) -> Part[Experts]:
    hidden, count, top_k = c.size("hidden_size"), c.size("n_routed_experts"), c.size("num_experts_per_tok")
    width, shared = c.size("moe_intermediate_size"), c.size("moe_shared_expert_intermediate_size")
    latent, bias = c.count("moe_latent_size"), c.flag("mlp_bias")
    check_top_k(c, top_k, count)
    found = Experts(count=count, top_k=top_k, intermediate=width, gated=False, shared_intermediate=shared)

    def write(w: Weights, _: int) -> Experts:
        w = w.at("mixer")
        fused_experts(w.at("experts", role="routed expert"), count, latent or hidden, width, gated=False)
        w.parameter("gate.weight", count, hidden, role="router")
        w.linear("shared_experts.up_proj", shared, hidden, bias=bias, role="shared expert")
        w.linear("shared_experts.down_proj", hidden, shared, bias=bias, role="shared expert")
        if latent:
            # The experts work in a smaller space; the maps into it and back are used for every token.
            w.linear("fc1_latent_proj", latent, hidden, bias=bias, role="shared expert")
            w.linear("fc2_latent_proj", hidden, latent, bias=bias, role="shared expert")
        return found

    return write


ARCHITECTURES: dict[str, Callable[[Settings], Model]] = {
    "bailing_hybrid": bailing_hybrid,
    "granitemoehybrid": granitemoehybrid,
    "jamba": jamba,
    "kimi_linear": kimi_linear,
    "lfm2_moe": lfm2_moe,
    "minimax": minimax,
    "nemotron_h": nemotron_h,
    "qwen3_next": qwen3_next,
    "qwen3_5_moe": lambda c: qwen3_next(c.sub("text_config")),
    "qwen3_5_moe_text": qwen3_next,
}
