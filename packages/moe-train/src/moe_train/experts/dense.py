"""The base weights of a model as plain transformers would hold them: quantised ones made dense, one tensor at a time."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from moe_train.experts.forward import PARAMETERS, is_dispatched, stack_of
from moe_train.experts.stacks import DenseStack

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def dense_weights(
    model: PreTrainedModel | nn.Module, dtype: torch.dtype, *, only: Collection[str] | None = None
) -> Iterator[tuple[str, Tensor]]:
    """Every parameter and persistent buffer of the base, without PEFT's wrappers in its name and without adapters.

    Args:
        model: as loaded, adapted by PEFT or not; with PEFT's outermost wrapper, give `peft_model.get_base_model()`.
        dtype: of floating tensors.
        only: of these names (`dense_names`) alone.

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
                    if only is not None and f"{plain}.{stack}" not in only:
                        continue
                    matrices = stack_of(module, stack).whole(dtype)
                    stored = matrices.transpose(1, 2) if module.is_transposed else matrices
                    yield f"{plain}.{stack}", stored.contiguous()
        elif _is_quantised_linear(module):
            consumed.add(f"{plain}.weight")
            consumed |= {
                f"{plain}.{key}"
                for key in module.state_dict()
                if key.startswith("weight.") or key in ("SCB", "weight_format")
            }
            if only is None or f"{plain}.weight" in only:
                yield f"{plain}.weight", _dense_linear(module, dtype)
    for name, tensor in model.state_dict().items():
        plain = _plain(name)
        if plain not in consumed and ".lora_" not in name and (only is None or plain in only):
            yield plain, tensor.to(dtype) if tensor.is_floating_point() else tensor


def _plain(name: str) -> str:
    return name.replace(".base_layer", "")


def dense_names(model: nn.Module) -> list[str]:
    """The names that `dense_weights` yields, in the order of the layers."""
    found = []
    for name in model.state_dict():
        plain = _plain(name)
        path, _, last = plain.rpartition(".")
        of_stack = last.removesuffix("_scales").removesuffix("_nested")
        beside = of_stack != last and of_stack in PARAMETERS
        of_linear = ".weight." in plain or (last in ("SCB", "weight_format") and f"{path}.weight" in found)
        if not beside and not of_linear and ".lora_" not in name:
            found.append(plain)
    return found


def _is_quantised_linear(module: nn.Module) -> bool:
    """Whether it is one of bitsandbytes' linears, and not PEFT's wrapper of the same name."""
    kind = type(module)
    return kind.__module__.startswith("bitsandbytes") and kind.__name__ in ("Linear4bit", "Linear8bitLt")


def _dense_linear(module: Any, dtype: torch.dtype) -> Tensor:
    """The weight of one of bitsandbytes' linears."""
    if type(module).__name__ == "Linear4bit":
        import bitsandbytes.functional as bnb

        matrix: Tensor = bnb.dequantize_4bit(module.weight.data, module.weight.quant_state)
        return matrix.to(dtype)
    scales = module.state.SCB if module.state.SCB is not None else module.weight.SCB
    dense: Tensor = module.weight.data.float() * scales.float()[:, None] / 127
    return dense.to(dtype)
