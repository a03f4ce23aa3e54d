"""Encoder-decoder models with a module per expert: NLLB-MoE and Switch Transformers.

`layers` holds the encoder's layers, then the decoder's.
"""

from __future__ import annotations

from collections.abc import Callable

from moe_memprof.architectures.base import Attention, Dense, Experts, Layer, Model
from moe_memprof.architectures.settings import Settings
from moe_memprof.architectures.weights import Weights


def nllb_moe(c: Settings) -> Model:
    """NLLB-MoE: two experts a token, biases everywhere."""
    hidden, count, bias = c.size("d_model"), c.size("num_experts"), c.flag("router_bias")
    tied, vocabulary = c.flag("tie_word_embeddings"), c.size("vocab_size")
    everything = Weights()
    model = everything.at("model")
    model.embedding("shared", vocabulary, hidden, role="embedding")
    described: list[Layer] = []

    def feed_forward(w: Weights, width: int) -> None:
        w.linear("fc1", width, hidden, bias=True)
        w.linear("fc2", hidden, width, bias=True)

    def stack(side: str, heads: int, width: int, step: int, layers: int) -> None:
        w = model.at(side)
        if not tied:
            w.embedding("embed_tokens", vocabulary, hidden, role="embedding")
        a = Attention(heads=heads, kv_heads=heads, head_dim=hidden // heads, value_dim=hidden // heads, bias=True)
        for i in range(layers):
            here = w.at(f"layers.{i}", layer=len(described))
            for name in ("self_attn", "cross_attention")[: 1 if side == "encoder" else 2]:
                inner = here.at(name, role="attention")
                for projection in ("k_proj", "v_proj", "q_proj", "out_proj"):
                    inner.linear(projection, hidden, hidden, bias=True)
                here.norm(f"{name}_layer_norm", hidden, bias=True)
            here.norm("ff_layer_norm", hidden, bias=True)
            norms = 2 if side == "encoder" else 3
            if step > 0 and (i + 1) % step == 0:
                here.linear("ffn.router.classifier", count, hidden, bias=bias, role="router")
                for e in range(count):
                    feed_forward(here.at(f"ffn.experts.expert_{e}", role="routed expert"), width)
                experts = Experts(
                    count=count, top_k=min(2, count), intermediate=width, gated=False, fused=False, bias=True
                )
                described.append(Layer(mixer=a, feed_forward=experts, norms=norms))
            else:
                feed_forward(here.at("ffn", role="dense"), width)
                described.append(Layer(mixer=a, feed_forward=Dense(intermediate=width, gated=False), norms=norms))
        w.norm("layer_norm", hidden, bias=True)

    stack(
        "encoder",
        c.size("encoder_attention_heads"),
        c.size("encoder_ffn_dim"),
        c.count("encoder_sparse_step"),
        c.size("encoder_layers"),
    )
    stack(
        "decoder",
        c.size("decoder_attention_heads"),
        c.size("decoder_ffn_dim"),
        c.count("decoder_sparse_step"),
        c.size("decoder_layers"),
    )
    if not tied:
        everything.linear("lm_head", vocabulary, hidden, role="embedding")
    return _model(c, hidden, described, everything, tied)


def switch_transformers(c: Settings) -> Model:
    """Switch Transformers: T5 with one expert a token."""
    hidden, inner, width = c.size("d_model"), c.size("num_heads") * c.size("d_kv"), c.size("d_ff")
    heads, count, vocabulary = c.size("num_heads"), c.size("num_experts"), c.size("vocab_size")
    tied = c.flag("tie_word_embeddings")
    everything = Weights()
    everything.embedding("shared", vocabulary, hidden, role="embedding")
    described: list[Layer] = []
    a = Attention(heads=heads, kv_heads=heads, head_dim=c.size("d_kv"), value_dim=c.size("d_kv"))

    def feed_forward(w: Weights) -> None:
        w.linear("wi", width, hidden)
        w.linear("wo", hidden, width)

    def stack(side: str, layers: int, sparse: int) -> None:
        w = everything.at(side)
        if not tied:
            w.embedding("embed_tokens", vocabulary, hidden, role="embedding")
        step = layers // sparse if sparse > 0 else layers
        for i in range(layers):
            here = w.at(f"block.{i}", layer=len(described))
            kinds = ("SelfAttention",) if side == "encoder" else ("SelfAttention", "EncDecAttention")
            for number, kind in enumerate(kinds):
                place = here.at(f"layer.{number}")
                for name in ("q", "k", "v"):
                    place.linear(f"{kind}.{name}", inner, hidden, role="attention")
                place.linear(f"{kind}.o", hidden, inner, role="attention")
                if i == 0 and number == 0:
                    rows = c.size("relative_attention_num_buckets")
                    place.embedding(f"{kind}.relative_attention_bias", rows, heads, role="attention")
                place.norm("layer_norm", hidden)
            place = here.at(f"layer.{len(kinds)}")
            place.norm("layer_norm", hidden)
            if step > 0 and (i % step == 1 or step == 1):
                place.linear("mlp.router.classifier", count, hidden, bias=c.flag("router_bias"), role="router")
                for e in range(count):
                    feed_forward(place.at(f"mlp.experts.expert_{e}", role="routed expert"))
                experts = Experts(count=count, top_k=1, intermediate=width, gated=False, fused=False)
                described.append(Layer(mixer=a, feed_forward=experts, norms=len(kinds) + 1))
            else:
                feed_forward(place.at("mlp", role="dense"))
                dense = Dense(intermediate=width, gated=False)
                described.append(Layer(mixer=a, feed_forward=dense, norms=len(kinds) + 1))
        w.norm("final_layer_norm", hidden)

    layers = c.size("num_layers")
    stack("encoder", layers, c.count("num_sparse_encoder_layers"))
    stack("decoder", c.size("num_decoder_layers", layers), c.count("num_sparse_decoder_layers"))
    if not tied:
        everything.linear("lm_head", vocabulary, hidden, role="embedding")
    return _model(c, hidden, described, everything, tied)


def _model(c: Settings, hidden: int, described: list[Layer], everything: Weights, tied: bool) -> Model:
    return Model(
        model_type=c.kind,
        hidden=hidden,
        vocabulary=c.size("vocab_size"),
        layers=tuple(described),
        tied=tied,
        tensors=tuple(everything.specs),
    )


ARCHITECTURES: dict[str, Callable[[Settings], Model]] = {
    "nllb-moe": nllb_moe,
    "switch_transformers": switch_transformers,
}
