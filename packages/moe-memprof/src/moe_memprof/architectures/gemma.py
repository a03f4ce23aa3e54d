"""Gemma 4 and DiffusionGemma: a dense MLP and experts side by side, heads and key heads that differ by layer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from moe_memprof.architectures.base import Attention, Dense, Experts, Layer, Model
from moe_memprof.architectures.blocks import FeedForward, Part, check_top_k, fused_experts, mlp
from moe_memprof.architectures.decoder import decoder
from moe_memprof.architectures.settings import Settings
from moe_memprof.architectures.weights import Weights

SLIDING, FULL = "sliding_attention", "full_attention"


def layer_types(c: Settings, layers: int) -> list[str]:
    """Five sliding layers, then a full one; the last is always full."""
    types = c.layer_types(layers, lambda i: SLIDING if (i + 1) % 6 else FULL)
    return [*types[:-1], FULL]


def attention(c: Settings, types: list[str], *, shared_values: bool, borrowing: int = 0) -> Part[Attention]:
    """`shared_values`: full layers use keys as values. The last `borrowing` layers use the keys and values of earlier ones."""
    hidden, heads, bias, layers = (
        c.size("hidden_size"),
        c.size("num_attention_heads"),
        c.flag("attention_bias"),
        len(types),
    )
    full = {"head_dim": c.size("global_head_dim", 512)}
    if shared_values and c.raw("num_global_key_value_heads") is not None:
        full["num_key_value_heads"] = c.size("num_global_key_value_heads")
    of_layer = c.per_layer(layers) or [c.with_values(full) if kind == FULL else c for kind in types]

    def write(w: Weights, i: int) -> Attention:
        dim, kv_heads = of_layer[i].size("head_dim"), of_layer[i].size("num_key_value_heads")
        w = w.at("self_attn", role="attention")
        w.linear("q_proj", heads * dim, hidden, bias=bias)
        w.norm("q_norm", dim)
        if i < layers - borrowing:
            w.norm("k_norm", dim)
            w.linear("k_proj", kv_heads * dim, hidden, bias=bias)
            if not shared_values or types[i] == SLIDING:
                w.linear("v_proj", kv_heads * dim, hidden, bias=bias)
        w.linear("o_proj", hidden, heads * dim, bias=bias)
        window = c.raw("sliding_window") if types[i] == SLIDING else None
        return Attention(
            heads=heads, kv_heads=kv_heads, head_dim=dim, value_dim=dim, qk_norm="head", bias=bias, window=window
        )

    return write


def experts_beside(c: Settings) -> Part[Experts]:
    """The router and the experts, which stand in the layer itself beside its MLP."""
    hidden, count, top_k = c.size("hidden_size"), c.size("num_experts"), c.size("top_k_experts")
    width = c.size("moe_intermediate_size")
    check_top_k(c, top_k, count)

    def write(w: Weights, _: int) -> Experts:
        router = w.at("router", role="router")
        router.parameter("scale", hidden)
        router.parameter("per_expert_scale", count)
        router.linear("proj", count, hidden)
        fused_experts(w.at("experts", role="routed expert"), count, hidden, width)
        return Experts(count=count, top_k=top_k, intermediate=width)

    return write


NORMS = ("input_layernorm", "post_attention_layernorm", "pre_feedforward_layernorm", "post_feedforward_layernorm")
EXPERT_NORMS = ("post_feedforward_layernorm_1", "post_feedforward_layernorm_2", "pre_feedforward_layernorm_2")


def gemma4_text(c: Settings, **place: Any) -> Model:
    """Gemma 4: experts only in some sizes; small embeddings for each layer in others."""
    hidden, layers = c.size("hidden_size"), c.size("num_hidden_layers")
    types, borrowing, per_layer = (
        layer_types(c, layers),
        c.count("num_kv_shared_layers"),
        c.count("hidden_size_per_layer_input"),
    )
    mixer = attention(c, types, shared_values=c.flag("attention_k_eq_v"), borrowing=borrowing)
    dense = mlp(c)
    late = mlp(c, 2 * c.size("intermediate_size")) if c.flag("use_double_wide_mlp") else dense
    experts = experts_beside(c) if c.flag("enable_moe_block") else None

    def layer(w: Weights, i: int) -> Layer:
        a = mixer(w, i)
        fed: FeedForward = (late if i >= layers - borrowing else dense)(w, i)
        norms: tuple[str, ...] = NORMS
        beside: Dense | None = None
        if experts is not None and isinstance(fed, Dense):
            beside, fed = fed, experts(w, i)
            norms += EXPERT_NORMS
        for name in norms:
            w.norm(name, hidden)
        if per_layer:
            w.linear("per_layer_input_gate", per_layer, hidden, role="other")
            w.linear("per_layer_projection", hidden, per_layer, role="other")
            w.norm("post_per_layer_input_norm", hidden)
        return Layer(mixer=a, feed_forward=fed, beside=beside, norms=len(norms) + bool(per_layer))

    def after(w: Weights) -> None:
        if per_layer:
            rows = c.size("vocab_size_per_layer_input")
            w.embedding("embed_tokens_per_layer", rows, layers * per_layer, role="embedding")
            w.linear("per_layer_model_projection", layers * per_layer, hidden, role="other")
            w.norm("per_layer_projection_norm", per_layer)

    return decoder(c, layer, after=after, **place)


def diffusion_layers(c: Settings) -> Part[Layer]:
    """DiffusionGemma's layer: Gemma 4's with experts in all of them, keys as values where attention is full."""
    hidden, layers = c.size("hidden_size"), c.size("num_hidden_layers")
    mixer = attention(c, layer_types(c, layers), shared_values=True)
    dense, experts = mlp(c), experts_beside(c)

    def layer(w: Weights, i: int) -> Layer:
        a, beside, fed = mixer(w, i), dense(w, i), experts(w, i)
        for name in NORMS + EXPERT_NORMS:
            w.norm(name, hidden)
        return Layer(mixer=a, feed_forward=fed, beside=beside, norms=7)

    return layer


def diffusion_gemma_text(c: Settings) -> Model:
    """DiffusionGemma's encoder alone, which is what a text config builds."""
    return decoder(c, diffusion_layers(c), root="", head=False)


def diffusion_gemma(c: Settings, towers: Callable[[Weights], None]) -> Model:
    """An encoder and a decoder of the same layers, which share their weights but for biases where embeddings are tied.

    Then they are one stack in `layers`; otherwise the encoder's layers come first. The decoder also has a self-conditioning MLP.
    """
    text, tied = c.sub("text_config"), c.flag("tie_word_embeddings")
    hidden, vocabulary, count = text.size("hidden_size"), text.size("vocab_size"), text.size("num_hidden_layers")
    layer = diffusion_layers(text)
    everything = Weights()

    def stack(w: Weights, first: int) -> list[Layer]:
        w.embedding("embed_tokens", vocabulary, hidden, role="embedding")
        described = [layer(w.at(f"layers.{i}", layer=first + i), i) for i in range(count)]
        w.norm("norm", hidden)
        return described

    layers = stack(everything.at("model.encoder.language_model"), 0)
    towers(everything.into_tower("model.encoder"))
    second = Weights("model.decoder.")
    again = stack(second, 0 if tied else count)
    everything.specs += [spec for spec in second.specs if not tied or spec.name.endswith(".bias")]
    mlp(text, module="self_conditioning")(everything.at("model.decoder"), 0)
    everything.norm("model.decoder.self_conditioning.pre_norm", hidden)
    if not tied:
        everything.linear("lm_head", vocabulary, hidden, role="embedding")
    return Model(
        model_type=c.kind,
        hidden=hidden,
        vocabulary=vocabulary,
        layers=tuple(layers if tied else layers + again),
        tied=tied,
        tensors=tuple(everything.specs),
    )


ARCHITECTURES: dict[str, Callable[[Settings], Model]] = {
    "diffusion_gemma_text": diffusion_gemma_text,
    "gemma4_text": gemma4_text,
}
