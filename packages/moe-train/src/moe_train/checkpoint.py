"""Checkpoints from which a run goes on as if it had never stopped."""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moe_train.errors import TrainError
from moe_train.files import read_json, write_folder, write_json, write_tensors

if TYPE_CHECKING:
    from torch import nn

    from moe_train.engines import Engine

SCHEMA = "moe-train/checkpoint@1"


@dataclass(frozen=True, kw_only=True)
class Progress:
    """Where training stands, besides the weights."""

    step: int
    """Optimizer steps done."""
    tokens: int
    """Tokens seen, padding not counted."""
    seconds: float
    """Time spent in training, stops not counted."""


def _step_of(path: Path) -> int:
    match = re.fullmatch(r"step-(\d+)", path.name)
    return int(match.group(1)) if match else -1


def checkpoints(folder: Path) -> list[Path]:
    """The finished checkpoints, oldest first."""
    return sorted((p for p in folder.glob("step-*") if _step_of(p) >= 0), key=_step_of) if folder.is_dir() else []


def save_checkpoint(
    folder: Path,
    progress: Progress,
    *,
    parameters: dict[str, nn.Parameter],
    engine: Engine,
    balancer_state: dict[str, Any],
    keep: int,
) -> Path:
    """Write `step-N` whole or not at all, then remove all but the newest `keep`."""
    import torch
    from safetensors.torch import save_file

    def fill(path: Path) -> None:
        save_file({name: p.detach().contiguous() for name, p in parameters.items()}, path / "trainable.safetensors")
        engine.save(path)
        state = {
            "balancer": balancer_state,
            "rng": torch.get_rng_state(),
            "rng_cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        }
        write_tensors(path / "state.pt", state)
        write_json(path / "progress.json", {"schema": SCHEMA, **vars(progress)})

    target = folder / f"step-{progress.step}"
    write_folder(target, fill)
    for old in checkpoints(folder)[:-keep]:
        shutil.rmtree(old)
    return target


def load_checkpoint(
    path: Path, *, parameters: dict[str, nn.Parameter], engine: Engine
) -> tuple[Progress, dict[str, Any]]:
    """Put a checkpoint's weights, optimizer state and random state in place; returns the progress and the balancer's state.

    Raises:
        TrainError: when the checkpoint was made for other weights than those that train now.
    """
    import torch
    from safetensors.torch import load_file

    saved = load_file(path / "trainable.safetensors")
    if saved.keys() != parameters.keys():
        odd = sorted(saved.keys() ^ parameters.keys())
        raise TrainError(
            f"checkpoint {path}: trains other weights than this configuration ({len(odd)} differ, first {odd[0]})"
        )
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(saved[name])
    state = torch.load(path / "state.pt", weights_only=True)
    engine.load(path)
    torch.set_rng_state(state["rng"])
    if state["rng_cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["rng_cuda"])
    values = read_json(path / "progress.json")
    return Progress(step=values["step"], tokens=values["tokens"], seconds=values["seconds"]), state["balancer"]
