"""Models that see or hear: their towers, what joins these to the decoder, and the decoder."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from moe_memprof.architectures import towers as see
from moe_memprof.architectures import towers_audio as hear
from moe_memprof.architectures.base import Model
from moe_memprof.architectures.gemma import diffusion_gemma, gemma4_text
from moe_memprof.architectures.gqa import aria_text
from moe_memprof.architectures.inkling import inkling2_text, inkling_text
from moe_memprof.architectures.latent import glm5_next_text, mistral_large4_text
from moe_memprof.architectures.settings import Settings
from moe_memprof.architectures.vision_language import (
    ernie4_5_vl_moe_text,
    glm4v_moe_text,
    minimax_m3_vl_text,
    muse_spark_text,
    ocr_text,
    qwen3_vl_moe_text,
    step3p5_text,
)
from moe_memprof.architectures.weights import Weights
from moe_memprof.errors import MemprofError

Tower = Callable[[Weights, Settings], None]


def with_towers(
    c: Settings,
    text: Settings,
    decoder: Callable[..., Model],
    write: Callable[[Weights], None],
    *,
    tied: bool | None = None,
    never_tied: bool = False,
) -> Model:
    """The decoder under `model.language_model`, the towers beside it. Whether the head is tied is said by the outer config."""
    place: dict[str, Any] = {} if never_tied else {"tied": c.flag("tie_word_embeddings") if tied is None else tied}
    return decoder(text, root="model.language_model", before=lambda w: write(w.into_tower("model")), **place)


def tower(c: Settings, key: str, known: Mapping[str, Tower]) -> Callable[[Weights], None]:
    """The tower of a sub config whose kind the config may choose.

    Raises:
        MemprofError: for a kind that is not known here.
    """
    given = c.raw(key)
    kind = given.get("model_type") if isinstance(given, Mapping) else None
    own = c.sub(key, kind if kind in known else None)
    if kind is not None and kind not in known:
        raise MemprofError(
            f"config of {c.where}: {key} has model_type {kind!r}, whose tensors are not known here; known are "
            f"{', '.join(known)}. Read the weights from safetensors headers instead"
        )
    return lambda w: known[own.kind](w, own)


def aria(c: Settings) -> Model:
    """Aria: attention from learned queries joins the tower."""
    text, seen = c.sub("text_config"), c.sub("vision_config")
    hidden, out = seen.size("hidden_size"), text.size("hidden_size")
    vision = tower(c, "vision_config", {"idefics3_vision": see.idefics3_vision})
    queries = c.raw("projector_patch_to_query_dict") or {"1225": 128, "4900": 256}

    def write(w: Weights) -> None:
        vision(w.at("vision_tower"))
        p = w.at("multi_modal_projector")
        p.parameter("query", max(int(count) for count in queries.values()), hidden)
        for name in ("q_proj", "k_proj", "v_proj"):
            p.linear(f"cross_attn.{name}", hidden, hidden)
        p.parameter("cross_attn.multihead_attn.in_proj_weight", 3 * hidden, hidden)
        p.parameter("cross_attn.multihead_attn.in_proj_bias", 3 * hidden)
        p.linear("cross_attn.multihead_attn.out_proj", hidden, hidden, bias=True)
        p.linear("cross_attn.linear", hidden, hidden, bias=True)
        for name in ("cross_attn.layer_norm", "cross_attn.layer_norm_kv", "layer_norm"):
            p.norm(name, hidden, bias=True)
        p.linear("feed_forward.linear_in", out, hidden)
        p.linear("feed_forward.linear_out", out, out)

    return with_towers(c, text, aria_text, write)


def deepseek_ocr2(c: Settings) -> Model:
    """DeepSeek-OCR 2: two encoders in a row, with queries for two resolutions."""
    text, vision = c.sub("text_config"), c.sub("vision_config")
    sam, encoder = vision.sub("sam_config"), vision.sub("encoder_config")
    inner, out = encoder.size("hidden_size"), text.size("hidden_size")

    def write(w: Weights) -> None:
        w.parameter("view_separator", out)
        see.sam_vision(w.at("vision_tower.sam_encoder"), sam)
        see.deepseek_ocr2_encoder(w.at("vision_tower.vision_encoder"), encoder)
        w.embedding("vision_tower.query_768_resolution", 144, inner)
        w.embedding("vision_tower.query_1024_resolution", 256, inner)
        w.linear("multi_modal_projector", out, inner, bias=True)

    return with_towers(c, text, ocr_text, write)


def unlimited_ocr(c: Settings) -> Model:
    """Unlimited-OCR: two encoders side by side."""
    if c.raw("text_config") is None:
        older = dict(c.mapping("language_config"))
        if "sliding_window" in c.given:
            older["sliding_window"] = c.given["sliding_window"]
        c = c.with_values({"text_config": older})
    text, vision = c.sub("text_config"), c.sub("vision_config")
    sam, encoder = vision.sub("sam_config"), vision.sub("encoder_config")
    out = text.size("hidden_size")
    wide = sam.raw("downsample_channels")[-1] + encoder.size("hidden_size")

    def write(w: Weights) -> None:
        w.parameter("view_separator", out)
        w.parameter("image_newline", out)
        see.sam_vision(w.at("vision_tower.sam_encoder"), sam)
        see.clip_vision(w.at("vision_tower.vision_encoder"), encoder)
        w.linear("multi_modal_projector", out, wide, bias=True)

    return with_towers(c, text, ocr_text, write)


def ernie4_5_vl_moe(c: Settings) -> Model:
    """ERNIE 4.5 VL: a resampler over space and time joins the tower."""
    text, vision = c.sub("text_config"), c.sub("vision_config")
    out = text.size("hidden_size")
    space = vision.size("hidden_size") * vision.size("spatial_merge_size") ** 2
    time = space * vision.size("temporal_merge_size")

    def write(w: Weights) -> None:
        see.ernie_vision(w.at("vision_tower"), vision)
        r = w.at("resampler_model")
        for name, size in (("spatial_linear", space), ("temporal_linear", time)):
            r.linear(f"{name}.fc1", space, size, bias=True)
            r.linear(f"{name}.fc2", space, space, bias=True)
            r.norm(f"{name}.ln", space, bias=True)
        r.linear("mlp", out, space, bias=True)
        r.norm("after_norm", out)

    return with_towers(c, text, ernie4_5_vl_moe_text, write)


def gemma4(c: Settings) -> Model:
    """Gemma 4: towers for images and sound, each only where the config has it."""
    text = c.sub("text_config")

    def write(w: Weights) -> None:
        for key, name, out, how in (
            ("vision_config", "vision", "hidden_size", see.gemma4_vision),
            ("audio_config", "audio", "output_proj_dims", see.gemma4_audio),
        ):
            if c.raw(key) is not None:
                own = c.sub(key)
                how(w.at(f"{name}_tower"), own)
                w.linear(f"embed_{name}.embedding_projection", text.size("hidden_size"), own.size(out))

    return with_towers(c, text, gemma4_text, write)


def diffusion_gemma_with_vision(c: Settings) -> Model:
    """DiffusionGemma with Gemma 4's tower for images, which is in its encoder."""
    vision = tower(c, "vision_config", {"gemma4_vision": see.gemma4_vision})
    out, size = c.sub("text_config").size("hidden_size"), c.sub("vision_config").size("hidden_size")

    def write(w: Weights) -> None:
        vision(w.at("vision_tower"))
        w.linear("embed_vision.embedding_projection", out, size)

    return diffusion_gemma(c, write)


def glm(decoder: Callable[..., Model]) -> Callable[[Settings], Model]:
    """GLM-4.5V and GLM 5: the tower's own merger leads to the decoder."""

    def describe(c: Settings) -> Model:
        # GLM 5's text config may stand in the outer one.
        if c.raw("text_config") is None and c.kind == "glm5_next":
            c = c.with_values({"text_config": c.given})
        text, vision = c.sub("text_config"), c.sub("vision_config")
        tied = c.flag("tie_word_embeddings") or (c.kind == "glm4v_moe" and text.flag("tie_word_embeddings"))
        return with_towers(c, text, decoder, lambda w: see.glm_vision(w.at("visual"), vision), tied=tied)

    return describe


def inkling(c: Settings) -> Model:
    """Inkling: images and sound are embedded without attention."""
    text = c.sub("text_config")
    hidden = text.size("hidden_size")

    def write(w: Weights) -> None:
        hear.inkling_audio(w.at("audio_tower"), c.sub("audio_config"), hidden)
        hear.inkling_vision(w.at("vision_tower"), c.sub("vision_config"), hidden)

    return with_towers(c, text, inkling_text, write, never_tied=True)


def inkling2(c: Settings) -> Model:
    """Inkling 2: a tower for images."""
    vision = c.sub("vision_config")
    text = c.sub("text_config")
    return with_towers(
        c, text, inkling2_text, lambda w: hear.inkling2_vision(w.at("vision_tower"), vision), never_tied=True
    )


def minimax_m3_vl(c: Settings) -> Model:
    """MiniMax M3: two MLPs, before and after patches are merged, join the tower."""
    text, vision = c.sub("text_config"), c.sub("vision_config")
    out, middle = text.size("hidden_size"), c.size("projector_hidden_size")

    def write(w: Weights) -> None:
        see.minimax_m3_vision(w.at("vision_tower"), vision)
        p = w.at("multi_modal_projector")
        p.linear("linear_1", middle, vision.size("hidden_size"), bias=True)
        p.linear("linear_2", out, middle, bias=True)
        p.linear("merge_linear_1", middle, out * vision.size("spatial_merge_size") ** 2, bias=True)
        p.linear("merge_linear_2", out, middle, bias=True)

    tied = c.flag("tie_word_embeddings") or text.flag("tie_word_embeddings")
    return with_towers(c, text, minimax_m3_vl_text, write, tied=tied)


def mistral_large4(c: Settings) -> Model:
    """Mistral Large 4: Pixtral's tower, patches merged."""
    text, seen = c.sub("text_config"), c.sub("vision_config")
    size, out, bias = seen.size("hidden_size"), text.size("hidden_size"), c.flag("multimodal_projector_bias")
    features = c.raw("vision_feature_layer", -1)
    vision = tower(c, "vision_config", {"pixtral": see.pixtral})

    def write(w: Weights) -> None:
        vision(w.at("vision_tower"))
        p = w.at("multi_modal_projector")
        p.norm("norm", size)
        p.linear("patch_merger.merging_layer", size, size * c.size("spatial_merge_size") ** 2)
        p.linear("linear_1", out, size * (1 if isinstance(features, int) else len(features)), bias=bias)
        p.linear("linear_2", out, out, bias=bias)

    return with_towers(c, text, mistral_large4_text, write)


def muse_spark(c: Settings) -> Model:
    """Muse Spark: towers for images and sound."""
    text, vision, audio = c.sub("text_config"), c.sub("vision_config"), c.sub("audio_config")
    middle = c.size("projector_hidden_size")

    def write(w: Weights) -> None:
        see.muse_spark_vision(w.at("vision_tower"), vision)
        w.linear("vision_adapter.fc1", middle, c.size("out_hidden_size"))
        w.linear("vision_adapter.fc2", middle, middle)
        w.linear("vision_projection", text.size("hidden_size"), middle)
        hear.muse_spark_audio(w.at("audio_tower"), audio)

    return with_towers(c, text, muse_spark_text, write, tied=False)


def qwen3_omni_moe_thinker(c: Settings) -> Model:
    """The thinker of Qwen3-Omni: towers for images and sound."""
    text, vision, audio = c.sub("text_config"), c.sub("vision_config"), c.sub("audio_config")

    def write(w: Weights) -> None:
        hear.qwen3_omni_audio(w.at("audio_tower"), audio)
        see.qwen3_vision(w.at("visual"), vision, merger=("ln_q", "0", "2", "mlp"), more_mergers="merger_list")

    return with_towers(c, text, qwen3_vl_moe_text, write)


def qwen3_vl_moe(c: Settings) -> Model:
    """Qwen3-VL: features of several depths of the tower reach the decoder."""
    text, vision = c.sub("text_config"), c.sub("vision_config")
    merger = ("norm", "linear_fc1", "linear_fc2", "")

    def write(w: Weights) -> None:
        see.qwen3_vision(w.at("visual"), vision, merger=merger, more_mergers="deepstack_merger_list")

    return with_towers(c, text, qwen3_vl_moe_text, write)


def step3p7(c: Settings) -> Model:
    """Step 3.7: one linear map joins the tower."""
    text, vision = c.sub("text_config"), c.sub("vision_config")

    def write(w: Weights) -> None:
        see.step3p7_vision(w.at("vision_model"), vision)
        size = 4 * vision.size("width", vision.size("hidden_size"))
        w.linear("multi_modal_projector", text.size("hidden_size"), size, bias=c.flag("projector_bias"))

    return with_towers(c, text, step3p5_text, write)


ARCHITECTURES: dict[str, Callable[[Settings], Model]] = {
    "aria": aria,
    "deepseek_ocr2": deepseek_ocr2,
    "diffusion_gemma": diffusion_gemma_with_vision,
    "dots3_note_vision_encoder": hear.dots3_note_vision_encoder,
    "ernie4_5_vl_moe": ernie4_5_vl_moe,
    "gemma4": gemma4,
    "glm4v_moe": glm(glm4v_moe_text),
    "glm5_next": glm(glm5_next_text),
    "inkling_mm_model": inkling,
    "inkling2": inkling2,
    "minimax_m3_vl": minimax_m3_vl,
    "mistral_large4": mistral_large4,
    "muse_spark": muse_spark,
    "qwen3_omni_moe_thinker": qwen3_omni_moe_thinker,
    "qwen3_vl_moe": qwen3_vl_moe,
    "step3p7": step3p7,
    "unlimited_ocr": unlimited_ocr,
}
