"""The adapters of architectures that route in ways of their own."""

from __future__ import annotations

import re
from typing import Any, cast

import torch
from torch import Tensor, nn

from moe_router.architectures.base import Deliver, Handle, MoELayer, Routing, described, flat
from moe_router.architectures.standard import Place, StandardAdapter, layer_at, places
from moe_router.architectures.structure import fused_experts, running_modules, unwrapped
from moe_router.architectures.support import support_of
from moe_router.errors import RouterError


class Llama4Adapter:
    """Llama 4: the router returns scores over all experts, 0 for those not chosen, and the logits."""

    name = "llama4"

    def find(self, model: nn.Module) -> list[MoELayer]:
        """Blocks whose router is Llama 4's."""
        return [
            layer_at(place, model, self, num_experts=fused_experts(unwrapped(place.block.get_submodule(place.experts))))
            for place in places(model)
            if type(unwrapped(place.block.get_submodule(place.router))).__name__ == "Llama4Router"
        ]

    def attach(self, layer: MoELayer, deliver: Deliver) -> list[Handle]:
        """Hook the router."""

        def after(_module: nn.Module, _args: Any, output: Any) -> None:
            if not isinstance(output, tuple) or len(output) != 2:
                raise RouterError(f"{layer.router_name} returned {described(output)}, not (scores, logits)")
            scores_TE, logits_TE = flat(output[0]), flat(output[1])
            weights_TK, indices_TK = scores_TE.detach().topk(layer.top_k, dim=-1)
            deliver(Routing(logits_TE, weights_TK, indices_TK))

        return [layer.router.register_forward_hook(after)]


class DbrxAdapter:
    """DBRX: the router returns logits, the block decides, and the experts, three flat matrices, receive the decision."""

    name = "dbrx"

    def find(self, model: nn.Module) -> list[MoELayer]:
        """Blocks whose router is DBRX's."""
        return [
            layer_at(
                Place(name, block, "router", "experts"),
                model,
                self,
                num_experts=int(cast(Any, block.experts).num_experts),
            )
            for name, block in running_modules(model)
            if type(block).__name__ == "DbrxFFN"
        ]

    def attach(self, layer: MoELayer, deliver: Deliver) -> list[Handle]:
        """Hook the router for logits and the experts for the decision, as before transformers 5.17."""
        return StandardAdapter().attach(layer, deliver)


class Gemma4Adapter:
    """Gemma 4: a standard router that returns probabilities in the place of logits; those are read where it computes them."""

    name = "gemma4"

    def find(self, model: nn.Module) -> list[MoELayer]:
        """Decoder layers with such a router."""
        support = support_of(model)
        if support is None or support.adapter != self.name:
            return []
        return [
            layer_at(place, model, self, num_experts=fused_experts(unwrapped(place.block.get_submodule(place.experts))))
            for place in places(model)
        ]

    def attach(self, layer: MoELayer, deliver: Deliver) -> list[Handle]:
        """Hook the router, and the projection inside it."""
        logits: list[Tensor] = []

        def keep(_module: nn.Module, _args: Any, output: Tensor) -> None:
            logits[:] = [flat(output)]

        def passed_on(routing: Routing) -> None:
            deliver(routing._replace(logits_TE=logits.pop(), normalised=False))

        handles = StandardAdapter().attach(layer, passed_on)
        handles.append(layer.router.get_submodule("proj").register_forward_hook(keep))
        return handles


class JetMoeAdapter:
    """JetMoE, and Granite-MoE of transformers 4: the router returns tokens sorted by expert, and how many each expert has."""

    name = "jetmoe"

    def find(self, model: nn.Module) -> list[MoELayer]:
        """Every block with such a router; in JetMoE those of the attention too."""
        found = []
        for name, block in running_modules(model):
            router = getattr(block, "router", None)
            if isinstance(router, nn.Module) and type(unwrapped(router)).__name__.endswith("TopKGating"):
                place = Place(name, block, "router", "input_linear")
                found.append(layer_at(place, model, self, num_experts=int(unwrapped(router).num_experts)))  # type: ignore[arg-type]
        # Attention runs before the feed-forward block of its layer, and stands behind it among the modules.
        return sorted(
            found, key=lambda layer: ([int(n) for n in re.findall(r"\d+", layer.name)], "attention" not in layer.name)
        )

    def attach(self, layer: MoELayer, deliver: Deliver) -> list[Handle]:
        """Hook the router."""

        def after(_module: nn.Module, _args: Any, output: Any) -> None:
            if not isinstance(output, tuple) or len(output) != 5:
                raise RouterError(f"{layer.router_name} returned {described(output)}, not JetMoE's five values")
            sorted_N, token_N, gates_N, sizes, logits_TE = output
            sizes_E = torch.as_tensor(sizes, device=token_N.device)
            expert_N = torch.repeat_interleave(torch.arange(len(sizes_E), device=token_N.device), sizes_E)
            # `sorted_N` says which slot of which token stands where: slot = token * K + k.
            indices, weights = torch.empty_like(expert_N), torch.empty_like(gates_N)
            indices[sorted_N], weights[sorted_N] = expert_N, gates_N.detach()
            shape = (logits_TE.shape[0], -1)
            deliver(Routing(flat(logits_TE), weights.reshape(shape), indices.reshape(shape)))

        return [layer.router.register_forward_hook(after)]


class DogeAdapter:
    """Doge: a linear layer scores product keys (Lample et al. 2019, arXiv 1907.05242); the experts are rows of two embeddings."""

    name = "doge"

    def find(self, model: nn.Module) -> list[MoELayer]:
        """Blocks of that class."""
        return [
            layer_at(
                Place(name, block, "router_gate", "down_embed"),
                model,
                self,
                num_experts=int(cast(Any, block).num_experts),
            )
            for name, block in running_modules(model)
            if type(block).__name__ == "DogeCDMoE"
        ]

    def attach(self, layer: MoELayer, deliver: Deliver) -> list[Handle]:
        """Hook the layer that scores, and the experts' embedding, whose input is the selection."""
        keys: list[Tensor] = []

        def after_router(_module: nn.Module, _args: Any, output: Tensor) -> None:
            # The stock code splits by a view that mixes tokens; what is read is what row t was routed by.
            keys[:] = list(output.reshape(2, output.shape[0] * output.shape[1], -1))

        def before_experts(_module: nn.Module, args: tuple[Tensor, ...]) -> None:
            x_TN, y_TN = keys
            indices_TK, num_keys = args[0], x_TN.shape[-1]
            scores_TK = x_TN.gather(-1, indices_TK // num_keys) + y_TN.gather(-1, indices_TK % num_keys)
            deliver(Routing(torch.cat([x_TN, y_TN], -1), scores_TK.detach().softmax(-1), indices_TK))

        return [
            layer.router.register_forward_hook(after_router),
            layer.experts.register_forward_pre_hook(before_experts),
        ]
