"""How peft rewrites target_modules for the experts of transformers 5.

Source: peft's `convert_peft_config_for_transformers` (from 0.19 on). Names of expert projections and of the router that an adapter
of transformers 4 would target become target_parameters, for the model types in `CONVERTED` alone, and all of the model's modules of
those names with them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

from moe_memprof.audit.layout import Layout
from moe_memprof.audit.matching import all_linear, check
from moe_memprof.audit.request import LoraRequest
from moe_memprof.audit.versions import CONVERTED_SINCE, STRINGS_CONVERTED_SINCE, Stack

MIXTRAL_NAMES = {"gate": "gate.weight", "w1": "gate_up_proj", "w3": "gate_up_proj", "w2": "down_proj"}
QWEN_NAMES = {"gate": "gate.weight", "gate_proj": "gate_up_proj", "up_proj": "gate_up_proj", "down_proj": "down_proj"}
CONVERTED: dict[str, dict[str, str]] = {
    **dict.fromkeys(("mixtral", "minimax", "minimax_m2"), MIXTRAL_NAMES),
    **dict.fromkeys(
        (
            "afmoe", "beam", "cohere2_moe", "deepseek_v2", "deepseek_v3", "deepseek_v32", "dots1", "ernie4_5_moe", "exaone_moe",
            "flex_olmo", "glm4_moe", "glm4_moe_lite", "glm4v_moe", "glm_moe_dsa", "hunyuan_v1_moe", "longcat_flash", "mellum", "olmoe",
            "qwen3_moe", "qwen3_next", "qwen3_omni_moe", "qwen3_omni_moe_text", "qwen3_omni_moe_thinker", "solar_open",
        ),
        QWEN_NAMES,
    ),
}  # fmt: skip
# transformers 5.6 took qwen2_moe out of the table that peft reads, and with it the conversion.
_QWEN2_UNTIL = (5, 6)


@dataclass(frozen=True, kw_only=True)
class Conversion:
    """A request as peft goes on with it."""

    request: LoraRequest
    names: Mapping[str, str]
    """Old name to parameter; empty where nothing is converted for this model."""
    refused: str | None = None
    """Why peft raises instead."""
    doubled: bool = False
    """gate and up became one parameter, of twice the rank."""

    def becomes(self, target: str) -> str | None:
        """The parameter that a target turns into."""
        for old, new in self.names.items():
            if target == old or target.endswith(f".{old}"):
                return new
        return None


def names_converted(model_type: str, stack: Stack) -> Mapping[str, str]:
    """What peft renames for a model type; empty where it leaves the request alone."""
    if not stack.fused_experts or stack.peft.numbers < CONVERTED_SINCE:
        return {}
    if model_type == "qwen2_moe" and stack.transformers.numbers < _QWEN2_UNTIL:
        return QWEN_NAMES
    return CONVERTED.get(model_type, {})


def convert(request: LoraRequest, layout: Layout, stack: Stack) -> Conversion:
    """The request after peft's rewriting."""
    names = names_converted(layout.model_type, stack)
    if not names:
        return Conversion(request=request, names={})
    targets = request.target_modules
    if isinstance(targets, str):
        if stack.peft.numbers < STRINGS_CONVERTED_SINCE:
            targets = frozenset(targets)
        else:
            targets = resolved_string(request, layout, names)
            if not targets:
                return Conversion(request=request, names=names)
    parameters, kept = set(request.target_parameters or ()), set()
    fused: set[str] = set()
    result = Conversion(request=request, names=names)
    for target in targets or ():
        new = result.becomes(target)
        if new is None:
            kept.add(target)
            continue
        parameters.add(new)
        if new == "gate_up_proj":
            fused |= {old for old in names if target == old or target.endswith(f".{old}")}
    needed = {old for old, new in names.items() if new == "gate_up_proj"}
    if fused and fused != needed:
        has, lacks = ", ".join(sorted(fused)), ", ".join(sorted(needed - fused))
        return replace(
            result, refused=f"target_modules names {has} without {lacks}, and both are one parameter, gate_up_proj"
        )
    ranks = dict(request.rank_pattern)
    if fused:
        ranks[r".*\.gate_up_proj"] = request.rank * len(needed)
    new_request = replace(
        request, target_modules=frozenset(kept), target_parameters=frozenset(parameters), rank_pattern=ranks
    )
    return replace(result, request=new_request, doubled=bool(fused))


def resolved_string(request: LoraRequest, layout: Layout, names: Mapping[str, str]) -> frozenset[str]:
    """The last parts of the names that a regex or 'all-linear' reaches, as peft goes on with them in every layer."""
    assert isinstance(request.target_modules, str)
    if request.target_modules.lower() == "all-linear":
        return frozenset(name.rpartition(".")[2] for name in all_linear(layout)) | names.keys()
    parameters = [t.name for t in layout.tensors]
    matched = {key.rpartition(".")[2] for key in (*layout.modules, *parameters) if check(request, key) is True}
    containers: dict[str, set[str]] = {}
    for name in parameters:
        container, _, leaf = name.rpartition(".")
        containers.setdefault(leaf, set()).add(container)
    for old, new in names.items():
        if any(check(request, f"{container}.{old}") is True for container in containers.get(new, ())):
            matched.add(old)
    return frozenset(matched)


def leaf_pattern(name: str) -> str:
    """A name with its numbers left out, to be counted by."""
    return re.sub(r"(?<=\.)\d+(?=\.|$)", "*", name)
