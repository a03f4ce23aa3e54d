"""More towers: sound, Inkling's images, and the vision encoder of dots 3, which has experts of its own."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise
from math import inf, log
from operator import mul

from moe_memprof.architectures.base import Dense, Experts, Layer, Model
from moe_memprof.architectures.blocks import check_top_k, fused_experts
from moe_memprof.architectures.settings import Settings
from moe_memprof.architectures.towers import SCALED, transformer_layers
from moe_memprof.architectures.weights import Weights


def muse_spark_audio(w: Weights, c: Settings) -> None:
    """Muse Spark's tower for sound: stages of causal convolutions."""
    stages, kernel, out = c.size("num_hidden_layers"), c.size("conv_kernel_size"), c.size("out_hidden_size")
    sizes, depths, patches = (c.sequence(key, stages, ()) for key in ("hidden_sizes", "depths", "patch_sizes"))
    below = 1
    for i, (size, depth, patch) in enumerate(zip(sizes, depths, patches, strict=True)):
        here = w.at(f"layers.{i}")
        here.linear("patch_embedder.proj", size, below * patch, bias=True)
        here.norm("patch_embedder.norm", size)
        width = int(size * c.number("mlp_ratio"))
        for j in range(depth):
            inner = here.at(f"conv_blocks.{j}")
            inner.conv("conv", size, 1, kernel, bias=True)
            inner.norm("norm", size)
            inner.linear("mlp.fc1", width, size, bias=True)
            inner.linear("mlp.fc2", size, width, bias=True)
        below = size
    w.norm("norm", below)
    w.linear("proj", out, below, bias=True)
    w.norm("post_proj_norm", out)


def qwen3_omni_audio(w: Weights, c: Settings) -> None:
    """Qwen3-Omni's tower for sound."""
    hidden, channels = c.size("d_model"), c.size("downsample_hidden_size")
    transformer_layers(
        w,
        "layers",
        c.size("encoder_layers"),
        hidden,
        c.size("encoder_ffn_dim"),
        feed_forward="",
        norms=("self_attn_layer_norm", "final_layer_norm"),
    )
    w.norm("ln_post", hidden, bias=True)
    for name, below in (("conv2d1", 1), ("conv2d2", channels), ("conv2d3", channels)):
        w.conv(name, channels, below, 3, 3, bias=True)
    bins = c.size("num_mel_bins")
    for _ in range(3):
        bins = (bins + 1) // 2
    w.linear("conv_out", hidden, channels * bins)
    w.linear("proj1", hidden, hidden, bias=True)
    w.linear("proj2", c.size("output_dim"), hidden, bias=True)


def inkling_audio(w: Weights, c: Settings, hidden: int) -> None:
    """Inkling's sound: an embedding of mel values."""
    rows = c.size("n_mel_bins") * c.size("mel_vocab_size")
    w.embedding("embed_audio_tokens.embed_audio_tokens", rows, hidden)
    w.norm("norm", hidden)


def inkling_vision(w: Weights, c: Settings, hidden: int) -> None:
    """Inkling's images: linear maps over patches that grow from layer to layer."""
    layers = c.size("num_hidden_layers")
    scales = _growing_patches(c.size("temporal_patch_size"), c.size("patch_size"), layers, c.size("num_channels"))
    for i, ((t, s, channels), (t_next, s_next, size)) in enumerate(pairwise(scales)):
        here = w.at(f"encoder_layers.{i}")
        last = i == layers - 1
        out = hidden if last else size
        here.linear("projection", out, channels * (t_next // t) * (s_next // s) ** 2)
        if not last:
            here.norm("layer_norm", out)
    w.norm("final_norm", hidden)


def _growing_patches(frames: int, patch: int, layers: int, channels: int) -> list[tuple[int, int, int]]:
    """Frames, side and channels after each layer: of all steps from a pixel to the patch those nearest to an even growth.

    With fewer layers than steps each step is taken at most once, and the distances together are smallest.
    """
    sides = list(accumulate(_prime_factors(patch), mul))
    times = list(accumulate(_prime_factors(frames), mul))
    steps = [(1, 1, channels)]
    steps += [(1, side, -(-side * side * channels // 64) * 64) for side in sides]
    steps += [(time, sides[-1], sides[-1] ** 2 * channels * time * 64) for time in times]
    ideal = [log(patch * patch * frames * channels) * i / layers for i in range(layers + 1)]
    sizes = [log(time * side * side) for time, side, _ in steps]
    if layers >= len(steps):
        distances = ([abs(point - size) for size in sizes] for point in ideal)
        chosen = [row.index(min(row)) for row in distances]
    else:
        chosen = _nearest_in_order(ideal, sizes)
    chosen[0], chosen[-1] = 0, len(steps) - 1
    return [steps[j] for j in chosen]


def _nearest_in_order(points: Sequence[float], places: Sequence[float]) -> list[int]:
    """Distinct places for ascending points, the sum of distances smallest; both ascend, so some best choice does too."""
    best = [[0.0] * (len(places) + 1)]
    for point in points:
        row = [inf]
        for j, place in enumerate(places):
            row.append(min(row[j], best[-1][j] + abs(point - place)))
        best.append(row)
    chosen: list[int] = []
    j = len(places)
    for i in range(len(points), 0, -1):
        while best[i][j] == best[i][j - 1]:
            j -= 1
        j -= 1
        chosen.append(j)
    return chosen[::-1]


def _prime_factors(number: int) -> list[int]:
    """Largest first."""
    factors, divisor = [], 2
    while number > 1:
        while number % divisor == 0:
            factors.append(divisor)
            number //= divisor
        divisor += 1
    return factors[::-1]


def inkling2_vision(w: Weights, c: Settings) -> None:
    """Inkling 2's tower for images."""
    hidden, patch = c.size("hidden_size"), c.size("patch_size")
    width = c.size("intermediate_size", int(hidden * c.number("mlp_ratio")))
    w.parameter("embeddings.class_embedding", hidden)
    w.parameter("embeddings.cls_position_embedding", hidden)
    w.linear("embeddings.patch_embedding", hidden, c.size("num_channels") * patch * patch)
    w.embedding("embeddings.position_embedding", c.size("posemb_grid_size") ** 2, hidden)
    w.norm("pre_layernorm", hidden, bias=True)
    transformer_layers(
        w, "layers", c.size("num_hidden_layers"), hidden, width, norms=SCALED, scales=("lambda_1", "lambda_2")
    )
    middle, bias = c.size("projection_hidden_dim"), c.flag("projector_bias")
    w.linear("merger.linear_1", middle, c.size("spatial_merge_size") ** 2 * hidden, bias=bias)
    w.linear("merger.linear_2", c.size("text_hidden_size"), middle, bias=bias)


def dots3_note_vision_encoder(c: Settings) -> Model:
    """The vision encoder of dots 3 alone, which is what its config builds: late layers have experts, more in each.

    It has no vocabulary; its embedding is of patches.
    """
    old = {"hidden_size": "embed_dim", "num_attention_heads": "num_heads", "attention_bias": "use_bias"}
    c = c.with_values({key: c.given[name] for key, name in old.items() if name in c.given})
    hidden, layers, heads = c.size("hidden_size"), c.size("num_hidden_layers"), c.size("num_attention_heads")
    counts = c.raw("pyramid_num_routed")
    if counts is None and c.raw("mlp_layer_types") is None:
        counts = [-1] * 25 + [*range(4, 65, 4), 64]
    per_layer = None if "per_layer_config" not in c.given else c.per_layer(layers)
    if counts is None or per_layer is not None:
        kinds = c.sequence("mlp_layer_types", layers, ())
        given = per_layer or [c] * layers
        counts = [
            own.size("num_local_experts") if kind == "sparse" else -1 for own, kind in zip(given, kinds, strict=True)
        ]
    if len(counts) != layers:
        raise c.wrong("num_hidden_layers", f"as many as pyramid_num_routed has entries, {len(counts)}")
    top_k = c.size("num_experts_per_tok", c.size("capacity_factor", 2))
    bias, mlp_bias, patch = c.flag("attention_bias"), c.flag("mlp_bias"), c.size("patch_size")
    width, dense_width = c.size("moe_intermediate_size"), c.size("intermediate_size")
    w = Weights(role="other")
    w.conv("patch_embed.proj", hidden, c.size("num_channels"), patch, patch, bias=True)
    w.norm("patch_embed.norm", hidden)
    described = []
    for i, count in enumerate(counts):
        here = w.at(f"blocks.{i}", layer=i)
        a = here.at("attn", role="attention")
        a.linear("qkv", 3 * hidden, hidden, bias=bias)
        a.linear("proj", hidden, hidden, bias=bias)
        a.norm("q_norm", hidden // heads)
        a.norm("k_norm", hidden // heads)
        here.norm("norm1", hidden)
        here.norm("norm2", hidden)
        if count > 0:
            chosen = min(top_k, count)
            check_top_k(c, chosen, count)
            fused_experts(here.at("mlp.experts", role="routed expert"), count, hidden, width)
            here.parameter("mlp.gate.weight", count, hidden, role="router")
            described.append(Layer(mixer=None, feed_forward=Experts(count=count, top_k=chosen, intermediate=width)))
        else:
            m = here.at("mlp", role="dense")
            m.linear("gate_proj", dense_width, hidden, bias=mlp_bias)
            m.linear("up_proj", dense_width, hidden, bias=mlp_bias)
            m.linear("down_proj", hidden, dense_width, bias=mlp_bias)
            described.append(Layer(mixer=None, feed_forward=Dense(intermediate=dense_width)))
    context, merged = c.size("adapter_in_dim"), c.size("adapter_in_dim") * c.size("adapter_merge_size") ** 2
    w.norm("merger.ln_q", context, bias=True)
    w.linear("merger.mlp.0", merged, merged, bias=True)
    w.linear("merger.mlp.2", c.size("adapter_out_dim"), merged, bias=True)
    w.norm("norm", hidden)
    return Model(
        model_type=c.kind,
        hidden=hidden,
        vocabulary=0,
        layers=tuple(described),
        tied=False,
        tensors=tuple(w.specs),
    )
