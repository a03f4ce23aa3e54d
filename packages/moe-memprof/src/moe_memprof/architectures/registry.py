"""Which model types are described, and the way in: `describe`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from moe_memprof.architectures import (
    encoder_decoder,
    gemma,
    gqa,
    gqa_gated,
    hybrid,
    inkling,
    latent,
    mla,
    multimodal,
    unusual,
    vision_language,
)
from moe_memprof.architectures.base import Model
from moe_memprof.architectures.settings import Settings, known_defaults
from moe_memprof.errors import MemprofError

ARCHITECTURES: dict[str, Callable[[Settings], Model]] = {
    **gqa.ARCHITECTURES,
    **gqa_gated.ARCHITECTURES,
    **mla.ARCHITECTURES,
    **hybrid.ARCHITECTURES,
    **unusual.ARCHITECTURES,
    **gemma.ARCHITECTURES,
    **latent.ARCHITECTURES,
    **vision_language.ARCHITECTURES,
    **inkling.ARCHITECTURES,
    **encoder_decoder.ARCHITECTURES,
    **multimodal.ARCHITECTURES,
    "qwen3_5_moe": lambda c: hybrid.qwen3_next(c.sub("text_config")),
}

SUPPORTED: tuple[str, ...] = tuple(sorted(ARCHITECTURES))
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
    if kind not in ARCHITECTURES:
        kind = _by_class(config)
    try:
        model = ARCHITECTURES[kind](Settings(kind, config))
    except (TypeError, ValueError, LookupError, AttributeError, ArithmeticError) as error:
        if isinstance(error, MemprofError):
            raise
        raise MemprofError(
            f"config of {kind}: a value is not of the type or a list not of the length it must have "
            f"({type(error).__name__}: {' '.join(str(error).split())[:120]}); compare config.json with the published one"
        ) from error
    return model if model.model_type == kind else replace(model, model_type=kind)


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
    if inner in ARCHITECTURES:
        hint = f"its text_config is a {inner}, which can be described by itself"
    raise MemprofError(
        f"config.json: model_type {str(kind)[:60]!r} is not among the {len(SUPPORTED)} MoE architectures known here; {hint}"
    )
