"""The model as it trains: its MoE layers, what is adapted, and the proof of it on the first batch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from moe_train.adapters import Targets, add_lora, find_targets
from moe_train.loss import loss_of
from moe_train.replay import RoutingReplay
from moe_train.trainer import batch_gradients, step_batch
from moe_train.verify import Proof, prove, routed_with_loss

if TYPE_CHECKING:
    from torch import nn

    from moe_router import MoELayer, RoutingBalancer
    from moe_train.config import RunConfig
    from moe_train.model import LoadedModel
    from moe_train.prepare import Data


def find_layers(loaded: LoadedModel) -> list[MoELayer]:
    """The model's MoE layers; none for a dense model that is trained as one."""
    from moe_router import find_moe_layers

    return find_moe_layers(loaded.model) if loaded.moe_layers else []


def planned_targets(config: RunConfig, loaded: LoadedModel, layers: list[MoELayer]) -> Targets | None:
    """What LoRA adapts; None when every weight trains."""
    if config.training.method == "full":
        return None
    return find_targets(loaded.model, layers, config.lora, train_routers=config.routing.train)


def adapted(config: RunConfig, loaded: LoadedModel, targets: Targets | None) -> nn.Module:
    """The model with what is to train in place: LoRA on the targets, or every weight where there are none."""
    model: nn.Module = loaded.model if targets is None else add_lora(loaded.model, targets, config.lora)
    if config.training.gradient_checkpointing:
        _enable_checkpointing(loaded.model)
        if loaded.moe_layers:
            RoutingReplay(model)
    return model


def prove_on_batch(
    config: RunConfig,
    loaded: LoadedModel,
    data: Data,
    model: nn.Module,
    layers: list[MoELayer],
    targets: Targets | None,
) -> Proof:
    """One forward and backward pass of the first batch, read as the trainability proof; leaves no gradient behind."""
    import torch

    random_state = torch.get_rng_state()
    balancer = make_balancer(config, model) if layers else None
    model.train()
    try:
        batch, tokens = step_batch(data.train, config, 0), config.training.micro_batch_tokens
        routed_LE = routed_with_loss(model, batch, pad_id=loaded.pad_id, micro_batch_tokens=tokens) if layers else None
        torch.set_rng_state(random_state)  # routers that draw, draw the same
        batch_gradients(
            model,
            batch,
            balancer=balancer,
            pad_id=loaded.pad_id,
            micro_batch_tokens=tokens,
            after=loss_of(config, loaded),
        )
        quantised = config.quantisation.weights != "none"
        return prove(model, layers, targets, routed_LE=routed_LE, quantised=quantised)
    finally:
        if balancer is not None:
            balancer.close()
        model.zero_grad(set_to_none=True)
        torch.set_rng_state(random_state)


def make_balancer(config: RunConfig, model: nn.Module) -> RoutingBalancer:
    """The routing losses of a configuration, watching the model until they are closed."""
    from moe_router import RoutingBalancer

    return RoutingBalancer(model, load_balancing=config.routing.load_balancing, z_loss=config.routing.z_loss)


def _enable_checkpointing(model: Any) -> None:
    # Non-reentrant: the reentrant kind cuts the gradient of losses taken inside a layer.
    kind = {"use_reentrant": False}
    if hasattr(model, "activation_checkpointing_enable"):  # its name since transformers 5.2x
        model.activation_checkpointing_enable(activation_checkpointing_kwargs=kind)
    else:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=kind)
    model.enable_input_require_grads()
