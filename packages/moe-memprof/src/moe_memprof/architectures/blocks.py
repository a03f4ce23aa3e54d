"""Softmax attention and feed-forward blocks that the architectures share.

Each function reads a config and returns a part: called with a place in a layer and the layer's number it writes the tensors there
and returns what they are. H hidden size, E experts, I intermediate size.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Literal, TypeVar

from moe_memprof.architectures.base import Attention, Dense, Experts, Layer, StateMixer
from moe_memprof.architectures.settings import Settings
from moe_memprof.architectures.weights import Weights
from moe_memprof.errors import MemprofError

T_co = TypeVar("T_co", covariant=True)
Part = Callable[[Weights, int], T_co]
Mixer = Attention | StateMixer | None
FeedForward = Dense | Experts | None
PRE_NORM = ("input_layernorm", "post_attention_layernorm")


def windows(
    c: Settings, types: Sequence[str], sliding: str = "sliding_attention", key: str = "sliding_window"
) -> list[int | None]:
    """Each layer's window in tokens: the config's where the layer slides, otherwise None."""
    return [c.raw(key) if kind == sliding else None for kind in types]


PARTLY_ROTATED = {
    **dict.fromkeys(("glm4_moe", "glm4v_moe", "glm4v_moe_text", "mistral4", "zaya"), 0.5),
    **dict.fromkeys(("qwen3_next", "qwen3_5_moe", "qwen3_5_moe_text"), 0.25),
    "mimo_v2_flash": 0.334,
}
"""Share of a head that transformers rotates where the config does not say."""
JOINED = frozenset({"minimax_m2", "minimax_m3_vl", "minimax_m3_vl_text", "laguna", "step3p7", "step3p5"})
"""Where the code joins a rotated and a plain part even if nothing is plain."""


def rotated(c: Settings, dim: int) -> int:
    """How much of a head is rotated and joined with the rest; 0 where all of it is rotated at once."""
    found = c.raw("rope_parameters")
    share = found.get("partial_rotary_factor") if isinstance(found, Mapping) else None
    share = share or c.raw("partial_rotary_factor") or PARTLY_ROTATED.get(c.kind, 1.0)
    part = c.raw("rotary_dim") or (int(dim * share) if isinstance(share, float | int) else dim)
    if isinstance(part, int) and 0 < part < dim:
        return part
    return dim if c.kind in JOINED else 0


def gqa(
    c: Settings,
    *,
    module: str = "self_attn",
    heads: int | None = None,
    kv_heads: int | None = None,
    head_dim: int | None = None,
    bias: bool = False,
    bias_out: bool | None = None,
    qk_norm: Literal["none", "head", "full"] = "none",
    full_norms: tuple[int, int] | None = None,
    norm_names: tuple[str, str] = ("q_norm", "k_norm"),
    out: str = "o_proj",
    gate: tuple[str, int] | None = None,
    query_holds_gate: bool = False,
    sinks: bool = False,
    window: Sequence[int | None] = (),
    extra: Callable[[Weights, Attention], None] | None = None,
) -> Part[Attention]:
    """Grouped-query attention: q, k, v and an output projection; head size H // heads unless the config has one.

    `gate` names a projection of the hidden state onto that width; `query_holds_gate` doubles the query for it.
    """
    hidden = c.size("hidden_size")
    heads = heads or c.size("num_attention_heads")
    dim = head_dim or c.size("head_dim", hidden // heads)
    a = Attention(
        heads=heads,
        kv_heads=kv_heads or c.size("num_key_value_heads", heads),
        head_dim=dim,
        value_dim=dim,
        rope_dim=rotated(c, dim),
        qk_norm=qk_norm,
        gated=query_holds_gate or (gate is not None and gate[1] == heads * dim),
        bias=bias,
        sinks=sinks,
    )
    width, kv_width = heads * dim, a.kv_heads * dim
    norms = (dim, dim) if qk_norm == "head" else full_norms or (width, kv_width)
    of_window = {size: replace(a, window=size) for size in {*window, None}}

    def write(w: Weights, i: int) -> Attention:
        w = w.at(module, role="attention")
        if sinks:
            w.parameter("sinks", heads)
        w.linear("q_proj", width * (2 if query_holds_gate else 1), hidden, bias=bias)
        w.linear("k_proj", kv_width, hidden, bias=bias)
        w.linear("v_proj", kv_width, hidden, bias=bias)
        w.linear(out, hidden, width, bias=bias if bias_out is None else bias_out)
        if qk_norm != "none":
            w.norm(norm_names[0], norms[0])
            w.norm(norm_names[1], norms[1])
        if gate is not None:
            w.linear(gate[0], gate[1], hidden)
        if extra is not None:
            extra(w, a)
        return of_window[window[i] if window else None]

    return write


def mlp(
    c: Settings,
    width: int | str = "intermediate_size",
    *,
    module: str = "mlp",
    names: tuple[str, ...] = ("gate_proj", "up_proj", "down_proj"),
    bias: bool = False,
) -> Part[Dense]:
    """A dense MLP of that width; two names make one without a gate, `(gate and up in one, down)` needs `merged_mlp`."""
    hidden = c.size("hidden_size")
    size = c.size(width) if isinstance(width, str) else width
    dense = Dense(intermediate=size, gated=len(names) == 3)

    def write(w: Weights, _: int) -> Dense:
        w = w.at(module, role="dense")
        for name in names[:-1]:
            w.linear(name, size, hidden, bias=bias)
        w.linear(names[-1], hidden, size, bias=bias)
        return dense

    return write


def merged_mlp(c: Settings, width: int, *, module: str, names: tuple[str, str]) -> Part[Dense]:
    """A gated MLP whose gate and up projections are one linear map of twice the width."""
    hidden = c.size("hidden_size")

    def write(w: Weights, _: int) -> Dense:
        w = w.at(module, role="dense")
        w.linear(names[0], 2 * width, hidden)
        w.linear(names[1], hidden, width)
        return Dense(intermediate=width)

    return write


def moe(
    c: Settings,
    *,
    experts: int | str | Sequence[int],
    width: int | str | Sequence[int],
    top_k: int | str | Sequence[int] = "num_experts_per_tok",
    module: str = "mlp",
    router: str = "gate",
    router_is_linear: bool = False,
    router_bias: bool = False,
    transposed: bool = False,
    bias: bool = False,
    shared: Part[Dense] | None = None,
    shared_gate: bool = False,
    shared_outside: bool = False,
    extra: Callable[[Weights, Experts], None] | None = None,
) -> Part[Experts]:
    """Fused routed experts, their router, and shared experts: `gate_up_proj` [E, 2I, H] and `down_proj` [E, H, I].

    `transposed` stores [E, H, 2I] and [E, I, H]. `shared` is a dense block inside the module whose tensors are shared experts,
    `shared_outside` one beside it. Numbers and widths may be lists with an entry per layer.
    """
    hidden = c.size("hidden_size")

    def each(value: int | str | Sequence[int]) -> int | Sequence[int]:
        return c.size(value) if isinstance(value, str) else value

    counts, widths, chosen = each(experts), each(width), each(top_k)
    seen: dict[tuple[int, int, int, int], Experts] = {}

    def write(w: Weights, i: int) -> Experts:
        count, size, k = (v if isinstance(v, int) else v[i] for v in (counts, widths, chosen))
        check_top_k(c, k, count)
        outside, w = w, w.at(module)
        routing = w.at("", role="router")
        if router_is_linear:
            routing.linear(router, count, hidden, bias=router_bias)
        else:
            routing.parameter(f"{router}.weight", count, hidden)
            if router_bias:
                routing.parameter(f"{router}.bias", count)
        fused_experts(w.at("experts", role="routed expert"), count, hidden, size, transposed=transposed, bias=bias)
        shared_size = 0
        if shared is not None:
            inner = Weights((outside if shared_outside else w).prefix, layer=w.layer)
            shared_size = shared(inner, i).intermediate
            w.specs += (replace(spec, role="shared expert") for spec in inner.specs)
            if shared_gate:
                w.linear("shared_expert_gate", 1, hidden, role="shared expert")
        key = (count, size, k, shared_size)
        if key not in seen:
            seen[key] = Experts(count=count, top_k=k, intermediate=size, bias=bias, shared_intermediate=shared_size)
        if extra is not None:
            extra(w, seen[key])
        return seen[key]

    return write


def check_top_k(c: Settings, top_k: int, count: int) -> None:
    """Refuses a router that would choose more experts than there are."""
    if top_k > count:
        raise MemprofError(
            f"config of {c.where}: a token is sent to {top_k} of {count} experts; "
            "experts per token may be at most the number of experts; correct one of them in config.json"
        )


def fused_experts(
    w: Weights, count: int, hidden: int, width: int, *, transposed: bool = False, bias: bool = False, gated: bool = True
) -> None:
    """All experts of a layer in one parameter per projection."""
    first, wide = ("gate_up_proj", 2 * width) if gated else ("up_proj", width)
    for name, size_out, size_in in ((first, wide, hidden), ("down_proj", hidden, width)):
        w.parameter(name, count, *((size_in, size_out) if transposed else (size_out, size_in)))
        if bias:
            w.parameter(f"{name}_bias", count, size_out)


def shared_mlp(c: Settings, width: int, module: str = "shared_experts") -> Part[Dense]:
    """Shared experts as one gated MLP inside the block; a width of 0 leaves it empty, as transformers does."""
    return mlp(c, width, module=module)


def first_dense(c: Settings, layers: int, key: str = "first_k_dense_replace") -> list[bool]:
    """Whether each layer has experts where the first ones are dense."""
    dense = c.count(key)
    return [i >= dense for i in range(layers)]


def sparse_steps(c: Settings, layers: int) -> list[bool]:
    """Qwen's rule: every `decoder_sparse_step`-th layer has experts, save those in `mlp_only_layers`."""
    step, dense = c.size("decoder_sparse_step"), set(c.raw("mlp_only_layers", []))
    return [i not in dense and (i + 1) % step == 0 for i in range(layers)]


def sparse_types(c: Settings, layers: int, otherwise: Callable[[int], bool]) -> list[bool]:
    """Whether each layer has experts by `mlp_layer_types`, or by the default rule."""
    kinds = c.sequence("mlp_layer_types", layers, lambda i: "sparse" if otherwise(i) else "dense")
    return [kind == "sparse" for kind in kinds]


def block(
    mixer: Part[Mixer] | Sequence[Part[Mixer]],
    feed_forward: Part[FeedForward],
    *,
    dense: Part[FeedForward] | None = None,
    sparse: Sequence[bool] = (),
    norms: tuple[str, ...] = PRE_NORM,
    norm_bias: bool = False,
    hidden: int,
    beside: Part[Dense] | None = None,
    extra: Callable[[Weights, int], None] | None = None,
) -> Part[Layer]:
    """A decoder layer: one mixer (or one per layer), then experts, or `dense` where `sparse` says false, and norms over H."""

    def write(w: Weights, i: int) -> Layer:
        mixing = (mixer if callable(mixer) else mixer[i])(w, i)
        fed = (feed_forward if dense is None or sparse[i] else dense)(w, i)
        extra_dense = beside(w, i) if beside is not None else None
        for name in norms:
            w.norm(name, hidden, bias=norm_bias)
        if extra is not None:
            extra(w, i)
        return Layer(mixer=mixing, feed_forward=fed, beside=extra_dense, norms=len(norms))

    return write
