"""Which modules and parameters peft adapts for a LoRA request, by its own matching rules.

Sources: peft's `check_target_module_exists`, `_maybe_include_all_linear_layers`, `BaseTuner.inject_adapter`, `_inject_parameters`,
`ParamWrapper` and `_set_trainable` (0.21).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import prod
from typing import Literal

from moe_memprof.architectures.base import TensorSpec
from moe_memprof.audit.layout import Layout, Module
from moe_memprof.audit.matching import all_linear, check, check_regex, matches
from moe_memprof.audit.peft_conversion import Conversion, convert
from moe_memprof.audit.request import LoraRequest
from moe_memprof.audit.versions import PARAMETERS_SINCE, Stack

_MIXERS = ["q_proj", "v_proj"]
DEFAULT_TARGETS: dict[str, list[str] | str] = {
    **dict.fromkeys(("mixtral", "llama4"), _MIXERS),
    "gemma4": r".*language_model\..*\.(q_proj|v_proj)",
    "nemotron_h": ["q_proj", "k_proj", "v_proj", "o_proj"],
}
"""peft's targets where none are given, for the MoE model types that it has some for."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Adapted:
    """One weight that gets an adapter."""

    tensor: TensorSpec
    through: Literal["module", "parameter"]
    elements: int
    """Parameters of the adapter, A and B."""


@dataclass(frozen=True, kw_only=True)
class Targets:
    """What a request comes to."""

    asked: LoraRequest
    conversion: Conversion
    effective: LoraRequest
    """After peft's rewriting, its defaults and 'all-linear'."""
    adapted: tuple[Adapted, ...]
    saved: tuple[TensorSpec, ...]
    """Copied whole and trained by modules_to_save."""
    excluded: tuple[str, ...]
    refused: str | None
    """Why peft raises instead of adapting."""

    @property
    def elements(self) -> int:
        """Parameters of all adapters."""
        return sum(a.elements for a in self.adapted)


def resolve_targets(asked: LoraRequest, layout: Layout, stack: Stack) -> Targets:
    """What peft adapts, or why it refuses.

    Raises:
        MemprofError: for a regex that is none.
    """
    for pattern in (asked.target_modules, asked.exclude_modules):
        check_regex(pattern)
    refused = _refused_config(asked, stack)
    conversion = convert(asked, layout, stack)
    refused = refused or conversion.refused
    request = conversion.request
    if request.target_modules is None:
        default = DEFAULT_TARGETS.get(layout.model_type)
        if default is not None:
            request = replace(request, target_modules=default if isinstance(default, str) else frozenset(default))
        elif not request.target_parameters:
            refused = refused or f"peft has no default target_modules for {layout.model_type}; name some"
    if isinstance(request.target_modules, str) and request.target_modules.lower() == "all-linear":
        request = replace(request, target_modules=frozenset(all_linear(layout)))
    adapted: list[Adapted] = []
    excluded: list[str] = []
    for module in layout.modules.values():
        found = check(request, module.name, stack=stack)
        if found == "excluded":
            excluded.append(module.name)
        elif found and module.kind in ("linear", "embedding", "conv"):
            adapted.append(_adapted_module(module, request))
        elif found:
            refused = (
                refused or f"target_modules matches {module.name}, which is no nn.Linear, embedding or convolution"
            )
    taken = {a.tensor.name.rpartition(".")[0] for a in adapted}
    for tensor in _matched_parameters(request, layout):
        refused = refused or _refused_parameter(tensor, request, taken)
        adapted.append(Adapted(tensor=tensor, through="parameter", elements=_parameter_elements(tensor, request)))
    if not adapted:
        refused = refused or _nothing(asked, conversion, excluded)
    saved = tuple(_saved(request, layout))
    return Targets(
        asked=asked,
        conversion=conversion,
        effective=request,
        adapted=tuple(adapted),
        saved=saved,
        excluded=tuple(excluded),
        refused=refused,
    )


def _rank(request: LoraRequest, key: str) -> int:
    for pattern, rank in request.rank_pattern.items():
        if re.match(rf"(.*\.)?({pattern})$", key):
            return rank
    return request.rank


def _adapted_module(module: Module, request: LoraRequest) -> Adapted:
    weight, rank = module.weight, _rank(request, module.name)
    size_out, rest = weight.shape[0], prod(weight.shape[1:])
    return Adapted(tensor=weight, through="module", elements=rank * (size_out + rest))


def _parameter_elements(tensor: TensorSpec, request: LoraRequest) -> int:
    stacked = prod(tensor.shape[:-2]) if len(tensor.shape) > 2 else 1
    return stacked * _rank(request, tensor.name) * sum(tensor.shape[-2:])


def _matched_parameters(request: LoraRequest, layout: Layout) -> Iterator[TensorSpec]:
    targets = request.target_parameters
    if not targets:
        return
    head = layout.tied_head
    for tensor in (*layout.tensors, *([head] if head is not None else [])):
        if matches(targets, tensor.name):
            yield tensor


def _refused_parameter(tensor: TensorSpec, request: LoraRequest, taken: set[str]) -> str | None:
    if "." not in tensor.name:
        return f"target_parameters matches {tensor.name} of the model itself"
    if tensor.name.rpartition(".")[0] in taken:
        return f"{tensor.name} is in target_parameters, and its module in target_modules"
    if len(tensor.shape) not in (2, 3):
        return f"target_parameters matches {tensor.name} of {len(tensor.shape)} dimensions; peft takes 2 or 3"
    for name, value in (
        ("lora_dropout", request.dropout),
        ("use_dora", request.use_dora),
        ("lora_bias", request.lora_bias),
    ):
        if value:
            return f"{name}={value} does not work with target_parameters, which {tensor.name} is reached by"
    return None


def _refused_config(request: LoraRequest, stack: Stack) -> str | None:
    if request.target_parameters and stack.peft.numbers < PARAMETERS_SINCE:
        return f"peft {stack.peft.version} knows no target_parameters; they came with 0.17"
    if isinstance(request.target_modules, str) and (request.layers_to_transform is not None or request.layers_pattern):
        return "layers_to_transform and layers_pattern do not go with a regex or 'all-linear'"
    if request.layers_pattern and request.layers_to_transform is None:
        return "layers_pattern is given without layers_to_transform"
    return None


def _nothing(asked: LoraRequest, conversion: Conversion, excluded: list[str]) -> str:
    if excluded:
        return "all that target_modules matches is excluded, or in modules_to_save"
    if asked.target_modules is None and conversion.names:
        return "no target_modules are given, and peft's defaults are dropped while it converts for the experts of transformers 5"
    if isinstance(asked.target_modules, str) and isinstance(conversion.request.target_modules, frozenset):
        letters = all(len(name) == 1 for name in conversion.request.target_modules)
        if letters and len(asked.target_modules) > 1:
            return (
                f"this release takes the string {asked.target_modules!r} apart into its letters; peft 0.20 mends that"
            )
    return "nothing in the model matches target_modules or target_parameters"


def _saved(request: LoraRequest, layout: Layout) -> Iterator[TensorSpec]:
    """modules_to_save matches the end of a name, without a dot before it."""
    seen: set[str] = set()
    tensors = [*layout.tensors, *([layout.tied_head] if layout.tied_head is not None else [])]
    for name in layout.modules:
        if name.endswith(request.modules_to_save) if request.modules_to_save else False:
            for tensor in tensors:
                if tensor.name.startswith(f"{name}.") and tensor.name not in seen:
                    seen.add(tensor.name)
                    yield tensor
