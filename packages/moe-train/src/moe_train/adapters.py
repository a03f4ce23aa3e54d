"""LoRA on attention and on the fused experts, through PEFT.

PEFT finds what to adapt by name, and what matches nothing it leaves frozen without a word. So the targets are read off
the model's structure here, and `verify` counts afterwards that each one was really adapted.
"""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from moe_train.errors import TrainError

if TYPE_CHECKING:
    from peft import PeftModel
    from torch import nn
    from transformers import PreTrainedModel

    from moe_router import MoELayer
    from moe_train.config import LoraSection

ATTENTION = re.compile(r"(^|\.)(\w+_)?(attn|attention)(\.|$)")
"""A module on the way to it is an attention block: `self_attn`, `linear_attn`, not `post_attention_layernorm`."""
SHARED = re.compile(r"shared_?(expert|mlp)")
_GATE = re.compile(r"\.gate_proj$")
"""An output gate of attention (afmoe, beam) bears the name of an expert's part, for which PEFT takes it."""


@dataclass(frozen=True, kw_only=True)
class Targets:
    """What LoRA is to adapt, by full name in the base model."""

    attention: tuple[str, ...]
    """Linear modules of attention."""
    experts: tuple[str, ...]
    """Three-dimensional expert parameters, each [experts, ...]."""
    shared: tuple[str, ...] = ()
    """Linear modules of shared experts."""
    chosen: Mapping[str, tuple[int, ...]] | None = None
    """Where not all experts are adapted: which, by the path of the experts module."""
    routers: tuple[str, ...] = ()
    """Router modules whose own weights train, as copies that PEFT keeps with the adapter (`modules_to_save`)."""


def find_targets(
    model: PreTrainedModel, layers: list[MoELayer], lora: LoraSection, *, train_routers: bool = False
) -> Targets:
    """The modules and parameters that `lora` asks to adapt, and the routers where they are to train.

    Raises:
        TrainError: when something asked for is not in the model, or cannot be adapted in the way that was asked for.
    """
    attention: tuple[str, ...] = ()
    if lora.attention:
        attention = tuple(
            n for n, m in model.named_modules() if _adaptable(m) and ATTENTION.search(n) and not _GATE.search(n)
        )
        if not attention:
            raise TrainError(
                "lora.attention: no linear layer of an attention block was found in this model; set lora.attention=false"
            )
    experts: list[str] = []
    chosen: dict[str, tuple[int, ...]] | None = None
    if lora.chosen_experts is not None:
        from moe_train.experts.chosen import read_chosen

        of_layers = read_chosen(Path(lora.chosen_experts), layers)
        chosen = {str(layer.experts_name): picked for layer, picked in zip(layers, of_layers, strict=True) if picked}
    if lora.experts and layers:
        for layer in layers:
            if chosen is None or layer.experts_name in chosen:
                experts += _fused_parameters(layer)
    elif lora.experts and not (lora.attention or lora.shared_experts):
        raise TrainError("lora.experts: this model has no experts; set lora.attention=true")
    shared = _shared_experts(model) if lora.shared_experts else ()
    routers = tuple(dict.fromkeys(layer.router_name for layer in layers)) if train_routers else ()
    targets = Targets(attention=attention, experts=tuple(experts), shared=shared, chosen=chosen, routers=routers)
    _check_ranks(targets, lora)
    grouped_products(model, targets, lora)
    return targets


def _shared_experts(model: PreTrainedModel) -> tuple[str, ...]:
    """The linear layers of shared experts; their gate, of one output, is none of them.

    Raises:
        TrainError: where there is none, or PEFT takes their names for those of routed experts and would adapt these.
    """
    from peft import LoraConfig
    from peft.utils.transformers_weight_conversion import convert_peft_config_for_transformers

    found = tuple(n for n, m in model.named_modules() if SHARED.search(n) and _adaptable(m) and m.out_features != 1)
    if not found:
        raise TrainError("lora.shared_experts: this model has no shared experts; leave it out")
    names = _suffixes(found)
    config = LoraConfig(target_modules=list(names))
    convert_peft_config_for_transformers(config, model, None)
    if set(config.target_modules or ()) != set(names):
        raise TrainError(
            f"lora.shared_experts: PEFT takes {names[0]} of {type(model).__name__} for a routed expert's and would adapt that; leave it out"
        )
    return found


def _adaptable(module: nn.Module) -> bool:
    """Whether it is a linear layer that multiplies as one: PEFT would wrap subclasses with another product too, and be wrong."""
    from torch import nn

    return isinstance(module, nn.Linear) and (
        type(module).forward is nn.Linear.forward or type(module).__module__.startswith("bitsandbytes")
    )


def _fused_parameters(layer: MoELayer) -> list[str]:
    if layer.experts is None or layer.experts_name is None:
        raise TrainError(
            f"lora.experts: the experts of {layer.name} were not found; set lora.experts=false to train attention alone"
        )
    names = [
        f"{layer.experts_name}.{name}"
        for name, parameter in layer.experts.named_parameters(recurse=False)
        if parameter.ndim == 3 and parameter.shape[0] == layer.num_experts
    ]
    if not names:
        raise TrainError(
            f"lora.experts: {layer.experts_name} ({type(layer.experts).__name__}) keeps no fused [experts, out, in] weights; "
            "set lora.experts=false to train attention alone"
        )
    return names


def _suffixes(names: tuple[str, ...]) -> list[str]:
    """The names without their path down to the layer's number, each once: `self_attn.q_proj`, `mlp.experts.down_proj`."""
    return sorted({re.sub(r"^.*\.\d+\.", "", name) for name in names})


def add_lora(model: PreTrainedModel, targets: Targets, lora: LoraSection) -> PeftModel:
    """Wrap the model with LoRA on the targets; everything else is frozen, the routers too where they are no targets.

    The adapter is an ordinary PEFT adapter: `PeftModel.from_pretrained(base, RUN/adapter)` loads it.
    """
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        rank_pattern={re.escape(end): rank for end, rank in lora.ranks.items()},
        target_modules=_suffixes((*targets.attention, *targets.shared)) or [],
        # By full names where layers are left out.
        target_parameters=(list(targets.experts) if targets.chosen is not None else _suffixes(targets.experts)) or None,
        lora_dropout=lora.dropout,
        use_rslora=lora.rslora,
        modules_to_save=_suffixes(targets.routers) or None,
        task_type="CAUSAL_LM",
    )
    if targets.experts and grouped_products(model, targets, lora):
        from moe_train.experts import expert_lora_config

        config = expert_lora_config(model, config)
    with warnings.catch_warnings():
        # PEFT 0.21 calls a property that transformers 5.2x renamed.
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*", category=FutureWarning)
        # It looks for ranks of parameters among modules alone, says that it found none, and then gives them.
        warnings.filterwarnings(
            "ignore", message="The following rank_pattern keys did not match", category=RuntimeWarning
        )
        wrapped = get_peft_model(model, config)
    if targets.chosen is not None:
        from moe_train.experts.chosen import train_chosen

        train_chosen(wrapped, dict(targets.chosen))
    return wrapped


def rank_of(name: str, lora: LoraSection) -> int:
    """The rank of a target by its full name: that of the first end in `lora.ranks` that it has, as PEFT takes it."""
    return next((rank for end, rank in lora.ranks.items() if name == end or name.endswith(f".{end}")), lora.rank)


def largest_ranks(model: nn.Module, lora: LoraSection) -> tuple[int, int]:
    """The largest rank on linear layers, at least `lora.rank`, and on fused experts."""
    fused = [name for name, p in model.named_parameters() if p.ndim == 3 and ".experts." in name]
    other = [rank for end, rank in lora.ranks.items() if not any(f".{name}".endswith(f".{end}") for name in fused)]
    return max([lora.rank, *other]), max((rank_of(name, lora) for name in fused), default=lora.rank)


def _check_ranks(targets: Targets, lora: LoraSection) -> None:
    names = (*targets.attention, *targets.shared, *targets.experts)
    for end, rank in lora.ranks.items():
        if rank < 1:
            raise TrainError(f"lora.ranks: {end} has rank {rank}; ranks are 1 or more")
        if not any(f".{name}".endswith(f".{end}") for name in names):
            raise TrainError(
                f"lora.ranks: no adapted layer's name ends in {end}; there are {', '.join(_suffixes(names))}"
            )


def grouped_products(model: nn.Module, targets: Targets, lora: LoraSection) -> bool:
    """Whether the experts' adapters are multiplied beside the weights rather than built into them.

    Raises:
        TrainError: where that is asked for, or the only way, and transformers does not dispatch the experts.
    """
    from moe_train.experts.forward import is_dispatched
    from moe_train.model import is_quantised

    if lora.expert_products == "peft":
        if lora.dropout and targets.experts:
            raise TrainError(
                "lora.dropout: PEFT adapts experts without dropout alone; leave lora.expert_products at auto"
            )
        return False
    others = sorted(
        {
            name.rpartition(".")[0]
            for name in targets.experts
            if not is_dispatched(model.get_submodule(name.rpartition(".")[0]))
        }
    )
    if not others:
        return True
    if lora.expert_products == "grouped" or is_quantised(model) or lora.dropout or lora.chosen_experts:
        what = (
            "lora.expert_products=grouped"
            if lora.expert_products == "grouped"
            else "lora.chosen_experts"
            if lora.chosen_experts
            else "quantised experts"
            if is_quantised(model)
            else "lora.dropout"
        )
        raise TrainError(
            f"{what}: transformers does not dispatch {others[0]}, so that only PEFT can adapt it, without any of that; "
            "set lora.experts=false, or train without"
        )
    return False


def write_model(folder: Path, model: PreTrainedModel | PeftModel) -> None:
    """Write an adapter in PEFT's format, or a model in transformers'.

    The adapter's file names no dropout: it is of training alone, and plain PEFT refuses to load adapters of parameters that have one.
    """
    model.save_pretrained(str(folder))
    settings = folder / "adapter_config.json"
    if settings.is_file():
        values = json.loads(settings.read_text(encoding="utf-8"))
        settings.write_text(json.dumps({**values, "lora_dropout": 0.0}, indent=2, sort_keys=True), encoding="utf-8")


def trainable(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that train, by name."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}
