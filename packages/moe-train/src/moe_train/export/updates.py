"""What an adapter adds to each weight of its base, one weight at a time.

E experts, r rank, O output features, I input features. PEFT says which weight belongs to which pair of factors: it is asked on an
empty model.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from moe_train.errors import TrainError

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True, kw_only=True)
class Update:
    """W + scaling · B A, as PEFT lays the factors out."""

    a: Tensor
    """[r, I], or expert-major [E · r, I]."""
    b: Tensor
    """[O, r], or rank-major [O, r · E]."""
    scaling: float
    experts: int = 0
    """0 for a linear layer."""
    transposed: bool = False
    """Whether the weight is stored as [in, out]."""

    def add_to(self, weight: Tensor) -> Added:
        """Add to a weight in place, expert by expert, in float32 and rounded once."""
        parts = [weight] if not self.experts else list(weight)
        if self.experts and len(parts) != self.experts:
            raise TrainError(f"merge: an adapter of {self.experts} experts and a weight of {len(parts)}")
        wanted = lost = 0.0
        for e, part in enumerate(parts):
            delta = self._delta(e)
            if delta.shape != part.shape:
                raise TrainError(
                    f"merge: an update of shape {tuple(delta.shape)} and a weight of {tuple(part.shape)}: not the adapter's base"
                )
            exact = part.float() + delta
            part.copy_(exact)
            wanted += float(delta.square().sum(dtype=torch.float64))
            lost += float((part.float() - exact).square().sum(dtype=torch.float64))
        return Added(wanted=wanted, lost=lost)

    def _delta(self, expert: int) -> Tensor:
        if not self.experts:
            matrix = self.b.float() @ self.a.float()
            return self.scaling * (matrix.T if self.transposed else matrix)
        r = self.a.shape[0] // self.experts
        a = self.a[expert * r : (expert + 1) * r].float()
        b = self.b[:, expert :: self.experts].float()
        matrix = self.scaling * (b @ a)
        return matrix.T if self.transposed else matrix


@dataclass(frozen=True, kw_only=True)
class Replacement:
    """A weight that was trained itself and is kept with the adapter (`modules_to_save`): a router."""

    weight: Tensor

    def add_to(self, weight: Tensor) -> Added:
        """Put it in the base's place."""
        if weight.shape != self.weight.shape:
            raise TrainError(
                f"merge: a weight of shape {tuple(self.weight.shape)} for one of {tuple(weight.shape)}: not the adapter's base"
            )
        wanted = (self.weight.float() - weight.float()).square().sum(dtype=torch.float64)
        weight.copy_(self.weight)
        return Added(
            wanted=float(wanted), lost=float((weight.float() - self.weight.float()).square().sum(dtype=torch.float64))
        )


@dataclass(frozen=True, kw_only=True)
class Added:
    """Squared norms of an update and of what rounding made of it."""

    wanted: float
    lost: float

    @property
    def error(self) -> float:
        """The part of the update that is wrong after rounding: the norm of the difference by the norm of the update."""
        return 0.0 if self.wanted == 0 else (self.lost / self.wanted) ** 0.5


def read_updates(model: PreTrainedModel, adapter: Path) -> dict[str, Update | Replacement]:
    """The updates of an adapter's folder, by the name of the weight in transformers 5.

    Args:
        model: the base without numbers (`source.empty_model`); it is wrapped by PEFT.
        adapter: with adapter_config.json and adapter_model.safetensors.

    Raises:
        TrainError: an adapter that is not LoRA, trains more than factors, or does not fit this base.
    """
    from peft import PeftConfig, get_peft_model
    from peft.tuners.lora.layer import LoraLayer
    from peft.utils import ModulesToSaveWrapper
    from safetensors.torch import load_file

    from moe_train.verify import base_name

    if not (adapter / "adapter_config.json").is_file():
        raise TrainError(f"adapter {adapter}: no adapter_config.json in it")
    config = PeftConfig.from_pretrained(str(adapter))
    more = [key for key in ("use_dora", "trainable_token_indices") if getattr(config, key, None)]
    bias = getattr(config, "bias", "none")
    if str(config.peft_type) not in ("LORA", "PeftType.LORA") or more or bias != "none":
        what = ", ".join([*more, *([f"bias={bias}"] if bias != "none" else [])]) or str(config.peft_type)
        raise TrainError(f"adapter {adapter}: {what} cannot be merged here; use PEFT's own merge_and_unload")
    config.base_model_name_or_path = None  # wherever the base was then: what fits is told by its shapes
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*", category=FutureWarning)
        # Said of ranks of parameters, which it then gives.
        warnings.filterwarnings(
            "ignore", message="The following rank_pattern keys did not match", category=RuntimeWarning
        )
        try:
            wrapped: Any = get_peft_model(model, config)
        except ValueError as error:
            raise TrainError(f"adapter {adapter}: does not fit this base ({str(error).splitlines()[0]})") from None
    factors = load_file(str(adapter / "adapter_model.safetensors"))
    found: dict[str, Update | Replacement] = {}
    for path, module in wrapped.named_modules():
        if isinstance(module, LoraLayer) and "default" in getattr(module, "lora_A", {}):
            keys = [_present(factors, f"{path}.{factor}.weight", adapter) for factor in ("lora_A", "lora_B")]
            name, update = _update(path, module, *(factors.pop(key) for key in keys))
            found[name] = update
        elif isinstance(module, ModulesToSaveWrapper):
            for part in module.modules_to_save["default"].state_dict():
                found[f"{base_name(path)}.{part}"] = Replacement(
                    weight=factors.pop(_present(factors, f"{path}.{part}", adapter))
                )
    if factors:
        raise TrainError(f"adapter {adapter}: {min(factors)} has no place in this base")
    return found


def _present(factors: dict[str, Tensor], key: str, adapter: Path) -> str:
    if key not in factors:
        raise TrainError(f"adapter {adapter}: {key} is not in its file, which is incomplete or of another base")
    return key


def _update(path: str, module: Any, a: Tensor, b: Tensor) -> tuple[str, Update]:
    from moe_train.verify import base_name

    for factor, given in ((module.lora_A, a), (module.lora_B, b)):
        if factor["default"].weight.shape != given.shape:
            raise TrainError(
                f"adapter: {path} takes factors of shape {tuple(factor['default'].weight.shape)}, its file has {tuple(given.shape)}: "
                "not the adapter's base"
            )
    scaling = float(module.scaling["default"])
    stack = getattr(module, "parameter_name", None)
    if stack is None:
        return f"{base_name(path)}.weight", Update(a=a, b=b, scaling=scaling, transposed=bool(module.fan_in_fan_out))
    return f"{base_name(path)}.{stack}", Update(
        a=a, b=b, scaling=scaling, experts=module.num_experts, transposed=not module._did_swap_in_out_features
    )
