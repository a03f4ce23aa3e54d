"""A real language model for memory_grid.py: SmolLM2-135M as a Mixtral of four experts, as the tests of moe-train have it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "packages/moe-train/tests"))

EXPERTS = 4


def real_model(dtype: torch.dtype) -> torch.nn.Module:
    """The model with its weights."""
    from real_mixtral import load_dense, mixtral_of

    dense, _tokenizer = load_dense()
    return mixtral_of(dense, experts=EXPERTS, noise=0.02).to(dtype)


def real_config() -> dict[str, Any]:
    """Its config.json, from the one that the weights' file carries."""
    return {
        "model_type": "mixtral", "vocab_size": 49152, "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30,
        "num_attention_heads": 9, "num_key_value_heads": 3, "num_local_experts": EXPERTS, "num_experts_per_tok": 2,
        "tie_word_embeddings": True, "sliding_window": None,
    }  # fmt: skip
