"""What an adapter is: it finds the routers of a family of architectures and reads the decision each one returned.

Shapes: T tokens of a forward pass (batch and sequence flattened), E experts, K experts per token.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from torch import Tensor, nn


class Routing(NamedTuple):
    """One router's decision for the tokens of one forward pass."""

    logits_TE: Tensor
    """Raw scores, before softmax or sigmoid."""
    weights_TK: Tensor
    """The weights the experts' outputs were summed with."""
    indices_TK: Tensor
    """The experts that were executed."""


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
    top_k: int
    scoring: str
    """`softmax` or `sigmoid`: how logits become probabilities."""
    adapter: RouterAdapter

    def read(self, output: Any) -> Routing:
        """The decision in what the router's forward returned."""
        return self.adapter.read(output)


class RouterAdapter(Protocol):
    """Knows one way in which architectures route.

    An adapter states where routers are (`find`) and what their output means (`read`). It never recomputes a decision.
    """

    name: str
    """Short name, shown in tables."""
    architectures: tuple[str, ...]
    """Model types for which a test compares every decision with the experts' own input."""

    def find(self, model: nn.Module) -> list[MoELayer]:
        """The model's MoE layers that this adapter reads, in the order of the layers."""
        ...

    def read(self, output: Any) -> Routing:
        """The decision in what a router's forward returned.

        Raises:
            RouterError: when the output has not the form this adapter knows.
        """
        ...
