"""What the weights of a model are for, where no description of its architecture is at hand: told by their names and modules."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from moe_memprof.architectures.base import Kind, Model, Role, TensorSpec

_TOP_K = ("num_experts_per_tok", "num_experts_per_token", "moe_topk", "moe_k", "top_k_experts", "moe_top_k")
_MIXERS = ("attn", "attention", "mixer", "mamba", "conv", "delta", "recurrent")


@dataclass(frozen=True, kw_only=True)
class Read:
    """A model as its modules show it."""

    model: Model
    """Its layers are not described, so only what depends on the weights can be asked of it."""
    active: int
    """Parameters that one token passes through; all of them where the config does not say how many experts it chooses."""


def read_model(model: Any, layers: str, config: Any) -> Read:
    """The weights of a model on the meta device.

    Args:
        model: of full depth.
        layers: name of the list of its decoder layers.
        config: of its decoder.
    """
    tensors = read_tensors(model, layers)
    top_k = next((k for name in _TOP_K if isinstance(k := getattr(config, name, None), int)), None)
    idle = 0
    for tensor in tensors:
        if tensor.role == "routed expert" and tensor.kind == "parameter" and top_k:
            idle += tensor.elements - tensor.elements * min(top_k, tensor.shape[0]) // tensor.shape[0]
    described = Model(
        model_type=str(config.model_type),
        hidden=int(config.hidden_size),
        vocabulary=int(config.vocab_size),
        layers=(),
        tied=model.get_output_embeddings() is not None
        and model.get_output_embeddings().weight is model.get_input_embeddings().weight,
        tensors=tensors,
    )
    return Read(model=described, active=described.parameters - idle)


def read_tensors(model: Any, layers: str) -> tuple[TensorSpec, ...]:
    """Every weight once, with its role as its name tells."""
    holders: Mapping[str, Any] = dict(model.named_modules())
    found = []
    usual = model.dtype
    for name, parameter in model.named_parameters():
        path, _, own = name.rpartition(".")
        module = holders[path]
        inside = name.startswith(f"{layers}.")
        kind = _kind(module)
        found.append(
            TensorSpec(
                name=name,
                shape=tuple(parameter.shape),
                role=_role(name.removeprefix(f"{layers}.") if inside else "", own, kind),
                kind=kind,
                layer=None,
                dtype=None if parameter.dtype == usual else str(parameter.dtype).removeprefix("torch."),
            )
        )
    return tuple(found)


def _kind(module: Any) -> Kind:
    if isinstance(module, torch.nn.Linear):
        return "linear"
    if isinstance(module, torch.nn.Embedding):
        return "embedding"
    if "Norm" in type(module).__name__:
        return "norm"
    return "conv" if "Conv" in type(module).__name__ else "parameter"


def _role(inside: str, own: str, kind: Kind) -> Role:
    """`inside` is the name within the list of layers, empty outside it."""
    if kind == "embedding":
        return "embedding"
    if kind == "norm":
        return "norm"
    if not inside:
        return "embedding" if kind == "linear" else "other"
    steps = inside.split(".")[1:-1]
    if any("shared_expert" in step or "shared_mlp" in step for step in steps):
        return "shared expert"
    if any("experts" in step for step in steps) or own.endswith("experts"):
        return "routed expert"
    if any(step in {"gate", "router"} or "router" in step for step in steps):
        return "router"
    if any(part in step for step in steps for part in _MIXERS):
        return "attention"
    return "dense" if kind == "linear" else "other"
