"""Which experts are adapted, where not all are: a file that names them by layer."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from moe_train.errors import TrainError

if TYPE_CHECKING:
    from moe_router import MoELayer


def read_chosen(path: Path, layers: list[MoELayer]) -> list[tuple[int, ...]]:
    """The experts to adapt in each of the model's MoE layers, none in those the file leaves out.

    Args:
        path: JSON or YAML, experts by layer: the layer's path in the model (`model.layers.0.mlp`), or its number among the MoE layers,
            counted from 0. Such an object may also stand under the key `experts`.
        layers: the model's, as moe-router found them.

    Raises:
        TrainError: a file that cannot be read, a layer or an expert that the model does not have, or no expert at all.
    """
    try:
        values: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise TrainError(f"lora.chosen_experts: {path}: no such file") from None
    except (yaml.YAMLError, UnicodeDecodeError):
        raise TrainError(f"lora.chosen_experts: {path}: neither JSON nor YAML") from None
    if isinstance(values, dict) and isinstance(values.get("experts"), dict):
        values = values["experts"]
    if not isinstance(values, dict):
        raise TrainError(
            f"lora.chosen_experts: {path}: expected experts by layer, as in {{model.layers.0.mlp: [0, 5]}}"
        )
    places = {name: number for number, layer in enumerate(layers) for name in (layer.name, str(number))}
    found: list[tuple[int, ...]] = [()] * len(layers)
    for name, experts in values.items():
        number = places.get(str(name))
        if number is None:
            raise TrainError(
                f"lora.chosen_experts: {path}: the model has no MoE layer {name!r}; it has {layers[0].name} and so on"
            )
        count = layers[number].num_experts
        if not isinstance(experts, list) or not all(type(e) is int and 0 <= e < count for e in experts):
            raise TrainError(
                f"lora.chosen_experts: {path}: layer {name}: expected numbers from 0 to {count - 1}, got {experts!r}"
            )
        found[number] = tuple(sorted(set(experts)))
    if not any(found):
        raise TrainError(f"lora.chosen_experts: {path}: names no expert; set lora.experts=false to adapt none")
    return found


def train_chosen(model: Any, chosen: dict[str, tuple[int, ...]]) -> None:
    """Let only these experts' adapters train.

    Args:
        model: wrapped by PEFT, its experts in grouped products.
        chosen: by the path of the experts module in the base model.
    """
    from moe_train.experts.lora import ParamWrapper
    from moe_train.verify import base_name

    for path, module in model.named_modules():
        if isinstance(module, ParamWrapper):
            module.train_only(chosen[base_name(path)])
