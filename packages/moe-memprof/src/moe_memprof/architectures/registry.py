"""Which model types are described, and the way in: `describe`."""

from __future__ import annotations

import difflib
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
from moe_memprof.architectures.settings import Settings
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
    AutoModelForTokenClassification or the bare decoder. Layers for multi-token prediction are not built.

    Raises:
        MemprofError: for a model type that is not known, and for a value that is missing or impossible.
    """
    kind = config.get("model_type")
    if kind is None:
        raise MemprofError(
            "config.json: model_type is missing; every config.json of transformers names its architecture there"
        )
    if kind not in ARCHITECTURES:
        near = difflib.get_close_matches(str(kind), SUPPORTED, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise MemprofError(
            f"config.json: model_type {str(kind)[:60]!r} is not among the {len(SUPPORTED)} architectures known here{hint} "
            "Weights can still be read from safetensors headers"
        )
    model = ARCHITECTURES[kind](Settings(kind, config))
    return model if model.model_type == kind else replace(model, model_type=kind)
