"""The base weights of a model as plain transformers would hold them: quantised ones made dense, one tensor at a time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from moe_train.experts.forward import PARAMETERS, is_dispatched, stack_of
from moe_train.experts.stacks import DenseStack

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def dense_weights(model: PreTrainedModel | nn.Module, dtype: torch.dtype) -> Iterator[tuple[str, Tensor]]:
    """Every parameter and persistent buffer of the base, without PEFT's wrappers in its name and without adapters.

    Args:
        model: as loaded, adapted by PEFT or not; with PEFT's outermost wrapper, give `peft_model.get_base_model()`.
        dtype: of floating tensors.

    Yields:
        Name and tensor, made when it is asked for, so that one of them is alive at a time.
    """
    consumed: set[str] = set()
    for name, module in model.named_modules():
        plain = _plain(name)
        if is_dispatched(module):
            for stack in PARAMETERS:
                held = getattr(module, stack, None)
                if isinstance(held, nn.Parameter) and not isinstance(stack_of(module, stack), DenseStack):
                    consumed |= {f"{plain}.{stack}{suffix}" for suffix in ("", "_scales", "_nested")}
                    matrices = stack_of(module, stack).whole(dtype)
                    stored = matrices.transpose(1, 2) if module.is_transposed else matrices
                    yield f"{plain}.{stack}", stored.contiguous()
        elif (weight := _dense_linear(module, dtype)) is not None:
            consumed.add(f"{plain}.weight")
            consumed |= {
                f"{plain}.{key}"
                for key in module.state_dict()
                if key.startswith("weight.") or key in ("SCB", "weight_format")
            }
            yield f"{plain}.weight", weight
    for name, tensor in model.state_dict().items():
        plain = _plain(name)
        if plain not in consumed and ".lora_" not in name:
            yield plain, tensor.to(dtype) if tensor.is_floating_point() else tensor


def _plain(name: str) -> str:
    return name.replace(".base_layer", "")


def _dense_linear(module: Any, dtype: torch.dtype) -> Tensor | None:
    """The weight of one of bitsandbytes' linears; None for any other module, PEFT's wrappers of the same names among them."""
    kind = type(module)
    if not kind.__module__.startswith("bitsandbytes"):
        return None
    if kind.__name__ == "Linear4bit":
        import bitsandbytes.functional as bnb

        matrix: Tensor = bnb.dequantize_4bit(module.weight.data, module.weight.quant_state)
        return matrix.to(dtype)
    if kind.__name__ == "Linear8bitLt":
        scales = module.state.SCB if module.state.SCB is not None else module.weight.SCB
        dense: Tensor = module.weight.data.float() * scales.float()[:, None] / 127
        return dense.to(dtype)
    return None
