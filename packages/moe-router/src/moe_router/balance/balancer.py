"""Routing losses for a training step that is cut into micro-batches.

The load-balancing loss multiplies each expert's probability by how busy it was. How busy it was in this batch is known
only after the last micro-batch; taking each micro-batch's own counts instead makes the gradient depend on how the batch
was cut. So f comes from the previous step's whole batch, and is even at the first step, where the loss has no gradient.

Shapes: B batch, S sequence, T tokens, L MoE layers, E experts, K experts per token.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from moe_router.architectures.base import Deliver, Routing
from moe_router.architectures.registry import diagnose, find_moe_layers
from moe_router.balance.losses import load_balancing_loss, routing_probabilities, z_loss
from moe_router.capture import in_recompute
from moe_router.errors import RouterError
from moe_router.metrics.load import max_violation, normalised_entropy
from moe_router.positions import token_mask


@dataclass(frozen=True, kw_only=True)
class StepRouting:
    """The executed routing of one optimizer step's whole batch."""

    load_LE: NDArray[np.int64]
    """Assignments of every layer and expert."""
    entropy_L: NDArray[np.float64]
    """Normalised load entropy of every layer, 0 to 1."""
    max_vio_L: NDArray[np.float64]
    """MaxVio of every layer."""
    load_balancing: float
    """The load-balancing loss with this step's own counts, mean over layers; 1 is even. Not multiplied by its coefficient."""
    z_loss: float
    """The z-loss, mean over layers, not multiplied by its coefficient."""


class RoutingBalancer:
    """Adds routing losses on the experts that were executed, whatever way a batch is cut.

    Example:
        balancer = RoutingBalancer(model, load_balancing=0.01, z_loss=1e-4)
        balancer.begin_step(tokens=total)
        for part in parts:
            with balancer.micro_batch(part.attention_mask):
                loss = loss_of(model, part) + balancer.loss()
            loss.backward()
        routing = balancer.end_step()
    """

    def __init__(self, model: nn.Module, *, load_balancing: float, z_loss: float) -> None:
        """Attach to the model's routers.

        Args:
            model: PEFT-wrapped or not; before torch.compile.
            load_balancing: coefficient of the load-balancing loss, 0 for none.
            z_loss: coefficient of the z-loss, 0 for none.

        Raises:
            RouterError: for a model without MoE layers, or negative coefficients.
        """
        if load_balancing < 0 or z_loss < 0:
            raise RouterError("coefficients of routing losses must not be negative")
        found = find_moe_layers(model)
        if not found:
            raise RouterError(f"no MoE layer to balance: {diagnose(model)}")
        self.layers = [layer for layer in found if layer.stream in {"text", "decoder"}]
        if len({layer.num_experts for layer in self.layers}) > 1:
            raise RouterError("layers with different numbers of experts are not supported by the balancer")
        self.load_balancing, self.z_loss = load_balancing, z_loss
        experts = self.layers[0].num_experts
        self._fractions_LE = torch.full((len(self.layers), experts), 1 / experts)
        self._handles = [handle for i, layer in enumerate(self.layers) for handle in layer.attach(self._reader(i))]
        self._tokens = 0
        self._open = False
        self._seen: dict[int, Tensor] = {}
        self._mask_BS: Tensor | None = None
        self._reset()

    def _reset(self) -> None:
        shape = self._fractions_LE.shape
        self._counts_LE = torch.zeros(shape, dtype=torch.int64)
        self._probs_LE = torch.zeros(shape, dtype=torch.float64)
        self._z_L = torch.zeros(shape[0], dtype=torch.float64)
        self._idle_L = torch.zeros(shape[0], dtype=torch.int64)

    def begin_step(self, *, tokens: int) -> None:
        """Begin an optimizer step of so many tokens, padding not counted, over all its micro-batches and processes.

        Raises:
            RouterError: when there is no token.
        """
        if tokens <= 0:
            raise RouterError(f"a step of {tokens} tokens has no routing")
        self._tokens = tokens
        self._reset()

    def abort_step(self) -> None:
        """Forget what the step has counted, as before it is replayed after running out of memory."""
        self._tokens = 0
        self._reset()

    @contextmanager
    def micro_batch(self, attention_mask_BS: Tensor | None) -> Iterator[None]:
        """Watch the routers during one micro-batch's forward pass.

        Args:
            attention_mask_BS: 1 on tokens and 0 on padding; None where there is no padding.
        """
        if self._tokens == 0:
            raise RouterError("micro_batch before begin_step")
        self._open, self._mask_BS, self._seen = True, attention_mask_BS, {}
        try:
            yield
        finally:
            self._open, self._seen = False, {}

    def _reader(self, number: int) -> Deliver:
        layer = self.layers[number]

        def read(routing: Routing) -> None:
            if not self._open or in_recompute():
                return
            if layer.router.training and not torch.is_grad_enabled() and (self.load_balancing or self.z_loss):
                raise RouterError(
                    "reentrant gradient checkpointing runs the routers without gradient, so the routing losses would train nothing; "
                    'use gradient_checkpointing_kwargs={"use_reentrant": False}'
                )
            if routing.normalised and self.z_loss:
                raise RouterError(
                    "this transformers release returns probabilities for logits (5.0 to 5.5 do), from which the z-loss cannot be had; "
                    "use 5.6 or later, or a z_loss of 0"
                )
            # Nothing here may save a tensor for the backward pass: checkpointing's recompute, in which this hook does not run,
            # would then save fewer than the first pass did. So the loss is computed later, in `loss`.
            with torch.no_grad():
                mask_T = self._mask(routing.logits_TE.device)
                idle_TK = None if routing.idle_TK is None else _kept(routing.idle_TK, mask_T)
                self._count(number, _kept(routing.logits_TE, mask_T), _kept(routing.indices_TK, mask_T), idle_TK)
            self._seen[number] = routing.logits_TE

        return read

    def _mask(self, device: torch.device) -> Tensor | None:
        """Which rows of the router's output are tokens, [T]; None where all are."""
        if self._mask_BS is None:
            return None
        mask_T = token_mask(self._mask_BS, *self._mask_BS.shape)
        return None if mask_T is None else mask_T.to(device)

    def _count(self, number: int, logits_TE: Tensor, indices_TK: Tensor, idle_TK: Tensor | None) -> None:
        layer = self.layers[number]
        executed = indices_TK.reshape(-1) if idle_TK is None else indices_TK[~idle_TK]
        self._counts_LE[number] += torch.bincount(executed, minlength=layer.num_experts).cpu()
        self._idle_L[number] += 0 if idle_TK is None else int(idle_TK.sum())
        probs_TE = routing_probabilities(logits_TE, scoring=layer.scoring)[:, : layer.num_experts]
        self._probs_LE[number] += probs_TE.sum(0).double().cpu()
        self._z_L[number] += torch.logsumexp(logits_TE.float(), -1).square().sum().double().cpu()

    def loss(self) -> Tensor:
        """This micro-batch's share of the routing losses, times their coefficients, mean over layers: a scalar to add.

        Raises:
            RouterError: when no router ran since `micro_batch` began.
        """
        if len(self._seen) != len(self.layers):
            raise RouterError(
                f"{len(self._seen)} of {len(self.layers)} routers ran in this micro-batch: part of the routing was bypassed "
                "(attach the balancer before torch.compile)"
            )
        total: Tensor | None = None
        for number, all_logits_TE in self._seen.items():
            logits_TE = _kept(all_logits_TE, self._mask(all_logits_TE.device))
            share = logits_TE.new_zeros((), dtype=torch.float32)
            if self.load_balancing:
                layer = self.layers[number]
                # A column behind those of the experts is the choice of none (zaya): it takes probability, not load.
                probs_TE = routing_probabilities(logits_TE, scoring=layer.scoring)[:, : layer.num_experts]
                share = share + self.load_balancing * load_balancing_loss(
                    probs_TE, self._fractions_LE[number].to(logits_TE.device), tokens=self._tokens
                )
            if self.z_loss:
                share = share + self.z_loss * z_loss(logits_TE, tokens=self._tokens)
            total = share if total is None else total + share.to(total.device)
        assert total is not None
        return total / len(self.layers)

    def end_step(self) -> StepRouting:
        """Close the step; its counts are what the next one balances against.

        Raises:
            RouterError: when nothing was counted, or not every token of `begin_step`.
        """
        counted = self._counts_LE.sum(1) + self._idle_L
        expected = torch.tensor([self._tokens * layer.top_k for layer in self.layers])
        if (counted != expected).any():
            first = int((counted != expected).nonzero()[0])
            raise RouterError(
                f"{self.layers[first].name}: {int(counted[first])} assignments were counted where {int(expected[first])} were due "
                f"({self._tokens} tokens, top-{self.layers[first].top_k}); check the tokens given to begin_step and the masks"
            )
        fractions_LE = self._counts_LE / self._counts_LE.sum(1, keepdim=True)
        balance = self.layers[0].num_experts * (fractions_LE * self._probs_LE / self._tokens).sum(1).mean()
        load_LE = self._counts_LE.numpy().copy()
        routing = StepRouting(
            load_LE=load_LE,
            entropy_L=np.array([normalised_entropy(load_E) for load_E in load_LE]),
            max_vio_L=np.array([max_violation(load_E) for load_E in load_LE]),
            load_balancing=float(balance),
            z_loss=float(self._z_L.mean() / self._tokens),
        )
        self._fractions_LE = fractions_LE.float()
        self._tokens = 0
        return routing

    def state_dict(self) -> dict[str, Tensor]:
        """What the next step needs: the previous step's load shares, [L, E]."""
        return {"fractions_LE": self._fractions_LE.clone()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Go on from a saved state.

        Raises:
            RouterError: for the state of a model with other layers or experts.
        """
        fractions_LE = state["fractions_LE"]
        if fractions_LE.shape != self._fractions_LE.shape:
            raise RouterError(
                f"balancer state of {tuple(fractions_LE.shape)} layers and experts; this model has {tuple(self._fractions_LE.shape)}"
            )
        self._fractions_LE = fractions_LE.clone()

    def close(self) -> None:
        """Detach from the model."""
        for handle in self._handles:
            handle.remove()
        self._handles = []


def _kept(rows: Tensor, mask_T: Tensor | None) -> Tensor:
    return rows if mask_T is None else rows[mask_T]
