"""The adapters of encoder-decoder models whose experts have a capacity: a token beyond it is dropped."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor, nn

from moe_router.architectures.base import Deliver, Handle, MoELayer, Routing, flat
from moe_router.architectures.standard import Place, layer_at
from moe_router.architectures.structure import listed_experts, running_modules
from moe_router.errors import RouterError


class ExpertRows:
    """Counts the rows that every expert, a module of its own, receives in one forward pass of its block."""

    def __init__(self, experts: nn.Module) -> None:
        modules = listed_experts(experts)
        self.rows = [0] * len(modules)
        self.handles: list[Handle] = [m.register_forward_pre_hook(self._counter(e)) for e, m in enumerate(modules)]

    def _counter(self, expert: int) -> Any:
        def count(_module: nn.Module, args: tuple[Tensor, ...]) -> None:
            self.rows[expert] += args[0].numel() // args[0].shape[-1]

        return count

    def take(self) -> list[int]:
        """The rows since the last call."""
        rows, self.rows = self.rows, [0] * len(self.rows)
        return rows

    def agree(self, rows: list[int], indices_TK: Tensor, idle_TK: Tensor | None = None) -> bool:
        """Whether the experts received exactly the tokens that a decision gives them."""
        executed = indices_TK.reshape(-1) if idle_TK is None else indices_TK[~idle_TK]
        return torch.bincount(executed, minlength=len(rows)).tolist() == rows


class SwitchAdapter:
    """Switch Transformers: the router returns a one-hot mask in which dropped tokens have no expert, and the chosen probability."""

    name = "switch"

    def find(self, model: nn.Module) -> list[MoELayer]:
        """Blocks of that class."""
        return _blocks(model, "SwitchTransformersSparseMLP", self, experts_per_token=1)

    def attach(self, layer: MoELayer, deliver: Deliver) -> list[Handle]:
        """Hook the router."""

        def after(_module: nn.Module, _args: Any, output: Any) -> None:
            mask_TE, probs_T1, logits_TE = (flat(x) for x in output)
            dropped_T1 = mask_TE.sum(-1, keepdim=True) == 0
            deliver(
                Routing(logits_TE, probs_T1.masked_fill(dropped_T1, 0), mask_TE.argmax(-1, keepdim=True), dropped_T1)
            )

        return [layer.router.register_forward_hook(after)]


class NllbMoeAdapter:
    """NLLB-MoE: top-2 with capacity.

    In the releases of transformers tested (5.6 to 5.23) its block hands the one-hot mask of first choices to experts that take
    indices: expert 1 runs where the mask is 1 and expert 0 where it is 0, whatever the router chose. The rows each expert receives
    tell which of the two happened, and that is what is delivered.
    """

    name = "nllb_moe"

    def find(self, model: nn.Module) -> list[MoELayer]:
        """Blocks of that class."""
        return _blocks(model, "NllbMoeSparseMLP", self, experts_per_token=2)

    def attach(self, layer: MoELayer, deliver: Deliver) -> list[Handle]:
        """Hook the router, every expert, and the block."""
        seen: list[tuple[Tensor, Tensor, Tensor]] = []
        received = ExpertRows(layer.experts)

        def after_router(_module: nn.Module, _args: Any, output: Any) -> None:
            seen[:] = [tuple(flat(x) for x in output)]  # type: ignore[list-item]
            received.take()

        def after_block(_module: nn.Module, _args: Any, _output: Any) -> None:
            mask_TE, weights_TE, logits_TE = seen.pop()
            rows = received.take()
            if rows == _rows_by_value(mask_TE, len(rows)):
                _warn_of_masks(layer)
                ones_T1 = (weights_TE * mask_TE).sum(-1, keepdim=True)
                zeros_T1 = (weights_TE * (1 - mask_TE)).sum(-1, keepdim=True)
                weights_T2 = torch.cat([ones_T1, zeros_T1], -1)
                deliver(
                    Routing(
                        logits_TE,
                        weights_T2,
                        torch.tensor([1, 0], device=mask_TE.device).expand(len(mask_TE), 2),
                        weights_T2 == 0,
                    )
                )
                return
            weights_T2, indices_T2 = weights_TE.topk(2, -1)
            if not received.agree(rows, indices_T2, weights_T2 == 0):
                raise RouterError(
                    f"{layer.name}: the experts received {rows} tokens, which is not what the router decided"
                )
            deliver(Routing(logits_TE, weights_T2, indices_T2, weights_T2 == 0))

        hooks: list[Handle] = [
            layer.router.register_forward_hook(after_router),
            layer.block.register_forward_hook(after_block),
        ]
        return hooks + received.handles


def _rows_by_value(mask_TE: Tensor, experts: int) -> list[int]:
    """Rows for every expert when the entries of the mask are taken for expert numbers."""
    return torch.bincount(mask_TE.reshape(-1), minlength=experts).tolist()


def _warn_of_masks(layer: MoELayer) -> None:
    warnings.warn(
        f"{layer.name}: this transformers release hands a one-hot mask to NLLB-MoE's experts where they expect indices, so only experts "
        "0 and 1 run; the recorded routing is what ran, not what the router chose",
        stacklevel=2,
    )


def _blocks(model: nn.Module, cls: str, adapter: Any, *, experts_per_token: int) -> list[MoELayer]:
    return [
        layer_at(
            Place(name, block, "router", "experts"),
            model,
            adapter,
            num_experts=len(listed_experts(block.get_submodule("experts"))),
            experts_per_token=experts_per_token,
        )
        for name, block in running_modules(model)
        if type(block).__name__ == cls
    ]
