"""Recording the routing that was executed, as it happens, in memory that does not grow with the text.

Shapes: B batch, S sequence, T = B · S positions, L MoE layers, E experts, K experts per token, G groups, U units.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from moe_router.architectures.base import Handle, MoELayer, Routing
from moe_router.architectures.registry import diagnose, find_moe_layers
from moe_router.errors import RouterError
from moe_router.positions import Positions, positions_of, token_mask
from moe_router.streaming import LayerSums, Transitions, units_for
from moe_router.token_capture import TokenCapture
from moe_router.trace import RoutingTrace

DEFAULT_GROUP = "all"
GENERATED = " (generated)"
"""Behind a group's name, for tokens that went through the model one by one on top of a key-value cache."""


def in_recompute() -> bool:
    """Whether this forward pass is one that gradient checkpointing repeats inside the backward pass (both kinds)."""
    return torch._C._current_graph_task_id() != -1


class RoutingRecorder:
    """Sums the executed routing of every forward pass of a model while the context is open.

    Padding is not counted (`attention_mask` is read off the model's own call), nor is the repetition of a forward pass by gradient
    checkpointing. Tokens generated one by one are counted in a group of their own. Attach it before `torch.compile`.

    Example:
        with RoutingRecorder(model) as recorder:
            with recorder.group("algebra"):
                model(**batch)
        recorder.trace().save("algebra.trace")
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        types: Sequence[str] = (),
        tokens: Path | None = None,
        weights: bool = False,
        name: str = "",
        stream: str | None = None,
    ) -> None:
        """Find the model's MoE layers.

        Args:
            model: PEFT-wrapped or not.
            types: names of token types, to be told apart with `typed`.
            tokens: a file to write a full trace to as well, token by token, complete when the context closes without an error.
            weights: keep the routing weights in the full trace too.
            name: a name for the model, kept in the traces.
            stream: which positions to record where a model has several kinds: `text`, `encoder`, `decoder` or `vision`. By default
                the text, or the decoder.

        Raises:
            RouterError: for a model without MoE layers, or without any of that stream.
        """
        self.model = model
        found = find_moe_layers(model)
        if not found:
            raise RouterError(f"no MoE layer to record: {diagnose(model)}")
        self.streams = tuple(dict.fromkeys(layer.stream for layer in found))
        self.stream = stream or next((s for s in ("text", "decoder") if s in self.streams), self.streams[0])
        if self.stream not in self.streams:
            raise RouterError(
                f"stream {self.stream!r}: the MoE layers of this model belong to {', '.join(self.streams)}"
            )
        self.layers: list[MoELayer] = [layer for layer in found if layer.stream == self.stream]
        self.types, self.name = tuple(types), name
        self._tokens_path, self._weights = tokens, weights
        self._tokens: TokenCapture | None = None
        self._group = DEFAULT_GROUP
        self._groups: dict[str, _Group] = {}
        self._now: _Pass | None = None
        self._only_BS: Tensor | None = None
        self._type_BS: Tensor | None = None
        self._handles: list[Handle] = []

    def __enter__(self) -> RoutingRecorder:
        if self._tokens_path is not None:
            header = {
                "model": self.name,
                "layers": [layer.name for layer in self.layers],
                "experts_L": [layer.num_experts for layer in self.layers],
                "top_k_L": [layer.top_k for layer in self.layers],
                "types": self.types,
                "metadata": {},
            }
            self._tokens = TokenCapture(
                self._tokens_path, self.layers, header, weights=self._weights, types=bool(self.types)
            )
        for module in self._entrances():
            self._handles.append(module.register_forward_pre_hook(self._before_model, with_kwargs=True))
        for number, layer in enumerate(self.layers):
            self._handles.extend(layer.attach(self._reader(number)))
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        if self._tokens is not None:
            tokens, self._tokens = self._tokens, None
            if kind is None:
                tokens.writer.close()
            else:
                tokens.writer.discard()

    def _entrances(self) -> list[nn.Module]:
        """The modules whose calls tell the positions of the stream: an encoder is also called without its model, to generate."""
        if self.stream not in {"encoder", "decoder"}:
            return [self.model]
        base: Any = self.model
        return [base.get_encoder() if self.stream == "encoder" else base.get_decoder()]

    def set_group(self, name: str) -> None:
        """Count what is routed from here on under this name."""
        self._group = name

    @contextmanager
    def group(self, name: str) -> Iterator[None]:
        """Count what is routed inside under this name, a task or domain."""
        before, self._group = self._group, name
        try:
            yield
        finally:
            self._group = before

    @contextmanager
    def only(self, positions_BS: Tensor) -> Iterator[None]:
        """Count what is routed inside at these positions alone, the tokens of an answer for example.

        Args:
            positions_BS: true where to count, [B, S] as the `input_ids` of the calls inside; padding is left out all the same.
        """
        before, self._only_BS = self._only_BS, positions_BS
        try:
            yield
        finally:
            self._only_BS = before

    @contextmanager
    def typed(self, types_BS: Tensor) -> Iterator[None]:
        """Tell the tokens of the calls inside apart by type.

        Args:
            types_BS: for every position the number of its type among the recorder's `types`, [B, S].

        Raises:
            RouterError: for numbers that are no type.
        """
        if types_BS.numel() and not 0 <= int(types_BS.min()) <= int(types_BS.max()) < len(self.types):
            raise RouterError(
                f"token types from {int(types_BS.min())} to {int(types_BS.max())}; the recorder has {len(self.types)}"
            )
        before, self._type_BS = self._type_BS, types_BS
        try:
            yield
        finally:
            self._type_BS = before

    def _before_model(self, _module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if in_recompute():
            return
        positions = positions_of(args, kwargs)
        mask_T = positions.mask_T
        if self._only_BS is not None:
            only_T = token_mask(self._only_BS.to(positions.sequence_T.device), positions.batch, positions.length)
            assert only_T is not None
            mask_T = only_T if mask_T is None else only_T & mask_T
        name = self._group + GENERATED if positions.decoding else self._group
        if name not in self._groups:
            self._groups[name] = _Group(self.layers, types=len(self.types))
        group = self._groups[name]
        type_T = None if self._type_BS is None else self._type_BS.reshape(-1)
        self._now = _Pass(group, positions, mask_T, type_T)
        if self._tokens is not None:
            self._tokens.begin(positions)

    def _reader(self, number: int) -> Callable[[Routing], None]:
        layer = self.layers[number]

        def read(routing: Routing) -> None:
            if in_recompute():
                return
            now = self._now
            if now is None:
                raise RouterError(
                    f"{layer.name} ran without a call of {type(self.model).__name__} around it, so padding cannot be told: call the "
                    "model that was given to the recorder"
                )
            with torch.no_grad():
                now.add(number, layer, routing)
                if self._tokens is not None:
                    self._tokens.add(number, routing, now.positions, now.mask_T, now.type_T, self._group)

        return read

    def trace(self, *, model: str = "", metadata: Mapping[str, str] | None = None) -> RoutingTrace:
        """What was recorded so far.

        Args:
            model: a name for the model, kept in the trace; the recorder's, where it is empty.
            metadata: anything else to keep, as text.

        Raises:
            RouterError: when nothing was recorded, which is never a result, or layers were bypassed.
        """
        groups = {name: group for name, group in self._groups.items() if group.tokens().any()}
        if not groups:
            raise RouterError(
                "no token was recorded: run the model inside the recorder's context (hooks attached after a torch.compile'd "
                "call are never reached: attach them first)"
            )
        return _assemble(self, groups, model or self.name, dict(metadata or {}))


class _Group:
    """The sums of one group."""

    def __init__(self, layers: list[MoELayer], *, types: int) -> None:
        self.layers, self.types = layers, types
        self.limit = min(units_for(layer.num_experts) for layer in layers)
        self.sequences = 0
        self.last_units: Tensor | None = None
        self.sums: dict[int, LayerSums] = {}
        self.transitions: dict[int, Transitions] = {}
        self._tokens: dict[int, Tensor] = {}
        self._sequences_U = np.zeros(self.limit, dtype=np.int64)

    def place(self, positions: Positions) -> Tensor:
        """The unit of every position of a pass, [T]."""
        if positions.decoding and self.last_units is not None and len(self.last_units) == positions.sequences:
            units = self.last_units
        else:
            numbers = np.arange(self.sequences, self.sequences + positions.sequences) % self.limit
            np.add.at(self._sequences_U, numbers, 1)
            self.sequences += positions.sequences
            units = torch.from_numpy(numbers).to(positions.sequence_T.device)
        self.last_units = units
        return units[positions.sequence_T]

    @property
    def units(self) -> int:
        """Units in use."""
        return min(self.sequences, self.limit)

    def sums_of(self, number: int, device: torch.device) -> LayerSums:
        """The sums of a layer, with room for the units in use."""
        if number not in self.sums:
            self.sums[number] = LayerSums(self.layers[number].num_experts, self.units, self.types, device)
        sums = self.sums[number]
        if len(sums.pairs_U) < self.units:
            sums.grow(min(self.limit, max(self.units, 2 * len(sums.pairs_U))))
        return sums

    def count_tokens(self, number: int, mask_T: Tensor | None, unit_T: Tensor) -> None:
        """Add a layer's tokens of one pass."""
        tokens_U = self._tokens.setdefault(number, torch.zeros(self.limit, dtype=torch.int64, device=unit_T.device))
        tokens_U.scatter_add_(0, unit_T, torch.ones_like(unit_T) if mask_T is None else mask_T.long())

    def tokens(self) -> NDArray[np.int64]:
        """Tokens of every layer and unit, [L, U]."""
        empty = np.zeros(self.limit, dtype=np.int64)
        return np.array(
            [self._tokens[n].cpu().numpy() if n in self._tokens else empty for n in range(len(self.layers))]
        )

    @property
    def sequences_U(self) -> NDArray[np.int64]:
        """Sequences of every unit in use."""
        return self._sequences_U[: self.units]


class _Pass:
    """One forward pass of the model: what its layers have in common."""

    def __init__(self, group: _Group, positions: Positions, mask_T: Tensor | None, type_T: Tensor | None) -> None:
        self.group, self.positions, self.mask_T = group, positions, mask_T
        device = positions.sequence_T.device
        self.unit_T = group.place(positions)
        self.type_T = None if type_T is None else type_T.to(device)
        together_T = torch.zeros_like(positions.sequence_T, dtype=torch.bool)
        together_T[1:] = positions.sequence_T[1:] == positions.sequence_T[:-1]
        if mask_T is not None:
            together_T[1:] &= mask_T[1:] & mask_T[:-1]
        self.together_T = together_T
        self._first: tuple[int, Tensor] | None = None
        if type_T is not None and len(type_T) != len(self.unit_T):
            raise RouterError(f"{len(type_T)} token types for {len(self.unit_T)} positions")

    def add(self, number: int, layer: MoELayer, routing: Routing) -> None:
        """Add one layer's decisions."""
        device, rows = routing.indices_TK.device, len(routing.indices_TK)
        if rows != len(self.unit_T):
            raise RouterError(
                f"{layer.name} routed {rows} positions where the model's input has {len(self.unit_T)}: its tokens cannot be matched "
                "with the attention mask"
            )
        mask_T = None if self.mask_T is None else self.mask_T.to(device)
        unit_T, together_T = self.unit_T.to(device), self.together_T.to(device)
        type_T = None if self.type_T is None else self.type_T.to(device)
        first_T = self.group.sums_of(number, device).add(routing, mask_T, unit_T, together_T, type_T)
        self.group.count_tokens(number, mask_T, unit_T)
        before, self._first = self._first, (number, first_T)
        if before is not None and before[0] == number - 1 and self.group.sums[number].coactivation_EE is not None:
            transitions = self.group.transitions
            if number - 1 not in transitions:
                experts = self.group.layers[number - 1].num_experts
                transitions[number - 1] = Transitions(experts, layer.num_experts, device)
            transitions[number - 1].add(before[1], first_T)


def _assemble(
    recorder: RoutingRecorder, groups: dict[str, _Group], model: str, metadata: dict[str, str]
) -> RoutingTrace:
    layers = recorder.layers
    widest = max(layer.num_experts for layer in layers)

    def wide(array: Any, axes: int) -> NDArray[Any]:
        """Without the bin of what does not count, and padded to the largest layer, in its last axes."""
        kept = array.cpu().numpy()[(..., *[slice(None, -1)] * axes)]
        return np.pad(kept, [(0, 0)] * (kept.ndim - axes) + [(0, widest - n) for n in kept.shape[-axes:]])

    def of_units(name: str, axes: int) -> Any:
        per_group = []
        for group in groups.values():
            rows = [getattr(group.sums[n], name)[: group.units] for n in range(len(layers))]
            per_group.append(np.stack([wide(r, axes) if axes else r.cpu().numpy() for r in rows], axis=1))
        return np.concatenate(per_group)

    def summed(name: str, axes: int) -> Any:
        total = []
        for n in range(len(layers)):
            arrays = [getattr(group.sums[n], name) for group in groups.values()]
            if any(a is None for a in arrays):
                return None
            total.append(sum(wide(a, axes) for a in arrays))
        return np.stack(total)

    for name, group in groups.items():
        tokens_LU = group.tokens()
        if (tokens_LU != tokens_LU[0]).any() or len(group.sums) != len(layers):
            raise RouterError(
                f"group {name!r}: the layers recorded different numbers of tokens, so part of the routing was bypassed"
            )
    tokens_U = np.concatenate([group.tokens()[0, : group.units] for group in groups.values()])
    top_k_L = tuple(layer.top_k for layer in layers)
    coactivation = summed("coactivation_EE", 2)
    transitions = None
    if coactivation is not None and all(len(g.transitions) == len(layers) - 1 for g in groups.values()):
        none = np.zeros((0, widest, widest), dtype=np.int64)
        steps = [sum(wide(g.transitions[n].counts_EE, 2) for g in groups.values()) for n in range(len(layers) - 1)]
        transitions = np.stack(steps) if steps else none
    types = summed("types_FCE", 1) if recorder.types else None
    return RoutingTrace(
        model=model,
        layers=tuple(layer.name for layer in layers),
        experts_L=tuple(layer.num_experts for layer in layers),
        top_k_L=top_k_L,
        groups=tuple(groups),
        types=recorder.types,
        unit_group_U=np.concatenate([np.full(g.units, i) for i, g in enumerate(groups.values())]),
        sequences_U=np.concatenate([g.sequences_U for g in groups.values()]),
        tokens_U=tokens_U,
        counts_ULE=of_units("counts_UE", 1),
        first_ULE=of_units("first_UE", 1),
        idle_UL=of_units("idle_U", 0),
        pairs_U=of_units("pairs_U", 0)[:, 0],
        repeats_UL=of_units("repeats_U", 0),
        mass_GLE=np.stack([[wide(g.sums[n].mass_E, 1) for n in range(len(layers))] for g in groups.values()]),
        types_FCLE=None if types is None else types.transpose(1, 2, 0, 3),
        coactivation_LEE=None if coactivation is None else coactivation + coactivation.transpose(0, 2, 1),
        transitions_LEE=transitions,
        metadata=metadata,
    )
