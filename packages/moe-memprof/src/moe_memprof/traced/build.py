"""The model that a run would train, at a small depth: built on the meta device, adapted by PEFT, then made fake on a CPU.

The order matters: PEFT's initialisation runs on meta, and fake tensors of a GPU would need one for the backward pass.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText

from moe_memprof.architectures.base import TensorSpec
from moe_memprof.errors import MemprofError
from moe_memprof.spec import RunSpec

DEPTHS = ("num_hidden_layers", "num_layers", "n_layers", "n_layer")


def full_config(config: Mapping[str, Any], model_type: str | None = None) -> Any:
    """The config object that transformers makes of a config.json.

    Args:
        config: its values.
        model_type: instead of the one it names.

    Raises:
        MemprofError: for a model type that this transformers does not know, and for values that it refuses.
    """
    values = {k: v for k, v in config.items() if k not in {"model_type", "auto_map", "quantization_config"}}
    kind = model_type or config.get("model_type")
    if not kind:
        raise MemprofError(
            "config.json: model_type is missing; every config.json of transformers names its architecture there"
        )
    try:
        return AutoConfig.for_model(str(kind), **values)
    except ValueError as error:
        import transformers

        if "Unrecognized model identifier" not in str(error):
            raise MemprofError(f"config of {kind}: {_line(error)}") from None
        raise MemprofError(
            f"config.json: transformers {transformers.__version__} has no model_type {str(kind)[:60]!r} to trace; upgrade it, or "
            "register the config and model class first (AutoConfig.register, AutoModelForCausalLM.register)"
        ) from None
    except Exception as error:  # noqa: BLE001 - whatever their code raises becomes one line
        raise MemprofError(f"config of {kind}: {_line(error)}") from None


def depth_of(config: Any) -> int:
    """How many decoder layers a config asks for."""
    return int(getattr(text_of(config), _depth_name(text_of(config))))


def text_of(config: Any) -> Any:
    """The decoder's part of a config."""
    return config.get_text_config(decoder=True)


def _depth_name(text: Any) -> str:
    names = [text.attribute_map.get("num_hidden_layers"), *DEPTHS]
    for name in names:
        if name and isinstance(getattr(text, name, None), int):
            return str(name)
    raise MemprofError(f"config of {text.model_type}: none of {', '.join(DEPTHS)} says how many layers there are")


def shortened(config: Any, depth: int) -> Any:
    """The same config with fewer layers; lists with an entry per layer are cut."""
    text = text_of(config)
    name = _depth_name(text)
    layers = getattr(text, name)
    values = text.to_dict()
    values |= {k: _cut(v, depth) for k, v in values.items() if _per_layer(k, v, layers)} | {name: depth}
    kind = values.pop("model_type", text.model_type)
    try:
        short = type(text)(**values)
    except Exception as error:  # noqa: BLE001 - whatever their code raises becomes one line
        raise MemprofError(f"config of {kind} with {depth} layers: {_line(error)}") from None
    if text is config:
        return short
    import copy

    whole = copy.deepcopy(config)
    for attribute in ("text_config", "thinker_config", "llm_config", "language_config"):
        if getattr(whole, attribute, None) is not None and getattr(config, attribute) is text:
            setattr(whole, attribute, short)
            return whole
    raise MemprofError(f"config of {config.model_type}: where its text decoder's config is kept is not known")


def _per_layer(name: str, value: object, layers: int) -> bool:
    """Whether a value has an entry per layer, or per some layers by their number."""
    if isinstance(value, list) or (isinstance(value, str) and name.endswith("pattern")):
        return len(value) == layers
    return isinstance(value, dict) and bool(value) and all(str(key).isdecimal() for key in value)


def _cut(value: Any, depth: int) -> Any:
    return {k: v for k, v in value.items() if int(k) < depth} if isinstance(value, dict) else value[:depth]


def build(config: Any, spec: RunSpec) -> Any:
    """The model on the meta device, in training mode.

    Raises:
        MemprofError: when transformers cannot build it.
    """
    how: dict[str, Any] = {"dtype": getattr(torch, spec.dtype)}
    if spec.attention == "eager":
        how["attn_implementation"] = "eager"
    if spec.experts != "grouped_mm":  # which is transformers' own choice, where a model can choose at all
        how["experts_implementation"] = spec.experts
    found = None
    with warnings.catch_warnings(), torch.device("meta"):
        warnings.simplefilter("ignore")
        for auto in (AutoModelForCausalLM, AutoModelForImageTextToText):
            if type(config) in auto._model_mapping:
                found = auto
                break
        if found is None:
            raise MemprofError(
                f"config of {config.model_type}: transformers has no causal language model of this type to trace"
            )
        try:
            model = found.from_config(config, **how)
        except Exception as error:  # noqa: BLE001 - whatever their code raises becomes one line
            raise MemprofError(f"{config.model_type}: transformers cannot build it ({_line(error)})") from None
    for part in {id(c): c for c in (model.config, text_of(model.config))}.values():
        if getattr(part, "_experts_implementation", None) == "eager" != spec.experts:
            # Classes from outside transformers are not offered a choice, but their experts modules may well take it.
            part._experts_implementation = spec.experts
    return model.train()


def layers_of(model: Any, depth: int) -> str:
    """The name of the module list that holds the decoder layers: the largest with an entry per layer.

    Raises:
        MemprofError: when there is none.
    """
    sizes = {
        name: sum(p.numel() for p in module.parameters())
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.ModuleList) and len(module) == depth
    }
    if not sizes:
        raise MemprofError(
            f"{type(model).__name__}: no list of {depth} layers in it, so what one layer adds cannot be told"
        )
    return str(max(sizes, key=lambda name: sizes[name]))


def targets(tensors: Sequence[TensorSpec], spec: RunSpec) -> tuple[list[str], list[str]]:
    """What PEFT adapts: names of modules, and of fused parameters."""
    modules, parameters = [], []
    for tensor in tensors:
        attention = tensor.role == "attention" and spec.lora_attention
        experts = tensor.role == "routed expert" and spec.lora_experts
        if attention | experts and tensor.kind == "linear" and len(tensor.shape) == 2:
            modules.append(tensor.name.removesuffix(".weight"))
        elif experts and tensor.kind == "parameter" and len(tensor.shape) == 3:
            parameters.append(tensor.name)
    return modules, parameters


def adapt(model: Any, tensors: Sequence[TensorSpec], spec: RunSpec) -> Any:
    """The model with checkpointing and, where the run has them, quantised linears and LoRA, still on meta.

    Raises:
        MemprofError: when PEFT cannot wrap it.
    """
    if spec.method == "qlora":
        from moe_memprof.traced.quantised import quantise

        quantise(model, spec)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if spec.method != "full":
            from peft import LoraConfig, get_peft_model

            modules, parameters = targets(tensors, spec)
            if not modules and not parameters:
                raise MemprofError(f"{type(model).__name__}: nothing in it that the LoRA of this run would adapt")
            try:
                # An empty list, not None: that would be PEFT's own choice for a model type it knows.
                ranks = {name.replace(".", r"\."): spec.expert_rank for name in parameters if spec.expert_rank}
                lora = LoraConfig(
                    r=spec.lora_rank, rank_pattern=ranks, target_modules=modules, target_parameters=parameters or None
                )
                model = get_peft_model(model, lora, low_cpu_mem_usage=True)
            except Exception as error:  # noqa: BLE001 - whatever their code raises becomes one line
                raise MemprofError(f"{type(model).__name__}: PEFT cannot adapt it ({_line(error)})") from None
        if spec.checkpointing != "none":
            try:
                model.gradient_checkpointing_enable({"use_reentrant": spec.checkpointing == "reentrant"})
            except Exception as error:  # noqa: BLE001 - whatever their code raises becomes one line
                raise MemprofError(f"checkpointing: {_line(error)}; trace it with checkpointing none") from None
            if spec.method != "full":
                model.enable_input_require_grads()
    return model


def fake(model: Any) -> FakeTensorMode:
    """Put fake CPU tensors in place of a meta model's parameters and buffers; returns the mode they belong to."""
    mode = FakeTensorMode()
    made: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    def once(tensor: torch.Tensor) -> torch.Tensor:
        if id(tensor) not in made:  # tied ones stay tied; the original is kept, so that its id is not given to another
            like = torch.empty_strided(tensor.size(), tensor.stride(), dtype=tensor.dtype, device="cpu")
            if isinstance(tensor, torch.nn.Parameter):
                like = torch.nn.Parameter(like, requires_grad=tensor.requires_grad)
            made[id(tensor)] = (like, tensor)
        return made[id(tensor)][0]

    with mode:
        for module in model.modules():
            for kept in (module._parameters, module._buffers):
                for name, tensor in kept.items():
                    if tensor is not None:
                        kept[name] = once(tensor)
            for name, value in vars(module).items():  # tables that some models keep outside their buffers
                if isinstance(value, torch.Tensor) and value.device.type == "meta":
                    setattr(module, name, once(value))
    return mode


def _line(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]
