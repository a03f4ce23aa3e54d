"""The standard adapter: a router beside fused experts that take the decision as arguments.

Since transformers 5.17 such a router returns (logits, weights, indices), perhaps with more behind; before that, the DeepSeek family's
returned logits alone and its block decided, so there the decision is read where the experts receive it. From 5.0 to 5.5 the
first value held probabilities.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from moe_router.architectures.base import Deliver, Handle, MoELayer, RouterAdapter, Routing, described, flat
from moe_router.architectures.structure import fused_experts, routers, running_modules, stream_of, top_k, unwrapped
from moe_router.architectures.support import is_tested, scoring_of
from moe_router.errors import RouterError


class Place(NamedTuple):
    """A block with one router and one set of experts."""

    name: str
    block: nn.Module
    router: str
    experts: str


def places(model: nn.Module) -> Iterator[Place]:
    """Every block with fused experts and one router beside them, in the order of the modules."""
    for name, block in running_modules(model):
        found = routers(block)
        experts = [n for n, child in block.named_children() if n not in found and fused_experts(unwrapped(child))]
        experts = [n for n in experts if "shared" not in n]  # inkling fuses the shared ones too
        if len(found) == 1 and len(experts) == 1:
            yield Place(name, block, next(iter(found)), experts[0])


def layer_at(
    place: Place, model: nn.Module, adapter: RouterAdapter, *, num_experts: int, experts_per_token: int | None = None
) -> MoELayer:
    """The description of a block that an adapter reads."""
    router = place.block.get_submodule(place.router)
    return MoELayer(
        name=place.name,
        router_name=f"{place.name}.{place.router}",
        router=router,
        experts_name=f"{place.name}.{place.experts}",
        experts=place.block.get_submodule(place.experts),
        num_experts=num_experts,
        top_k=experts_per_token or top_k(place.name, router, place.block, model),
        scoring=scoring_of(model),
        adapter=adapter,
        block=place.block,
        stream=stream_of(place.name, model),
        tested=is_tested(model),
    )


class StandardAdapter:
    """Routers that return (logits [T, E], weights [T, K], indices [T, K]), or whose experts receive weights and indices."""

    name = "standard"

    def find(self, model: nn.Module) -> list[MoELayer]:
        """Every block with fused experts and a router, in the order of the modules."""
        return [
            layer_at(place, model, self, num_experts=fused_experts(unwrapped(place.block.get_submodule(place.experts))))
            for place in places(model)
        ]

    def attach(self, layer: MoELayer, deliver: Deliver) -> list[Handle]:
        """Hook the router, and the experts too where the router does not return the decision or was never tested."""
        return [_Reader(layer, deliver)]


class _Reader:
    """The hooks on one layer."""

    def __init__(self, layer: MoELayer, deliver: Deliver) -> None:
        self.layer, self.deliver = layer, deliver
        self._hooks: list[Handle] = [layer.router.register_forward_hook(self._after_router)]
        self._normalised: bool | None = None
        self._unproved = not layer.tested
        self._reads_experts = False
        self._pending: Any = None

    def remove(self) -> None:
        """Take all of them off."""
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()

    def _after_router(self, module: nn.Module, args: tuple[Tensor, ...], output: Any) -> None:
        logits_TE, weights, indices = decision_in(self.layer, module, args, output)
        if self._normalised is None:
            self._normalised = _are_probabilities(logits_TE)
        if self._normalised:
            logits_TE = logits_TE.clamp_min(torch.finfo(logits_TE.dtype).tiny).log()
        decided = indices is not None
        if decided and not self._unproved:
            self.deliver(_checked(self.layer, logits_TE, weights, indices, normalised=self._normalised))
            return
        self._pending = logits_TE, (weights, indices) if decided else None
        if not self._reads_experts:
            # From within the router's forward this is in time: the experts of the same layer run after it.
            self._reads_experts = True
            self._hooks.append(self.layer.experts.register_forward_pre_hook(self._before_experts, with_kwargs=True))

    def _before_experts(self, _module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if self._pending is None:
            return
        (logits_TE, returned), self._pending = self._pending, None
        tensors = [x for x in (*args, *kwargs.values()) if isinstance(x, Tensor)][1:]
        indices = [x for x in tensors if not x.is_floating_point()]
        weights = [x for x in tensors if x.is_floating_point()]
        if len(indices) != 1 or len(weights) != 1:
            raise RouterError(
                f"{self.layer.experts_name} receives {described(tuple(tensors))} beside its input, not weights and indices"
            )
        routing = _checked(self.layer, logits_TE, weights[0], indices[0], normalised=bool(self._normalised))
        if returned is not None:
            stated = _checked(self.layer, logits_TE, *returned, normalised=bool(self._normalised))
            same = torch.equal(stated.indices_TK, routing.indices_TK)
            if not same or not torch.allclose(stated.weights_TK.float(), routing.weights_TK.float()):
                raise RouterError(
                    f"{self.layer.router_name} returned another decision than {self.layer.experts_name} received; its routing "
                    "needs an adapter of its own"
                )
            self._unproved = False
        self.deliver(routing)


def _checked(layer: MoELayer, logits_TE: Tensor, weights: Any, indices: Any, *, normalised: bool) -> Routing:
    """The decision, after a look at its shapes.

    Raises:
        RouterError: when they are not those of a decision.
    """
    if isinstance(weights, Tensor) and isinstance(indices, Tensor) and not indices.is_floating_point():
        weights, indices = flat(weights), flat(indices)
        idle_TK = None
        if logits_TE.shape[-1] == layer.num_experts + 1:
            idle_TK = (
                weights == 0
            )  # zaya: the class behind the last expert skips the experts; expert 0 runs with weight 0
        if weights.shape == indices.shape and logits_TE.shape[0] == indices.shape[0]:
            return Routing(logits_TE, weights, indices, idle_TK, normalised)
    raise RouterError(
        f"{layer.router_name}: logits {described(logits_TE)}, weights {described(weights)} and indices {described(indices)}; "
        "expected [T, E], [T, K] and integers [T, K]"
    )


def _are_probabilities(logits: Tensor) -> bool:
    """Whether every row is a distribution, which raw scores are not."""
    rows = logits.detach().float()
    return bool((rows >= 0).all() and ((rows.sum(-1) - 1).abs() < 1e-2).all())


def decision_in(
    layer: MoELayer, router: nn.Module, args: tuple[Tensor, ...], output: Any
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Logits [T, E], weights [T, K] and indices [T, K] among the values a router returned, in whatever order releases put them.

    Where logits are not among them (transformers 4), they follow from the router's input and weight; where no indices are (the DeepSeek
    family before 5.17), weights and indices are None.

    Raises:
        RouterError: when neither logits nor a decision is there.
    """
    values = [
        flat(x) for x in (output if isinstance(output, tuple) else (output,)) if isinstance(x, Tensor) and x.ndim > 1
    ]
    indices = next((x for x in values if not x.is_floating_point()), None)
    floats = [x for x in values if x.is_floating_point()]
    if indices is None and len(floats) == 1 and floats[0].shape[-1] >= layer.num_experts:
        return floats[0], None, None
    if indices is not None and len(floats) >= 2 and floats[0].shape[-1] >= layer.num_experts:
        return floats[0], floats[1], indices
    if (
        indices is not None
        and len(floats) >= 2
        and floats[0].shape == indices.shape
        and floats[1].shape[-1] >= layer.num_experts
    ):
        return floats[1], floats[0], indices
    weight = next((p for p in unwrapped(router).parameters() if p.ndim == 2 and p.shape[0] >= layer.num_experts), None)
    if indices is not None and len(floats) == 1 and weight is not None and args[0].shape[-1] == weight.shape[1]:
        weights = floats[0] if floats[0].shape == indices.shape else floats[0].gather(-1, indices)
        return (
            functional.linear(flat(args[0]).to(weight.dtype), weight, getattr(unwrapped(router), "bias", None)),
            weights,
            indices,
        )
    raise RouterError(
        f"{layer.router_name} returned {described(output)}: neither logits nor weights and indices can be told from it"
    )
