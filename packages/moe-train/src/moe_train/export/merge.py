"""Write a base with its updates as shards of safetensors, with never more than a layer and a shard in memory."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from moe_train.errors import TrainError
from moe_train.export.updates import Added, Replacement, Update

SHARD_BYTES = 2 * 10**9
_TOKENIZER = (
    "tokenizer",
    "special_tokens_map",
    "added_tokens",
    "vocab",
    "merges",
    "chat_template",
    "spiece",
    "processor",
    "preprocessor",
)


class Source(Protocol):
    """Where the base's weights come from (`source.Checkpoint`, `source.Held`)."""

    def groups(self) -> Iterator[dict[str, Tensor]]:
        """Weights by name in transformers 5, a layer at a time."""
        ...

    def original_names(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """The same under the checkpoint's names."""
        ...


@dataclass(kw_only=True)
class Merged:
    """What was written."""

    tensors: int = 0
    bytes: int = 0
    added: dict[str, Added] = field(default_factory=dict)
    """For every weight with an update, what rounding made of it."""

    @property
    def rounding_error(self) -> float:
        """The part of all updates together that is wrong after rounding to the dtype of the shards."""
        total = Added(wanted=sum(a.wanted for a in self.added.values()), lost=sum(a.lost for a in self.added.values()))
        return total.error


def merge(
    source: Source,
    updates: Mapping[str, Update | Replacement],
    out: Path,
    *,
    names: str,
    shard_bytes: int = SHARD_BYTES,
    progress: Callable[[int], None] = lambda _: None,
) -> Merged:
    """Add the updates to the base's weights and write them.

    Args:
        source: the base.
        updates: by name in transformers 5; may be none.
        out: an empty folder.
        names: "checkpoint" for those the base's files have, which inference engines read, or "transformers-5".
        shard_bytes: a file is closed as soon as it holds so much.
        progress: called with 1 after each group of weights.

    Raises:
        TrainError: an update of a weight that the base does not have, or of another shape.
    """
    done, waiting = Merged(), dict(updates)
    shards = _Shards(out, shard_bytes)
    for group in source.groups():
        for name in [name for name in group if name in waiting]:
            group[name] = group[name].clone() if not group[name].is_contiguous() else group[name]
            with torch.no_grad():
                done.added[name] = waiting.pop(name).add_to(group[name])
        named = source.original_names(group) if names == "checkpoint" else dict(group)
        group.clear()
        for name in list(named):
            tensor = named.pop(name)
            shards.add(name, tensor)
            done.tensors += 1
            done.bytes += tensor.numel() * tensor.element_size()
        progress(1)
    if waiting:
        raise TrainError(
            f"merge: the base has no weight {min(waiting)}, which the adapter changes: not the adapter's base"
        )
    shards.close()
    return done


class _Shards:
    """Files of safetensors in the layout of a checkpoint: one file, or several with an index."""

    def __init__(self, folder: Path, limit: int) -> None:
        self.folder, self.limit = folder, limit
        self.held: dict[str, Tensor] = {}
        self.size = self.total = 0
        self.places: dict[str, int] = {}
        self.files: list[Path] = []

    def add(self, name: str, tensor: Tensor) -> None:
        size = tensor.numel() * tensor.element_size()
        if self.held and self.size + size > self.limit:
            self._flush()
        # A view would be written with the whole tensor behind it alive, and shared memory is refused.
        self.held[name] = (
            tensor.contiguous() if tensor._is_view() is False else tensor.clone(memory_format=torch.contiguous_format)
        )
        self.size += size
        self.total += size
        self.places[name] = len(self.files)

    def _flush(self) -> None:
        from safetensors.torch import save_file

        path = self.folder / f"part-{len(self.files)}.safetensors"
        save_file(self.held, str(path), metadata={"format": "pt"})
        self.files.append(path)
        self.held, self.size = {}, 0

    def close(self) -> None:
        if self.held:
            self._flush()
        if len(self.files) == 1:
            self.files[0].replace(self.folder / "model.safetensors")
            return
        final = [f"model-{i + 1:05d}-of-{len(self.files):05d}.safetensors" for i in range(len(self.files))]
        for path, name in zip(self.files, final, strict=True):
            path.replace(self.folder / name)
        index = {
            "metadata": {"total_size": self.total},
            "weight_map": {name: final[number] for name, number in sorted(self.places.items())},
        }
        (self.folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def copy_surroundings(base: Path, out: Path, *, dtype: torch.dtype) -> None:
    """The base's config, with the new dtype and without its quantisation, generation settings and tokenizer."""
    values = json.loads((base / "config.json").read_text(encoding="utf-8"))
    values.pop("quantization_config", None)
    key = "dtype" if "dtype" in values else "torch_dtype"
    values[key] = str(dtype).removeprefix("torch.")
    (out / "config.json").write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
    for path in sorted(base.iterdir()):
        wanted = (
            path.name == "generation_config.json"
            or path.name.startswith(_TOKENIZER)
            or path.suffix in (".model", ".jinja")
        )
        if path.is_file() and wanted and not (out / path.name).exists():
            shutil.copy(path, out / path.name)
