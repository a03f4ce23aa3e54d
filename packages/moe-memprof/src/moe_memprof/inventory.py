"""Every tensor of a model, from its config.json alone.

Names and shapes are those that transformers 5.6 and later build: experts fused in three dimensions. Letters: H hidden size,
A attention heads times head size, V vocabulary, E experts, I intermediate size of an expert.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

from moe_memprof.errors import MemprofError

SUPPORTED = ("mixtral", "olmoe", "qwen3_moe")
ROLES = ("embedding", "attention", "router", "routed expert", "dense", "norm")


@dataclass(frozen=True, kw_only=True)
class TensorSpec:
    """One weight."""

    name: str
    shape: tuple[int, ...]
    role: str
    layer: int | None
    """None outside the decoder layers."""

    @property
    def elements(self) -> int:
        """How many numbers it holds."""
        return prod(self.shape)


@dataclass(frozen=True, kw_only=True)
class ModelShape:
    """The sizes that an estimate needs."""

    model_type: str
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    experts: int
    top_k: int
    expert_intermediate: int
    dense_intermediate: int
    """Of layers without experts."""
    dense_layers: frozenset[int]
    tied: bool
    qk_norm: str
    """none, head (one norm of the head size) or full (one over all heads)."""

    @property
    def query(self) -> int:
        """Width of all query heads together."""
        return self.heads * self.head_dim

    @property
    def key_value(self) -> int:
        """Width of all key heads together; the values' is the same."""
        return self.kv_heads * self.head_dim

    def is_moe(self, layer: int) -> bool:
        """Whether a layer has experts."""
        return layer not in self.dense_layers


def read_shape(config: Mapping[str, Any]) -> ModelShape:
    """The sizes in a config.json, with transformers' defaults where it leaves one out.

    Raises:
        MemprofError: for a model type that is not covered, or a size that is missing.
    """
    kind = config.get("model_type")
    if kind not in SUPPORTED:
        raise MemprofError(f"model_type {kind!r}: not covered; covered are {', '.join(SUPPORTED)}")

    def need(key: str, *others: str) -> int:
        for name in (key, *others):
            if isinstance(config.get(name), int):
                return int(config[name])
        raise MemprofError(
            f"config of {kind}: {key} is missing or no whole number; the file is not a complete config.json"
        )

    layers, hidden, heads = need("num_hidden_layers"), need("hidden_size"), need("num_attention_heads")
    dense: frozenset[int] = frozenset()
    if kind == "qwen3_moe":
        step, only = int(config.get("decoder_sparse_step", 1)), set(config.get("mlp_only_layers") or [])
        dense = frozenset(i for i in range(layers) if i in only or (i + 1) % step)
    expert_size = need("moe_intermediate_size") if kind == "qwen3_moe" else need("intermediate_size")
    return ModelShape(
        model_type=str(kind),
        layers=layers,
        hidden=hidden,
        heads=heads,
        kv_heads=int(config.get("num_key_value_heads") or heads),
        head_dim=int(config.get("head_dim") or hidden // heads),
        vocabulary=need("vocab_size"),
        experts=need("num_local_experts", "num_experts"),
        top_k=need("num_experts_per_tok"),
        expert_intermediate=expert_size,
        dense_intermediate=need("intermediate_size"),
        dense_layers=dense,
        tied=bool(config.get("tie_word_embeddings", False)),
        qk_norm={"mixtral": "none", "qwen3_moe": "head", "olmoe": "full"}[str(kind)],
    )


def tensors(shape: ModelShape) -> list[TensorSpec]:
    """Every weight of the causal language model; tied ones once."""
    found = [
        TensorSpec(
            name="model.embed_tokens.weight", shape=(shape.vocabulary, shape.hidden), role="embedding", layer=None
        )
    ]
    for layer in range(shape.layers):
        found += _layer(shape, layer)
    found.append(TensorSpec(name="model.norm.weight", shape=(shape.hidden,), role="norm", layer=None))
    if not shape.tied:
        found.append(
            TensorSpec(name="lm_head.weight", shape=(shape.vocabulary, shape.hidden), role="embedding", layer=None)
        )
    return found


def _layer(s: ModelShape, layer: int) -> Iterator[TensorSpec]:
    prefix = f"model.layers.{layer}"

    def tensor(name: str, role: str, *size: int) -> TensorSpec:
        return TensorSpec(name=f"{prefix}.{name}", shape=size, role=role, layer=layer)

    yield tensor("self_attn.q_proj.weight", "attention", s.query, s.hidden)
    yield tensor("self_attn.k_proj.weight", "attention", s.key_value, s.hidden)
    yield tensor("self_attn.v_proj.weight", "attention", s.key_value, s.hidden)
    yield tensor("self_attn.o_proj.weight", "attention", s.hidden, s.query)
    if s.qk_norm != "none":
        sizes = (s.head_dim, s.head_dim) if s.qk_norm == "head" else (s.query, s.key_value)
        yield tensor("self_attn.q_norm.weight", "norm", sizes[0])
        yield tensor("self_attn.k_norm.weight", "norm", sizes[1])
    if s.is_moe(layer):
        yield tensor("mlp.gate.weight", "router", s.experts, s.hidden)
        yield tensor("mlp.experts.gate_up_proj", "routed expert", s.experts, 2 * s.expert_intermediate, s.hidden)
        yield tensor("mlp.experts.down_proj", "routed expert", s.experts, s.hidden, s.expert_intermediate)
    else:
        for name in ("gate_proj", "up_proj"):
            yield tensor(f"mlp.{name}.weight", "dense", s.dense_intermediate, s.hidden)
        yield tensor("mlp.down_proj.weight", "dense", s.hidden, s.dense_intermediate)
    yield tensor("input_layernorm.weight", "norm", s.hidden)
    yield tensor("post_attention_layernorm.weight", "norm", s.hidden)


def count_by_role(found: list[TensorSpec]) -> dict[str, int]:
    """Parameters of each role."""
    return {role: n for role in ROLES if (n := sum(t.elements for t in found if t.role == role))}


def active_parameters(shape: ModelShape, found: list[TensorSpec]) -> int:
    """Parameters that one token passes through: of the routed experts, top-k of E; embedding table and head counted whole."""
    experts = sum(t.elements for t in found if t.role == "routed expert")
    return sum(t.elements for t in found) - experts + experts * shape.top_k // shape.experts


def adapter_elements(
    shape: ModelShape, found: list[TensorSpec], *, rank: int, attention: bool, experts: bool
) -> dict[str, int]:
    """Parameters of LoRA's A and B, by what they adapt: `attention` and `routed expert`."""
    counts = {"attention": 0, "routed expert": 0}
    for tensor in found:
        if tensor.role == "attention" and attention:
            counts["attention"] += rank * sum(tensor.shape)
        if tensor.role == "routed expert" and experts:
            counts["routed expert"] += shape.experts * rank * (tensor.shape[1] + tensor.shape[2])
    return {role: n for role, n in counts.items() if n}
