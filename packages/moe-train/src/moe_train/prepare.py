"""Everything a run needs, checked before anything is written."""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moe_train import __version__
from moe_train.data import Record, Sample, Split, load_records, split_records, tokenise
from moe_train.engines import check_deepspeed
from moe_train.errors import TrainError
from moe_train.evaluate import check_disjoint, evaluation_items
from moe_train.files import read_json
from moe_train.model import LoadedModel, choose_device, choose_dtype, load_model, resolve_model

if TYPE_CHECKING:
    from moe_bench import Item
    from moe_train.config import RunConfig

DATA_SCHEMA = "moe-train/data@1"
MODEL_SCHEMA = "moe-train/model@1"
ENVIRONMENT_SCHEMA = "moe-train/environment@1"
_SAMPLED = 512
"""Values of each weight that go into the model's fingerprint."""
_REPORTED = ("torch", "transformers", "peft", "numpy", "scipy", "moe-memprof", "moe-router", "moe-bench")


@dataclass(frozen=True, kw_only=True)
class Data:
    """What is trained and judged on."""

    train: list[Sample]
    held_out: list[Sample]
    items: list[Item]
    """Test items to answer; empty when the run is judged by loss alone."""
    duplicates: int
    too_long: int

    def to_dict(self) -> dict[str, Any]:
        """An account of the data, without its text; schema moe-train/data@1."""
        return {
            "schema": DATA_SCHEMA,
            "train": _account(self.train),
            "held_out": _account(self.held_out),
            "test_items": {
                "count": len(self.items),
                "hash": _hash([item.id for item in self.items]),
                "by_task": dict(Counter(item.task for item in self.items)),
            },
            "duplicates_dropped": self.duplicates,
            "too_long_dropped": self.too_long,
            "shared_prompts": {
                "train_and_held_out": 0,
                "train_and_test_items": 0,
            },  # `prepare_data` refuses any other number
        }


def _account(samples: Sequence[Sample]) -> dict[str, Any]:
    return {
        "count": len(samples),
        "tokens": sum(len(s.ids) for s in samples),
        "completion_tokens": sum(s.completion_tokens for s in samples),
        "longest": max(len(s.ids) for s in samples),
        "hash": _hash([s.record.id for s in samples]),
        "by_task": dict(Counter(s.record.task for s in samples)),
    }


def _hash(ids: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(sorted(ids)).encode()).hexdigest()[:16]


def generated_records(config: RunConfig) -> list[Record]:
    """Training records of the families in `data.tasks`."""
    from moe_bench import BenchError
    from moe_bench.tasks import make_items

    try:
        items = [
            item
            for task, count in config.data.tasks.items()
            for item in make_items([task], count_per_family=count, seed=config.seed, split="train")
        ]
    except BenchError as error:
        raise TrainError(f"data.tasks: {error}") from None
    system = () if config.data.system is None else ({"role": "system", "content": config.data.system},)
    return [
        Record(
            prompt=(*system, {"role": "user", "content": item.prompt}),
            completion=f"{item.solution}\nThe answer is {item.target}.",
            task=item.task,
            source=f"{item.task}:{number}",
        )
        for number, item in enumerate(items, start=1)
    ]


def read_data(config: RunConfig) -> tuple[Split, list[Item]]:
    """The training records, divided, and the test items, with nothing in common.

    Raises:
        TrainError: for unreadable data, an empty side, or a test item that is also trained on.
    """
    path = config.data.path
    records = generated_records(config) if path is None else load_records(Path(path), system=config.data.system)
    split = split_records(records, held_out=config.data.held_out)
    items = evaluation_items(config.evaluation)
    check_disjoint(split.train, items)
    return split, items


def prepare_data(split: Split, items: list[Item], loaded: LoadedModel, config: RunConfig) -> Data:
    """Tokenise the records."""
    limits: Any = {"max_length": config.data.max_length, "too_long": config.data.too_long}
    train, long_train = tokenise(split.train, loaded.tokenizer, **limits)
    held_out, long_held = tokenise(split.held_out, loaded.tokenizer, **limits)
    held_out = held_out[: config.data.held_out_max]  # the rest is neither judged nor trained on
    return Data(
        train=train, held_out=held_out, items=items, duplicates=split.duplicates, too_long=long_train + long_held
    )


def model_account(loaded: LoadedModel) -> dict[str, Any]:
    """Which model it is, whatever its folder is called; schema moe-train/model@1.

    The fingerprint is a hash of every weight's name, shape and a sample of its values, so that another checkpoint of the same
    architecture has another one, and a large model is not read through once more.
    """
    digest, count = hashlib.sha256(), 0
    for name, parameter in loaded.model.named_parameters():
        count += parameter.numel()
        values = parameter.detach().reshape(-1)
        sample = values[:: max(1, values.numel() // _SAMPLED)].float().cpu()
        digest.update(f"{name} {tuple(parameter.shape)}".encode() + sample.numpy().tobytes())
    return {
        "schema": MODEL_SCHEMA,
        "architecture": type(loaded.model).__name__,
        "parameters": count,
        "dtype": str(loaded.model.dtype).removeprefix("torch."),
        "moe_layers": loaded.moe_layers,
        **({"converted": loaded.converted} if loaded.converted else {}),
        "fingerprint": digest.hexdigest()[:16],
    }


def check_unchanged(run: Path, config: RunConfig, loaded: LoadedModel, data: Data) -> None:
    """Refuse to go on with a run on other data or another model than it began with.

    Raises:
        TrainError: naming which of the two.
    """
    for file, now, what in (
        ("data.json", data.to_dict(), config.data.path or "the data"),
        ("model.json", model_account(loaded), f"the model {config.model}, or the dtype it is loaded in,"),
    ):
        if (run / file).is_file() and read_json(run / file) != now:
            raise TrainError(f"run {run}: {what} has changed since it started; start a new run")


def prepare(config: RunConfig) -> tuple[LoadedModel, Data]:
    """Check and load model and data; the cheap checks come first, and nothing is written.

    Raises:
        TrainError: for whatever is wrong with either.
    """
    device = choose_device(config.device)
    if config.threads is not None:
        import torch

        torch.set_num_threads(config.threads)
    if config.training.deepspeed is not None:
        check_deepspeed(Path(config.training.deepspeed))
    resolve_model(config.model)
    split, items = read_data(config)
    loaded = load_model(
        config.model,
        device=device,
        dtype=choose_dtype(config.dtype, device),
        allow_standard_training=config.allow_standard_training,
        quantisation=config.quantisation,
    )
    return loaded, prepare_data(split, items, loaded, config)


def environment(device: str, folder: Path) -> dict[str, Any]:
    """What this runs on: versions, machine, free memory and disk; schema moe-train/environment@1."""
    import psutil
    import torch

    while not folder.exists():
        folder = folder.parent
    values: dict[str, Any] = {
        "schema": ENVIRONMENT_SCHEMA,
        "moe-train": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpus": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "cpu_busy": psutil.cpu_percent(interval=0.3),  # this process waits meanwhile: it is what others take
        "memory_total": psutil.virtual_memory().total,
        "memory_available": psutil.virtual_memory().available,
        "disk_free": shutil.disk_usage(folder).free,
        "device": device,
        "packages": {name: metadata.version(name) for name in _REPORTED},
        "git_revision": _git_revision(),
    }
    if device == "cuda":
        properties = torch.cuda.get_device_properties(0)
        values |= {"gpu": properties.name, "gpu_memory": properties.total_memory, "cuda": torch.version.cuda}
    return values


def _git_revision() -> str | None:
    git = shutil.which("git")
    if git is None:
        return None
    found = subprocess.run([git, "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    return found.stdout.strip() or None
