"""The training loop: whole batches, executed as micro-batches, resumable at every checkpoint.

A step is a function of the whole batch. How it is cut into micro-batches changes memory and time and, up to float
rounding, nothing else: the loss is a sum over completion tokens divided by the batch's count of them, and the routing
losses take the batch's counts the same way.

Shapes: B samples, S tokens, L layers, E experts.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moe_train.adapters import trainable
from moe_train.checkpoint import Progress, checkpoints, load_checkpoint, save_checkpoint
from moe_train.data import IGNORED, Sample, batch_indices, collate, micro_batches
from moe_train.engines import make_engine, torch_backward
from moe_train.errors import TrainError
from moe_train.files import append_line, keep_lines
from moe_train.loss import completion_loss, token_losses

if TYPE_CHECKING:
    from torch import Tensor, nn

    from moe_router import RoutingBalancer, StepRouting
    from moe_train.config import RunConfig
    from moe_train.loss import After

FINAL_RATE = 0.1
"""The cosine ends at this share of the peak learning rate."""


def learning_rate(step: int, *, steps: int, warmup: float, peak: float) -> float:
    """Linear warm-up over `warmup` of the steps, then a cosine down to a tenth of the peak at the last step."""
    rising = max(1, round(warmup * steps))
    if step < rising:
        return peak * (step + 1) / rising
    done = (step - rising) / max(1, steps - 1 - rising)
    return peak * (FINAL_RATE + (1 - FINAL_RATE) * 0.5 * (1 + math.cos(math.pi * min(1.0, done))))


@dataclass(frozen=True, kw_only=True)
class StepResult:
    """What one optimizer step did, before it is logged."""

    loss: float
    """Nats per completion token over the whole batch, the routing losses not in it."""
    grad_norm: float
    tokens: int
    """Tokens of the batch, padding not counted."""
    routing: StepRouting | None
    """None for a dense model."""


def batch_gradients(
    model: nn.Module,
    batch: Sequence[Sample],
    *,
    balancer: RoutingBalancer | None,
    pad_id: int,
    micro_batch_tokens: int,
    after: After | None = None,
    backward: Callable[[Tensor, bool], None] = lambda objective, _last: torch_backward(objective),
) -> tuple[float, StepRouting | None]:
    """Add one whole batch's gradient to the parameters; returns its loss (nats per completion token) and routing.

    Args:
        model: adapted, in training mode.
        batch: the samples of one optimizer step.
        balancer: for the routing losses; None for a dense model.
        pad_id: token that fills the rows.
        micro_batch_tokens: most padded tokens in one forward pass.
        after: of `loss.after_head`, for the loss in chunks; None holds all logits.
        backward: receives each micro-batch's objective, and whether it is the last.

    Raises:
        TrainError: when the loss is not finite.
    """
    groups = [collate(group, pad_id=pad_id) for group in micro_batches(batch, max_tokens=micro_batch_tokens)]
    completion_tokens = sum(group.completion_tokens for group in groups)
    if balancer is not None:
        balancer.begin_step(tokens=sum(sum(group.lengths_B) for group in groups))
    total = 0.0
    for number, group in enumerate(groups, start=1):
        device = next(model.parameters()).device
        watching = (
            contextlib.nullcontext() if balancer is None else balancer.micro_batch(group.attention_mask_BS.to(device))
        )
        with watching:
            loss = completion_loss(model, group, after=after) / completion_tokens
            objective = loss if balancer is None else loss + balancer.loss()
        if not math.isfinite(float(objective.detach())):
            raise TrainError("training: the loss is not finite; lower training.learning_rate, or use dtype=float32")
        backward(objective, number == len(groups))
        total += float(loss.detach())
    return total, None if balancer is None else balancer.end_step()


def step_batch(samples: Sequence[Sample], config: RunConfig, step: int) -> list[Sample]:
    """The samples of a step, counted from 0."""
    indices = batch_indices(len(samples), batch_size=config.training.batch_size, step=step, seed=config.seed)
    return [samples[i] for i in indices]


class Trainer:
    """Trains `model`'s trainable parameters on `samples` and keeps metrics and checkpoints in the run's folder."""

    def __init__(
        self,
        model: nn.Module,
        samples: Sequence[Sample],
        config: RunConfig,
        run: Path,
        *,
        balancer: RoutingBalancer | None,
        pad_id: int,
        after: After | None = None,
    ) -> None:
        self.model, self.samples, self.config, self.run = model, samples, config, run
        self.balancer, self.pad_id, self.after = balancer, pad_id, after
        self.parameters = trainable(model)
        if not self.parameters:
            raise TrainError("training: no parameter trains; check the lora section")
        self.engine = make_engine(model, self.parameters, config.training, router_rate=config.routing.learning_rate)
        self.progress = Progress(step=0, tokens=0, seconds=0.0)
        self.folder, self.metrics = run / "checkpoints", run / "metrics.jsonl"

    def restore(self) -> int:
        """Go back to the newest checkpoint, if there is one; returns the steps done. Later lines of the metrics are dropped."""
        found = checkpoints(self.folder)
        if found:
            self.progress, state = load_checkpoint(found[-1], parameters=self.parameters, engine=self.engine)
            if self.balancer is not None:
                self.balancer.load_state_dict(state)
        keep_lines(self.metrics, lambda line: line["step"] <= self.progress.step)
        return self.progress.step

    def step(self, step: int) -> StepResult:
        """Do one optimizer step, counted from 0."""
        t = self.config.training
        batch = step_batch(self.samples, self.config, step)
        self.model.train()
        loss, routing = batch_gradients(
            self.model,
            batch,
            balancer=self.balancer,
            pad_id=self.pad_id,
            micro_batch_tokens=t.micro_batch_tokens,
            after=self.after,
            backward=lambda objective, last: self.engine.backward(objective, last=last),
        )
        norm = self.engine.step(learning_rate(step, steps=t.steps, warmup=t.warmup, peak=t.learning_rate))
        return StepResult(loss=loss, grad_norm=norm, tokens=sum(len(s.ids) for s in batch), routing=routing)

    def train(
        self,
        *,
        on_step: Callable[[dict[str, Any]], None],
        around_step: Callable[[int, Callable[[], StepResult]], StepResult] = lambda _, do: do(),
    ) -> None:
        """Train from where it stands to the last step.

        Args:
            on_step: receives every line of the metrics as it is written.
            around_step: runs each step's function; a place to measure one.
        """
        t = self.config.training
        for step in range(self.progress.step, t.steps):
            started = time.perf_counter()
            result = around_step(step, lambda step=step: self.step(step))  # type: ignore[misc]
            seconds = time.perf_counter() - started
            self.progress = Progress(
                step=step + 1, tokens=self.progress.tokens + result.tokens, seconds=self.progress.seconds + seconds
            )
            line = self._line(result, seconds)
            if (step + 1) % t.log_every == 0 or step + 1 == t.steps:
                append_line(self.metrics, line)
            on_step(line)
            if (step + 1) % t.checkpoint_every == 0 or step + 1 == t.steps:
                self.save()

    def save(self) -> Path:
        """Write a checkpoint of where training stands."""
        return save_checkpoint(
            self.folder,
            self.progress,
            parameters=self.parameters,
            engine=self.engine,
            balancer_state={} if self.balancer is None else self.balancer.state_dict(),
            keep=self.config.training.keep_checkpoints,
        )

    def _line(self, result: StepResult, seconds: float) -> dict[str, Any]:
        t = self.config.training
        line: dict[str, Any] = {
            "step": self.progress.step,
            "loss": result.loss,
            "learning_rate": learning_rate(
                self.progress.step - 1, steps=t.steps, warmup=t.warmup, peak=t.learning_rate
            ),
            "grad_norm": result.grad_norm,
            "tokens": self.progress.tokens,
            "tokens_per_s": result.tokens / seconds,
            "memory": _memory(next(self.model.parameters()).device.type),
        }
        if result.routing is not None:
            r = result.routing
            line |= {
                "load_balancing": float(r.load_balancing),
                "z_loss": float(r.z_loss),
                "load_entropy": [round(float(v), 5) for v in r.entropy_L],
                "max_vio": [round(float(v), 5) for v in r.max_vio_L],
            }
        return line


def _memory(device: str) -> int:
    """Bytes in use now: of this process on a CPU, of torch's tensors on a GPU."""
    import psutil
    import torch

    return int(torch.cuda.memory_allocated()) if device == "cuda" else int(psutil.Process().memory_info().rss)


def record_losses(
    model: nn.Module, samples: Sequence[Sample], *, pad_id: int, micro_batch_tokens: int, after: After | None = None
) -> list[tuple[str, float, int]]:
    """Loss of every sample without gradient: (record id, nats per completion token, completion tokens), in the given order."""
    import torch

    model.eval()
    found: dict[str, tuple[float, int]] = {}
    for group in micro_batches(samples, max_tokens=micro_batch_tokens):
        batch = collate(group, pad_id=pad_id)
        tokens_B = (batch.labels_BS[:, 1:] != IGNORED).sum(1).tolist()
        of_samples = torch.split(token_losses(model, batch, after=after).cpu(), tokens_B)
        for sample, losses, tokens in zip(group, of_samples, tokens_B, strict=True):
            found[sample.record.id] = (float(losses.sum()) / max(1, tokens), tokens)
    return [(sample.record.id, *found[sample.record.id]) for sample in samples]
