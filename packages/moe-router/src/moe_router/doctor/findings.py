"""What a check finds, and what it is given to look at."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from moe_router.architectures.base import Deliver, MoELayer, Routing
from moe_router.architectures.registry import find_moe_layers
from moe_router.architectures.structure import text_config
from moe_router.errors import RouterError

ERROR, WARNING, NOTE = "error", "warning", "note"
"""An error spoils a training run without a word; a warning does under conditions that were not met here; a note is good to know."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that is wrong, or would be."""

    check: str
    severity: str
    title: str
    evidence: str
    """What was measured on this model just now."""
    mend: str


@dataclass(kw_only=True)
class Patient:
    """A model, a batch to run it on, and what is known of the run it is meant for."""

    model: nn.Module
    batch: dict[str, Tensor]
    """`input_ids` and `attention_mask`, [B, S]."""
    run: Mapping[str, Any] = field(default_factory=dict)
    """The run's configuration, flat or nested, as read from its file; empty where none was given."""
    random_tokens: bool = False
    """Whether the batch is no text, so that its load says nothing of real use."""
    layers: list[MoELayer] = field(init=False)

    def __post_init__(self) -> None:
        """Find the MoE layers that the batch goes through.

        Raises:
            RouterError: for a model without any.
        """
        from moe_router.architectures.registry import diagnose

        found = find_moe_layers(self.model)
        if not found:
            raise RouterError(f"no MoE layer: {diagnose(self.model)}")
        self.layers = [layer for layer in found if layer.stream in {"text", "decoder"}]

    @property
    def config(self) -> Any:
        """The language model's configuration."""
        return text_config(self.model)

    @property
    def inputs(self) -> dict[str, Tensor]:
        """The batch as the model's call."""
        if not getattr(getattr(self.model, "config", None), "is_encoder_decoder", False):
            return self.batch
        return {
            **self.batch,
            "decoder_input_ids": self.batch["input_ids"],
            "decoder_attention_mask": self.batch["attention_mask"],
        }

    @property
    def labels(self) -> Tensor:
        """The batch's tokens, padding left out, [B, S]."""
        return self.batch["input_ids"].masked_fill(self.batch["attention_mask"] == 0, -100)

    def setting(self, *names: str) -> Any:
        """The first of these keys anywhere in the run's configuration; None where it has none of them."""
        return _look_up(self.run, names)

    def forward(self, **arguments: Any) -> Any:
        """The model's outputs for the batch, with gradients off unless switched on around it."""
        return (
            self.model(**self.inputs, use_cache=False, **arguments)
            if _takes_cache(self.model)
            else self.model(**self.inputs, **arguments)
        )

    def backward(self) -> bool:
        """A backward pass of the model's loss on the batch; False where the loss depends on nothing that trains."""
        loss = self.forward(labels=self.labels).loss
        if not loss.requires_grad:
            return False
        loss.backward()
        return True

    def routing(self) -> list[Routing]:
        """Every layer's executed routing of the batch's tokens, padding left out."""
        seen: dict[int, Routing] = {}

        def keep(number: int) -> Deliver:
            def deliver(routing: Routing) -> None:
                seen[number] = routing

            return deliver

        handles = [handle for n, layer in enumerate(self.layers) for handle in layer.attach(keep(n))]
        try:
            with torch.no_grad():
                self.forward()
        finally:
            for handle in handles:
                handle.remove()
        if len(seen) != len(self.layers):
            raise RouterError(
                f"{len(seen)} of {len(self.layers)} routers ran: part of the routing is bypassed (a model that ran compiled before has no "
                "place for hooks: load it anew, and run fused kernels and torch.compile only after)"
            )
        keep_T = self.batch["attention_mask"].reshape(-1).bool()
        return [
            seen[n]._replace(
                logits_TE=seen[n].logits_TE[keep_T],
                weights_TK=seen[n].weights_TK[keep_T],
                indices_TK=seen[n].indices_TK[keep_T],
                idle_TK=None,
            )
            for n in range(len(self.layers))
        ]

    @contextmanager
    def training(self) -> Any:
        """The model in training mode with gradients, as it was afterwards."""
        before = self.model.training
        trainable = {n: p.requires_grad for n, p in self.model.named_parameters()}
        self.model.train()
        try:
            with torch.enable_grad():
                yield
        finally:
            self.model.train(before)
            self.model.zero_grad(set_to_none=True)
            for name, parameter in self.model.named_parameters():
                parameter.requires_grad_(trainable[name])


def _takes_cache(model: nn.Module) -> bool:
    return not getattr(getattr(model, "config", None), "is_encoder_decoder", False)


def _look_up(values: Any, names: tuple[str, ...]) -> Any:
    if not isinstance(values, Mapping):
        return None
    for name in names:
        if values.get(name) is not None:
            return values[name]
    for value in values.values():
        found = _look_up(value, names)
        if found is not None:
            return found
    return None
