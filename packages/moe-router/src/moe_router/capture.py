"""Recording the routing that was executed, as it happens, in memory that does not grow with the text.

Shapes: B batch, S sequence, T = B · S tokens, L MoE layers, E experts, K experts per token, G groups.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from moe_router.architectures.base import MoELayer
from moe_router.architectures.registry import diagnose, find_moe_layers
from moe_router.errors import RouterError
from moe_router.trace import RoutingTrace

DEFAULT_GROUP = "all"


def in_recompute() -> bool:
    """Whether this forward pass is one that gradient checkpointing repeats inside the backward pass (both kinds)."""
    return torch._C._current_graph_task_id() != -1


def token_mask(attention_mask: Tensor | None, batch: int, sequence: int) -> Tensor | None:
    """Which of the B · S input positions are tokens and not padding, flattened to [T]; None where all are.

    Args:
        attention_mask: [B, S], or [B, past + S] when a key-value cache is in use: the last S columns are this input's.
            Masks of four dimensions say nothing about padding that could be read back, and are refused.
        batch: B.
        sequence: S.

    Raises:
        RouterError: for a mask of another form.
    """
    if attention_mask is None:
        return None
    if attention_mask.ndim != 2 or attention_mask.shape[0] != batch or attention_mask.shape[1] < sequence:
        raise RouterError(
            f"attention_mask of shape {tuple(attention_mask.shape)}: cannot tell the padding of an input of shape "
            f"({batch}, {sequence}) from it; pass the two-dimensional mask"
        )
    return attention_mask[:, -sequence:].reshape(-1).bool()


class LayerCounts:
    """Streaming sums of one layer and group, on the device where the router runs."""

    def __init__(self, num_experts: int, device: torch.device) -> None:
        self.counts_E = torch.zeros(num_experts, dtype=torch.int64, device=device)
        self.first_E = torch.zeros(num_experts, dtype=torch.int64, device=device)
        self.mass_E = torch.zeros(num_experts, dtype=torch.float64, device=device)
        self.coactivation_EE = torch.zeros(num_experts, num_experts, dtype=torch.int64, device=device)
        self.tokens = torch.zeros((), dtype=torch.int64, device=device)

    def add(self, weights_TK: Tensor, indices_TK: Tensor, mask_T: Tensor | None) -> None:
        """Add the decisions of one forward pass."""
        if mask_T is not None:
            weights_TK, indices_TK = weights_TK[mask_T], indices_TK[mask_T]
        experts = len(self.counts_E)
        flat = indices_TK.reshape(-1)
        self.counts_E += torch.bincount(flat, minlength=experts)
        # The first choice is the heaviest; routers do not all return them in that order.
        best_T1 = weights_TK.argmax(-1, keepdim=True)
        self.first_E += torch.bincount(indices_TK.gather(-1, best_T1).reshape(-1), minlength=experts)
        self.mass_E.index_add_(0, flat, weights_TK.reshape(-1).double())
        top_k = indices_TK.shape[-1]
        for i in range(top_k):
            for j in range(i + 1, top_k):
                pairs = indices_TK[:, i] * experts + indices_TK[:, j]
                both_EE = torch.bincount(pairs, minlength=experts * experts).reshape(experts, experts)
                self.coactivation_EE += both_EE + both_EE.T
        self.tokens += indices_TK.shape[0]


class RoutingRecorder:
    """Counts the executed routing of every forward pass of a model while the context is open.

    Padding is not counted (`attention_mask` is read off the model's own call), nor is the repetition of a forward pass by
    gradient checkpointing.

    Example:
        with RoutingRecorder(model) as recorder:
            with recorder.group("algebra"):
                model(**batch)
        recorder.trace().save("algebra.trace")
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.layers: list[MoELayer] = find_moe_layers(model)
        if not self.layers:
            raise RouterError(f"no MoE layer to record: {diagnose(model)}")
        self._group = DEFAULT_GROUP
        self._counts: dict[tuple[str, int], LayerCounts] = {}
        self._mask_T: Tensor | None = None
        self._only_BS: Tensor | None = None
        self._handles: list[Any] = []

    def __enter__(self) -> RoutingRecorder:
        self._handles.append(self.model.register_forward_pre_hook(self._before_model, with_kwargs=True))
        for number, layer in enumerate(self.layers):
            self._handles.append(layer.router.register_forward_hook(self._after_router(number)))
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

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

    def _before_model(self, _module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        inputs = kwargs.get("input_ids")
        if inputs is None:
            inputs = args[0] if args else kwargs["inputs_embeds"]
        mask = kwargs.get("attention_mask")
        if mask is None and len(args) > 1 and isinstance(args[1], Tensor):
            mask = args[1]
        self._mask_T = token_mask(mask, inputs.shape[0], inputs.shape[1])
        if self._only_BS is not None:
            only_T = token_mask(self._only_BS.to(inputs.device), inputs.shape[0], inputs.shape[1])
            assert only_T is not None
            self._mask_T = only_T if self._mask_T is None else only_T & self._mask_T

    def _after_router(self, number: int) -> Any:
        layer = self.layers[number]

        def hook(_module: nn.Module, _args: Any, output: Any) -> None:
            if in_recompute():
                return
            with torch.no_grad():
                routing = layer.read(output)
                key = (self._group, number)
                if key not in self._counts:
                    self._counts[key] = LayerCounts(layer.num_experts, routing.indices_TK.device)
                mask = None if self._mask_T is None else self._mask_T.to(routing.indices_TK.device)
                self._counts[key].add(routing.weights_TK, routing.indices_TK, mask)

        return hook

    def trace(self, *, model: str = "", metadata: Mapping[str, str] | None = None) -> RoutingTrace:
        """What was recorded so far.

        Args:
            model: a name for the model, kept in the trace.
            metadata: anything else to keep, as text.

        Raises:
            RouterError: when nothing was recorded, which is never a result.
        """
        groups = list(dict.fromkeys(group for group, _ in self._counts))
        experts = self.layers[0].num_experts
        if any(layer.num_experts != experts for layer in self.layers):
            raise RouterError("layers with different numbers of experts cannot share one trace")
        empty = LayerCounts(experts, torch.device("cpu"))

        def stack(field: str) -> NDArray[Any]:
            rows = [
                [getattr(self._counts.get((g, n), empty), field).cpu().numpy() for n in range(len(self.layers))]
                for g in groups
            ]
            return np.array(rows)

        tokens_GL = stack("tokens") if groups else np.zeros((0, len(self.layers)), dtype=np.int64)
        if not tokens_GL.any():
            raise RouterError(
                "no token was recorded: run the model inside the recorder's context (hooks attached after a torch.compile'd "
                "call are never reached: attach them first)"
            )
        if (tokens_GL != tokens_GL[:, :1]).any():
            raise RouterError("the layers recorded different numbers of tokens, so part of the routing was bypassed")
        return RoutingTrace(
            model=model,
            layers=tuple(layer.name for layer in self.layers),
            num_experts=experts,
            top_k=self.layers[0].top_k,
            groups=tuple(groups),
            counts_GLE=stack("counts_E"),
            first_GLE=stack("first_E"),
            mass_GLE=stack("mass_E"),
            coactivation_LEE=stack("coactivation_EE").sum(0),
            tokens_G=tokens_GL[:, 0],
            metadata=dict(metadata or {}),
        )
