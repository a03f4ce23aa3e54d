"""PEFT's adapters of expert parameters, multiplied in grouped products instead of built into the weights.

PEFT stays the interface: `get_peft_model` with the config from `expert_lora_config`, the same names and the same layout in the adapter's
file, several adapters, switching off, scaling, merging. Plain PEFT reads what is saved. Layout: A is expert-major [r · E, I]
(row e · r + k), B rank-major [O, r · E] (column k · E + e).
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from peft.tuners.lora import layer as peft_layer
from torch import Tensor, nn

from moe_train.errors import TrainError
from moe_train.experts.forward import IMPLEMENTATION, PARAMETERS, adapted, is_dispatched, stack_of, use_grouped_experts
from moe_train.experts.ops import Factors
from moe_train.experts.stacks import DenseStack

if TYPE_CHECKING:
    from peft import LoraConfig
    from transformers import PreTrainedModel


class ParamWrapper(peft_layer.ParamWrapper):  # type: ignore[misc]  # peft is untyped; it knows a wrapper by this very name
    """The adapter of one stack of expert weights."""

    def __init__(
        self, base_layer: nn.Module, adapter_name: str, parameter_name: str, config: LoraConfig, **kwargs: Any
    ) -> None:
        """As PEFT's, but dropout is allowed: the adapter's input is at hand here."""
        self._dropouts: dict[str, float] = {}
        self._kept_experts: dict[str, tuple[int, ...]] = {}
        super().__init__(base_layer, adapter_name, parameter_name, config=_plain(config), **kwargs)
        self._dropouts[adapter_name] = float(config.lora_dropout)

    def update_layer(self, adapter_name: str, r: int, lora_alpha: int, config: LoraConfig, **kwargs: Any) -> None:
        """Add an adapter."""
        super().update_layer(adapter_name, r, lora_alpha, config=_plain(config), **kwargs)
        self._dropouts[adapter_name] = float(config.lora_dropout)

    def _get_in_out_features(self, module: nn.Module) -> tuple[int, int]:
        """As PEFT's, from the stack rather than from the shape it is stored in: packed weights have half the columns."""
        experts = module
        while isinstance(experts, peft_layer.ParamWrapper):
            experts = experts.base_layer
        stack = stack_of(experts, self.parameter_name)
        self.num_experts, self._param_ndim = stack.experts, 3
        rows, columns = stack.out_features, stack.in_features
        return (columns, rows) if getattr(experts, "is_transposed", False) else (rows, columns)

    def _move_adapter_to_device_of_base_layer(self, adapter_name: str, device: Any = None) -> None:
        """The base's device, and its dtype where that is floating: packed weights give none."""
        super()._move_adapter_to_device_of_base_layer(adapter_name, device)

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """The experts with their active adapters; PEFT's own way where the adapters are merged or switched off."""
        experts = self.get_base_layer()
        if self.disable_adapters or self.merged or kwargs.get("adapter_names") is not None:
            return super().forward(x, *args, **kwargs)  # type: ignore[no-any-return]
        if experts.config._experts_implementation != IMPLEMENTATION:
            raise TrainError(
                f"experts: {self.parameter_name} is adapted in grouped products, but its module runs "
                f"{experts.config._experts_implementation!r}; call use_grouped_experts(model) first"
            )
        with adapted(experts, self.parameter_name, self._factors()):
            return self.base_layer(x, *args, **kwargs)  # type: ignore[no-any-return]

    def _factors(self) -> tuple[Factors, ...]:
        found = []
        for name in self.active_adapters:
            if name in self.lora_A:
                a, b = self.lora_A[name].weight, self.lora_B[name].weight
                found.append(
                    Factors(
                        a=a.view(self.num_experts, -1, a.shape[1]),
                        # Each expert's columns stand apart; together they make one contiguous copy.
                        b=b.view(b.shape[0], -1, self.num_experts).permute(2, 0, 1).contiguous(),
                        scaling=float(self.scaling[name]),
                        dropout=self._dropouts.get(name, 0.0) if self.training else 0.0,
                    )
                )
        return tuple(found)

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Add the adapters to the weights.

        Raises:
            TrainError: on quantised weights, where the sum would be rounded away; export dequantises first.
        """
        if not isinstance(stack_of(self.get_base_layer(), self.parameter_name), DenseStack):
            raise TrainError(
                f"merge: {self.parameter_name} is quantised, and an update of its size is lost in rounding; dequantise the experts first"
            )
        super().merge(safe_merge=safe_merge, adapter_names=adapter_names)

    def train_only(self, experts: Iterable[int], adapter_name: str = "default") -> None:
        """Train the adapters of these experts alone; those of the others stay as they are, at nothing where they are new.

        Raises:
            TrainError: for a number that is no expert.
        """
        import torch

        chosen = tuple(sorted(set(experts)))
        wrong = [e for e in chosen if not 0 <= e < self.num_experts]
        if wrong or not chosen:
            raise TrainError(
                f"experts: {wrong or 'none'} chosen of {self.num_experts}; give numbers from 0 to {self.num_experts - 1}"
            )
        if adapter_name in self._kept_experts:
            raise TrainError(f"experts: those of adapter {adapter_name!r} were chosen before")
        self._kept_experts[adapter_name] = chosen
        mask_E = torch.zeros(self.num_experts)
        mask_E[list(chosen)] = 1
        a, b = self.lora_A[adapter_name].weight, self.lora_B[adapter_name].weight
        r = a.shape[0] // self.num_experts
        a.register_hook(lambda g: g * mask_E.to(g).repeat_interleave(r)[:, None])
        b.register_hook(lambda g: g * mask_E.to(g).repeat(r)[None, :])


def _plain(config: LoraConfig) -> LoraConfig:
    """The config as PEFT's wrapper takes it, which knows no dropout."""
    plain = copy.copy(config)
    plain.lora_dropout = 0.0
    return plain


def expert_lora_config(model: PreTrainedModel, config: LoraConfig) -> LoraConfig:
    """Let PEFT adapt this model's experts in grouped products; the model's experts run our forward pass from then on.

    The returned config goes to `get_peft_model(model, config)`, or to `PeftModel.from_pretrained(model, folder, config=config)`, since PEFT
    does not write its table of classes to the adapter's folder.

    Raises:
        TrainError: where the config adapts no expert parameter, or the model's experts are not dispatched by transformers.
    """
    if not config.target_parameters:
        raise TrainError("experts: the LoRA config names no target_parameters, so that no expert would be adapted")
    for module in model.modules():
        if is_dispatched(module):
            for name in PARAMETERS:
                if isinstance(getattr(module, name, None), nn.Parameter):
                    getattr(module, name).requires_grad_(False)  # as PEFT is about to
    names = use_grouped_experts(model)
    if not names:
        raise TrainError(
            f"experts: transformers does not dispatch the experts of {type(model).__name__}; use PEFT's own target_parameters"
        )
    modules = dict(model.named_modules())
    config._register_custom_module({type(modules[name]): ParamWrapper for name in names})
    return config


__all__ = ["ParamWrapper", "expert_lora_config", "is_dispatched"]
