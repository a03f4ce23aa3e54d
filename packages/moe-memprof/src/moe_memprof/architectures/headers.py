"""What a checkpoint stores, from the headers of its safetensors files alone.

A file begins with 8 bytes, the length of a JSON text that names every tensor with its type, shape and place. Only that is read, so
a model of hundreds of gigabytes takes a moment, on disk or over the network.

Roles are guessed from names by the rules of `role_of`, in which per-expert tensors of older checkpoints (`experts.3.w1.weight`) and the
fused ones of transformers 5 (`experts.gate_up_proj`) both count. A quantised checkpoint lists what it stores: packed numbers and scales.
"""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from moe_memprof.architectures.base import Kind, Role, TensorSpec, count_by_role
from moe_memprof.errors import MemprofError

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
LONGEST_HEADER = 100_000_000  # the format's own limit, in bytes

# The format's names of types, torch's names, and bits per number.
TYPES = {
    "F64": ("float64", 64),
    "F32": ("float32", 32),
    "F16": ("float16", 16),
    "BF16": ("bfloat16", 16),
    "F8_E4M3": ("float8_e4m3fn", 8),
    "F8_E5M2": ("float8_e5m2", 8),
    "F8_E8M0": ("float8_e8m0fnu", 8),
    "F4": ("float4_e2m1fn_x2", 4),
    "I64": ("int64", 64),
    "I32": ("int32", 32),
    "I16": ("int16", 16),
    "I8": ("int8", 8),
    "U64": ("uint64", 64),
    "U32": ("uint32", 32),
    "U16": ("uint16", 16),
    "U8": ("uint8", 8),
    "BOOL": ("bool", 8),
}


@dataclass(frozen=True, kw_only=True)
class Stored:
    """The tensors of a checkpoint."""

    tensors: tuple[TensorSpec, ...]
    """In the order of the files; `role`, `kind` and `layer` are guesses from the names, `dtype` is what is stored."""
    bytes: int
    """Of all tensors together, without headers."""

    @property
    def parameters(self) -> int:
        """All numbers stored."""
        return sum(tensor.elements for tensor in self.tensors)

    def by_role(self) -> dict[Role, int]:
        """Numbers of each role that occurs."""
        return count_by_role(self.tensors)


def read_checkpoint(path: str | Path) -> Stored:
    """The tensors of a safetensors file, of an index of several, or of a folder with either.

    Raises:
        MemprofError: where there is no such file, or it is damaged or no safetensors file.
    """
    path = Path(path)
    if path.is_dir():
        files = _files_of_folder(path)
    elif path.name.endswith(".json"):
        files = _files_of_index(path)
    else:
        files = [path]
    entries: list[tuple[str, Mapping[str, Any]]] = []
    seen: dict[str, Path] = {}
    for file in files:
        for name, entry in _read_header(file).items():
            if name in seen:
                raise MemprofError(
                    f"{file}: tensor {name} is also in {seen[name].name}; each tensor is stored once, "
                    "so remove the file that is left over from another save"
                )
            seen[name] = file
            entries.append((name, entry))
    return _stored(entries)


def read_hub(repository: str, *, revision: str | None = None) -> Stored:
    """The tensors of a model on the Hugging Face Hub, by HTTP ranges: a few requests of some kilobytes, no weights.

    Raises:
        MemprofError: without huggingface_hub, or where the model cannot be reached or has no safetensors files.
    """
    try:
        from huggingface_hub import HfApi
        from huggingface_hub.errors import (
            HfHubHTTPError,
            HFValidationError,
            NotASafetensorsRepoError,
            SafetensorsParsingError,
        )
    except ImportError as error:
        raise MemprofError(
            "reading headers from the Hub needs huggingface_hub; install it with pip install 'moe-memprof[hub]'"
        ) from error
    # What the library's HTTP client raises without a connection is a base of the library's own error.
    failures: tuple[type[Exception], ...] = (
        *(base for base in HfHubHTTPError.__mro__ if issubclass(base, Exception) and base is not Exception),
        HFValidationError,
        NotASafetensorsRepoError,
        SafetensorsParsingError,
    )
    try:
        found = HfApi().get_safetensors_metadata(repository, revision=revision)
    except failures as error:
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise MemprofError(
            f"{repository} on the Hub: {reason}; check the name, the revision and that you may read it"
        ) from error
    entries: list[tuple[str, Mapping[str, Any]]] = []
    for file in sorted(found.files_metadata):
        for name, info in found.files_metadata[file].tensors.items():
            start, end = info.data_offsets
            entries.append((name, {"dtype": str(info.dtype), "shape": info.shape, "data_offsets": [start, end]}))
    return _stored(entries)


def _stored(entries: Iterable[tuple[str, Mapping[str, Any]]]) -> Stored:
    tensors, size = [], 0
    for name, entry in entries:
        shape = tuple(entry["shape"])
        start, end = entry["data_offsets"]
        size += end - start
        dtype = TYPES.get(entry["dtype"], (entry["dtype"].lower(), 0))[0]
        role = role_of(name)
        kind = kind_of(name, shape, role)
        tensors.append(TensorSpec(name=name, shape=shape, role=role, kind=kind, layer=layer_of(name), dtype=dtype))
    return Stored(tensors=tuple(tensors), bytes=size)


def _files_of_folder(folder: Path) -> list[Path]:
    if (folder / INDEX).is_file():
        return _files_of_index(folder / INDEX)
    if (folder / SINGLE).is_file():
        return [folder / SINGLE]
    others = sorted(folder.glob("*.safetensors"))
    if not others:
        raise MemprofError(f"{folder}: has no safetensors file; give the folder of a saved model, or the file itself")
    return others


def _files_of_index(path: Path) -> list[Path]:
    try:
        index = json.loads(path.read_text(encoding="utf-8"))
        names = sorted(set(index["weight_map"].values()))
        files = [path.parent / name for name in names]
    except OSError as error:
        raise _unreadable(path, error) from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise MemprofError(
            f"{path}: is no index of safetensors files; it must be JSON with a weight_map from tensor to file, "
            "so save or download it again"
        ) from error
    missing = [file.name for file in files if not file.is_file()]
    if missing:
        raise MemprofError(
            f"{path}: names {len(missing)} of {len(files)} files that are not beside it, such as {missing[0]}; "
            "download them all"
        )
    return files


def _read_header(path: Path) -> dict[str, Mapping[str, Any]]:
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            first = file.read(8)
            length = struct.unpack("<Q", first)[0] if len(first) == 8 else 0
            text = file.read(length) if 2 <= length <= min(size - 8, LONGEST_HEADER) else b""
    except OSError as error:
        raise _unreadable(path, error) from error
    if not text:
        raise _damaged(path, f"a header of {length} bytes does not fit into its {size} bytes")
    try:
        header = json.loads(text)
    except ValueError as error:
        raise _damaged(path, "its header is not JSON") from error
    if not isinstance(header, dict):
        raise _damaged(path, "its header is not a JSON object")
    header.pop("__metadata__", None)
    for name, entry in header.items():
        problem = _problem(entry, size - 8 - length)
        if problem:
            raise _damaged(path, f"tensor {name[:80]} {problem}")
    return header


def _problem(entry: object, room: int) -> str | None:
    """What is wrong with a tensor's entry in a file with `room` bytes of data."""
    if not isinstance(entry, dict) or not {"dtype", "shape", "data_offsets"} <= entry.keys():
        return "lacks dtype, shape or data_offsets"
    shape, offsets, dtype = entry["shape"], entry["data_offsets"], entry["dtype"]
    if not isinstance(dtype, str):
        return "has no name of a type"
    if not isinstance(shape, list) or not all(_is_count(size) for size in shape):
        return "has a shape that is no list of whole numbers"
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(_is_count(at) for at in offsets):
        return "has data_offsets that are not two whole numbers"
    start, end = offsets
    if not start <= end <= room:
        return f"lies at bytes {start} to {end} of {room}: the file is cut off"
    if dtype in TYPES and prod(shape) * TYPES[dtype][1] != 8 * (end - start):
        return f"of shape {shape} and type {dtype} does not fill its {end - start} bytes"
    return None


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _unreadable(path: Path, error: OSError) -> MemprofError:
    return MemprofError(f"{path}: cannot be read ({error.strerror or error}); give a safetensors file or its folder")


def _damaged(path: Path, reason: str) -> MemprofError:
    return MemprofError(f"{path}: no whole safetensors file: {reason}; save or download it again")


_LAYER = re.compile(r"(?:^|\.)(?:layers?|blocks?|h)\.(\d+)\.")
_PREDICTION = re.compile(r"(?:^|\.)mtp")  # layers for multi-token prediction, which count from 0 again
_TOWER = re.compile(
    r"(?:^|\.)(?:vision|visual|audio|image|speech|multi_modal|mm_)(?!_moe)\w*\.|(?:^|\.)(?:resampler_model|embed_(?:vision|audio))\."
)
_NORM = re.compile(r"norm|(?:^|_)ln(?:_|$)")
_ROUTERS = {"router", "gate", "wg", "classifier", "router_gate", "moe_statics"}
_EMBEDDINGS = {"embed_tokens", "embeddings", "word_embeddings", "tok_embeddings", "wte", "shared", "codec_embedding"}
_HEADS = {"lm_head", "output", "output_layer", "score"}
_MIXER = re.compile(
    r"(?:self_?|cross_?|linear_|encdec|norm_)?(?:attn|attention)(?:_norm)?|mamba|mixer|conv", re.IGNORECASE
)
_DENSE = {"mlp", "mlps", "feed_forward", "ffn", "block_sparse_moe"}
_EXPERT_PARTS = {"input_linear", "output_linear"}


def layer_of(name: str) -> int | None:
    """The first number after `layers`, `blocks` or `h`; none in another modality's tower and in multi-token prediction."""
    found = _LAYER.search(name)
    return int(found[1]) if found and not _TOWER.search(name) and not _PREDICTION.search(name) else None


def role_of(name: str) -> Role:
    """A guess at what a tensor is for. The first rule that fits decides; a module is a part of the name between dots.

    1. `other`: a module named after another modality (vision, visual, audio, image, multi_modal, ...).
    2. `norm`: the tensor's own module has norm or ln in its name.
    3. `shared expert`: a module starts with shared_expert or shared_mlp.
    4. `router`: a module is router, gate, wg, classifier or the like; or it is a bias for the selection of experts.
    5. `routed expert`: a module is experts or expert_N; or the tensor's own is input_linear or output_linear, as in Granite's files.
    6. `dense`: an up_proj or down_proj right inside a mixer, as in Nemotron H.
    7. `attention`: a module is self_attn, attention, linear_attn, mamba, mixer, conv or the like.
    8. `dense`: a module is mlp, feed_forward, ffn or block_sparse_moe.
    9. `embedding`: the tensor's own module is embed_tokens, wte, lm_head or the like.
    10. `other`: the rest.
    """
    *modules, leaf = name.split(".")
    own = next((module for module in reversed(modules) if not module.isdigit()), leaf)
    if _TOWER.search(name):
        return "other"
    if _NORM.search(own) or _NORM.search(leaf):
        return "norm"
    if any(module.startswith(("shared_expert", "shared_mlp")) for module in modules):
        return "shared expert"
    if "correction_bias" in leaf or leaf in {"expert_bias", "per_expert_scale"} or not _ROUTERS.isdisjoint(modules):
        return "router"
    if own in _EXPERT_PARTS or any(module == "experts" or re.fullmatch(r"expert_\d+", module) for module in modules):
        return "routed expert"
    if own in {"up_proj", "down_proj"} and modules[-2:-1] == ["mixer"]:
        return "dense"
    if any(_MIXER.fullmatch(module) for module in modules):
        return "attention"
    if not _DENSE.isdisjoint(modules):
        return "dense"
    if own in _EMBEDDINGS | _HEADS or own.startswith("embed_tokens"):
        return "embedding"
    return "other"


def kind_of(name: str, shape: tuple[int, ...], role: Role) -> Kind:
    """A guess at the module that holds a tensor: routers and fused experts are parameters, another matrix called weight a linear map."""
    modules, _, leaf = name.rpartition(".")
    own = modules.rpartition(".")[2]
    if role == "norm":
        return "norm"
    if role == "router":
        return "parameter"
    if own in _EMBEDDINGS or own.startswith("embed_tokens"):
        return "embedding"
    if "conv" in own:
        return "conv"
    if leaf == "weight" and len(shape) == 2:
        return "linear"
    if leaf == "bias" and len(shape) == 1:
        return "linear"
    return "parameter"
