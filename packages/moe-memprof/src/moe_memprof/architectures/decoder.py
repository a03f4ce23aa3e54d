"""A decoder put together: embedding, layers, last norm, head."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from moe_memprof.architectures.base import Layer, Model, TensorSpec
from moe_memprof.architectures.blocks import Part
from moe_memprof.architectures.settings import Settings
from moe_memprof.architectures.weights import Weights

Writer = Callable[[Weights], None]


def decoder(
    c: Settings,
    layer: Part[Layer],
    *,
    layers: int | None = None,
    root: str = "model",
    stack: str = "layers",
    embedding: str = "embed_tokens",
    norm: str | None = "norm",
    norm_bias: bool = False,
    head: bool = True,
    head_bias: bool = False,
    tied: bool | None = None,
    before: Writer | None = None,
    after: Writer | None = None,
    float32: tuple[str, ...] = (),
    described: Sequence[Layer] | None = None,
) -> Model:
    """The model of a text config. `root` is the module that holds the decoder; an empty one and no head give the bare decoder.

    `before` writes what comes before the decoder, `after` what else is in `root`. `described` replaces the layers where a module layer
    counts for more than one. `float32` are parts of names that transformers keeps in float32 whatever the model's dtype.
    """
    hidden, vocabulary = c.size("hidden_size"), c.size("vocab_size")
    everything = Weights()
    if before is not None:
        before(everything)
    w = everything.at(root)
    w.embedding(embedding, vocabulary, hidden, role="embedding")
    if layers is None:
        layers = c.size("num_hidden_layers")
    written = tuple(layer(w.at(f"{stack}.{i}", layer=i), i) for i in range(layers))
    if norm is not None:
        w.norm(norm, hidden, bias=norm_bias)
    if after is not None:
        after(w)
    tied = c.flag("tie_word_embeddings") if tied is None else tied
    if head and not tied:
        everything.linear("lm_head", vocabulary, hidden, bias=head_bias, role="embedding")
    elif head and head_bias:
        everything.add("lm_head.bias", (vocabulary,), "linear", "embedding")
    return Model(
        model_type=c.kind,
        hidden=hidden,
        vocabulary=vocabulary,
        layers=written if described is None else tuple(described),
        tied=tied and head,
        tensors=kept_in_float32(everything.specs, float32),
    )


def kept_in_float32(specs: list[TensorSpec], names: tuple[str, ...]) -> tuple[TensorSpec, ...]:
    """The tensors, those whose name contains one of `names` marked float32."""
    return tuple(replace(s, dtype="float32") if any(name in s.name for name in names) else s for s in specs)
