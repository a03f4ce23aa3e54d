"""The inventory from a config.json: sums by hand, published totals, properties, errors."""

from __future__ import annotations

import importlib
import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from architecture_published import PUBLISHED
from architecture_variations import INDEXER, OWN
from moe_memprof.architectures.base import ROLES, Attention, Dense, Experts, StateMixer
from moe_memprof.architectures.registry import FAMILIES, SUPPORTED, describe
from moe_memprof.errors import MemprofError


def test_a_small_mixtral_by_hand() -> None:
    config = {
        "model_type": "mixtral",
        "vocab_size": 100,
        "hidden_size": 8,
        "intermediate_size": 10,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "num_local_experts": 4,
        "num_experts_per_tok": 2,
    }
    model = describe(config)
    attention = 8 * 8 + 2 * (4 * 8) + 8 * 8
    experts = 4 * (20 * 8 + 8 * 10)
    assert model.by_role() == {
        "embedding": 2 * 100 * 8,
        "attention": 2 * attention,
        "router": 2 * 4 * 8,
        "routed expert": 2 * experts,
        "norm": (2 * 2 + 1) * 8,
    }
    assert model.parameters == 1600 + 2 * (attention + 32 + experts) + 40
    assert model.active_parameters == model.parameters - experts  # half of the experts in each of two layers
    assert [tensor.name for tensor in model.tensors[:3]] == [
        "model.embed_tokens.weight",
        "model.layers.0.self_attn.q_proj.weight",
        "model.layers.0.self_attn.k_proj.weight",
    ]
    assert not model.tied
    assert describe({**config, "tie_word_embeddings": True}).parameters == model.parameters - 800


def test_latent_attention_by_hand() -> None:
    config = {
        "model_type": "deepseek_v3",
        "vocab_size": 50,
        "hidden_size": 12,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "first_k_dense_replace": 1,
        "intermediate_size": 7,
        "q_lora_rank": 5,
        "kv_lora_rank": 6,
        "qk_nope_head_dim": 3,
        "qk_rope_head_dim": 4,
        "v_head_dim": 8,
    }
    model = describe(config)
    query = 5 * 12 + 2 * (3 + 4) * 5
    key_value = (6 + 4) * 12 + 2 * (3 + 8) * 6
    assert model.by_role()["attention"] == query + key_value + 12 * (2 * 8)
    assert model.by_role()["dense"] == 3 * 7 * 12
    assert model.layers[0].mixer == Attention(
        heads=2, kv_heads=2, head_dim=7, value_dim=8, query_rank=5, kv_rank=6, rope_dim=4
    )
    assert model.layers[0].feed_forward == Dense(intermediate=7)
    plain = describe({**config, "q_lora_rank": None})
    assert plain.by_role()["attention"] - model.by_role()["attention"] == 2 * (3 + 4) * 12 - query


def test_a_hybrid_by_hand() -> None:
    model = describe(
        {
            "model_type": "nemotron_h",
            "hidden_size": 6,
            "vocab_size": 20,
            "hybrid_override_pattern": "ME*-",
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "head_dim": 5,
            "mamba_num_heads": 3,
            "mamba_head_dim": 4,
            "ssm_state_size": 7,
            "mamba_n_groups": 1,
            "mamba_d_conv": 2,
            "n_routed_experts": 5,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 9,
            "moe_shared_expert_intermediate_size": 11,
            "intermediate_size": 13,
        }
    )
    width, mixed = 3 * 4, 3 * 4 + 2 * 1 * 7
    state_space = 3 * 3 + mixed * 2 + mixed + (width + mixed + 3) * 6 + 6 * width
    assert model.by_role()["attention"] == state_space + (2 * 5 + 2 * 5) * 6 + 6 * 10
    assert model.by_role()["routed expert"] == 2 * 5 * 9 * 6
    assert model.by_role()["shared expert"] == 2 * 11 * 6
    assert model.by_role()["dense"] == 2 * 13 * 6
    kinds = [(type(layer.mixer), type(layer.feed_forward), layer.norms) for layer in model.layers]
    nothing = type(None)
    assert kinds == [(StateMixer, nothing, 1), (nothing, Experts, 1), (Attention, nothing, 1), (nothing, Dense, 1)]
    assert model.layers[0].mixer == StateMixer(kind="mamba2", width=width, state=width * 7 + mixed * 2)


def test_identity_experts_are_never_active() -> None:
    config = {
        "model_type": "longcat_flash",
        "num_layers": 1,
        "hidden_size": 8,
        "vocab_size": 10,
        "n_routed_experts": 4,
        "zero_expert_num": 2,
        "moe_topk": 3,
        "expert_ffn_hidden_size": 5,
    }
    model = describe(config)
    assert len(model.layers) == 2  # two attentions a module layer
    assert model.by_role()["routed expert"] == 6 * 10 * 8 + 4 * 8 * 5
    # Three choices of six fall on two real experts on average.
    assert model.active_parameters == model.parameters - model.by_role()["routed expert"] + 2 * (10 * 8 + 8 * 5)


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_totals(name: str) -> None:
    config, total, active, off, _source = PUBLISHED[name]
    model = describe(config)
    assert model.parameters / 1e9 == pytest.approx(total, abs=off)
    assert model.active_parameters / 1e9 == pytest.approx(active, abs=max(off, 0.8))


sizes = st.integers(1, 9)


@given(
    heads=sizes, groups=sizes, dim=sizes, hidden=sizes, width=sizes, count=st.integers(1, 7), layers=st.integers(1, 3)
)
def test_every_size_is_read(
    heads: int, groups: int, dim: int, hidden: int, width: int, count: int, layers: int
) -> None:
    config = {
        "model_type": "qwen3_moe",
        "vocab_size": 11,
        "hidden_size": hidden,
        "num_attention_heads": heads * groups,
        "num_key_value_heads": groups,
        "head_dim": dim,
        "moe_intermediate_size": width,
        "num_experts": count,
        "num_experts_per_tok": 1,
        "num_hidden_layers": layers,
    }
    model = describe(config)
    attention = 2 * hidden * heads * groups * dim + 2 * hidden * groups * dim
    experts = count * 3 * width * hidden
    norms = 2 * hidden + 2 * dim
    assert model.parameters == 2 * 11 * hidden + hidden + layers * (attention + experts + count * hidden + norms)
    # An old name of a key, and all keys besides that have no part in sizes, change nothing.
    old = {("num_local_experts" if key == "num_experts" else key): value for key, value in config.items()}
    others = {"torch_dtype": "bfloat16", "rope_scaling": None, "transformers_version": "4.51.0", "use_cache": True}
    assert describe(old | others).tensors == model.tensors


NEEDED = {  # what a default config lacks
    "deepseek_ocr2": {"text_config": {"num_experts_per_tok": 2}},
    "diffusion_gemma": {"text_config": {"num_experts": 4, "top_k_experts": 2, "moe_intermediate_size": 16}},
    "qwen4_exp": {"text_config": INDEXER},
}


@pytest.mark.parametrize("model_type", SUPPORTED)
def test_what_holds_for_every_architecture(model_type: str) -> None:
    of_default = OWN.get(model_type, ({}, {}, {}))[0]
    model = describe({"model_type": model_type, "num_hidden_layers": 4} | of_default | NEEDED.get(model_type, {}))
    names = [tensor.name for tensor in model.tensors]
    assert len(set(names)) == len(names)
    assert model.model_type == model_type
    assert model.parameters == sum(math.prod(tensor.shape) for tensor in model.tensors) == sum(model.by_role().values())
    assert 0 < model.active_parameters <= model.parameters
    assert set(model.by_role()) <= set(ROLES)
    for tensor in model.tensors:
        assert tensor.layer is None or 0 <= tensor.layer < len(model.layers)
        if tensor.role == "routed expert":
            assert tensor.layer is not None
            assert isinstance(model.layers[tensor.layer].feed_forward, Experts)
    with_experts = {tensor.layer for tensor in model.tensors if tensor.role == "routed expert"}
    assert with_experts == {i for i, layer in enumerate(model.layers) if isinstance(layer.feed_forward, Experts)}


def test_a_dense_first_layer_and_a_shared_expert() -> None:
    model = describe({"model_type": "glm4_moe", "num_hidden_layers": 3, "first_k_dense_replace": 1})
    assert isinstance(model.layers[0].feed_forward, Dense)
    assert model.layers[1].feed_forward == Experts(count=128, top_k=8, intermediate=1408, shared_intermediate=1408)


def test_towers_are_other_and_only_where_the_config_has_them() -> None:
    bare = describe({"model_type": "gemma4"})
    seen = describe({"model_type": "gemma4", "vision_config": {}})
    assert "other" not in {t.role for t in bare.tensors if "tower" in t.name}
    assert {t.role for t in seen.tensors if "vision" in t.name} == {"other"}
    assert [t for t in seen.tensors if "vision" not in t.name] == list(bare.tensors)
    # AutoModelForCausalLM builds the text decoder of these alone.
    text = describe({"model_type": "qwen3_5_moe_text"})
    assert describe({"model_type": "qwen3_5_moe", "vision_config": {"depth": 3}}).tensors == text.tensors


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({}, "model_type is missing"),
        ({"model_type": "mixtrol"}, "did you mean mixtral?"),
        ({"model_type": "zzz"}, "safetensors headers"),
        ({"model_type": "new_vl", "text_config": {"model_type": "deepseek_v3"}}, "its text_config is a deepseek_v3"),
        ({"model_type": "mixtral", "hidden_size": "4096"}, "hidden_size is '4096', but must be a whole number above 0"),
        ({"model_type": "mixtral", "hidden_size": True}, "hidden_size"),
        ({"model_type": "mixtral", "num_hidden_layers": 0}, "num_hidden_layers"),
        ({"model_type": "mixtral", "num_experts_per_tok": 9}, "9 of 8 experts"),
        ({"model_type": "mixtral", "tie_word_embeddings": "yes"}, "true or false"),
        ({"model_type": "mixtral", "per_layer_config": {"0": {"intermediate_size": 3}}}, "per_layer_config"),
        ({"model_type": "dots1"}, "n_routed_experts is missing"),
        ({"model_type": "lfm2_moe"}, "layer_types is missing"),
        ({"model_type": "gpt_oss", "layer_types": ["full_attention"]}, "one entry for each of the 36 layers"),
        ({"model_type": "nemotron_h", "hybrid_override_pattern": "MX"}, "found 'X'"),
        ({"model_type": "llama4", "text_config": 3}, "text_config"),
        ({"model_type": "aria", "vision_config": {"model_type": "clip"}}, "'clip'"),
        ({"model_type": "llama4", "text_config": {"hidden_size": -1}}, "llama4.text_config"),
        ({"model_type": "dots3_note_text", "moe_layer_freq": [1, 0]}, "one entry for each of the 46 layers"),
        ({"model_type": "hunyuan_v1_moe", "head_dim": 8, "moe_topk": [1] * 31 + ["x"]}, "not of the type"),
        ({"model_type": "gemma4_text", "per_layer_config": {"first": {}}}, "from layer number"),
        ({"model_type": "granitemoehybrid", "mamba_expand": "two"}, "a number above 0"),
    ],
)
def test_errors_are_one_line(config: dict[str, Any], words: str) -> None:
    with pytest.raises(MemprofError) as caught:
        describe(config)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_table_of_families_is_complete() -> None:
    for family, kinds in FAMILIES.items():
        module = importlib.import_module(f"moe_memprof.architectures.{family}")
        assert sorted(module.ARCHITECTURES) == sorted(kinds)
    assert len(set(SUPPORTED)) == len(SUPPORTED) == 94


def test_neither_torch_nor_a_sibling_is_imported() -> None:
    program = (
        "import sys; from moe_memprof.architectures.registry import describe; describe({'model_type': 'mixtral'}); "
        "print(*(sys.modules.keys() & {'torch', 'transformers', 'numpy', 'safetensors', 'huggingface_hub', 'moe_router'}))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


@pytest.mark.realdata
def test_real_configs() -> None:
    """Totals counted on the meta device, and the published ones, of configs as they stand on the Hub."""
    folder = Path(os.environ["MOE_TEST_DATA"]).parent / "reference"
    for entry in json.loads((folder / "model_configs" / "INDEX.json").read_text())["models"]:
        model = describe(json.loads((folder / entry["file"]).read_text()))
        roles = model.by_role()
        assert model.parameters == entry["total_params"], entry["name"]
        assert roles["routed expert"] == entry["expert_params"], entry["name"]
        assert roles["router"] == entry["router_params"], entry["name"]
        assert model.active_parameters - entry["vision_params"] == entry["active_params"], entry["name"]
        if entry["published_total_B"] is not None:
            off = entry["match_within_pct"] / 100
            compared = entry[entry["published_compared_to"]] / 1e9
            assert compared == pytest.approx(entry["published_total_B"], rel=off), entry["name"]
