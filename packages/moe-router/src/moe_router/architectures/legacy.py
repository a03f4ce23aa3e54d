"""The adapter of blocks that hold every expert as a module: transformers 4.57, and models that bring code of such a form.

Two kinds. A router may return the decision without logits (DeepSeek, gpt-oss); or a linear layer returns logits and the block takes
the top-k of their softmax without handing it out. There the top-k is taken again from the same logits, and every pass is checked:
each expert must have received as many tokens as the decision gives it.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from moe_router.architectures.base import Deliver, Handle, MoELayer, Routing
from moe_router.architectures.capacity import ExpertRows
from moe_router.architectures.standard import Place, decision_in, layer_at
from moe_router.architectures.structure import fused_experts, listed_experts, routers, running_modules, unwrapped
from moe_router.errors import RouterError


class LegacyAdapter:
    """Blocks with a list of experts beside a linear gate or a router that returns weights and indices."""

    name = "legacy"

    def find(self, model: nn.Module) -> list[MoELayer]:
        """Every block of that structure, in the order of the modules."""
        found = []
        for name, block in running_modules(model):
            gates = routers(block)
            experts = {
                n: len(listed_experts(child)) or fused_experts(unwrapped(child))
                for n, child in block.named_children()
                if n not in gates
            }
            experts = {n: count for n, count in experts.items() if count}
            if len(gates) == 1 and len(experts) == 1:
                (router,), ((held, count),) = gates, experts.items()
                found.append(layer_at(Place(name, block, router, held), model, self, num_experts=count))
        return found

    def attach(self, layer: MoELayer, deliver: Deliver) -> list[Handle]:
        """Hook the router, every expert that is a module, and the block."""
        decided: list[Routing] = []
        received = ExpertRows(layer.experts)

        def after_router(module: nn.Module, args: tuple[Tensor, ...], output: Any) -> None:
            logits_TE, weights, indices = decision_in(layer, module, args, output)
            if weights is None or indices is None:
                weights, indices = _top_k(layer, logits_TE)
            decided[:] = [Routing(logits_TE, weights, indices)]
            received.take()  # a recompute of gradient checkpointing may have stopped before the end of the block

        def after_block(_module: nn.Module, _args: Any, _output: Any) -> None:
            rows = received.take()
            if not decided:
                raise RouterError(f"{layer.name} ran without {layer.router_name}: its routing cannot be read")
            routing = decided.pop()
            if rows and not received.agree(rows, routing.indices_TK):
                raise RouterError(
                    f"{layer.name}: its experts received {rows[:8]}{' ...' if len(rows) > 8 else ''} tokens, which the top-{layer.top_k} "
                    "of the softmax of its logits does not give; its routing needs an adapter of its own"
                )
            deliver(routing)

        hooks: list[Handle] = [
            layer.router.register_forward_hook(after_router),
            layer.block.register_forward_hook(after_block),
        ]
        return hooks + received.handles


def _top_k(layer: MoELayer, logits_TE: Tensor) -> tuple[Tensor, Tensor]:
    """What Mixtral's, Qwen's and OLMoE's blocks of transformers 4 compute."""
    weights_TK, indices_TK = functional.softmax(logits_TE.detach().float(), dim=-1).topk(layer.top_k, dim=-1)
    if getattr(layer.block, "norm_topk_prob", True):
        weights_TK = weights_TK / weights_TK.sum(-1, keepdim=True)
    return weights_TK.to(logits_TE.dtype), indices_TK
