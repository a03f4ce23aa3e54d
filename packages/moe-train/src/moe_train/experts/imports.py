"""Adapters made elsewhere, put on a model of transformers 5 whose experts run in grouped products.

Made by PEFT on fused experts (`target_parameters`), or on single experts under transformers 4, as axolotl and others write them
(`...experts.3.w1.lora_A.weight`): PEFT itself joins these into the fused layout, with twice the rank where two projections became one. PEFT
only warns of what finds no place, or of nothing at all; here it is an error.
"""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moe_train.errors import TrainError
from moe_train.experts.lora import expert_lora_config

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel

_EXPERT = re.compile(r"\.experts\.(\d+\.|.*lora_)")


def load_adapter(model: PreTrainedModel, folder: Path, *, trainable: bool = False) -> PeftModel:
    """The model with an adapter from a folder.

    Args:
        model: the base; it is wrapped.
        folder: with adapter_config.json and adapter_model.safetensors.
        trainable: whether the adapter is to be trained on.

    Raises:
        TrainError: where PEFT cannot read it, a tensor of the file has no place in the model, or a factor of the model none in the file:
            one of another model, of a layout that PEFT does not know, or cut short.
    """
    from peft import PeftConfig, PeftModel, set_peft_model_state_dict
    from peft.utils.save_and_load import load_peft_weights
    from peft.utils.transformers_weight_conversion import convert_peft_config_for_transformers

    if not (folder / "adapter_config.json").is_file():
        raise TrainError(f"adapter {folder}: no adapter_config.json in it")
    try:
        config: Any = PeftConfig.from_pretrained(str(folder))
        weights = load_peft_weights(str(folder), device="cpu")
        with warnings.catch_warnings():
            # PEFT says that it ignored the patterns by which it then gives the joined factors their rank.
            warnings.filterwarnings("ignore", message=".*(rank|alpha)_pattern keys did not match.*")
            warnings.filterwarnings("ignore", message="Found missing adapter keys.*")  # an error below
            convert_peft_config_for_transformers(config, model, None)
            if config.target_parameters:
                config = expert_lora_config(model, config)
            wrapped = PeftModel.from_pretrained(model, str(folder), config=config, is_trainable=trainable)
    except TrainError:
        raise
    except (ValueError, RuntimeError, KeyError, OSError, AttributeError) as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise TrainError(f"adapter {folder}: PEFT cannot put it on {type(model).__name__} ({first})") from None
    for_experts = [key for key in weights if _EXPERT.search(key)]
    if for_experts and not config.target_parameters:
        raise TrainError(
            f"adapter {folder}: {for_experts[0]} adapts a single expert, and this version of PEFT cannot join such factors for "
            f"{type(model).__name__}; merge it under transformers 4, or train anew"
        )
    result = set_peft_model_state_dict(wrapped, weights)
    absent = [key for key in result.missing_keys if ".lora_" in key]
    if result.unexpected_keys or absent:
        key = [*result.unexpected_keys, *absent][0]
        what = "has no place in the model" if result.unexpected_keys else "is not in its file"
        raise TrainError(
            f"adapter {folder}: {key} {what}: made for another model, or in a layout that PEFT does not know"
        )
    return wrapped
