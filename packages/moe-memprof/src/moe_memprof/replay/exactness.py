"""Which replays follow the code operation by operation and were held against measurements, and which approximate."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from moe_memprof.architectures.base import Layer, StateMixer
from moe_memprof.replay.fused_experts import runs_fused
from moe_memprof.replay.how import How
from moe_memprof.replay.mixers import EXACT


def exactness(layer: Layer, how: How) -> Literal["derived", "heuristic"]:
    """Whether a layer's replay follows its code operation by operation, or approximates a part of it."""
    mixer = layer.mixer
    rough = isinstance(mixer, StateMixer) and (mixer.kind not in EXACT or (how.kernels and how.device == "cuda"))
    rough = rough or not how.written.exact
    # Written from their code, but not measured: adapters in a GPU's grouped products, quantised experts, 8-bit linears.
    unmeasured = how.adapts_experts and how.expert_lora == "grouped" and not runs_fused(how)
    rough = rough or unmeasured or how.expert_bits > 0 or how.linear_bits == 8
    return "heuristic" if rough else "derived"


def beyond_the_replay(config: Mapping[str, Any]) -> list[str]:
    """Features of a config that change what a layer keeps and that the replay leaves out.

    Returns:
        A few words for each; empty where the replay knows everything.
    """
    text = config.get("text_config") or config
    found = []
    if text.get("num_kv_shared_layers"):
        found.append("layers that share keys and values")
    if text.get("hidden_size_per_layer_input"):
        found.append("embeddings of every layer")
    if text.get("model_type", "").startswith("llama4") and not all(text.get("no_rope_layers") or [1]):
        found.append("layers without rotary positions")
    return found
