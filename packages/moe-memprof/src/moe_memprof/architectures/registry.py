"""Which model types are described, and the way in: `describe`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from importlib import import_module
from typing import Any, cast

from moe_memprof.architectures.base import Model
from moe_memprof.architectures.settings import Settings, known_defaults
from moe_memprof.errors import MemprofError

# Which module describes which model types. Only the one that is asked for is imported: all of them take 30 ms.
FAMILIES: dict[str, tuple[str, ...]] = {
    "gqa": (
        "aria_text",
        "cohere2_moe",
        "dots1",
        "ernie4_5_moe",
        "exaone_moe",
        "flex_olmo",
        "glm4_moe",
        "gpt_oss",
        "hunyuan_v1_moe",
        "hy_v3",
        "mellum",
        "minimax_m2",
        "mixtral",
        "olmoe",
        "openai_privacy_filter",
        "phimoe",
        "qwen2_moe",
        "qwen3_moe",
        "solar_open",
    ),
    "gqa_gated": (
        "afmoe",
        "beam",
        "flint",
        "granitemoe",
        "granitemoe_swa",
        "granitemoeshared",
        "kolibri1",
        "laguna",
        "mimo_v2_flash",
    ),
    "mla": (
        "axk1",
        "axk2",
        "deepseek_v2",
        "deepseek_v3",
        "deepseek_v32",
        "glm4_moe_lite",
        "glm_moe_dsa",
        "hy_v4",
        "mistral4",
    ),
    "latent": (
        "deepseek_v4",
        "dots3_note",
        "dots3_note_text",
        "glm5_next_text",
        "mistral_large4_text",
    ),
    "hybrid": (
        "bailing_hybrid",
        "granitemoehybrid",
        "jamba",
        "kimi_linear",
        "lfm2_moe",
        "minimax",
        "nemotron_h",
        "qwen3_5_moe",
        "qwen3_5_moe_text",
        "qwen3_next",
    ),
    "unusual": (
        "dbrx",
        "doge",
        "jetmoe",
        "llama4",
        "llama4_text",
        "longcat_flash",
        "zaya",
    ),
    "gemma": (
        "diffusion_gemma_text",
        "gemma4_text",
    ),
    "inkling": (
        "inkling2_text",
        "inkling_text",
    ),
    "vision_language": (
        "deepseek_ocr2_text",
        "ernie4_5_vl_moe_text",
        "glm4v_moe_text",
        "minimax_m3_vl_text",
        "muse_spark_text",
        "qwen3_omni_moe_talker_text",
        "qwen3_omni_moe_text",
        "qwen3_vl_moe_text",
        "qwen4_exp",
        "qwen4_exp_text",
        "step3p5",
        "unlimited_ocr_text",
    ),
    "multimodal": (
        "aria",
        "deepseek_ocr2",
        "diffusion_gemma",
        "dots3_note_vision_encoder",
        "ernie4_5_vl_moe",
        "gemma4",
        "glm4v_moe",
        "glm5_next",
        "inkling2",
        "inkling_mm_model",
        "minimax_m3_vl",
        "mistral_large4",
        "muse_spark",
        "qwen3_omni_moe_thinker",
        "qwen3_vl_moe",
        "step3p7",
        "unlimited_ocr",
    ),
    "encoder_decoder": (
        "nllb-moe",
        "switch_transformers",
    ),
}

SUPPORTED: tuple[str, ...] = tuple(sorted(kind for kinds in FAMILIES.values() for kind in kinds))
"""The model types of transformers that `describe` knows."""


def describe(config: Mapping[str, Any]) -> Model:
    """Every tensor of the model that transformers builds from this config.json.

    That is the class that AutoModelForCausalLM picks, and where it knows none, AutoModelForImageTextToText, AutoModelForSeq2SeqLM,
    AutoModelForTokenClassification or the bare decoder. Layers for multi-token prediction are not built. A model type that transformers
    does not know is described by the class that `architectures` names, so Kimi K2 by DeepSeek V3's.

    Raises:
        MemprofError: for a model type that is not known, and for a value that is missing or impossible.
    """
    kind = config.get("model_type")
    if kind not in SUPPORTED:
        kind = _by_class(config)
    architecture = architecture_of(kind)
    try:
        model = architecture(Settings(kind, config))
    except (TypeError, ValueError, LookupError, AttributeError, ArithmeticError) as error:
        if isinstance(error, MemprofError):
            raise
        raise MemprofError(
            f"config of {kind}: a value is not of the type or a list not of the length it must have "
            f"({type(error).__name__}: {' '.join(str(error).split())[:120]}); compare config.json with the published one"
        ) from error
    return model if model.model_type == kind else replace(model, model_type=kind)


def architecture_of(kind: str) -> Callable[[Settings], Model]:
    """The function that describes a model type of `SUPPORTED`."""
    family = next(family for family, kinds in FAMILIES.items() if kind in kinds)
    module = import_module(f"moe_memprof.architectures.{family}")
    return cast("Callable[[Settings], Model]", module.ARCHITECTURES[kind])


def _by_class(config: Mapping[str, Any]) -> str:
    """The model type of the class that a config of a model type unknown to transformers names, as Kimi K2's does."""
    kind, classes = config.get("model_type"), config.get("architectures")
    named = classes[0] if isinstance(classes, list) and classes else None
    found = [kind for kind in SUPPORTED if known_defaults()[kind].get("class", "") == named]
    if found and "text_config" not in config:
        return found[-1]  # of a model with towers and its decoder alone, which share a class, the decoder
    if kind is None:
        raise MemprofError(
            "config.json: model_type is missing; every config.json of transformers names its architecture there"
        )
    import difflib  # only for the error

    near = difflib.get_close_matches(str(kind), SUPPORTED, n=1)
    hint = f"did you mean {near[0]}?" if near else "its weights can be read from safetensors headers instead"
    text = config.get("text_config")
    inner = text.get("model_type") if isinstance(text, Mapping) else None
    if inner in SUPPORTED:
        hint = f"its text_config is a {inner}, which can be described by itself"
    raise MemprofError(
        f"config.json: model_type {str(kind)[:60]!r} is not among the {len(SUPPORTED)} MoE architectures known here; {hint}"
    )
