"""Cross-entropy over completion tokens, with the logits of a few rows at a time.

The stock way holds the logits of every position, a copy in float32, their log-softmax and its gradient at once: about 14 bytes for each of
S · V numbers. Here the model is run up to its head, and the head, its loss and their gradient are worked out for `CHUNK` rows after the
other, as in Cut Your Losses (arXiv:2411.09009) and liger-kernel, but by the model's own head and in its own precision.

B samples, S tokens, H hidden size, V vocabulary, W rows with a loss.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from moe_train.data import IGNORED, Batch
from moe_train.errors import TrainError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from moe_train.config import RunConfig
    from moe_train.model import LoadedModel

CHUNK = 256
"""Rows whose logits are there together."""


@dataclass(frozen=True)
class After:
    """What a model does to its head's output before it calls it logits, and who takes the loss of it."""

    does: Literal["nothing", "cap", "divide", "multiply"] = "nothing"
    value: float = 1.0
    """The cap, divisor or factor."""
    fused: bool = False
    """Whether liger-kernel makes logits, loss and gradients in its own chunks on the GPU."""

    def __call__(self, x: Tensor) -> Tensor:
        """The logits."""
        match self.does:
            case "cap":
                return torch.tanh(x / self.value) * self.value
            case "divide":
                return x / self.value
            case "multiply":
                return x * self.value
        return x


def after_head(model: PreTrainedModel) -> After | None:
    """How this model makes logits of its head's output, tried out on the model itself; None where that cannot be told.

    What a configuration may ask for is tried in turn: nothing, a cap by tanh (`final_logit_softcapping`), a divisor (`logits_scaling`), a
    factor (`logit_scale`). The model is run on four tokens with numbers of ours in place of its head's output, and once with no row for its
    head at all, as the loss will run it.
    """
    head = model.get_output_embeddings()
    if head is None:
        return None
    config = model.config.get_text_config()
    ids = torch.arange(4, device=model.device)[None] % config.vocab_size
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            with _rows_taken(head) as taken:
                empty = model(input_ids=ids, use_cache=False).logits
            width = head(taken[0][:, :1]).shape[-1] if taken else 0
            if len(taken) != 1 or taken[0].shape[:2] != ids.shape or empty.shape != (1, 0, width):
                return None
            probe = torch.linspace(-60, 60, 4 * width, dtype=taken[0].dtype, device=model.device).view(1, 4, width)
            handle = head.register_forward_hook(lambda *_: probe.clone())
            try:
                logits = model(input_ids=ids, use_cache=False).logits
            finally:
                handle.remove()
    except (RuntimeError, ValueError, TypeError, AttributeError, IndexError):
        return None  # its forward pass wants more than token ids, or a row at the least
    finally:
        model.train(was_training)
    for candidate in _candidates(config):
        if torch.equal(candidate(probe).float(), logits.float()):
            return candidate
    return None


def loss_of(config: RunConfig, loaded: LoadedModel) -> After | None:
    """What a run's loss is taken with: `after_head` for one in chunks, None for all logits at once.

    Raises:
        TrainError: where chunks are asked for and this model's head cannot be run by itself, or liger-kernel and it cannot take it.
    """
    asked = config.training.loss
    if asked in {"chunked", "liger"} and loaded.after is None:
        raise TrainError(
            f"training.loss={asked}: what {type(loaded.model).__name__} does after its head cannot be told; leave it at auto"
        )
    if asked == "liger" and loaded.after is not None:
        if problem := _not_for_liger(loaded.model, loaded.after):
            raise TrainError(f"training.loss=liger: {problem}")
        return replace(loaded.after, fused=True)
    return None if asked == "whole" else loaded.after


def _not_for_liger(model: PreTrainedModel, after: After) -> str:
    """Why liger-kernel cannot take this model's loss; empty where it can."""
    if model.device.type != "cuda" and os.environ.get("TRITON_INTERPRET") != "1":
        return f"its kernels need a CUDA GPU, and the model is on {model.device.type}; leave it at auto"
    if find_spec("liger_kernel") is None:
        return "needs liger-kernel; pip install 'moe-train[kernels]'"
    head = model.get_output_embeddings()
    if type(head).forward is not nn.Linear.forward or not head.weight.is_floating_point():
        return f"the head is a {type(head).__name__}, and it knows dense linear ones; leave it at auto"
    if after.does != "nothing":
        return f"{type(model).__name__} caps or scales its logits, which is not proved with it; leave it at auto"
    return ""


def _candidates(config: Any) -> Iterator[After]:
    yield After()
    names: Mapping[str, Literal["cap", "divide", "multiply"]] = {
        "final_logit_softcapping": "cap", "logits_scaling": "divide", "logit_scale": "multiply",
    }  # fmt: skip
    for name, does in names.items():
        if value := getattr(config, name, None):
            yield After(does, value)


@contextmanager
def _rows_taken(head: nn.Module) -> Iterator[list[Tensor]]:
    """Keep what the head would be given, and give it no row."""
    taken: list[Tensor] = []

    def take(_module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        taken.append(args[0])
        return (args[0][:, :0], *args[1:])

    handle = head.register_forward_pre_hook(take)
    try:
        yield taken
    finally:
        handle.remove()


def completion_loss(model: nn.Module, batch: Batch, *, after: After | None = None) -> Tensor:
    """Cross-entropy in nats summed over the completion tokens of a micro-batch, in fp32; a scalar tensor with gradient.

    Args:
        model: adapted or not.
        batch: token ids and labels.
        after: of `after_head`; None holds the logits of all positions.
    """
    rows_WX, labels_W = _wanted(model, batch, after)
    if after is None:
        return functional.cross_entropy(rows_WX.float(), labels_W, reduction="sum")
    head = _head_of(model)
    if after.fused:
        return _by_liger(rows_WX, labels_W, head)
    trains = [p for p in head.parameters() if p.requires_grad]
    total: Tensor = _Chunked.apply(rows_WX, labels_W, head, after, *trains)  # type: ignore[no-untyped-call]
    return total


def _by_liger(rows_WH: Tensor, labels_W: Tensor, head: Any) -> Tensor:
    """The summed loss by liger-kernel's fused linear cross-entropy (arXiv:2410.10989), the head's gradient added up in fp32."""
    from liger_kernel.transformers.functional import liger_fused_linear_cross_entropy

    if not len(rows_WH):
        return rows_WH.sum().float()  # nothing, with a gradient of nothing
    total: Tensor = liger_fused_linear_cross_entropy(
        rows_WH, head.weight, labels_W, bias=head.bias, reduction="sum", accum_dtype=torch.float32
    )
    return total


def token_losses(model: nn.Module, batch: Batch, *, after: After | None = None) -> Tensor:
    """The same for every completion token, [W] in the order of the batch, without gradient."""
    with torch.no_grad():
        rows_WX, labels_W = _wanted(model, batch, after)
        head = None if after is None else _head_of(model)
        found = []
        for start in range(0, len(rows_WX), CHUNK):
            rows = rows_WX[start : start + CHUNK]
            logits = rows if head is None or after is None else after(head(rows))
            found.append(functional.cross_entropy(logits.float(), labels_W[start : start + CHUNK], reduction="none"))
        return torch.cat(found) if found else rows_WX.new_zeros(0, dtype=torch.float32)


def _wanted(model: nn.Module, batch: Batch, after: After | None) -> tuple[Tensor, Tensor]:
    """Of every position that predicts a completion token: its logits, or what the head would be given for it; and that token."""
    device = next(model.parameters()).device
    labels_BS = batch.labels_BS.to(device)
    wanted_BS = torch.zeros_like(labels_BS, dtype=torch.bool)
    wanted_BS[:, :-1] = (
        labels_BS[:, 1:] != IGNORED
    )  # chosen in one go: leaving out the last position first would copy all in the backward pass
    tokens_W = labels_BS[:, 1:][wanted_BS[:, :-1]]
    given = {
        "input_ids": batch.input_ids_BS.to(device),
        "attention_mask": batch.attention_mask_BS.to(device),
        "use_cache": False,
    }
    if after is None:
        return model(**given).logits[wanted_BS], tokens_W
    with _rows_taken(_head_of(model)) as taken:
        model(**given)
    return taken[0][wanted_BS], tokens_W


def _head_of(model: Any) -> nn.Module:
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    head: nn.Module = base.get_output_embeddings()
    return head


class _Chunked(torch.autograd.Function):
    """The summed loss of rows; their gradient, and the head's, are made on the way, so that no logits wait for the backward pass."""

    @staticmethod
    def forward(ctx: Any, rows_WH: Tensor, labels_W: Tensor, head: nn.Module, after: After, *trains: Tensor) -> Tensor:
        total = rows_WH.new_zeros((), dtype=torch.float32)
        for_rows = torch.empty_like(rows_WH) if rows_WH.requires_grad else None
        sums = [torch.zeros_like(p, dtype=torch.float32) for p in trains]
        for start in range(0, len(rows_WH), CHUNK):
            part = slice(start, start + CHUNK)
            if for_rows is None and not trains:
                total += functional.cross_entropy(after(head(rows_WH[part])).float(), labels_W[part], reduction="sum")
                continue
            rows = rows_WH[part].detach().requires_grad_(for_rows is not None)
            with torch.enable_grad():
                loss = functional.cross_entropy(after(head(rows)).float(), labels_W[part], reduction="sum")
            wanted = [*([] if for_rows is None else [rows]), *trains]
            grads = list(torch.autograd.grad(loss, wanted))
            total += loss.detach()
            if for_rows is not None:
                for_rows[part] = grads.pop(0)
            for summed, grad in zip(sums, grads, strict=True):
                summed += grad
        ctx.save_for_backward(for_rows, *(s.to(p.dtype) for s, p in zip(sums, trains, strict=True)))
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        for_rows, *for_head = ctx.saved_tensors
        (g,) = grads
        scaled = [
            None if t is None else t * g for t in (for_rows, *for_head)
        ]  # g has no dimension, so it widens nothing
        return scaled[0], None, None, None, *scaled[1:]
