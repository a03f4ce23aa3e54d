"""Who computes gradients, clips and steps: torch alone, or DeepSpeed where a configuration asks for it.

Both keep the whole batch as one optimizer step: gradients of all its micro-batches are added, then clipped, then applied.
"""

from __future__ import annotations

import json
import os
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from moe_train.errors import TrainError
from moe_train.files import write_tensors

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from moe_train.config import TrainingConfig

# What the run's own configuration decides; a DeepSpeed file that sets it too would contradict it.
_OURS = {
    "train_batch_size": "training.batch_size",
    "train_micro_batch_size_per_gpu": "training.micro_batch_tokens",
    "gradient_accumulation_steps": "training.micro_batch_tokens",
    "gradient_clipping": "training.max_grad_norm",
    "optimizer": "training.learning_rate and training.weight_decay",
    "scheduler": "training.warmup",
    "fp16": "dtype",
    "bf16": "dtype",
}


_ROUTER_COPY = ".modules_to_save."


class Engine(Protocol):
    """One optimizer step's mechanics."""

    def backward(self, objective: Tensor, *, last: bool) -> None:
        """Add a micro-batch's gradient; `last` says that the batch is complete with it."""

    def step(self, rate: float) -> float:
        """Clip, update at this learning rate, clear the gradients; returns the gradient's norm before clipping."""

    def save(self, folder: Path) -> None:
        """Write the optimizer's state into a checkpoint that is being made."""

    def load(self, folder: Path) -> None:
        """Read it back."""


def make_engine(
    model: nn.Module, parameters: dict[str, nn.Parameter], training: TrainingConfig, *, router_rate: float | None = None
) -> Engine:
    """The engine that the configuration asks for.

    Args:
        model: adapted.
        parameters: those that train, by name.
        training: the section of the configuration.
        router_rate: peak learning rate of routers that PEFT keeps copies of; None for that of the rest.
    """
    routers = {name: p for name, p in parameters.items() if _ROUTER_COPY in name}
    # In 16 bits the small steps of a router would be rounded away: the optimizer moves a float32 copy.
    wide = {name: p.detach().float().clone() for name, p in routers.items() if p.dtype.itemsize < 4}
    groups: list[dict[str, Any]] = [{"params": [p for name, p in parameters.items() if name not in routers]}]
    if routers:
        scale = 1.0 if router_rate is None else router_rate / training.learning_rate
        groups.append({"params": [wide.get(name, p) for name, p in routers.items()], "scale": scale})
    optimizer = _optimizer_class(training.optimizer)(
        groups, lr=training.learning_rate, weight_decay=training.weight_decay
    )
    if training.deepspeed is None:
        return TorchEngine(parameters, optimizer, training, wide)
    return DeepSpeedEngine(model, optimizer, training, Path(training.deepspeed))


def _optimizer_class(name: str) -> Any:
    import torch

    if name == "adamw":
        return torch.optim.AdamW
    if find_spec("bitsandbytes") is None:
        raise TrainError(f"training.optimizer={name}: needs bitsandbytes; pip install 'moe-train[quantise]'")
    import bitsandbytes

    return {"adamw_8bit": bitsandbytes.optim.AdamW8bit, "paged_adamw_8bit": bitsandbytes.optim.PagedAdamW8bit}[name]


def torch_backward(objective: Tensor) -> None:
    """Torch's own backward pass."""
    objective.backward()  # type: ignore[no-untyped-call]


class TorchEngine:
    """torch's own backward pass, and an optimizer in this process."""

    def __init__(
        self,
        parameters: dict[str, nn.Parameter],
        optimizer: torch.optim.Optimizer,
        training: TrainingConfig,
        wide: dict[str, Tensor],
    ) -> None:
        self.parameters, self.optimizer, self.max_grad_norm = parameters, optimizer, training.max_grad_norm
        self.wide = wide
        """Float32 copies, by name, of parameters that are held in 16 bits: the optimizer has these."""

    def backward(self, objective: Tensor, *, last: bool) -> None:  # noqa: ARG002
        """Add a micro-batch's gradient."""
        torch_backward(objective)

    def step(self, rate: float) -> float:
        """Clip, update, clear."""
        import torch

        for group in self.optimizer.param_groups:
            group["lr"] = rate * group.get("scale", 1.0)
        norm = torch.nn.utils.clip_grad_norm_(self.parameters.values(), self.max_grad_norm)
        if not torch.isfinite(norm):
            raise TrainError("training: the gradient is not finite; lower training.learning_rate, or use dtype=float32")
        for name, copy in self.wide.items():
            gradient = self.parameters[name].grad
            copy.grad = None if gradient is None else gradient.float()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        with torch.no_grad():
            for name, copy in self.wide.items():
                self.parameters[name].copy_(copy)
                self.parameters[name].grad = None
        return float(norm)

    def save(self, folder: Path) -> None:
        """`optimizer.pt`: the state dict, and the float32 copies where there are any."""
        write_tensors(
            folder / "optimizer.pt", {**self.optimizer.state_dict(), **({"wide": self.wide} if self.wide else {})}
        )

    def load(self, folder: Path) -> None:
        """Read `optimizer.pt`."""
        import torch

        state = torch.load(folder / "optimizer.pt", weights_only=True)
        with torch.no_grad():
            for name, saved in state.pop("wide", {}).items():
                self.wide[name].copy_(saved)
        self.optimizer.load_state_dict(state)


class DeepSpeedEngine:
    """DeepSpeed on one device: optimizer state (ZeRO 1), gradients (ZeRO 2) and their offloading to the CPU or to a disk.

    The update itself is torch's AdamW, so that a run with DeepSpeed learns what a run without it learns.
    """

    def __init__(
        self, model: nn.Module, optimizer: torch.optim.Optimizer, training: TrainingConfig, path: Path
    ) -> None:
        check_deepspeed(path)
        values = read_deepspeed_config(path)
        deepspeed = _import_deepspeed()
        values |= {
            "train_micro_batch_size_per_gpu": 1,  # nominal: loss and gradient are normalised over the whole batch here
            "gradient_accumulation_steps": 1,
            "gradient_clipping": training.max_grad_norm,
            "zero_allow_untested_optimizer": True,
            "zero_force_ds_cpu_optimizer": False,
            "steps_per_print": 10**9,
        }
        self.engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=values)

    def backward(self, objective: Tensor, *, last: bool) -> None:
        """Add a micro-batch's gradient, and say whether the update follows."""
        self.engine.set_gradient_accumulation_boundary(last)
        self.engine.backward(objective)

    def step(self, rate: float) -> float:
        """Clip, update, clear."""
        for group in self.engine.optimizer.param_groups:
            group["lr"] = rate
        self.engine.step()
        return float(self.engine.get_global_grad_norm())

    def save(self, folder: Path) -> None:
        """DeepSpeed's own checkpoint in `deepspeed/`."""
        self.engine.save_checkpoint(str(folder / "deepspeed"), tag="state", save_latest=False)

    def load(self, folder: Path) -> None:
        """Read `deepspeed/`."""
        self.engine.load_checkpoint(str(folder / "deepspeed"), tag="state")


def read_deepspeed_config(path: Path) -> dict[str, Any]:
    """A DeepSpeed JSON file, checked against what the run's configuration decides.

    Raises:
        TrainError: for a file that is missing or no JSON object, sets what is decided elsewhere, or asks for ZeRO-3.
    """
    if not path.is_file():
        raise TrainError(f"training.deepspeed: {path}: no such file")
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise TrainError(f"training.deepspeed: {path}: not JSON ({error})") from None
    if not isinstance(values, dict):
        raise TrainError(f"training.deepspeed: {path}: expected an object, found a {type(values).__name__}")
    for key, ours in _OURS.items():
        if key in values:
            raise TrainError(f"training.deepspeed: {path}: {key} is decided by {ours}; take it out of the file")
    if values.get("zero_optimization", {}).get("stage", 0) > 2:
        raise TrainError(
            f"training.deepspeed: {path}: ZeRO stage 3 divides weights over several devices; this trains on one, use 2"
        )
    return values


def check_deepspeed(path: Path) -> None:
    """What is wrong with a DeepSpeed file or its installation, found before anything is loaded or written.

    Raises:
        TrainError: as `read_deepspeed_config`, when DeepSpeed is not installed, and when several processes were started.
    """
    read_deepspeed_config(path)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise TrainError("training.deepspeed: several processes were started; this trains on one device, start one")
    if find_spec("deepspeed") is None:
        raise TrainError("training.deepspeed: DeepSpeed is not installed; pip install 'moe-train[deepspeed]'")


def _import_deepspeed() -> Any:
    # A process without a launcher is the only one of its group.
    for name, value in {
        "RANK": "0",
        "LOCAL_RANK": "0",
        "WORLD_SIZE": "1",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": "29507",
    }.items():
        os.environ.setdefault(name, value)
    import torch

    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    import deepspeed  # prints on import: only where it is asked for

    return deepspeed
