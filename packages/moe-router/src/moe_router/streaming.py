"""Sums over executed routing, kept on the device where the routers run, in memory that does not grow with the text.

Shapes: T positions of a pass, L MoE layers, E experts, K experts per token, U units, F folds of units, C token types.

A unit is a set of whole sequences: each sequence up to a limit, then one more to each in turn. They are what significance tests
permute, because tokens of one sequence are not independent.
"""

from __future__ import annotations

import torch
from torch import Tensor

from moe_router.architectures.base import Routing
from moe_router.trace import TYPE_FOLDS, fold_of, pair_folds

MAX_UNITS = 256
"""Units of a group; sequences beyond are added to them in turn."""
MAX_PAIRED_EXPERTS = 512
"""Layers with more experts than this keep no expert × expert sums."""


def units_for(experts: int) -> int:
    """Units of a group that a layer of so many experts keeps, so that their counts stay below 8 MiB."""
    return max(16, min(MAX_UNITS, (1 << 20) // experts))


class LayerSums:
    """The sums of one layer."""

    def __init__(
        self,
        num_experts: int,
        units: int,
        types: int,
        device: torch.device,
        *,
        group: int = 0,
        folds: int | None = None,
    ) -> None:
        self.num_experts, self.group = num_experts, group
        self.folds = folds or pair_folds(num_experts)

        def zeros(*shape: int) -> Tensor:
            return torch.zeros(*shape, dtype=torch.int64, device=device)

        # One bin more than there are experts takes what does not count: padding, and slots in which no expert worked.
        self.counts_UE = zeros(units, num_experts + 1)
        self.first_UE = zeros(units, num_experts + 1)
        self.repeats_U = zeros(units)
        self.pairs_U = zeros(units)
        self.idle_U = zeros(units)
        self.mass_E = torch.zeros(num_experts + 1, dtype=torch.float64, device=device)
        self.types_FCE = zeros(TYPE_FOLDS, types, num_experts + 1)
        paired = num_experts <= MAX_PAIRED_EXPERTS
        self.coactivation_FEE = zeros(self.folds, num_experts + 1, num_experts + 1) if paired else None

    def grow(self, units: int) -> None:
        """Make room for more units."""
        for name in ("counts_UE", "first_UE", "repeats_U", "pairs_U", "idle_U"):
            old = getattr(self, name)
            new = old.new_zeros(units, *old.shape[1:])
            new[: len(old)] = old
            setattr(self, name, new)

    def add(
        self,
        routing: Routing,
        mask_T: Tensor | None,
        unit_T: Tensor,
        together_T: Tensor,
        type_T: Tensor | None,
    ) -> Tensor:
        """Add the decisions of one pass; the first choice of every position, [T], where padding has `num_experts`.

        Args:
            routing: the decisions.
            mask_T: True on tokens; None where all are.
            unit_T: the unit of every position.
            together_T: True where a position and the one before it are tokens of one sequence.
            type_T: the token type of every position; None where none are told apart.
        """
        bins = self.num_experts + 1
        indices_TK, weights_TK = routing.indices_TK, routing.weights_TK
        if mask_T is not None:
            indices_TK = torch.where(mask_T[:, None], indices_TK, self.num_experts)
        if routing.idle_TK is not None:
            idle_T = routing.idle_TK.sum(-1)
            self.idle_U.scatter_add_(0, unit_T, idle_T if mask_T is None else idle_T * mask_T)
            indices_TK = torch.where(routing.idle_TK, self.num_experts, indices_TK)
        top_k = indices_TK.shape[-1]
        ones_T = torch.ones_like(unit_T)
        # Sums by scatter, not by bincount: that one waits for the device to learn its size.
        for k in range(top_k):
            self.counts_UE.view(-1).scatter_add_(0, unit_T * bins + indices_TK[:, k], ones_T)
        # The first choice is the heaviest; routers do not all return them in that order.
        best_T1 = weights_TK.argmax(-1, keepdim=True)
        first_T = indices_TK.gather(-1, best_T1)[:, 0]
        self.first_UE.view(-1).scatter_add_(0, unit_T * bins + first_T, ones_T)
        self.mass_E.scatter_add_(0, indices_TK.reshape(-1), weights_TK.reshape(-1).double())
        if type_T is not None:
            cell_T = (fold_of(unit_T, self.group) * self.types_FCE.shape[1] + type_T) * bins
            for k in range(top_k):
                self.types_FCE.view(-1).scatter_add_(0, cell_T + indices_TK[:, k], ones_T)
        if self.coactivation_FEE is not None:
            base_T = (unit_T % self.folds) * bins * bins
            for i in range(top_k):
                for j in range(i + 1, top_k):
                    keys_T = base_T + indices_TK[:, i] * bins + indices_TK[:, j]
                    self.coactivation_FEE.view(-1).scatter_add_(0, keys_T, ones_T)
        same_T = together_T.clone()
        same_T[1:] &= first_T[1:] == first_T[:-1]
        self.repeats_U.scatter_add_(0, unit_T, same_T.long())
        self.pairs_U.scatter_add_(0, unit_T, together_T.long())
        return first_T


class Transitions:
    """Counts of first choices in one layer against first choices in the next, [F, E, E']."""

    def __init__(self, folds: int, before: int, after: int, device: torch.device) -> None:
        self.counts_FEE = torch.zeros(folds, before + 1, after + 1, dtype=torch.int64, device=device)

    def add(self, before_T: Tensor, after_T: Tensor, unit_T: Tensor) -> None:
        """Add one pass's."""
        device, (folds, rows, columns) = self.counts_FEE.device, self.counts_FEE.shape
        keys_T = ((unit_T.to(device) % folds) * rows + before_T.to(device)) * columns + after_T.to(device)
        self.counts_FEE.view(-1).scatter_add_(0, keys_T, torch.ones_like(keys_T))
