"""The layers of a decoder, as transformers writes them, in sizes.

Letters: T tokens of the forward pass, H hidden, n = T · top-k routed rows, E experts, I expert intermediate, r LoRA rank.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from moe_memprof.architectures.base import Attention, Dense, Experts, Layer
from moe_memprof.replay.engine import F32, INDEX, Memory, Tensor, fresh, record, weight
from moe_memprof.replay.ops import (
    add,
    attend,
    cast,
    copied_back,
    gated,
    gather,
    grouped_matmul,
    matmul,
    mul,
    reduce_sum,
    rotate,
    scale,
    softmax,
    topk,
    unary,
)


@dataclass(frozen=True, kw_only=True)
class How:
    """What of a run a layer's memory depends on."""

    sequences: int
    length: int
    hidden: int
    width: int
    """Bytes of an element of weights and activations."""
    base_trains: bool
    """Every weight trains; otherwise adapters alone."""
    rank: int = 0
    """LoRA rank; 0 for none."""
    adapts_attention: bool = False
    adapts_experts: bool = False
    device: Literal["cuda", "cpu"] = "cuda"
    padded: bool = False
    """A mask with padding is given, so that keys and values are repeated to all heads before the kernel."""
    attention: Literal["sdpa", "eager"] = "sdpa"
    experts: Literal["grouped_mm", "eager", "batched_mm"] = "grouped_mm"

    linear_bits: int = 0
    """Bits of quantised linears; 0 where they are not."""
    expert_bits: int = 0
    """Bits of quantised fused experts; 0 where they are not."""
    expert_lora: Literal["peft", "grouped"] = "peft"

    @property
    def tokens(self) -> int:
        """Padded tokens of one forward pass."""
        return self.sequences * self.length


def linear(m: Memory, how: How, x: Tensor, inputs: int, outputs: int, *, adapted: bool = False) -> Tensor:
    """An nn.Linear, with PEFT's LoRA where it is adapted: the input and the update in the adapters' fp32."""
    rows = x.elements // inputs
    out = matmul(m, x, weight(m, inputs * outputs, how.width, trains=how.base_trains), rows)
    if not adapted:
        return out
    full = cast(m, x, F32)
    low = matmul(m, full, weight(m, inputs * how.rank, F32, trains=True), rows)
    del full
    update = matmul(m, low, weight(m, how.rank * outputs, F32, trains=True), rows)
    del low
    update = scale(m, update)
    out = add(m, out, update)
    del update
    return cast(m, out, how.width)


def norm(m: Memory, how: How, x: Tensor, size: int) -> Tensor:
    """RMSNorm over rows of `size`, worked in fp32."""
    with m.labelled("norms"):
        full = cast(m, x, F32)
        squared = unary(m, full, save="in", scratch=2)
        mean = reduce_sum(m, squared, x.elements // size)
        del squared
        root = unary(m, unary(m, mean), save="out")
        del mean
        scaled = mul(m, full, root)
        del full, root
        scaled = cast(m, scaled, how.width)
        return mul(m, weight(m, size, how.width, trains=how.base_trains), scaled)


def attention(m: Memory, how: How, a: Attention, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Multi-head attention with grouped keys and values and rotary positions."""
    query, keys, values = a.heads * a.head_dim, a.kv_heads * a.head_dim, a.kv_heads * a.value_dim
    out_width = a.heads * a.value_dim
    with m.labelled("attention"):
        q = linear(m, how, x, how.hidden, query, adapted=how.adapts_attention)
        if a.qk_norm != "none":
            q = norm(m, how, q, a.head_dim if a.qk_norm == "head" else query)
        q = copied_back(m, q)
        k = linear(m, how, x, how.hidden, keys, adapted=how.adapts_attention)
        if a.qk_norm != "none":
            k = norm(m, how, k, a.head_dim if a.qk_norm == "head" else keys)
        k = copied_back(m, k)
        v = linear(m, how, x, how.hidden, values, adapted=how.adapts_attention)
        del x
        turned_q = rotate(m, q, cos, sin)
        turned_k = rotate(m, k, cos, sin)
        del q, k
        out = attend(
            m,
            turned_q,
            turned_k,
            v,
            heads_tokens=a.heads * how.tokens,
            out_elements=how.tokens * out_width,
        )
        del turned_q, turned_k, v
        return linear(m, how, out, out_width, how.hidden, adapted=how.adapts_attention)


def dense(m: Memory, how: How, d: Dense, x: Tensor) -> Tensor:
    """A gated MLP of three linears."""
    with m.labelled("dense MLP"):
        gate = linear(m, how, x, how.hidden, d.intermediate)
        activated = unary(m, gate, save="in")
        del gate
        up = linear(m, how, x, how.hidden, d.intermediate)
        product = mul(m, activated, up)
        del activated, up
        return linear(m, how, product, d.intermediate, how.hidden)


def route(m: Memory, how: How, e: Experts, x: Tensor) -> tuple[Tensor, Tensor]:
    """Softmax over all experts in fp32, the top k, and their weights normalised."""
    with m.labelled("router"):
        logits = matmul(m, x, weight(m, e.count * how.hidden, how.width, trains=how.base_trains), how.tokens)
        probabilities = softmax(m, cast(m, logits, F32))
        values, indices = topk(m, probabilities, how.tokens * e.top_k)
        del probabilities, logits
        total = reduce_sum(m, values, how.tokens)
        normalised = mul(m, values, total)
        return normalised, indices


def materialised(m: Memory, how: How, e: Experts, inputs: int, outputs: int) -> Tensor:
    """An expert weight [E, out, in]; where PEFT adapts it, W + ΔW is built whole."""
    elements = e.count * inputs * outputs
    if not how.adapts_experts:
        return weight(m, elements, how.width, trains=how.base_trains)
    with m.labelled("materialised expert weights"):
        a = cast(m, weight(m, e.count * how.rank * inputs, F32, trains=True), how.width)
        b = cast(m, weight(m, e.count * how.rank * outputs, F32, trains=True), how.width)
        saved = [a.alias(), b.alias()]
        sizes = (a.elements, b.elements)

        def back(_grads: list[Tensor | None], _saved: list[Tensor]) -> list[Tensor | None]:
            return [fresh(m, sizes[0], how.width), fresh(m, sizes[1], how.width)]

        return record(m, (elements, how.width), [a, b], back, saved)


def grouped_experts(m: Memory, how: How, e: Experts, x: Tensor, weights: Tensor, indices: Tensor) -> Tensor:
    """`grouped_mm`: rows sorted by expert, two grouped products, weighted, put back and summed."""
    rows = how.tokens * e.top_k
    inner = 2 * e.intermediate if e.gated else e.intermediate
    with m.labelled("dispatch"):
        order, sorted_ids = fresh(m, rows, INDEX), fresh(m, rows, INDEX)
        del sorted_ids
        source = fresh(m, rows, INDEX)
        routed = gather(m, x, source, rows * how.hidden)
        del source
        sorted_weights = gather(m, weights, order, rows)
    with m.labelled("experts"):
        up = grouped_matmul(m, routed, materialised(m, how, e, how.hidden, inner), rows, inner)
        product = gated(m, up) if e.gated else unary(m, up, save="in")
        del up
        down = grouped_matmul(m, product, materialised(m, how, e, e.intermediate, how.hidden), rows, how.hidden)
        del product
        weighted = mul(m, down, sorted_weights)
        del down
    with m.labelled("dispatch"):
        inverse = fresh(m, rows, INDEX)
        back = gather(m, weighted, inverse, rows * how.hidden)
        del weighted
        summed = reduce_sum(m, back, how.tokens * how.hidden)
        del back
        return cast(m, summed, how.width)


def moe(m: Memory, how: How, e: Experts, x: Tensor) -> Tensor:
    """Router, routed experts, shared experts."""
    weights, indices = route(m, how, e, x)
    out = grouped_experts(m, how, e, x, weights, indices)
    if e.shared_intermediate:
        with m.labelled("shared experts"):
            out = add(m, out, dense(m, how, Dense(intermediate=e.shared_intermediate), x))
    return out


def decoder_layer(m: Memory, how: How, layer: Layer, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Norm, mixer, residual; norm, feed-forward, residual."""
    h = norm(m, how, x, how.hidden)
    assert isinstance(layer.mixer, Attention)
    h = attention(m, how, layer.mixer, h, cos, sin)
    with m.labelled("residual stream"):
        x = add(m, x, h)
    h = norm(m, how, x, how.hidden)
    if isinstance(layer.feed_forward, Experts):
        h = moe(m, how, layer.feed_forward, h)
    else:
        assert isinstance(layer.feed_forward, Dense)
        h = dense(m, how, layer.feed_forward, h)
    with m.labelled("residual stream"):
        return add(m, x, h)
