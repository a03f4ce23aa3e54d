"""What an adapter is: it finds the routers of a family of architectures and reads every decision as it was executed.

Shapes: T tokens of a forward pass (batch and sequence flattened), E experts, K experts per token, B batch, S sequence.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from torch import Tensor, nn


class Routing(NamedTuple):
    """One router's decision for the tokens of one forward pass."""

    logits_TE: Tensor
    """Raw scores, before softmax or sigmoid. They may have other columns than there are experts: one more for a token that
    skips its experts (zaya), the logits of the keys whose sums are the scores (doge, [T, 2·√E])."""
    weights_TK: Tensor
    """The weights the experts' outputs were summed with."""
    indices_TK: Tensor
    """The experts that were executed."""
    idle_TK: Tensor | None = None
    """True where no expert worked for the token: dropped over capacity, or skipped. Its weight is 0 and its index means nothing.
    None where that cannot happen."""
    normalised: bool = False
    """Whether `logits_TE` are logarithms of probabilities, so equal to the raw ones only up to a constant in every row: all that
    transformers 5.0 to 5.5 returns for the softmax routers."""


Deliver = Callable[[Routing], None]
"""What a reader of routing is: called once for every forward pass of a layer."""


class Handle(Protocol):
    """A hook that can be taken off again."""

    def remove(self) -> None:
        """Take it off."""
        ...


@dataclass(frozen=True, kw_only=True)
class MoELayer:
    """One MoE layer of a model."""

    name: str
    """Path of the block that holds router and experts."""
    router_name: str
    router: nn.Module
    experts_name: str
    experts: nn.Module
    num_experts: int
    """Of the routed ones, those that only pass their input on included."""
    top_k: int
    scoring: str
    """How logits become probabilities: `softmax`, `sigmoid`, `sqrtsoftplus` or `product keys`."""
    adapter: RouterAdapter
    block: nn.Module
    stream: str = "text"
    """Which positions it routes: those of the `text`, or of the `encoder`, the `decoder`, or `vision`."""
    tested: bool = True
    """Whether a test of this package compares this architecture with what its experts receive; False for one read by structure."""

    def attach(self, deliver: Deliver) -> list[Handle]:
        """Have every decision of this layer delivered as it is made, until the handles are removed."""
        return self.adapter.attach(self, deliver)


class RouterAdapter(Protocol):
    """Knows one way in which architectures route.

    An adapter says where routers are (`find`) and how a decision is read when it is executed (`attach`). It reads what the model
    computed, and where it must derive something from that it compares the result with what the experts received.

    Packages register their own through the entry point group `moe_router.adapters`: a name, and an object or a class without
    arguments. Those are tried before the ones of this package.
    """

    name: str
    """Short name, shown in tables."""

    def find(self, model: nn.Module) -> list[MoELayer]:
        """The model's MoE layers that this adapter reads, in the order of the layers."""
        ...

    def attach(self, layer: MoELayer, deliver: Deliver) -> list[Handle]:
        """Put hooks on the layer that call `deliver` once for each of its forward passes.

        Raises:
            RouterError: from within the forward pass, when it computes something this adapter does not know.
        """
        ...


def flat(tensor: Tensor) -> Tensor:
    """The last axis kept, all others flattened."""
    return tensor.reshape(-1, tensor.shape[-1])


def described(output: Any) -> str:
    """A router's output in words, for errors."""
    if isinstance(output, tuple):
        return f"{len(output)} values ({', '.join(described(x) for x in output)})"
    if isinstance(output, Tensor):
        return f"{str(output.dtype).removeprefix('torch.')} {tuple(output.shape)}"
    return f"a {type(output).__name__}"
