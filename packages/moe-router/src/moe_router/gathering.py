"""What passes of a model add up to: the sums of every group, and the trace they make.

Shapes: B batch, S sequence, T = B · S positions, L MoE layers, E experts, U units.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from moe_router.architectures.base import MoELayer, Routing
from moe_router.errors import RouterError
from moe_router.positions import Positions
from moe_router.streaming import LayerSums, Transitions, units_for
from moe_router.trace import RoutingTrace, pair_folds


class GroupSums:
    """The sums of one group."""

    def __init__(self, layers: list[MoELayer], *, types: int, number: int) -> None:
        self.layers, self.types, self.number = layers, types, number
        self.limit = min(units_for(layer.num_experts) for layer in layers)
        self.pair_folds = pair_folds(max(layer.num_experts for layer in layers))
        self.sequences = 0
        self.last_units: Tensor | None = None
        self.sums: dict[int, LayerSums] = {}
        self.transitions: dict[int, Transitions] = {}
        self._tokens: dict[int, Tensor] = {}
        self._sequences_U = np.zeros(self.limit, dtype=np.int64)

    def place(self, positions: Positions) -> Tensor:
        """The unit of every position of a pass, [T]."""
        if positions.continued and self.last_units is not None and len(self.last_units) == positions.sequences:
            units = self.last_units
        else:
            numbers = np.arange(self.sequences, self.sequences + positions.sequences) % self.limit
            np.add.at(self._sequences_U, numbers, 1)
            self.sequences += positions.sequences
            units = torch.from_numpy(numbers).to(positions.sequence_T.device)
        self.last_units = units
        return units[positions.sequence_T]

    @property
    def units(self) -> int:
        """Units in use."""
        return min(self.sequences, self.limit)

    def sums_of(self, number: int, device: torch.device) -> LayerSums:
        """The sums of a layer, with room for the units in use."""
        if number not in self.sums:
            self.sums[number] = LayerSums(
                self.layers[number].num_experts,
                self.units,
                self.types,
                device,
                group=self.number,
                folds=self.pair_folds,
            )
        sums = self.sums[number]
        if len(sums.pairs_U) < self.units:
            sums.grow(min(self.limit, max(self.units, 2 * len(sums.pairs_U))))
        return sums

    def count_tokens(self, number: int, mask_T: Tensor | None, unit_T: Tensor) -> None:
        """Add a layer's tokens of one pass."""
        tokens_U = self._tokens.setdefault(number, torch.zeros(self.limit, dtype=torch.int64, device=unit_T.device))
        tokens_U.scatter_add_(0, unit_T, torch.ones_like(unit_T) if mask_T is None else mask_T.long())

    def tokens(self) -> NDArray[np.int64]:
        """Tokens of every layer and unit, [L, U]."""
        empty = np.zeros(self.limit, dtype=np.int64)
        return np.array(
            [self._tokens[n].cpu().numpy() if n in self._tokens else empty for n in range(len(self.layers))]
        )

    @property
    def sequences_U(self) -> NDArray[np.int64]:
        """Sequences of every unit in use."""
        return self._sequences_U[: self.units]


class ForwardPass:
    """One forward pass of the model: what its layers have in common."""

    def __init__(self, group: GroupSums, positions: Positions, mask_T: Tensor | None, type_T: Tensor | None) -> None:
        self.group, self.positions, self.mask_T = group, positions, mask_T
        device = positions.sequence_T.device
        self.unit_T = group.place(positions)
        self.type_T = None if type_T is None else type_T.to(device)
        together_T = torch.zeros_like(positions.sequence_T, dtype=torch.bool)
        together_T[1:] = positions.sequence_T[1:] == positions.sequence_T[:-1]
        if mask_T is not None:
            together_T[1:] &= mask_T[1:] & mask_T[:-1]
        self.together_T = together_T
        self._first: tuple[int, Tensor] | None = None
        self.layers_seen = 0
        if type_T is not None and len(type_T) != len(self.unit_T):
            raise RouterError(f"{len(type_T)} token types for {len(self.unit_T)} positions")

    def add(self, number: int, layer: MoELayer, routing: Routing) -> None:
        """Add one layer's decisions."""
        device, rows = routing.indices_TK.device, len(routing.indices_TK)
        if rows != len(self.unit_T):
            raise RouterError(
                f"{layer.name} routed {rows} positions where the model's input has {len(self.unit_T)}: its tokens cannot be matched "
                "with the attention mask"
            )
        mask_T = None if self.mask_T is None else self.mask_T.to(device)
        unit_T, together_T = self.unit_T.to(device), self.together_T.to(device)
        type_T = None if self.type_T is None else self.type_T.to(device)
        self.layers_seen += 1
        first_T = self.group.sums_of(number, device).add(routing, mask_T, unit_T, together_T, type_T)
        self.group.count_tokens(number, mask_T, unit_T)
        before, self._first = self._first, (number, first_T)
        if before is not None and before[0] == number - 1 and self.group.sums[number].coactivation_FEE is not None:
            transitions = self.group.transitions
            if number - 1 not in transitions:
                experts = self.group.layers[number - 1].num_experts
                transitions[number - 1] = Transitions(self.group.pair_folds, experts, layer.num_experts, device)
            transitions[number - 1].add(before[1], first_T, unit_T)


def assemble(
    layers: list[MoELayer], types_: tuple[str, ...], groups: dict[str, GroupSums], model: str, metadata: dict[str, str]
) -> RoutingTrace:
    """The trace of what was summed.

    Raises:
        RouterError: when layers saw different numbers of tokens.
    """
    widest = max(layer.num_experts for layer in layers)

    def wide(array: Any, axes: int) -> NDArray[Any]:
        """Without the bin of what does not count, and padded to the largest layer, in its last axes."""
        kept = array.cpu().numpy()[(..., *[slice(None, -1)] * axes)]
        return np.pad(kept, [(0, 0)] * (kept.ndim - axes) + [(0, widest - n) for n in kept.shape[-axes:]])

    def of_units(name: str, axes: int) -> Any:
        per_group = []
        for group in groups.values():
            rows = [getattr(group.sums[n], name)[: group.units] for n in range(len(layers))]
            per_group.append(np.stack([wide(r, axes) if axes else r.cpu().numpy() for r in rows], axis=1))
        return np.concatenate(per_group)

    def summed(name: str, axes: int) -> Any:
        total = []
        for n in range(len(layers)):
            arrays = [getattr(group.sums[n], name) for group in groups.values()]
            if any(a is None for a in arrays):
                return None
            total.append(sum(wide(a, axes) for a in arrays))
        return np.stack(total)

    for name, group in groups.items():
        tokens_LU = group.tokens()
        if (tokens_LU != tokens_LU[0]).any() or len(group.sums) != len(layers):
            raise RouterError(
                f"group {name!r}: the layers recorded different numbers of tokens, so part of the routing was bypassed"
            )
    tokens_U = np.concatenate([group.tokens()[0, : group.units] for group in groups.values()])
    top_k_L = tuple(layer.top_k for layer in layers)
    coactivation = summed("coactivation_FEE", 2)
    transitions = None
    if coactivation is not None and all(len(g.transitions) == len(layers) - 1 for g in groups.values()):
        none = np.zeros((pair_folds(widest), 0, widest, widest), dtype=np.int64)
        steps = [sum(wide(g.transitions[n].counts_FEE, 2) for g in groups.values()) for n in range(len(layers) - 1)]
        transitions = np.stack(steps, axis=1) if steps else none
    types = summed("types_FCE", 1) if types_ else None
    return RoutingTrace(
        model=model,
        layers=tuple(layer.name for layer in layers),
        experts_L=tuple(layer.num_experts for layer in layers),
        top_k_L=top_k_L,
        groups=tuple(groups),
        types=types_,
        unit_group_U=np.concatenate([np.full(g.units, i) for i, g in enumerate(groups.values())]),
        sequences_U=np.concatenate([g.sequences_U for g in groups.values()]),
        tokens_U=tokens_U,
        counts_ULE=of_units("counts_UE", 1),
        first_ULE=of_units("first_UE", 1),
        idle_UL=of_units("idle_U", 0),
        pairs_U=of_units("pairs_U", 0)[:, 0],
        repeats_UL=of_units("repeats_U", 0),
        mass_GLE=np.stack([[wide(g.sums[n].mass_E, 1) for n in range(len(layers))] for g in groups.values()]),
        types_FCLE=None if types is None else types.transpose(1, 2, 0, 3),
        coactivation_FLEE=None if coactivation is None else (coactivation + coactivation.swapaxes(2, 3)).swapaxes(0, 1),
        transitions_FLEE=transitions,
        metadata=metadata,
    )
