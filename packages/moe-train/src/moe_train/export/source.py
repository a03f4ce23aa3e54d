"""The weights of a base model by their names in transformers 5, one layer at a time, and the way back to a checkpoint's own names.

transformers reads most checkpoints through conversions: experts stored one by one become stacks. Its own loader is run here on an empty
model, a layer's tensors at a time, so that no more than a layer is ever in memory, and its own reversal gives the names back.
"""

from __future__ import annotations

import inspect
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from moe_train.errors import TrainError
from moe_train.model import stacked_experts

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_LAYER = re.compile(r"^.*?\.\d+\.")


def empty_model(folder: Path, dtype: torch.dtype) -> PreTrainedModel:
    """The model of a checkpoint's config without any number in it."""
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(folder)
    with torch.device("meta"), stacked_experts(folder):
        model: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=dtype)
    return model.eval()


class Checkpoint:
    """A folder's safetensors, as transformers would load them, a layer at a time."""

    def __init__(self, folder: Path, dtype: torch.dtype) -> None:
        """Read the headers, and let transformers match every tensor without reading it.

        Args:
            folder: with config.json and safetensors files.
            dtype: of floating tensors, besides those that the model insists on holding in float32.

        Raises:
            TrainError: no safetensors, or tensors that are missing or cannot be converted.
        """
        from safetensors import safe_open

        files = sorted(folder.glob("*.safetensors"))
        if not files:
            raise TrainError(
                f"model {folder}: no safetensors in it; export reads those alone: convert the checkpoint with `save_pretrained`"
            )
        self.folder, self.dtype = folder, dtype
        self.model = empty_model(folder, dtype)
        self._readers: list[Any] = [safe_open(str(file), framework="pt") for file in files]
        self.files = {key: reader for reader in self._readers for key in reader.keys()}  # noqa: SIM118
        shapes = {
            key: torch.empty(reader.get_slice(key).get_shape(), dtype=dtype, device="meta")
            for key, reader in self.files.items()
        }
        info = self._load(shapes, "meta")
        tied = set(getattr(self.model, "all_tied_weights_keys", None) or {})
        missing = sorted(set(info.missing_keys) - tied)
        if missing or info.conversion_errors:
            raise TrainError(
                f"model {folder}: {missing[0] if missing else next(iter(info.conversion_errors))} is not in its safetensors, "
                "or cannot be read by this version of transformers"
            )
        self._conversions = self.model._weight_conversions

    def _load(self, tensors: dict[str, Any], device: str) -> Any:
        from transformers.conversion_mapping import get_model_conversion_mapping
        from transformers.core_model_loading import convert_and_load_state_dict_in_model
        from transformers.modeling_utils import LoadStateDictConfig

        if "load_config" not in inspect.signature(convert_and_load_state_dict_in_model).parameters:
            raise TrainError("export --merge: needs a newer transformers; pip install 'transformers>=5.17'")
        with stacked_experts(self.folder):
            mapping = get_model_conversion_mapping(self.model)
        plan = self.model._get_dtype_plan(self.dtype)
        settings = LoadStateDictConfig(
            device_map={"": device},
            dtype=self.dtype,
            dtype_plan=plan,
            weight_mapping=mapping,
        )
        with _one_at_a_time():
            info, _ = convert_and_load_state_dict_in_model(
                model=self.model, state_dict=tensors, load_config=settings, disk_offload_index=None
            )
        return info

    def groups(self) -> Iterator[dict[str, Tensor]]:
        """Parameters and persistent buffers by name, those of a layer together, the rest by themselves."""
        for keys in grouped(self.files):
            self._load({key: self.files[key].get_slice(key) for key in keys}, "cpu")
            yield _taken(self.model)

    def original_names(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """The same tensors under the names, and in the pieces, in which the checkpoint has them."""
        return original_names(self.model, self._conversions, tensors)


class Held:
    """The weights of a loaded model, made dense, a layer at a time; names are given back as in the checkpoint it came from."""

    def __init__(self, model: PreTrainedModel, dtype: torch.dtype) -> None:
        """Take a model as `from_pretrained` gave it, quantised or not, wrapped by PEFT or not."""
        self.model, self.dtype = model, dtype
        self._conversions = getattr(model, "_weight_conversions", None)

    def groups(self) -> Iterator[dict[str, Tensor]]:
        """As `Checkpoint.groups`."""
        from moe_train.experts.dense import dense_names, dense_weights

        tied = set(getattr(self.model, "all_tied_weights_keys", None) or {})
        for keys in grouped([name for name in dense_names(self.model) if name not in tied]):
            yield {name: tensor.cpu() for name, tensor in dense_weights(self.model, self.dtype, only=set(keys))}

    def original_names(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """As `Checkpoint.original_names`."""
        return original_names(self.model, self._conversions, tensors)


def original_names(
    model: PreTrainedModel, conversions: list[Any] | None, tensors: dict[str, Tensor]
) -> dict[str, Tensor]:
    """Transformers' own reversal of the conversions that a checkpoint was loaded with."""
    from transformers.core_model_loading import revert_weight_conversion

    before = getattr(model, "_weight_conversions", None)
    model._weight_conversions = conversions
    try:
        found: dict[str, Tensor] = revert_weight_conversion(model, tensors)
    finally:
        model._weight_conversions = before
    return found


def grouped(names: Sequence[str] | dict[str, Any]) -> list[list[str]]:
    """The names in order, those that share their path up to the first number together."""
    groups: dict[str, list[str]] = {}
    for name in names:
        found = _LAYER.match(name)
        groups.setdefault(found.group() if found else name, []).append(name)
    return list(groups.values())


def _taken(model: nn.Module) -> dict[str, Tensor]:
    """The tensors that are there, taken out of the model again."""
    taken: dict[str, Tensor] = {}
    for path, module in model.named_modules():
        prefix = f"{path}." if path else ""
        for name, parameter in module._parameters.items():
            if parameter is not None and not parameter.is_meta:
                taken[prefix + name] = parameter.detach()
                module._parameters[name] = nn.Parameter(parameter.detach().to("meta"), requires_grad=False)
        for name, buffer in module._buffers.items():
            if buffer is not None and not buffer.is_meta:
                taken[prefix + name] = buffer
                module._buffers[name] = buffer.to("meta")
    return taken


@contextmanager
def _one_at_a_time() -> Iterator[None]:
    """Let transformers read each tensor when it is due, and show no bar for every layer."""
    from transformers.utils import logging

    before, bar = os.environ.get("HF_DEACTIVATE_ASYNC_LOAD"), logging.is_progress_bar_enabled()
    os.environ["HF_DEACTIVATE_ASYNC_LOAD"] = "1"
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if before is None:
            del os.environ["HF_DEACTIVATE_ASYNC_LOAD"]
        else:
            os.environ["HF_DEACTIVATE_ASYNC_LOAD"] = before
        if bar:
            logging.enable_progress_bar()
