"""The standard adapter: a router that returns (logits, weights, indices) beside fused experts.

From transformers 5.6 on (5.17 for the DeepSeek family) this is what 66 of its 72 MoE architectures do. Recognised by
structure: a block with a child that holds three-dimensional expert weights and a child that is a router.
"""

from __future__ import annotations

import re
from typing import Any

from torch import nn

from moe_router.architectures.base import MoELayer, Routing
from moe_router.errors import RouterError

_ROUTER_CLASS = re.compile(r"(Router|Gate)$")
_SIGMOID_TYPES = frozenset(
    [
        "afmoe",
        "axk1",
        "axk2",
        "bailing_hybrid",
        "beam",
        "deepseek_v3",
        "deepseek_v32",
        "dots1",
        "ernie4_5_vl_moe",
        "exaone_moe",
        "glm4_moe",
        "glm4_moe_lite",
        "glm4v_moe",
        "glm5_next",
        "glm_moe_dsa",
        "hy_v3",
        "hy_v4",
        "kimi_linear",
        "laguna",
        "lfm2_moe",
        "mimo_v2_flash",
        "minimax_m2",
        "minimax_m3_vl",
        "nemotron_h",
        "solar_open",
        "step3p7",
        "unlimited_ocr",
    ]
)


class StandardAdapter:
    """Routers that return (logits [T, E], weights [T, K], indices [T, K])."""

    name = "standard"
    architectures: tuple[str, ...] = (
        "deepseek_v3",
        "dots1",
        "ernie4_5_moe",
        "glm4_moe",
        "gpt_oss",
        "granitemoe",
        "jamba",
        "lfm2_moe",
        "minimax",
        "mixtral",
        "olmoe",
        "phimoe",
        "qwen2_moe",
        "qwen3_moe",
    )

    def find(self, model: nn.Module) -> list[MoELayer]:
        """Every block with fused experts and a router, in the order of the modules."""
        config = getattr(model, "config", None)
        scoring = _scoring(config)
        layers = []
        for name, block in model.named_modules():
            children = dict(block.named_children())
            routers = [n for n, child in children.items() if _ROUTER_CLASS.search(type(_unwrapped(child)).__name__)]
            experts = [n for n, child in children.items() if fused_experts(_unwrapped(child))]
            if len(routers) != 1 or len(experts) != 1 or routers == experts:
                continue
            router, expert = children[routers[0]], children[experts[0]]
            num_experts = fused_experts(_unwrapped(expert))
            top_k = _top_k(_unwrapped(router), block, config)
            if top_k is None:
                raise RouterError(
                    f"{name}: the number of experts per token was found neither on the router nor in the config"
                )
            layers.append(
                MoELayer(
                    name=name,
                    router_name=f"{name}.{routers[0]}",
                    router=router,
                    experts_name=f"{name}.{experts[0]}",
                    experts=expert,
                    num_experts=num_experts,
                    top_k=top_k,
                    scoring=scoring,
                    adapter=self,
                )
            )
        return layers

    def read(self, output: Any) -> Routing:
        """The three tensors, after a look at their shapes."""
        if not isinstance(output, tuple) or len(output) < 3:
            kind = f"{len(output)} values" if isinstance(output, tuple) else f"a {type(output).__name__}"
            raise RouterError(
                f"router returned {kind}, not (logits, weights, indices); transformers before 5.6 (5.17 for DeepSeek) is not supported"
            )
        logits, weights, indices = output[:3]
        logits, weights, indices = (t.reshape(-1, t.shape[-1]) for t in (logits, weights, indices))
        if weights.shape != indices.shape or logits.shape[0] != indices.shape[0] or indices.is_floating_point():
            shapes = ", ".join(str(tuple(t.shape)) for t in (logits, weights, indices))
            raise RouterError(
                f"router returned tensors of shapes {shapes}; expected [T, E], [T, K] and integers [T, K]"
            )
        return Routing(logits, weights, indices)


def _unwrapped(module: nn.Module) -> nn.Module:
    """The module below PEFT's wrappers; a parameter wrapper may wrap another."""
    while isinstance(inner := getattr(module, "base_layer", None), nn.Module):
        module = inner
    return module


def fused_experts(module: nn.Module) -> int:
    """Number of experts whose weights the module holds in three-dimensional parameters [experts, ...]; 0 if it holds none."""
    counts = {p.shape[0] for p in module.parameters(recurse=False) if p.ndim == 3}
    return counts.pop() if len(counts) == 1 else 0


def _top_k(router: nn.Module, block: nn.Module, config: Any) -> int | None:
    text_config = config.get_text_config() if hasattr(config, "get_text_config") else config
    for holder, names in (
        (router, ("top_k",)),
        (block, ("top_k",)),
        (text_config, ("num_experts_per_tok", "moe_topk", "moe_k")),
    ):
        for name in names:
            value = getattr(holder, name, None)
            if isinstance(value, int):
                return value
    return None


def _scoring(config: Any) -> str:
    text_config = config.get_text_config() if hasattr(config, "get_text_config") else config
    stated = getattr(text_config, "scoring_func", None) or getattr(text_config, "score_function", None)
    if stated in {"softmax", "sigmoid"}:
        return str(stated)
    return "sigmoid" if getattr(text_config, "model_type", None) in _SIGMOID_TYPES else "softmax"
