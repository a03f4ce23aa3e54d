"""Gradient checkpointing that repeats the decisions of the routers instead of taking them again.

A checkpointed layer runs once more in the backward pass. Where two experts score nearly the same, in 16 bits above all, the second run
may choose the other one: the activations that the backward pass finds are then those of other experts than the loss was made of. Here every
choice a router makes (`torch.topk`) is kept from the first run, a few bytes a token, and in the second run the scores of the experts
that were chosen then are taken, whatever they are now.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from moe_router import find_moe_layers
from moe_router.capture import in_recompute

_CHOICES = (torch.topk, Tensor.topk)


class _Choices(TorchFunctionMode):
    """Keeps what every top-k chooses, or lets it choose the same again."""

    def __init__(self, kept: list[Tensor], *, again: bool) -> None:
        super().__init__()
        self.kept, self.again, self.number, self.flips = kept, again, 0, 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func not in _CHOICES:
            return func(*args, **kwargs)
        scores = args[0] if args else kwargs["input"]
        dim = kwargs.get("dim", args[2] if len(args) > 2 else -1)
        with torch.no_grad():
            found = func(*args, **kwargs)
        if self.again:
            indices = self.kept[self.number]
            self.number += 1
            self.flips += int((found.indices.sort(dim).values != indices.sort(dim).values).sum())
        else:
            indices = found.indices
            self.kept.append(indices)
        # The same operations in both runs: what checkpointing keeps and finds again has to agree, one by one.
        return type(found)((scores.gather(dim, indices), indices))


class RoutingReplay:
    """Hooks on a model's routers for as long as it is open; nothing changes where nothing is recomputed."""

    def __init__(self, model: nn.Module) -> None:
        """Watch the routers of a model, wrapped by PEFT or not, whose forward pass begins anew what is kept.

        What a router chooses in another way stays as it is: phimoe draws its experts, dbrx and doge choose outside of their routers.
        """
        self.flips = 0
        """Choices that would have been others in a recomputation, in all."""
        self._kept: dict[int, list[Tensor]] = {}
        self._calls: dict[int, int] = {}
        self._modes: list[_Choices | None] = []
        self._handles: list[Any] = [model.register_forward_pre_hook(self._begin)]
        modules = dict(model.named_modules())
        names = dict.fromkeys(layer.router_name for layer in find_moe_layers(model))
        for router in {id(modules[name]): modules[name] for name in names if name in modules}.values():
            self._handles.append(router.register_forward_pre_hook(self._enter))
            self._handles.append(router.register_forward_hook(self._leave, always_call=True))

    def close(self) -> None:
        """Take the hooks off."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._kept.clear()

    def _begin(self, _model: nn.Module, _args: Any) -> None:
        if not in_recompute():
            self._kept.clear()
            self._calls.clear()

    def _enter(self, router: nn.Module, _args: Any) -> None:
        key, mode = id(router), None
        if in_recompute():
            # A router that several layers share ran more than once: which of its runs this repeats cannot be told.
            if self._calls.get(key) == 1 and self._kept.get(key):
                mode = _Choices(self._kept[key], again=True)
        elif router.training:
            self._calls[key] = self._calls.get(key, 0) + 1
            self._kept[key] = []
            mode = _Choices(self._kept[key], again=False)
        if mode is not None:
            mode.__enter__()  # type: ignore[no-untyped-call]
        self._modes.append(mode)

    def _leave(self, _router: nn.Module, _args: Any, _output: Any) -> None:
        mode = self._modes.pop()
        if mode is not None:
            self.flips += mode.flips
            mode.__exit__(None, None, None)  # type: ignore[no-untyped-call]
