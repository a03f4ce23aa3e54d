"""The full trace: which experts every token went to, in one memory-mapped safetensors file.

Shapes: T tokens, L MoE layers, K experts per token (of the layer that takes most), N sequences.

A token and layer take K bytes (2 K with more than 255 experts), and twice as much again where weights are kept.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import ArrayLike, NDArray

from moe_router.errors import RouterError
from moe_router.trace import read_header, stated_in

SCHEMA = "moe-router/tokens@1"
_SAFETENSORS = {"U8": np.uint8, "U16": np.uint16, "I32": np.int32, "I64": np.int64, "F16": np.float16}
_NAMES = {np.dtype(kind): name for name, kind in _SAFETENSORS.items()}


@dataclass(frozen=True, kw_only=True)
class TokenTrace:
    """Executed routing token by token, sequence after sequence."""

    model: str
    layers: tuple[str, ...]
    experts_L: tuple[int, ...]
    top_k_L: tuple[int, ...]
    groups: tuple[str, ...]
    types: tuple[str, ...] = ()
    """Names of the token types."""
    experts_TLK: NDArray[Any]
    """Executed experts; the largest value of the type (255 or 65535) where none worked. In the order the router gave."""
    starts_N: NDArray[np.int64]
    """First token of every sequence, and the number of tokens as the last entry, [N + 1]."""
    group_N: NDArray[np.int32]
    """The group of every sequence."""
    weights_TLK: NDArray[np.float16] | None = None
    token_ids_T: NDArray[np.int32] | None = None
    type_T: NDArray[np.uint8] | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check that the parts agree.

        Raises:
            RouterError: when they contradict one another.
        """
        tokens = len(self.experts_TLK)
        if self.experts_TLK.shape[1:] != (len(self.layers), max(self.top_k_L)):
            raise RouterError(
                f"token trace: experts of shape {self.experts_TLK.shape} where {len(self.layers)} layers of top-{max(self.top_k_L)} "
                "are stated"
            )
        if (
            len(self.starts_N) != len(self.group_N) + 1
            or self.starts_N[-1] != tokens
            or (np.diff(self.starts_N) < 0).any()
        ):
            raise RouterError(f"token trace: the sequences do not end at its {tokens} tokens")
        for name in ("weights_TLK", "token_ids_T", "type_T"):
            array = getattr(self, name)
            if array is not None and len(array) != tokens:
                raise RouterError(f"token trace: {name} has {len(array)} rows for {tokens} tokens")

    @property
    def idle(self) -> int:
        """The entry of a slot in which no expert worked."""
        return int(np.iinfo(self.experts_TLK.dtype).max)

    @property
    def lengths_N(self) -> NDArray[np.int64]:
        """Tokens of every sequence."""
        return np.diff(self.starts_N)

    def chunks(self, tokens: int = 1 << 18) -> Iterator[slice]:
        """The trace in parts of about so many tokens."""
        for begin in range(0, len(self.experts_TLK), tokens):
            yield slice(begin, min(begin + tokens, len(self.experts_TLK)))

    def sequence_of(self, part: slice) -> NDArray[np.int64]:
        """The sequence of every token of a part."""
        return np.searchsorted(self.starts_N, np.arange(part.start, part.stop), side="right") - 1

    def ranked(self, part: slice, layer: int) -> NDArray[Any]:
        """Experts of a layer with the heaviest first, [tokens, K]; in the router's order where no weights were kept."""
        experts_TK = np.asarray(self.experts_TLK[part, layer])
        if self.weights_TLK is None:
            return experts_TK
        order_TK = np.argsort(-np.asarray(self.weights_TLK[part, layer]), axis=-1, kind="stable")
        return np.take_along_axis(experts_TK, order_TK, axis=-1)

    def save(self, path: str | Path) -> None:
        """Write the file at once: a stop leaves the old one or the new."""
        arrays = {n: getattr(self, n) for n in _TENSORS if getattr(self, n) is not None}
        _write(Path(path), self._header(), {n: (a.dtype, a.shape, [a]) for n, a in arrays.items()})

    def _header(self) -> dict[str, Any]:
        names = ("model", "layers", "experts_L", "top_k_L", "groups", "types")
        return {"schema": SCHEMA, **{n: getattr(self, n) for n in names}, "metadata": dict(self.metadata)}

    @classmethod
    def load(cls, path: str | Path) -> TokenTrace:
        """Open a trace; its tokens stay in the file until they are looked at.

        Raises:
            RouterError: for a file that is missing, is no token trace, or is of another version.
        """
        path = Path(path)
        header = read_header(path)
        if header["schema"] != SCHEMA:
            raise RouterError(f"trace {path}: holds {header['schema']}, where {SCHEMA} was looked for")
        try:
            arrays: dict[str, Any] = _mapped(path)
            return cls(**stated_in(header), **arrays)
        except (KeyError, TypeError, AttributeError, IndexError) as error:
            raise RouterError(
                f"trace {path}: damaged (parts of a trace are missing or of another kind: {error})"
            ) from None


_TENSORS = ("experts_TLK", "weights_TLK", "token_ids_T", "type_T", "starts_N", "group_N")


def expert_dtype(num_experts: int) -> np.dtype[Any]:
    """The smallest type that holds every expert and the mark of an idle slot."""
    return np.dtype(np.uint8 if num_experts < np.iinfo(np.uint8).max else np.uint16)


def from_routed_experts(
    sequences: Sequence[ArrayLike | str],
    *,
    num_experts: int,
    layers: int | Sequence[str],
    top_k: int,
    group: Sequence[str] | None = None,
    model: str = "",
) -> TokenTrace:
    """A trace of what an inference engine exported as `routed_experts`.

    Args:
        sequences: for every request the experts of its tokens, [tokens, layers, top_k], as vLLM returns them; or a flat buffer of
            int32 in base64, as SGLang does.
        num_experts: of a layer.
        layers: their number, or their names. Engines number MoE layers only.
        top_k: experts per token.
        group: a task or domain for every request.
        model: a name.

    Raises:
        RouterError: for arrays of another shape, or experts the model has not.
    """
    names = tuple(f"moe layer {i}" for i in range(layers)) if isinstance(layers, int) else tuple(layers)
    shape = (-1, len(names), top_k)
    parts = []
    for number, sequence in enumerate(sequences):
        try:
            if isinstance(sequence, str):
                flat = np.frombuffer(base64.b64decode(sequence, validate=True), dtype=np.int32).astype(np.int64)
            else:
                flat = np.asarray(sequence, dtype=np.int64)
            part = flat.reshape(shape)
        except (ValueError, TypeError) as error:
            raise RouterError(
                f"routed_experts of request {number}: not [tokens, {len(names)}, {top_k}] ({error})"
            ) from None
        if part.size and not 0 <= part.min() <= part.max() < num_experts:
            raise RouterError(
                f"routed_experts of request {number}: experts {part.min()} to {part.max()} where there are {num_experts}"
            )
        parts.append(part.astype(expert_dtype(num_experts)))
    if not any(len(part) for part in parts):
        raise RouterError("routed_experts: no token in any request")
    stated = list(group) if group is not None else ["all"] * len(parts)
    groups = tuple(dict.fromkeys(stated))
    return TokenTrace(
        model=model,
        layers=names,
        experts_L=(num_experts,) * len(names),
        top_k_L=(top_k,) * len(names),
        groups=groups,
        experts_TLK=np.concatenate(parts),
        starts_N=np.cumsum([0, *map(len, parts)]),
        group_N=np.array([groups.index(g) for g in stated], dtype=np.int32),
    )


class TokenWriter:
    """Writes a token trace as it is recorded, whatever its size, and in one piece when closed."""

    def __init__(self, path: Path, header: Mapping[str, Any], *, weights: bool, types: bool) -> None:
        """Begin.

        Args:
            path: the trace to be.
            header: `model`, `layers`, `experts_L`, `top_k_L`, `types` and `metadata`.
            weights: keep the routing weights too, in half precision.
            types: token types come with the tokens.
        """
        self.path, self.header = path, dict(header)
        self._folder = path.with_name(f".{path.name}.parts")
        shutil.rmtree(self._folder, ignore_errors=True)
        self._folder.mkdir(parents=True)
        kinds: dict[str, Any] = {
            "experts_TLK": expert_dtype(max(header["experts_L"])),
            "sequence_T": np.int64,
            "token_ids_T": np.int32,
        }
        if weights:
            kinds["weights_TLK"] = np.float16
        if types:
            kinds["type_T"] = np.uint8
        self.kinds = {name: np.dtype(kind) for name, kind in kinds.items()}
        self._files: dict[str, BinaryIO] = {name: (self._folder / name).open("wb") for name in self.kinds}
        self._groups: dict[int, str] = {}
        self.tokens = 0

    def add(self, rows: Mapping[str, ArrayLike], groups: Mapping[int, str]) -> None:
        """Add tokens: an array for each of `kinds`, and the group of every sequence among them."""
        lengths = set()
        for name, file in self._files.items():
            array = np.ascontiguousarray(rows[name], dtype=self.kinds[name])
            lengths.add(len(array))
            file.write(array.tobytes())
        assert len(lengths) == 1, "rows of different length"
        self.tokens += lengths.pop()
        self._groups.update(groups)

    def close(self) -> None:
        """Put the parts together, sequence after sequence, in the order in which the sequences began.

        Raises:
            RouterError: when there is no token.
        """
        for file in self._files.values():
            file.close()
        try:
            if self.tokens == 0:
                raise RouterError("no token was recorded, so there is no trace")
            self._assemble()
        finally:
            shutil.rmtree(self._folder, ignore_errors=True)

    def discard(self) -> None:
        """Leave nothing behind."""
        for file in self._files.values():
            file.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _assemble(self) -> None:
        sequence_T = np.fromfile(self._folder / "sequence_T", dtype=np.int64)
        # Tokens generated one by one come between those of other sequences.
        order_T = None if (np.diff(sequence_T) >= 0).all() else np.argsort(sequence_T, kind="stable")
        present, lengths = np.unique(sequence_T, return_counts=True)
        names = [self._groups[int(s)] for s in present]
        groups = tuple(dict.fromkeys(names))
        layers, top_k = len(self.header["layers"]), max(self.header["top_k_L"])
        tensors: dict[str, Any] = {}
        for name, kind in self.kinds.items():
            if name != "sequence_T":
                shape = (self.tokens, layers, top_k) if name.endswith("TLK") else (self.tokens,)
                mapped = np.memmap(self._folder / name, dtype=kind, mode="r", shape=shape)
                tensors[name] = (kind, shape, _in_order(mapped, order_T))
        starts = np.cumsum([0, *lengths]).astype(np.int64)
        group_N = np.array([groups.index(g) for g in names], dtype=np.int32)
        tensors["starts_N"] = (starts.dtype, starts.shape, [starts])
        tensors["group_N"] = (group_N.dtype, group_N.shape, [group_N])
        _write(self.path, {"schema": SCHEMA, **self.header, "groups": groups}, tensors)


def _in_order(array: NDArray[Any], order_T: NDArray[np.int64] | None, *, rows: int = 1 << 18) -> Iterator[NDArray[Any]]:
    for begin in range(0, len(array), rows):
        yield array[begin : begin + rows] if order_T is None else array[order_T[begin : begin + rows]]


def _write(path: Path, header: Mapping[str, Any], tensors: Mapping[str, Any]) -> None:
    """A safetensors file of parts that need not be in memory together: 8 bytes of length, a JSON header, the data."""
    described: dict[str, Any] = {"__metadata__": {"moe_router": json.dumps(header)}}
    end = 0
    ordered = sorted(tensors, key=lambda n: -tensors[n][0].itemsize)  # keeps every tensor aligned
    for name in ordered:
        kind, shape, _ = tensors[name]
        size = int(np.prod(shape)) * kind.itemsize
        described[name] = {"dtype": _NAMES[kind], "shape": list(shape), "data_offsets": [end, end + size]}
        end += size
    head = json.dumps(described).encode()
    head += b" " * (-len(head) % 8)
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(len(head).to_bytes(8, "little") + head)
            for name in ordered:
                for part in tensors[name][2]:
                    file.write(np.ascontiguousarray(part).tobytes())
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _mapped(path: Path) -> dict[str, NDArray[Any]]:
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        described = json.loads(file.read(length))
    described.pop("__metadata__", None)
    arrays: dict[str, NDArray[Any]] = {}
    for name, tensor in described.items():
        shape, kind = tuple(tensor["shape"]), _SAFETENSORS[tensor["dtype"]]
        offset = 8 + length + tensor["data_offsets"][0]
        arrays[name] = (
            np.memmap(path, dtype=kind, mode="r", offset=offset, shape=shape)
            if np.prod(shape)
            else np.zeros(shape, dtype=kind)
        )
    return arrays
