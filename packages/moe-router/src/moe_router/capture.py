"""Recording the routing that was executed, as it happens, in memory that does not grow with the text.

Shapes: B batch, S sequence, T = B · S positions, L MoE layers, E experts, K experts per token, G groups, U units.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from moe_router.architectures.base import Handle, MoELayer, Routing
from moe_router.architectures.registry import diagnose, find_moe_layers
from moe_router.errors import RouterError
from moe_router.gathering import ForwardPass, GroupSums, assemble
from moe_router.positions import positions_of, token_mask
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
        self._groups: dict[str, GroupSums] = {}
        self._now: ForwardPass | None = None
        self._only_BS: Tensor | None = None
        self._type_BS: Tensor | None = None
        self._handles: list[Handle] = []
        self._passes = self._bypassed = 0

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
            self._handles.append(module.register_forward_hook(self._after_model))
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
            self._groups[name] = GroupSums(self.layers, types=len(self.types), number=len(self._groups))
        if (
            not positions.continued
        ):  # whatever is generated next goes on with these sequences, not with those of a call before
            for other in self._groups.values():
                other.last_units = None
        group = self._groups[name]
        type_T = None if self._type_BS is None else self._type_BS.reshape(-1)
        self._now = ForwardPass(group, positions, mask_T, type_T)
        if self._tokens is not None:
            self._tokens.begin(positions)

    def _after_model(self, *_: Any) -> None:
        if in_recompute() or self._now is None:
            return
        self._passes += 1
        self._bypassed += self._now.layers_seen != len(self.layers)

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
        if self._bypassed:
            raise RouterError(
                f"{self._bypassed} of {self._passes} forward passes went around routers, so the counts are not of the whole text (a graph "
                "that torch.compile made before has no place for hooks: attach the recorder first, to a model loaded anew)"
            )
        return assemble(self.layers, self.types, groups, model or self.name, dict(metadata or {}))
