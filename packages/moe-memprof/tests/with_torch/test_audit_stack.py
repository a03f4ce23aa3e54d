"""The audit against the real stack on tiny models: what peft adapts, what bitsandbytes quantises, and the bytes of both."""

from __future__ import annotations

import functools
import importlib.util
import warnings
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
peft = pytest.importorskip("peft")


from moe_memprof.architectures.registry import SUPPORTED, describe  # noqa: E402
from moe_memprof.audit.layout import Layout, layout_of  # noqa: E402
from moe_memprof.audit.peft_targets import resolve_targets  # noqa: E402
from moe_memprof.audit.quantised import Loading, held_weights, quantisation_of  # noqa: E402
from moe_memprof.audit.request import LoraRequest  # noqa: E402
from moe_memprof.audit.versions import resolve_stack  # noqa: E402

newest = pytest.mark.skipif(
    not transformers.__version__.startswith("5.23."), reason="every architecture is that of transformers 5.23"
)

TINY: dict[str, Any] = {
    "vocab_size": 96, "hidden_size": 128, "intermediate_size": 96, "moe_intermediate_size": 32, "num_hidden_layers": 3,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32, "num_experts": 4, "num_local_experts": 4,
    "n_routed_experts": 4, "num_experts_per_tok": 2, "shared_expert_intermediate_size": 48, "pad_token_id": 0,
}  # fmt: skip
DEEPSEEK = {
    "first_k_dense_replace": 1, "n_shared_experts": 1, "q_lora_rank": 64, "kv_lora_rank": 32, "qk_rope_head_dim": 16,
    "qk_nope_head_dim": 16, "v_head_dim": 32, "n_group": 1, "topk_group": 1, "num_key_value_heads": 4,
}  # fmt: skip
MODELS: dict[str, dict[str, Any]] = {
    "mixtral": TINY,
    "qwen3_moe": TINY,
    "qwen2_moe": TINY,
    "olmoe": {**TINY, "tie_word_embeddings": True},
    "gpt_oss": TINY,
    "deepseek_v3": TINY | DEEPSEEK,
}
ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]
REQUESTS: dict[str, dict[str, Any]] = {
    "default": {},
    "attention": {"target_modules": ATTENTION},
    "all-linear": {"target_modules": "all-linear"},
    "qwen-names": {"target_modules": [*ATTENTION, "gate_proj", "up_proj", "down_proj"]},
    "mixtral-names": {"target_modules": ["o_proj", "w1", "w2", "w3"]},
    "half-of-a-pair": {"target_modules": ["o_proj", "up_proj", "w1"]},
    "router": {"target_modules": ["gate", "router"]},
    "path": {"target_modules": ["layers.1.self_attn.o_proj", "self_attn.q_b_proj"]},
    "regex": {"target_modules": r".*\.(1|2)\.self_attn\..*o_proj"},
    "regex-of-experts": {"target_modules": r".*experts\.(down_proj|gate_proj|up_proj|w1|w2|w3)"},
    "regex-of-nothing": {"target_modules": "q_proj"},
    "container": {"target_modules": ["self_attn"]},
    "norms": {"target_modules": ["q_proj", "input_layernorm"]},
    "head-and-table": {"target_modules": ["lm_head", "embed_tokens", "o_proj"]},
    "parameters": {"target_parameters": ["experts.gate_up_proj", "experts.down_proj"]},
    "parameters-and-modules": {"target_modules": ATTENTION, "target_parameters": ["mlp.experts.down_proj"]},
    "parameter-of-a-linear": {"target_modules": ["q_proj"], "target_parameters": ["o_proj.weight"]},
    "parameter-of-a-target": {"target_modules": ["o_proj"], "target_parameters": ["o_proj.weight"]},
    "parameter-of-one-dimension": {"target_parameters": ["input_layernorm.weight"]},
    "parameters-of-nothing": {"target_parameters": ["experts.w1"]},
    "dropout": {"target_parameters": ["experts.down_proj"], "lora_dropout": 0.1},
    "layers": {"target_modules": ATTENTION, "layers_to_transform": [0, 2]},
    "layers-and-parameters": {
        "target_modules": ["o_proj"],
        "target_parameters": ["experts.down_proj"],
        "layers_to_transform": [1],
    },
    "pattern-of-layers": {"target_modules": ["o_proj"], "layers_to_transform": [1], "layers_pattern": "layers"},
    "regex-and-layers": {"target_modules": r".*o_proj", "layers_to_transform": [1]},
    "excluded": {"target_modules": "all-linear", "exclude_modules": ["k_proj", "gate", "experts"]},
    "excluded-by-regex": {"target_modules": ATTENTION, "exclude_modules": r".*layers\.0\..*"},
    "all-excluded": {"target_modules": ["o_proj"], "exclude_modules": ["o_proj"]},
    "saved": {"target_modules": ["o_proj"], "modules_to_save": ["lm_head"]},
    "saved-and-targeted": {"target_modules": ["o_proj", "lm_head"], "modules_to_save": ["lm_head"]},
    "ranks": {"target_modules": ATTENTION, "target_parameters": ["experts.down_proj"],
              "rank_pattern": {"o_proj": 2, r".*\.down_proj": 3, r"layers\.1\.self_attn\.k_proj": 7}},
    "mend-of-dropped": {
        "target_modules": ["o_proj"],
        "target_parameters": ["experts.gate_up_proj", "experts.down_proj", "shared_experts.down_proj.weight"],
    },
}  # fmt: skip


@functools.cache
def architectures_meta() -> Any:
    """The tests of the inventory, which build every architecture."""
    spec = importlib.util.spec_from_file_location(
        "architectures_meta", Path(__file__).with_name("test_architectures_meta.py")
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def meta(model_type: str) -> Any:
    config = transformers.AutoConfig.for_model(model_type, **MODELS[model_type])
    with torch.device("meta"):
        return transformers.AutoModelForCausalLM.from_config(config)


def layout(model_type: str) -> Layout:
    return layout_of(describe({"model_type": model_type, **MODELS[model_type]}), resolve_stack())


def request(**values: Any) -> LoraRequest:
    given = dict(values)
    for name in ("target_modules", "exclude_modules"):
        if isinstance(given.get(name), list):
            given[name] = frozenset(given[name])
    if "target_parameters" in given:
        given["target_parameters"] = frozenset(given["target_parameters"])
    if "layers_to_transform" in given:
        given["layers_to_transform"] = tuple(given["layers_to_transform"])
    if "layers_pattern" in given:
        given["layers_pattern"] = (given["layers_pattern"],)
    given["modules_to_save"] = tuple(given.get("modules_to_save", ()))
    return LoraRequest(rank=4, dropout=given.pop("lora_dropout", 0.0), **given)


@pytest.mark.parametrize("name", REQUESTS)
@pytest.mark.parametrize("model_type", MODELS)
def test_what_peft_adapts(model_type: str, name: str) -> None:
    found = resolve_targets(request(**REQUESTS[name]), layout(model_type), resolve_stack())
    raised, wrapped = None, None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            config = peft.LoraConfig(r=4, **REQUESTS[name])
            wrapped = peft.get_peft_model(meta(model_type), config, low_cpu_mem_usage=True)
        except (ValueError, IndexError) as error:  # peft before 0.21 stumbles over a parameter of one dimension
            raised = str(error)
    assert (found.refused is None) == (raised is None), (found.refused, raised)
    if wrapped is None:
        return
    tuner = wrapped.base_model
    assert {a.tensor.name.removesuffix(".weight") for a in found.adapted if a.through == "module"} == set(
        tuner.targeted_module_names
    )
    assert {a.tensor.name for a in found.adapted if a.through == "parameter"} == set(tuner.targeted_parameter_names)
    trained = {name: p.numel() for name, p in wrapped.named_parameters() if p.requires_grad}
    adapters = sum(n for name, n in trained.items() if ".lora_" in name)
    assert found.elements == adapters
    assert sum(t.elements for t in found.saved) == sum(trained.values()) - adapters


@newest
@pytest.mark.parametrize("model_type", SUPPORTED)
def test_which_modules_bitsandbytes_takes(model_type: str) -> None:
    pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed")
    from transformers.integrations import replace_with_bnb_linear
    from transformers.quantizers.base import get_keys_to_not_convert

    values = architectures_meta().overrides(model_type, 1)
    model = architectures_meta().built(model_type, values)
    config = transformers.BitsAndBytesConfig(load_in_4bit=True)
    skip = [*get_keys_to_not_convert(model), *(model._keep_in_fp32_modules or ())]
    replaced = replace_with_bnb_linear(model, modules_to_not_convert=skip, quantization_config=config)
    actual = {f"{n}.weight" for n, m in replaced.named_modules() if type(m).__name__ == "Linear4bit"}
    ours = held({"model_type": model_type, **values}, Loading(bits=4))
    assert {h.tensor.name for h in ours if h.quantised} == actual


def held(config: dict[str, Any], loading: Loading) -> Any:
    stack = resolve_stack()
    made = layout_of(describe(config), stack)
    return held_weights(made, quantisation_of(config, loading, stack), stack, plain="bfloat16")


def storages(model: Any) -> dict[str, int]:
    """Bytes of every parameter with the statistics that bitsandbytes keeps beside it."""
    found = {}
    for name, parameter in model.named_parameters():
        parts = [parameter.data]
        state = getattr(parameter, "quant_state", None)
        if state is not None:
            parts += [state.absmax, state.code]
            parts += [state.offset, state.state2.absmax, state.state2.code] if state.nested else []
        if getattr(parameter, "SCB", None) is not None:
            parts.append(parameter.SCB)
        found[name] = sum({p.data_ptr(): p.untyped_storage().nbytes() for p in parts}.values())
    return found


@pytest.mark.parametrize("model_type", MODELS)
@pytest.mark.parametrize(
    "loading",
    [
        Loading(),
        Loading(bits=4),
        Loading(bits=4, double_quant=True),
        Loading(bits=8),
        Loading(bits=4, skip_modules=("q_proj",)),
    ],
    ids=["plain", "4bit", "4bit-double", "8bit", "4bit-skip"],
)
def test_bytes_of_the_loaded_model(tmp_path: Any, model_type: str, loading: Loading) -> None:
    pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed")
    values = {**MODELS[model_type], "dtype": "bfloat16"}
    if not resolve_stack().fused_experts and loading.bits is not None:
        if model_type == "gpt_oss":
            pytest.skip("transformers 4 keeps the norms of gpt-oss in float32 beside float16, which is not counted")
        if loading.skip_modules is not None and values.get("tie_word_embeddings"):
            pytest.skip("transformers 4 cannot load a tied head in 4 bits")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        config = transformers.AutoConfig.for_model(model_type, **values)
        transformers.AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
        quantisation = None
        if loading.bits is not None:
            quantisation = transformers.BitsAndBytesConfig(
                load_in_4bit=loading.bits == 4,
                load_in_8bit=loading.bits == 8,
                bnb_4bit_use_double_quant=loading.double_quant,
                llm_int8_skip_modules=None if loading.skip_modules is None else list(loading.skip_modules),
            )
        model = transformers.AutoModelForCausalLM.from_pretrained(
            tmp_path, quantization_config=quantisation, device_map="cpu"
        )
        ours = held({"model_type": model_type, **values}, loading)
        assert {h.tensor.name: h.bytes for h in ours} == storages(model)
        if loading.bits is not None:
            prepared = peft.prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
            assert {h.tensor.name: h.prepared for h in ours} == storages(prepared)


def test_a_checkpoint_that_comes_quantised_takes_no_other_quantisation() -> None:
    from transformers.quantizers.auto import AutoHfQuantizer

    stored = {"quant_method": "fp8", "weight_block_size": [128, 128]}
    with pytest.raises(ValueError, match="is quantized with"):
        AutoHfQuantizer.merge_quantization_configs(stored, transformers.BitsAndBytesConfig(load_in_4bit=True))


def test_mxfp4_is_not_trainable() -> None:
    from transformers.quantizers.quantizer_mxfp4 import Mxfp4HfQuantizer

    assert not Mxfp4HfQuantizer(transformers.Mxfp4Config()).is_trainable


def test_defaults_are_those_of_peft() -> None:
    from peft.utils.constants import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING as KNOWN

    from moe_memprof.audit.peft_targets import DEFAULT_TARGETS

    actual = {kind: KNOWN[kind] for kind in SUPPORTED if kind in KNOWN}
    if resolve_stack().peft.numbers >= (0, 20):
        assert actual == DEFAULT_TARGETS
    else:
        assert actual.items() <= DEFAULT_TARGETS.items()


def test_conversions_are_those_of_peft() -> None:
    conversion = pytest.importorskip("peft.utils.transformers_weight_conversion")
    from moe_memprof.audit.peft_conversion import names_converted

    actual = {}
    for kind in SUPPORTED:
        names = conversion._MOE_TARGET_MODULE_MAPPING.get(conversion._MODEL_TO_CONVERSION_PATTERN.get(kind, ""))
        if names and conversion.get_checkpoint_conversion_mapping(kind) is not None:
            actual[kind] = names
    ours = {kind: names_converted(kind, resolve_stack()) for kind in SUPPORTED}
    assert {kind: names for kind, names in ours.items() if names} == actual
