"""The words in which every architecture is described: tensors, layers, a model.

Letters: H hidden size, V vocabulary, E experts, I intermediate size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Literal, get_args

Role = Literal["embedding", "attention", "router", "routed expert", "shared expert", "dense", "norm", "other"]
"""What a tensor is for. `attention` takes in whatever mixes tokens: linear attention, state spaces, convolutions."""

ROLES: tuple[Role, ...] = get_args(Role)

Kind = Literal["linear", "parameter", "embedding", "norm", "conv"]
"""The module that holds a tensor: `linear` is the weight or bias of an nn.Linear, which is what bitsandbytes quantises and PEFT's
target_modules adapt; `parameter` is an nn.Parameter of a module of its own, such as fused experts."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TensorSpec:
    """One weight."""

    name: str
    """As transformers' `named_parameters()` gives it."""
    shape: tuple[int, ...]
    role: Role
    kind: Kind
    layer: int | None
    """None outside the decoder layers."""
    dtype: str | None = None
    """Where the architecture fixes it (a router kept in float32); None is the model's dtype."""

    @property
    def elements(self) -> int:
        """How many numbers it holds."""
        return prod(self.shape)


@dataclass(frozen=True, kw_only=True, slots=True)
class Attention:
    """Softmax attention over keys and values."""

    heads: int
    kv_heads: int
    head_dim: int
    """Size of a query and key head."""
    value_dim: int
    """Size of a value head."""
    query_rank: int = 0
    """Multi-head latent attention: width of the compressed query, 0 where the query is not compressed."""
    kv_rank: int = 0
    """Multi-head latent attention: width of the compressed keys and values, 0 for ordinary attention."""
    rope_dim: int = 0
    """Part of head_dim that is rotated; 0 for all of it. In latent attention it is shared by all heads in the keys."""
    qk_norm: Literal["none", "head", "full"] = "none"
    """A norm per head of queries and keys, one over all heads, or none."""
    gated: bool = False
    """The output is multiplied by a sigmoid gate as wide as itself."""
    bias: bool = False
    window: int | None = None
    """Sliding or chunked window in tokens."""
    sinks: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class StateMixer:
    """What mixes tokens without a cache that grows: linear attention, state spaces, short convolutions."""

    kind: str
    """Its name in the architecture: gated_delta_net, mamba, mamba2, lightning, short_conv, ..."""
    width: int
    """Width of its inner stream."""
    state: int
    """Numbers of recurrent and convolution state per sequence."""
    heads: int = 0
    """Heads of the inner stream; 0 where it has none."""
    keys: int = 0
    """Width of its queries, and of its keys, before they are repeated to all heads."""
    head_keys: int = 0
    """Width of a head's key; of a state space without heads: numbers of state per channel."""
    rank: int = 0
    """Width of the compressed step sizes (Mamba)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Dense:
    """An ordinary MLP."""

    intermediate: int
    gated: bool = True
    """gate, up and down; without it up and down."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Experts:
    """Routed experts, and the shared ones beside them."""

    count: int
    top_k: int
    intermediate: int
    gated: bool = True
    fused: bool = True
    """One three-dimensional parameter per projection; otherwise a module per expert."""
    bias: bool = False
    shared_intermediate: int = 0
    """Width of all shared experts together; 0 for none."""
    identities: int = 0
    """Experts beyond `count` that the router may choose and that compute nothing (longcat_flash)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Layer:
    """One decoder layer."""

    mixer: Attention | StateMixer | None
    feed_forward: Dense | Experts | None
    beside: Dense | None = None
    """A dense MLP that runs beside the experts on the same input (gemma4, longcat_flash)."""
    norms: int = 2
    """Norms over the hidden size in the layer."""


@dataclass(frozen=True, kw_only=True)
class Model:
    """A model's sizes and every one of its tensors."""

    model_type: str
    hidden: int
    vocabulary: int
    layers: tuple[Layer, ...]
    """Of the (text) decoder."""
    tied: bool
    tensors: tuple[TensorSpec, ...]
    """Tied weights once, in the order of `named_parameters()` where that is at hand."""

    @property
    def parameters(self) -> int:
        """All weights."""
        return sum(tensor.elements for tensor in self.tensors)

    @property
    def active_parameters(self) -> int:
        """Weights that one token passes through: of a layer's routed experts, top-k of E; embedding table and head counted whole.

        Where some experts are identities it is the average over a balanced routing.

        Towers for other modalities are counted whole; subtract them where a text token's figure is wanted.
        """
        idle = 0
        for tensor in self.tensors:
            if tensor.role == "routed expert" and tensor.layer is not None:
                experts = self.layers[tensor.layer].feed_forward
                if isinstance(experts, Experts):
                    choices = experts.count + experts.identities
                    # transformers gives identities rows in one of the projections; they are never used.
                    used = tensor.elements * experts.count // choices if tensor.shape[0] == choices else tensor.elements
                    idle += tensor.elements - used * experts.top_k // choices
        return self.parameters - idle

    def by_role(self) -> dict[Role, int]:
        """Parameters of each role that occurs."""
        return count_by_role(self.tensors)


def count_by_role(tensors: Sequence[TensorSpec]) -> dict[Role, int]:
    """Parameters of each role that occurs."""
    return {role: n for role in ROLES if (n := sum(t.elements for t in tensors if t.role == role))}
