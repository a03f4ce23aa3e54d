"""One micro-batch through a model: inputs, logits, loss, as the run's settings say. Works on real tensors as well."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch

from moe_memprof.phases import task_of
from moe_memprof.replay.step import CHUNK
from moe_memprof.spec import RunSpec

Labelled = Callable[[str], AbstractContextManager[None]]


@dataclass(frozen=True, kw_only=True)
class Batch:
    """What goes into a step."""

    ids_BS: torch.Tensor
    mask_BS: torch.Tensor | None
    """Of a padded batch."""
    wanted_W: torch.Tensor
    """Positions with a loss, among all B · S."""
    labels_W: torch.Tensor
    """What should stand there."""

    @property
    def tensors(self) -> list[torch.Tensor]:
        """All of them."""
        return [t for t in (self.ids_BS, self.mask_BS, self.wanted_W, self.labels_W) if t is not None]


def batch_of(spec: RunSpec) -> Batch:
    """A batch of zeros: its shapes alone count."""
    shape, wanted = (spec.sequences, spec.length), task_of(spec).wanted
    return Batch(
        ids_BS=torch.zeros(shape, dtype=torch.long),
        mask_BS=torch.ones(shape, dtype=torch.long) if spec.padded else None,
        wanted_W=torch.arange(wanted),
        labels_W=torch.zeros(wanted, dtype=torch.long),
    )


def loss_of(model: Any, spec: RunSpec, batch: Batch, labelled: Labelled = lambda _: nullcontext()) -> torch.Tensor:
    """The loss of a batch.

    Args:
        model: a causal language model, or PEFT's wrapper of one.
        spec: which loss, on how many positions.
        batch: what goes in.
        labelled: opens a context for what is allocated inside it.
    """
    inputs = {"input_ids": batch.ids_BS, "use_cache": False}
    if batch.mask_BS is not None:
        inputs["attention_mask"] = batch.mask_BS
    if spec.loss == "stock":
        with labelled("loss"):
            loss: torch.Tensor = model(**inputs, labels=batch.ids_BS).loss
        return loss
    if spec.loss in {"chunked", "liger"}:
        inner = model.get_base_model() if hasattr(model, "get_base_model") else model
        hidden = getattr(inner, inner.base_model_prefix)(**inputs).last_hidden_state
        with labelled("loss"):
            wanted = hidden.flatten(0, 1)[batch.wanted_W]
            chunked: torch.Tensor = _Chunked.apply(wanted, inner.get_output_embeddings().weight, batch.labels_W)  # type: ignore[no-untyped-call]
        return chunked
    logits = model(**inputs).logits
    with labelled("loss"):
        rows = logits.flatten(0, 1)[batch.wanted_W]
        del logits
        return torch.nn.functional.cross_entropy(rows.float(), batch.labels_W)


class _Chunked(torch.autograd.Function):
    """Cross-entropy with the logits of some rows at a time, and the gradient made on the way."""

    @staticmethod
    def forward(ctx: Any, hidden_WH: torch.Tensor, head_VH: torch.Tensor, labels_W: torch.Tensor) -> torch.Tensor:
        for_hidden = torch.empty_like(hidden_WH)
        for_head = torch.zeros_like(head_VH) if head_VH.requires_grad else None
        total = hidden_WH.new_zeros((), dtype=torch.float32)
        for start in range(0, len(hidden_WH), CHUNK):
            rows = slice(start, start + CHUNK)
            scores = (hidden_WH[rows] @ head_VH.T).float()
            total += torch.nn.functional.cross_entropy(scores, labels_W[rows], reduction="sum")
            grad = scores.softmax(-1)
            del scores
            grad.scatter_add_(1, labels_W[rows, None], grad.new_full((len(grad), 1), -1.0))
            grad = (grad / len(hidden_WH)).to(head_VH.dtype)
            for_hidden[rows] = grad @ head_VH
            if for_head is not None:
                for_head += grad.T @ hidden_WH[rows]
        ctx.save_for_backward(for_hidden, *([] if for_head is None else [for_head]))
        return total / len(hidden_WH)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> Any:
        for_hidden, *rest = ctx.saved_tensors
        return for_hidden * grads[0].to(for_hidden.dtype), rest[0] if rest else None, None
