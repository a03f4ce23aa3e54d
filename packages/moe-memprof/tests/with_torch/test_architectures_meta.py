"""The inventory against transformers' own classes, built on the meta device: every model type, names, shapes and kinds exactly."""

from __future__ import annotations

import copy
import importlib
import importlib.util
import json
import re
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from transformers.models.auto.configuration_auto import CONFIG_MAPPING  # noqa: E402

from architecture_sizes import ODD  # noqa: E402
from architecture_variations import OWN  # noqa: E402
from moe_memprof.architectures.registry import SUPPORTED, describe  # noqa: E402


def overrides(model_type: str, variant: int) -> dict[str, Any]:
    """The config.json, without its model type, of variant 0 (the default, fewer layers), 1 or 2."""
    return values_for(CONFIG_MAPPING[model_type], variant) | OWN.get(model_type, ({}, {}, {}))[variant]


def values_for(config: type, variant: int) -> dict[str, Any]:
    known = config.__dataclass_fields__
    common = {"num_hidden_layers": 4} if variant == 0 else ODD[variant - 1]
    values = {
        key: 30 if value is None and key == "q_lora_rank" and "None" not in str(known[key].type) else value
        for key, value in common.items()
        if key in known
    }
    for key, spec in (config.sub_configs_defaults or {}).items():
        inner = spec.config_class if hasattr(spec.config_class, "model_type") else CONFIG_MAPPING[spec.model_type]
        if not spec.optional:
            values[key] = (
                spec.init_kwargs | values_for(inner, variant) | OWN.get(inner.model_type, ({}, {}, {}))[variant]
            )
    return values


pytestmark = pytest.mark.skipif(
    not transformers.__version__.startswith("5.23."), reason="names and defaults are those of transformers 5.23"
)

# Configs that no auto class builds from.
CLASSES = {
    "deepseek_ocr2_text": "deepseek_ocr2.modeling_deepseek_ocr2.DeepseekOcr2TextModel",
    "diffusion_gemma_text": "diffusion_gemma.modeling_diffusion_gemma.DiffusionGemmaEncoderTextModel",
    "dots3_note_vision_encoder": "dots3_note.modeling_dots3_note.Dots3NoteVisionModel",
    "ernie4_5_vl_moe_text": "ernie4_5_vl_moe.modeling_ernie4_5_vl_moe.Ernie4_5_VLMoeTextModel",
    "qwen3_omni_moe_talker_text": "qwen3_omni_moe.modeling_qwen3_omni_moe.Qwen3OmniMoeTalkerModel",
    "qwen3_omni_moe_text": "qwen3_omni_moe.modeling_qwen3_omni_moe.Qwen3OmniMoeThinkerTextModel",
    "step3p5": "step3p7.modeling_step3p7.Step3p7TextModel",
    "unlimited_ocr_text": "unlimited_ocr.modeling_unlimited_ocr.UnlimitedOcrTextModel",
}


def built(model_type: str, values: dict[str, Any]) -> torch.nn.Module:
    """The model of transformers, without storage."""
    config = CONFIG_MAPPING[model_type](**copy.deepcopy(values))
    with torch.device("meta"):
        if model_type in CLASSES:
            module, _, name = CLASSES[model_type].rpartition(".")
            return getattr(importlib.import_module(f"transformers.models.{module}"), name)._from_config(config)
        for auto in ("CausalLM", "ImageTextToText", "Seq2SeqLM", "TokenClassification"):
            factory = getattr(transformers, f"AutoModelFor{auto}")
            if type(config) in factory._model_mapping:
                return factory.from_config(config)
        return transformers.AutoModel.from_config(config)


def collapse(names: list[str]) -> list[str]:
    """Names with their numbers taken out, for a message one can read."""
    return sorted({re.sub(r"\.\d+\.", ".{i}.", name) for name in names})


def kind_of_module(module: torch.nn.Module) -> str:
    kinds = {"linear": torch.nn.Linear, "embedding": torch.nn.Embedding, "conv": torch.nn.modules.conv._ConvNd}
    for kind, base in kinds.items():
        if isinstance(module, base):
            return kind
    return "norm" if "Norm" in type(module).__name__ else "parameter"


@pytest.mark.parametrize("variant", [0, 1, 2])
@pytest.mark.parametrize("model_type", SUPPORTED)
def test_names_shapes_and_kinds(model_type: str, variant: int) -> None:
    values = overrides(model_type, variant)
    model = built(model_type, values)
    expected = {name: tuple(p.shape) for name, p in model.named_parameters()}
    found = describe({"model_type": model_type, **values})
    ours = {tensor.name: tensor.shape for tensor in found.tensors}
    assert len(ours) == len(found.tensors), "a name twice"
    assert collapse(list(ours.keys() - expected.keys())) == [], "too much"
    assert collapse(list(expected.keys() - ours.keys())) == [], "missing"
    assert {name: (ours[name], shape) for name, shape in expected.items() if ours[name] != shape} == {}

    modules = dict(model.named_modules())
    wrong = {}
    for tensor in found.tensors:
        module = modules[tensor.name.rpartition(".")[0]]
        if tensor.kind != kind_of_module(module):
            wrong[re.sub(r"\.\d+\.", ".{i}.", tensor.name)] = (tensor.kind, type(module).__name__)
    assert wrong == {}

    kept = model._keep_in_fp32_modules_strict or ()
    pattern = re.compile("|".join(kept) if kept else "(?!)")
    assert {t.name for t in found.tensors if t.dtype == "float32"} == {
        name for name in expected if pattern.search(name)
    }
    head = getattr(model, "lm_head", None)
    assert found.tied == (head is not None and "lm_head.weight" not in expected)


def test_defaults_are_those_of_transformers() -> None:
    """The file in the package against the installed release; `python scripts/extract_defaults.py` writes it anew."""
    package = Path(__file__).parents[2]
    spec = importlib.util.spec_from_file_location("extract_defaults", package / "scripts" / "extract_defaults.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    path = script.PACKAGE / "defaults.json"
    assert json.loads(path.read_text(encoding="utf-8")) == script.extract(sorted(SUPPORTED))
