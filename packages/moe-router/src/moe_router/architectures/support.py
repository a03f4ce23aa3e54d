"""The architectures whose routing is compared, token by token, with what their experts receive, in this package's tests."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from moe_router.architectures.structure import model_types, text_config
from moe_router.errors import RouterError


@dataclass(frozen=True)
class Support:
    """One architecture of transformers, a folder of its models."""

    name: str
    model_types: tuple[str, ...]
    adapter: str
    scoring: str
    """`softmax`, `sigmoid`, `product keys`, or `config` where the configuration states it."""
    note: str = ""


ARCHITECTURES: tuple[Support, ...] = (
    Support("afmoe", ("afmoe",), "standard", "sigmoid"),
    Support("aria", ("aria", "aria_text"), "standard", "softmax"),
    Support("axk1", ("axk1",), "standard", "sigmoid"),
    Support("axk2", ("axk2",), "standard", "sigmoid"),
    Support("bailing_hybrid", ("bailing_hybrid",), "standard", "sigmoid"),
    Support("beam", ("beam",), "standard", "sigmoid"),
    Support("cohere2_moe", ("cohere2_moe",), "standard", "config", "softmax or sigmoid by the config"),
    Support("dbrx", ("dbrx",), "dbrx", "softmax", "the block decides; read where the experts receive it"),
    Support("deepseek_ocr2", ("deepseek_ocr2", "deepseek_ocr2_text"), "standard", "softmax"),
    Support("deepseek_v2", ("deepseek_v2",), "standard", "softmax"),
    Support("deepseek_v3", ("deepseek_v3",), "standard", "sigmoid"),
    Support("deepseek_v32", ("deepseek_v32",), "standard", "sigmoid"),
    Support(
        "deepseek_v4",
        ("deepseek_v4",),
        "standard",
        "config",
        "the first layers route by a table of token ids; their scores only weight",
    ),
    Support(
        "diffusion_gemma",
        ("diffusion_gemma", "diffusion_gemma_text"),
        "gemma4",
        "softmax",
        "as gemma4; encoder and decoder",
    ),
    Support(
        "doge",
        ("doge",),
        "doge",
        "product keys",
        "product keys; the stock split of the scores mixes tokens, and that is what is read",
    ),
    Support("dots1", ("dots1",), "standard", "sigmoid"),
    Support(
        "dots3_note",
        ("dots3_note", "dots3_note_text", "dots3_note_vision_encoder"),
        "standard",
        "sigmoid",
        "the vision tower routes too; its layers are a stream of their own",
    ),
    Support("ernie4_5_moe", ("ernie4_5_moe",), "standard", "softmax"),
    Support(
        "ernie4_5_vl_moe",
        ("ernie4_5_vl_moe", "ernie4_5_vl_moe_text"),
        "standard",
        "softmax",
        "text and vision tokens have experts of their own",
    ),
    Support("exaone_moe", ("exaone_moe",), "standard", "sigmoid"),
    Support("flex_olmo", ("flex_olmo",), "standard", "softmax"),
    Support("flint", ("flint",), "standard", "sigmoid"),
    Support(
        "gemma4",
        ("gemma4", "gemma4_text"),
        "gemma4",
        "softmax",
        "the router returns probabilities; the raw scores are read before its softmax",
    ),
    Support("glm4_moe", ("glm4_moe",), "standard", "sigmoid"),
    Support("glm4_moe_lite", ("glm4_moe_lite",), "standard", "sigmoid"),
    Support("glm4v_moe", ("glm4v_moe", "glm4v_moe_text"), "standard", "sigmoid"),
    Support("glm5_next", ("glm5_next", "glm5_next_text"), "standard", "sigmoid"),
    Support("glm_moe_dsa", ("glm_moe_dsa",), "standard", "sigmoid"),
    Support("gpt_oss", ("gpt_oss",), "standard", "softmax"),
    Support("granitemoe", ("granitemoe",), "standard", "softmax"),
    Support("granitemoe_swa", ("granitemoe_swa",), "standard", "softmax"),
    Support("granitemoehybrid", ("granitemoehybrid",), "standard", "softmax"),
    Support("granitemoeshared", ("granitemoeshared",), "standard", "softmax"),
    Support(
        "hunyuan_v1_moe", ("hunyuan_v1_moe",), "standard", "softmax", "experts and top-k may differ between layers"
    ),
    Support("hy_v3", ("hy_v3",), "standard", "sigmoid"),
    Support("hy_v4", ("hy_v4",), "standard", "sigmoid"),
    Support(
        "inkling",
        ("inkling_mm_model", "inkling_text"),
        "standard",
        "sigmoid",
        "scores the shared experts too; their weights are the fourth value",
    ),
    Support("inkling2", ("inkling2", "inkling2_text"), "standard", "config", "scoring by the config"),
    Support("jamba", ("jamba",), "standard", "softmax"),
    Support("jetmoe", ("jetmoe",), "jetmoe", "softmax", "attention is routed too"),
    Support("kimi_linear", ("kimi_linear",), "standard", "sigmoid"),
    Support("kolibri1", ("kolibri1",), "standard", "sigmoid", "selection bias is added to the logits"),
    Support("laguna", ("laguna",), "standard", "sigmoid"),
    Support("lfm2_moe", ("lfm2_moe",), "standard", "sigmoid"),
    Support("llama4", ("llama4", "llama4_text"), "llama4", "sigmoid", "returns scores over all experts, no indices"),
    Support("longcat_flash", ("longcat_flash",), "standard", "softmax", "the last experts only pass their input on"),
    Support("mellum", ("mellum",), "standard", "softmax"),
    Support("mimo_v2_flash", ("mimo_v2_flash",), "standard", "sigmoid"),
    Support("minimax", ("minimax",), "standard", "softmax"),
    Support("minimax_m2", ("minimax_m2",), "standard", "sigmoid"),
    Support("minimax_m3_vl", ("minimax_m3_vl", "minimax_m3_vl_text"), "standard", "sigmoid"),
    Support("mistral4", ("mistral4",), "standard", "softmax"),
    Support("mistral_large4", ("mistral_large4", "mistral_large4_text"), "standard", "softmax"),
    Support("mixtral", ("mixtral",), "standard", "softmax"),
    Support("muse_spark", ("muse_spark", "muse_spark_text"), "standard", "sigmoid"),
    Support("nemotron_h", ("nemotron_h",), "standard", "sigmoid"),
    Support(
        "nllb_moe",
        ("nllb-moe",),
        "nllb_moe",
        "softmax",
        "drops over capacity; its block hands a one-hot mask to experts that expect indices, so that only experts 0 and 1 run",
    ),
    Support("olmoe", ("olmoe",), "standard", "softmax"),
    Support("openai_privacy_filter", ("openai_privacy_filter",), "standard", "softmax"),
    Support("phimoe", ("phimoe",), "standard", "softmax", "sparsemixer; samples in training"),
    Support("qwen2_moe", ("qwen2_moe",), "standard", "softmax"),
    Support("qwen3_5_moe", ("qwen3_5_moe", "qwen3_5_moe_text"), "standard", "softmax"),
    Support("qwen3_moe", ("qwen3_moe",), "standard", "softmax"),
    Support("qwen3_next", ("qwen3_next",), "standard", "softmax"),
    Support(
        "qwen3_omni_moe",
        ("qwen3_omni_moe_talker_text", "qwen3_omni_moe_text", "qwen3_omni_moe_thinker"),
        "standard",
        "softmax",
        "thinker and talker",
    ),
    Support("qwen3_vl_moe", ("qwen3_vl_moe", "qwen3_vl_moe_text"), "standard", "softmax"),
    Support("qwen4_exp", ("qwen4_exp", "qwen4_exp_text"), "standard", "softmax"),
    Support("solar_open", ("solar_open",), "standard", "sigmoid"),
    Support("step3p7", ("step3p5", "step3p7"), "standard", "sigmoid"),
    Support(
        "switch_transformers",
        ("switch_transformers",),
        "switch",
        "softmax",
        "top-1 of each sequence, drops over capacity",
    ),
    Support("unlimited_ocr", ("unlimited_ocr", "unlimited_ocr_text"), "standard", "softmax"),
    Support("zaya", ("zaya",), "standard", "softmax", "one class more than experts, which skips them"),
)
"""All 72 MoE architectures of transformers 5.23, 94 model types."""

SUPPORT = {model_type: support for support in ARCHITECTURES for model_type in support.model_types}
"""By model type."""


def support_of(model: nn.Module) -> Support | None:
    """The architecture of a model; None for one that is not in the matrix."""
    return next((SUPPORT[t] for t in model_types(model) if t in SUPPORT), None)


def is_tested(model: nn.Module) -> bool:
    """Whether the model's architecture is in the matrix."""
    return support_of(model) is not None


def scoring_of(model: nn.Module) -> str:
    """How a model's routers turn logits into scores; `softmax` for an unknown one that does not say."""
    support, config = support_of(model), text_config(model)
    if support is not None and support.scoring != "config":
        return support.scoring
    stated: Any = None
    for name in ("scoring_func", "score_function", "expert_selection_fn"):
        stated = stated or getattr(config, name, None)
    return str(stated or "softmax")


WINDOWS: tuple[tuple[tuple[int, int], str], ...] = (
    ((5, 17), "routers return logits, weights and indices, and so they are read"),
    (
        (5, 6),
        "the DeepSeek family's routers return logits alone; its decisions are read where the experts receive them",
    ),
    (
        (5, 0),
        "routers return probabilities in the place of logits: executed experts and weights are read right, logits only up to a constant "
        "per token, and a z-loss is refused",
    ),
    (
        (4, 57),
        "blocks decide for themselves: the top-k is taken again from their logits, and every pass is compared with the tokens each "
        "expert received",
    ),
)
"""What the releases of transformers do, from the first of them on (measured; the changes are pull requests 45131 and 48920)."""


def window(version: str) -> str:
    """How routing is read in a release of transformers.

    Raises:
        RouterError: for one before 4.57.
    """
    release = tuple(int(part) for part in version.split(".")[:2])
    for first, note in WINDOWS:
        if release >= first:
            return note
    raise RouterError(f"transformers {version}: the routing of releases before 4.57 is not read; upgrade it")
