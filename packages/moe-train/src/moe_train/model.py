"""Find, check and load the model to fine-tune."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moe_train.errors import TrainError

if TYPE_CHECKING:
    import torch
    from torch import nn
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from moe_train.config import QuantisationSection
    from moe_train.loss import After

EMBEDDED = "embedded"
"""Name of the small model that ships inside moe-train."""


def embedded_path() -> Path:
    """Folder of the embedded model: config, weights, tokenizer and card."""
    return Path(str(files("moe_train"))) / "assets" / "embedded"


@dataclass(frozen=True, kw_only=True)
class LoadedModel:
    """A model ready to be adapted, with what it was loaded as."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    name: str
    path: str
    moe_layers: int
    """0 for a dense model."""
    pad_id: int
    after: After | None
    """How it makes logits of its head's output, for a loss in chunks; None where that cannot be told."""
    converted: str = ""
    """What the checkpoint's weights were converted from and to; empty where they were read as they are."""


def resolve_model(name: str) -> str:
    """The folder or hub id behind a `model=` value.

    Raises:
        TrainError: for a folder that is not there or holds no model, or a name that is neither a folder nor on the hub.
    """
    if name == EMBEDDED:
        return str(embedded_path())
    from moe_bench import BenchError
    from moe_bench.pretrained import resolve_model as resolve

    try:
        return resolve(name)
    except BenchError as error:
        ours = "" if "/" in name else f", or `{EMBEDDED}`"
        raise TrainError(f"{error}{ours}") from None


def choose_device(wanted: str) -> torch.device:
    """The device of `auto`, `cpu` or `cuda`."""
    import torch

    if wanted == "cuda" and not torch.cuda.is_available():
        raise TrainError(
            "device: cuda was asked for, but torch sees no GPU; use device=cpu or install a CUDA build of torch"
        )
    if wanted == "auto":
        wanted = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(wanted)


def choose_dtype(wanted: str, device: torch.device) -> torch.dtype:
    """The base weights' dtype of `auto`, `float32` or `bfloat16`."""
    import torch

    if wanted == "auto":
        wanted = "bfloat16" if device.type == "cuda" else "float32"
    return {"float32": torch.float32, "bfloat16": torch.bfloat16}[wanted]


def quantised_loading(
    path: str, quantisation: QuantisationSection, *, device: torch.device, dtype: torch.dtype
) -> tuple[dict[str, Any], str]:
    """What `from_pretrained` is told so that experts and linears are quantised while they are read; nothing where they are not to be.

    A checkpoint in MXFP4 (gpt-oss) cannot be trained on as it is: its experts are made bfloat16, or quantised anew.

    Returns:
        The arguments, and in words what the checkpoint's own quantisation is converted to, if it has one.

    Raises:
        TrainError: without bitsandbytes, with a transformers that is too old for it, or for a checkpoint that is quantised in a way
            that cannot be converted.
    """
    config, stored = _stored_quantisation(path)
    if stored in _OURS:
        if quantisation.weights != _OURS[stored]:
            raise TrainError(f"model {path}: its weights are {_OURS[stored]}; set quantisation.weights={_OURS[stored]}")
        from moe_train.experts import quantizer  # noqa: F401 - transformers reads such a checkpoint once this is imported

        return {"device_map": {"": str(device)}}, ""
    if quantisation.weights == "none":
        if stored != "mxfp4":
            return {}, ""
        from transformers import Mxfp4Config

        return {"quantization_config": Mxfp4Config(dequantize=True)}, f"MXFP4 to {str(dtype).removeprefix('torch.')}"
    if stored not in ("", "mxfp4"):
        raise TrainError(
            f"quantisation.weights={quantisation.weights}: the checkpoint is quantised already ({stored}); name one in 16 bits"
        )
    for package in ("bitsandbytes", "accelerate"):
        if find_spec(package) is None:
            raise TrainError(
                f"quantisation.weights={quantisation.weights}: needs {package}; pip install 'moe-train[quantise]'"
            )
    from moe_train.experts.quantizer import MoeQuantizationConfig

    bits = {"nf4": 4, "int8": 8}[quantisation.weights]
    settings = MoeQuantizationConfig(
        bits=bits,
        double_quant=quantisation.double,
        compute_dtype=str(dtype).removeprefix("torch."),
        from_mxfp4=stored == "mxfp4",
    )
    loading: dict[str, Any] = {"quantization_config": settings, "device_map": {"": str(device)}}
    if stored:
        loading["config"] = config  # without what it says of the checkpoint's own quantisation
    return loading, f"MXFP4 to {quantisation.weights}" if stored else ""


_OURS = {"moe_train_4bit": "nf4", "moe_train_8bit": "int8"}
"""What `moe-train export --quantise` has written, by the name in its config.json."""


def _stored_quantisation(path: str) -> tuple[Any, str]:
    """A checkpoint's config without its quantisation, and the name of that; empty where there is none, or where it is moe-train's own."""
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(path)
    except (OSError, ValueError, KeyError):
        return None, ""  # what is wrong with it is said where the model is loaded
    stated = getattr(config, "quantization_config", None) or {}
    method = stated.get("quant_method", "") if isinstance(stated, dict) else str(stated.quant_method)
    if method:
        del config.quantization_config
    return config, str(method)


def has_stacks_of_ours(name: str | Path) -> bool:
    """Whether a model's experts become stacks when moe-train loads it, which transformers and PEFT do not know (DBRX)."""
    from transformers import AutoConfig

    try:
        return bool(AutoConfig.from_pretrained(resolve_model(str(name))).model_type == "dbrx")
    except (OSError, ValueError, KeyError):
        return False  # what is wrong with it is said where the model is loaded


def stacked_experts(name: str | Path) -> AbstractContextManager[None]:
    """In here, models of this folder or hub id are made with such stacks, where theirs is such an architecture."""
    if not has_stacks_of_ours(name):
        return nullcontext()
    from moe_train.experts.dbrx import stacked_dbrx

    return stacked_dbrx()


def is_quantised(model: nn.Module) -> bool:
    """Whether weights of the model are held in fewer than 16 bits."""
    return bool(getattr(model, "is_loaded_in_4bit", False) or getattr(model, "is_loaded_in_8bit", False))


def load_model(
    name: str,
    *,
    device: torch.device,
    dtype: torch.dtype,
    allow_standard_training: bool = False,
    quantisation: QuantisationSection | None = None,
) -> LoadedModel:
    """Load model and tokenizer, quantised where that is asked for, and find the MoE layers.

    Raises:
        TrainError: an unknown model, one that transformers cannot load whole, one without a tokenizer, or one in
            which no MoE layer is found while `allow_standard_training` is off (with the diagnosis).
    """
    from moe_bench import BenchError
    from moe_bench.pretrained import load_pretrained
    from moe_router import RouterError, diagnose, find_moe_layers
    from moe_train.config import QuantisationSection
    from moe_train.loss import after_head

    path = resolve_model(name)
    try:
        loading, converted = quantised_loading(path, quantisation or QuantisationSection(), device=device, dtype=dtype)
        with stacked_experts(path):
            model, tokenizer = load_pretrained(path, dtype=dtype, **loading)
    except BenchError as error:
        raise TrainError(str(error)) from None
    try:
        layers = find_moe_layers(model)
    except RouterError as error:
        if not allow_standard_training:
            raise TrainError(f"model {name}: {error}") from None
        layers = []
    if not layers and not allow_standard_training:
        raise TrainError(
            f"model {name}: no MoE layer was found in {type(model).__name__} ({diagnose(model)}); "
            "to train it as a dense model set allow_standard_training=true"
        )
    pad_id = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    if pad_id is None:
        raise TrainError(
            f"model {name}: its tokenizer has neither a padding nor an end token; set pad_token in tokenizer_config.json"
        )
    model.config.use_cache = False  # a cache of keys and values is of no use in training
    model = model if "device_map" in loading else model.to(device)
    return LoadedModel(
        model=model,
        tokenizer=tokenizer,
        name=name,
        path=path,
        moe_layers=len(layers),
        pad_id=pad_id,
        after=after_head(model),
        converted=converted,
    )
