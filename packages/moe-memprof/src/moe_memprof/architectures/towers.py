"""Towers for images and sound, and what joins them to a decoder: all their tensors are `other`."""

from __future__ import annotations

from moe_memprof.architectures.settings import Settings
from moe_memprof.architectures.weights import Weights


def transformer_layers(
    w: Weights,
    stack: str,
    layers: int,
    hidden: int,
    width: int,
    *,
    attention: str = "self_attn",
    projections: tuple[str, ...] = ("k_proj", "v_proj", "q_proj", "out_proj"),
    attention_bias: bool = True,
    out_bias: bool | None = None,
    head_norm: int = 0,
    feed_forward: str = "mlp",
    maps: tuple[str, ...] = ("fc1", "fc2"),
    bias: bool = True,
    norms: tuple[str, ...] = ("layer_norm1", "layer_norm2"),
    norm_bias: bool = True,
    scales: tuple[str, ...] = (),
) -> None:
    """The layers of a vision or audio transformer. Two projections are query, key and value in one, and the output.

    `head_norm` is the head size of norms on queries and keys. The last of `maps` leads back to the hidden size.
    """
    for i in range(layers):
        here = w.at(f"{stack}.{i}")
        for name in scales:
            here.parameter(name, hidden)
        a = here.at(attention)
        *inward, outward = projections
        for name in inward:
            a.linear(name, hidden * (3 if len(inward) == 1 else 1), hidden, bias=attention_bias)
        a.linear(outward, hidden, hidden, bias=attention_bias if out_bias is None else out_bias)
        if head_norm:
            a.norm("q_norm", head_norm)
            a.norm("k_norm", head_norm)
        f = here.at(feed_forward)
        for name in maps[:-1]:
            f.linear(name, width, hidden, bias=bias)
        f.linear(maps[-1], hidden, width, bias=bias)
        for name in norms:
            here.norm(name, hidden, bias=norm_bias)


QKV = ("qkv", "proj")
GATED = ("gate_proj", "up_proj", "down_proj")


def idefics3_vision(w: Weights, c: Settings) -> None:
    """The tower of Aria."""
    hidden, patch = c.size("hidden_size"), c.size("patch_size")
    w.conv("embeddings.patch_embedding", hidden, c.size("num_channels"), patch, patch, bias=True)
    w.embedding("embeddings.position_embedding", (c.size("image_size") // patch) ** 2, hidden)
    transformer_layers(w, "encoder.layers", c.size("num_hidden_layers"), hidden, c.size("intermediate_size"))
    w.norm("post_layernorm", hidden, bias=True)


def pixtral(w: Weights, c: Settings) -> None:
    """Pixtral's tower, in Mistral Large 4."""
    hidden, patch = c.size("hidden_size"), c.size("patch_size")
    w.conv("patch_conv", hidden, c.size("num_channels"), patch, patch)
    w.norm("ln_pre", hidden)
    transformer_layers(
        w,
        "transformer.layers",
        c.size("num_hidden_layers"),
        hidden,
        c.size("intermediate_size"),
        attention="attention",
        projections=("k_proj", "v_proj", "q_proj", "o_proj"),
        attention_bias=False,
        feed_forward="feed_forward",
        maps=GATED,
        bias=False,
        norms=("attention_norm", "ffn_norm"),
        norm_bias=False,
    )


def gemma4_vision(w: Weights, c: Settings) -> None:
    """Gemma 4's tower for images; its linear maps are wrapped, for clipping."""
    hidden, width, dim = c.size("hidden_size"), c.size("intermediate_size"), c.size("head_dim")
    heads, kv_heads = c.size("num_attention_heads"), c.size("num_key_value_heads")
    w.linear("patch_embedder.input_proj", hidden, 3 * c.size("patch_size") ** 2)
    w.parameter("patch_embedder.position_embedding_table", 2, c.size("position_embedding_size"), hidden)
    for i in range(c.size("num_hidden_layers")):
        here = w.at(f"encoder.layers.{i}")
        for name, size_out, size_in in (
            ("self_attn.q_proj", heads * dim, hidden),
            ("self_attn.k_proj", kv_heads * dim, hidden),
            ("self_attn.v_proj", kv_heads * dim, hidden),
            ("self_attn.o_proj", hidden, heads * dim),
            ("mlp.gate_proj", width, hidden),
            ("mlp.up_proj", width, hidden),
            ("mlp.down_proj", hidden, width),
        ):
            here.linear(f"{name}.linear", size_out, size_in)
        here.norm("self_attn.q_norm", dim)
        here.norm("self_attn.k_norm", dim)
        for name in (
            "input_layernorm",
            "post_attention_layernorm",
            "pre_feedforward_layernorm",
            "post_feedforward_layernorm",
        ):
            here.norm(name, hidden)


def gemma4_audio(w: Weights, c: Settings) -> None:
    """Gemma 4's tower for sound: a conformer."""
    hidden, heads = c.size("hidden_size"), c.size("num_attention_heads")
    first, second = c.raw("subsampling_conv_channels")
    for name, channels_in, channels in (("layer0", 1, first), ("layer1", first, second)):
        w.conv(f"subsample_conv_projection.{name}.conv", channels, channels_in, 3, 3)
        w.norm(f"subsample_conv_projection.{name}.norm", channels)
    w.linear("subsample_conv_projection.input_proj_linear", hidden, first // 4 * second)
    width = heads * (hidden // heads)
    for i in range(c.size("num_hidden_layers")):
        here = w.at(f"layers.{i}")
        for part in ("feed_forward1", "feed_forward2"):
            here.linear(f"{part}.ffw_layer_1.linear", 4 * hidden, hidden)
            here.linear(f"{part}.ffw_layer_2.linear", hidden, 4 * hidden)
            here.norm(f"{part}.pre_layer_norm", hidden)
            here.norm(f"{part}.post_layer_norm", hidden)
        a = here.at("self_attn")
        a.parameter("per_dim_scale", hidden // heads)
        for name in ("q_proj", "k_proj", "v_proj"):
            a.linear(f"{name}.linear", width, hidden)
        a.linear("post.linear", hidden, hidden)
        a.linear("relative_k_proj", width, hidden)
        here.linear("lconv1d.linear_start.linear", 2 * hidden, hidden)
        here.linear("lconv1d.linear_end.linear", hidden, hidden)
        here.conv("lconv1d.depthwise_conv1d", hidden, 1, c.size("conv_kernel_size"))
        here.norm("lconv1d.pre_layer_norm", hidden)
        here.norm("lconv1d.conv_norm", hidden)
        for name in ("norm_pre_attn", "norm_post_attn", "norm_out"):
            here.norm(name, hidden)
    w.linear("output_proj", c.size("output_proj_dims"), hidden, bias=True)


def qwen3_vision(w: Weights, c: Settings, *, merger: tuple[str, str, str, str], more_mergers: str) -> None:
    """The tower of Qwen3-VL and Qwen3-Omni; `merger` names its norm, its two maps and the module around these."""
    hidden, patch, out = c.size("hidden_size"), c.size("patch_size"), c.size("out_hidden_size")
    merged = hidden * c.size("spatial_merge_size") ** 2
    norm, first, second, around = merger
    w.conv("patch_embed.proj", hidden, c.size("in_channels"), c.size("temporal_patch_size"), patch, patch, bias=True)
    w.embedding("pos_embed", c.size("num_position_embeddings"), hidden)
    transformer_layers(
        w,
        "blocks",
        c.size("depth"),
        hidden,
        c.size("intermediate_size"),
        attention="attn",
        projections=QKV,
        maps=("linear_fc1", "linear_fc2"),
        norms=("norm1", "norm2"),
    )
    extra = c.raw("deepstack_visual_indexes", [])
    for name, size in (("merger", hidden), *((f"{more_mergers}.{i}", merged) for i in range(len(extra)))):
        here = w.at(name)
        here.norm(norm, size, bias=True)
        here.at(around).linear(first, merged, merged, bias=True)
        here.at(around).linear(second, out, merged, bias=True)


def glm_vision(w: Weights, c: Settings) -> None:
    """The towers of GLM-4.5V and GLM 5, which has biases and norms on queries and keys instead of learned positions."""
    hidden, patch, out = c.size("hidden_size"), c.size("patch_size"), c.size("out_hidden_size")
    newer, bias, merge = c.kind == "glm5_next_vision", c.flag("attention_bias"), c.size("spatial_merge_size")
    if not newer:
        w.embedding("embeddings.position_embedding", (c.size("image_size") // patch) ** 2, hidden)
        w.norm("post_conv_layernorm", hidden)
    w.conv("patch_embed.proj", hidden, c.size("in_channels"), c.size("temporal_patch_size"), patch, patch, bias=True)
    transformer_layers(
        w,
        "blocks",
        c.size("depth"),
        hidden,
        c.size("intermediate_size") if newer else out,
        attention="attn",
        projections=QKV,
        attention_bias=bias,
        out_bias=bias and newer,
        head_norm=hidden // c.size("num_heads") if newer else 0,
        maps=GATED,
        bias=bias and newer,
        norms=("norm1", "norm2"),
        norm_bias=False,
    )
    width = c.size("projection_intermediate_size") if newer else c.size("intermediate_size")
    m = w.at("merger")
    m.linear("proj", out, out)
    m.norm("post_projection_norm", out, bias=True)
    m.linear("gate_proj", width, out)
    m.linear("up_proj", width, out)
    m.linear("down_proj", out, width)
    w.conv("downsample", out, hidden, merge, merge, bias=True)
    w.norm("post_layernorm", hidden)


def ernie_vision(w: Weights, c: Settings) -> None:
    """ERNIE 4.5 VL's tower."""
    hidden = c.size("hidden_size")
    w.linear("patch_embed.proj", hidden, c.size("in_channels") * c.size("patch_size") ** 2)
    transformer_layers(
        w,
        "blocks",
        c.size("depth"),
        hidden,
        c.size("intermediate_size"),
        attention="attn",
        projections=QKV,
        norms=("norm1", "norm2"),
    )
    w.norm("ln", hidden, bias=True)


def minimax_m3_vision(w: Weights, c: Settings) -> None:
    """MiniMax M3's tower."""
    hidden, patch = c.size("hidden_size"), c.size("patch_size")
    w.conv("embeddings.proj", hidden, c.size("num_channels"), c.size("temporal_patch_size"), patch, patch)
    w.norm("pre_layrnorm", hidden, bias=True)
    transformer_layers(w, "layers", c.size("num_hidden_layers"), hidden, c.size("intermediate_size"))


SCALED = ("layernorm_before", "layernorm_after")


def step3p7_vision(w: Weights, c: Settings) -> None:
    """Step 3.7's tower; some of its sizes may be under older names."""
    old = {"hidden_size": "width", "num_hidden_layers": "layers", "num_attention_heads": "heads"}
    c = c.with_values({key: c.given[name] for key, name in old.items() if name in c.given})
    hidden, patch = c.size("hidden_size"), c.size("patch_size")
    w.conv("embeddings.patch_embedding", hidden, c.size("num_channels"), patch, patch)
    w.embedding("embeddings.position_embedding", (c.size("image_size") // patch) ** 2, hidden)
    w.norm("pre_layernorm", hidden, bias=True)
    transformer_layers(
        w,
        "layers",
        c.size("num_hidden_layers"),
        hidden,
        int(hidden * c.number("mlp_ratio")),
        norms=SCALED,
        scales=("lambda_1", "lambda_2"),
    )
    w.conv("downsampler1", 2 * hidden, hidden, 3, 3, bias=True)
    w.conv("downsampler2", 4 * hidden, 2 * hidden, 3, 3, bias=True)


def sam_vision(w: Weights, c: Settings) -> None:
    """The Segment Anything encoder inside the OCR models' towers."""
    hidden, patch, out = c.size("hidden_size"), c.size("patch_size"), c.size("output_channels")
    grid, dim = c.size("image_size") // patch, hidden // c.size("num_attention_heads")
    if c.flag("use_abs_pos"):
        w.parameter("pos_embed", 1, grid, grid, hidden)
    w.conv("patch_embed.projection", hidden, c.size("num_channels"), patch, patch, bias=True)
    ratio = c.raw("mlp_ratio")
    width = c.size("mlp_dim", None if ratio is None else int(hidden * c.number("mlp_ratio")))
    everywhere = set(c.raw("global_attn_indexes", []))
    for i in range(c.size("num_hidden_layers")):
        here = w.at(f"layers.{i}")
        here.norm("layer_norm1", hidden, bias=True)
        if c.flag("use_rel_pos"):
            side = grid if i in everywhere or not c.count("window_size") else c.size("window_size")
            here.parameter("attn.rel_pos_h", 2 * side - 1, dim)
            here.parameter("attn.rel_pos_w", 2 * side - 1, dim)
        here.linear("attn.qkv", 3 * hidden, hidden, bias=c.flag("qkv_bias"))
        here.linear("attn.proj", hidden, hidden, bias=True)
        here.norm("layer_norm2", hidden, bias=True)
        here.linear("mlp.lin1", width, hidden, bias=True)
        here.linear("mlp.lin2", hidden, width, bias=True)
    w.conv("neck.conv1", out, hidden, 1, 1)
    w.norm("neck.layer_norm1", out, bias=True)
    w.conv("neck.conv2", out, out, 3, 3)
    w.norm("neck.layer_norm2", out, bias=True)
    first, second = c.raw("downsample_channels", [512, 896])
    w.conv("proj.conv1", first, out, 3, 3)
    w.conv("proj.conv2", second, first, 3, 3)


def deepseek_ocr2_encoder(w: Weights, c: Settings) -> None:
    """DeepSeek-OCR 2's second encoder, a small language model over image tokens."""
    hidden, width, heads = c.size("hidden_size"), c.size("intermediate_size"), c.size("num_attention_heads")
    dim = c.size("head_dim", hidden // heads)
    kv_width = c.size("num_key_value_heads", heads) * dim
    for i in range(c.size("num_hidden_layers")):
        here = w.at(f"layers.{i}")
        here.linear("self_attn.q_proj", heads * dim, hidden, bias=True)
        here.linear("self_attn.k_proj", kv_width, hidden, bias=True)
        here.linear("self_attn.v_proj", kv_width, hidden, bias=True)
        here.linear("self_attn.o_proj", hidden, heads * dim)
        here.linear("mlp.gate_proj", width, hidden)
        here.linear("mlp.up_proj", width, hidden)
        here.linear("mlp.down_proj", hidden, width)
        here.norm("input_layernorm", hidden)
        here.norm("post_attention_layernorm", hidden)
    w.norm("norm", hidden)


def clip_vision(w: Weights, c: Settings) -> None:
    """Unlimited-OCR's second encoder; it takes its patches from the first."""
    hidden, patch = c.size("hidden_size"), c.size("patch_size")
    w.parameter("embeddings.class_embedding", hidden)
    w.embedding("embeddings.position_embedding", (c.size("image_size") // patch) ** 2 + 1, hidden)
    w.norm("pre_layrnorm", hidden, bias=True)
    transformer_layers(w, "encoder.layers", c.size("num_hidden_layers"), hidden, c.size("intermediate_size"))


def muse_spark_vision(w: Weights, c: Settings) -> None:
    """Muse Spark's tower for images."""
    hidden = c.size("hidden_size")
    w.linear("patch_embedder.patch_embedding", hidden, 3 * c.size("patch_temporal") * c.size("patch_size") ** 2)
    rows = c.size("pos_emb_height") * c.size("pos_emb_width")
    w.embedding("patch_embedder.position_embedding_table", rows, hidden)
    w.norm("ln_pre", hidden, bias=True)
    transformer_layers(
        w,
        "layers",
        c.size("num_hidden_layers"),
        hidden,
        c.size("intermediate_size"),
        attention="attn",
        projections=("q_proj", "k_proj", "v_proj", "proj"),
        norms=("norm1", "norm2"),
    )
    w.norm("ln_post", hidden, bias=True)
