"""Raw routing logits, whatever the architecture and the release of transformers returned.

Shapes: T positions of a pass, E experts.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from moe_router.architectures.base import Routing, flat
from moe_router.architectures.registry import diagnose, find_moe_layers
from moe_router.errors import RouterError

_FIELDS = ("router_logits", "encoder_router_logits", "decoder_router_logits")


def extract_routing_logits(outputs_or_model: Any, **inputs: Any) -> tuple[Tensor, ...]:
    """The routing logits of every MoE layer, each [T, E].

    From a model they are those its routers computed. From outputs they are what the model returned as `router_logits`; where that holds
    probabilities (gemma4; transformers 5.0 to 5.5), their logarithms, equal to the logits up to a constant in every row that no softmax
    sees.

    Args:
        outputs_or_model: what a model returned when called with `output_router_logits=True`; or a model, which is then run on
            `inputs` without gradient.
        inputs: of the model.

    Raises:
        RouterError: when there are none.

    Example:
        logits = extract_routing_logits(model(**batch, output_router_logits=True))
        logits = extract_routing_logits(model, **batch)
    """
    if isinstance(outputs_or_model, nn.Module):
        return _of_model(outputs_or_model, inputs)
    # Some models record the same tensor at two modules.
    found = {t.data_ptr(): t for name in _FIELDS for t in _tensors(getattr(outputs_or_model, name, None))}.values()
    if not found:
        raise RouterError(
            "the outputs hold no router logits: call the model with output_router_logits=True, or give the model and its inputs"
        )
    return tuple(_raw(flat(t)) for t in found)


def _of_model(model: nn.Module, inputs: dict[str, Any]) -> tuple[Tensor, ...]:
    layers = find_moe_layers(model)
    if not layers:
        raise RouterError(f"no MoE layer: {diagnose(model)}")
    seen: dict[int, Tensor] = {}

    def keep(number: int) -> Any:
        def deliver(routing: Routing) -> None:
            seen[number] = routing.logits_TE.detach()

        return deliver

    handles = [handle for n, layer in enumerate(layers) for handle in layer.attach(keep(n))]
    try:
        with torch.no_grad():
            model(**inputs)
    finally:
        for handle in handles:
            handle.remove()
    if not seen:
        raise RouterError("no router ran: the model's forward pass went around them (attach before torch.compile)")
    return tuple(seen[n] for n in sorted(seen))


def _tensors(value: Any) -> Iterator[Tensor]:
    """The logits among what a field holds: a tensor per layer, or a pair of logits and chosen experts; nothing for dense layers."""
    for item in value if isinstance(value, tuple | list) else ():
        tensor = item[0] if isinstance(item, tuple | list) and item else item
        if isinstance(tensor, Tensor) and tensor.is_floating_point() and tensor.ndim > 1:
            yield tensor


def _raw(logits_TE: Tensor) -> Tensor:
    rows = logits_TE.detach().float()
    if bool((rows >= 0).all() and ((rows.sum(-1) - 1).abs() < 1e-2).all()):
        return logits_TE.clamp_min(torch.finfo(logits_TE.dtype).tiny).log()
    return logits_TE
