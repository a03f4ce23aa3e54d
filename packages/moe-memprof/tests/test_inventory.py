"""Parameter counts against the published totals, from the models' own configs."""

from __future__ import annotations

import pytest

from moe_memprof import MemprofError
from moe_memprof.inventory import active_parameters, adapter_elements, count_by_role, read_shape, tensors

# Sizes from the models' config.json on the hub; totals counted on their checkpoints.
MIXTRAL_8X7B = {
    "model_type": "mixtral", "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32,
    "num_key_value_heads": 8, "num_local_experts": 8, "num_experts_per_tok": 2, "vocab_size": 32000, "tie_word_embeddings": False,
}  # fmt: skip
QWEN3_30B_A3B = {
    "model_type": "qwen3_moe", "hidden_size": 2048, "intermediate_size": 6144, "moe_intermediate_size": 768, "num_hidden_layers": 48,
    "num_attention_heads": 32, "num_key_value_heads": 4, "head_dim": 128, "num_experts": 128, "num_experts_per_tok": 8,
    "vocab_size": 151936, "tie_word_embeddings": False, "decoder_sparse_step": 1, "mlp_only_layers": [],
}  # fmt: skip
OLMOE_1B_7B = {
    "model_type": "olmoe", "hidden_size": 2048, "intermediate_size": 1024, "num_hidden_layers": 16, "num_attention_heads": 16,
    "num_key_value_heads": 16, "num_experts": 64, "num_experts_per_tok": 8, "vocab_size": 50304, "tie_word_embeddings": False,
}  # fmt: skip


@pytest.mark.parametrize(
    ("config", "total", "active"),
    [
        # mistral.ai: 46.7B and 12.9B
        (MIXTRAL_8X7B, 46_702_792_704, 12_879_925_248),
        # the model card of Qwen/Qwen3-30B-A3B: 30.5B and 3.3B
        (QWEN3_30B_A3B, 30_532_122_624, 3_353_032_704),
        # the paper of OLMoE (arXiv 2409.02060): 6.9B and 1.3B
        (OLMOE_1B_7B, 6_919_161_856, 1_282_017_280),
    ],
)
def test_totals_of_published_models(config: dict, total: int, active: int) -> None:
    shape = read_shape(config)
    found = tensors(shape)
    assert sum(t.elements for t in found) == total == sum(count_by_role(found).values())
    assert active_parameters(shape, found) == active
    assert len({t.name for t in found}) == len(found)


def test_adapters_of_mixtral_by_hand() -> None:
    shape = read_shape(MIXTRAL_8X7B)
    counts = adapter_elements(shape, tensors(shape), rank=16, attention=True, experts=True)
    attention = 32 * 16 * ((4096 + 4096) * 2 + (4096 + 1024) * 2)
    experts = 32 * 8 * 16 * ((4096 + 2 * 14336) + (14336 + 4096))
    assert counts == {"attention": attention, "routed expert": experts}
    assert adapter_elements(shape, tensors(shape), rank=16, attention=False, experts=True) == {"routed expert": experts}


def test_dense_layers_of_qwen3_moe() -> None:
    shape = read_shape({**QWEN3_30B_A3B, "num_hidden_layers": 4, "mlp_only_layers": [0], "decoder_sparse_step": 2})
    assert [shape.is_moe(i) for i in range(4)] == [False, True, False, True]
    assert {t.role for t in tensors(shape) if t.layer == 2} == {"attention", "norm", "dense"}


def test_tied_embeddings_count_once() -> None:
    untied, tied = (tensors(read_shape({**MIXTRAL_8X7B, "tie_word_embeddings": tie})) for tie in (False, True))
    assert sum(t.elements for t in untied) - sum(t.elements for t in tied) == 32000 * 4096


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "llama"}, "'llama': not covered; covered are mixtral"),
        ({"model_type": None}, "None: not covered"),
        ({"hidden_size": None}, "hidden_size is missing"),
        ({"num_local_experts": "eight"}, "num_local_experts is missing or no whole number"),
    ],
)
def test_unusable_configs_are_refused(change: dict, message: str) -> None:
    with pytest.raises(MemprofError, match=message):
        read_shape({**MIXTRAL_8X7B, **change})
