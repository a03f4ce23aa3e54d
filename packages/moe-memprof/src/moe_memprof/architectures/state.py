"""Mixers whose memory does not grow with the sequence: state spaces, linear attention, short convolutions.

`state` counts what one sequence keeps between tokens: the recurrent matrices and the last inputs of the convolution.
"""

from __future__ import annotations

from moe_memprof.architectures.base import StateMixer
from moe_memprof.architectures.blocks import Part
from moe_memprof.architectures.settings import Settings
from moe_memprof.architectures.weights import Weights


def mamba(c: Settings, module: str = "mamba") -> Part[StateMixer]:
    """The selective state space of Jamba: each channel of the inner stream has its own state."""
    hidden, state, kernel = c.size("hidden_size"), c.size("mamba_d_state"), c.size("mamba_d_conv")
    width, bias = c.size("mamba_expand") * hidden, c.flag("mamba_proj_bias")
    rank = c.raw("mamba_dt_rank", "auto")
    rank = -(-hidden // 16) if rank == "auto" else c.size("mamba_dt_rank")

    def write(w: Weights, _: int) -> StateMixer:
        w = w.at(module, role="attention")
        w.parameter("A_log", width, state)
        w.parameter("D", width)
        w.conv("conv1d", width, 1, kernel, bias=c.flag("mamba_conv_bias"))
        w.linear("in_proj", 2 * width, hidden, bias=bias)
        w.linear("x_proj", rank + 2 * state, width)
        w.linear("dt_proj", width, rank, bias=True)
        w.linear("out_proj", hidden, width, bias=bias)
        for name, size in (("dt", rank), ("b", state), ("c", state)):
            w.norm(f"{name}_layernorm", size)
        return StateMixer(kind="mamba", width=width, state=width * (state + kernel), head_keys=state, rank=rank)

    return write


def mamba2(
    c: Settings,
    *,
    module: str,
    heads: int,
    width: int,
    groups: int,
    state: int,
    kernel: int,
    bias: bool,
    conv_bias: bool,
) -> Part[StateMixer]:
    """Mamba 2: the inner stream is cut into heads that share B and C by groups."""
    hidden = c.size("hidden_size")
    mixed = width + 2 * groups * state

    def write(w: Weights, _: int) -> StateMixer:
        w = w.at(module, role="attention")
        for name in ("dt_bias", "A_log", "D"):
            w.parameter(name, heads)
        w.conv("conv1d", mixed, 1, kernel, bias=conv_bias)
        w.linear("in_proj", width + mixed + heads, hidden, bias=bias)
        w.norm("norm", width)
        w.linear("out_proj", hidden, width, bias=bias)
        return StateMixer(kind="mamba2", width=width, state=width * state + mixed * kernel)

    return write


def gated_delta_net(c: Settings, *, split: bool, module: str = "linear_attn") -> Part[StateMixer]:
    """Qwen's linear attention. `split` keeps the four input projections apart; otherwise query, key, value and z are one."""
    hidden, kernel = c.size("hidden_size"), c.size("linear_conv_kernel_dim")
    value_heads, value_dim = c.size("linear_num_value_heads"), c.size("linear_value_head_dim")
    keys = c.size("linear_num_key_heads") * c.size("linear_key_head_dim")
    values = value_heads * value_dim

    def write(w: Weights, _: int) -> StateMixer:
        w = w.at(module, role="attention")
        w.parameter("dt_bias", value_heads)
        w.parameter("A_log", value_heads)
        w.conv("conv1d", 2 * keys + values, 1, kernel)
        if split:
            w.linear("in_proj_qkv", 2 * keys + values, hidden)
            w.linear("in_proj_z", values, hidden)
            w.linear("in_proj_b", value_heads, hidden)
            w.linear("in_proj_a", value_heads, hidden)
        else:
            w.linear("in_proj_qkvz", 2 * keys + 2 * values, hidden)
            w.linear("in_proj_ba", 2 * value_heads, hidden)
        w.norm("norm", value_dim)
        w.linear("out_proj", hidden, values)
        recurrent = value_heads * value_dim * c.size("linear_key_head_dim")
        return StateMixer(
            kind="gated_delta_net",
            width=values,
            state=recurrent + (2 * keys + values) * kernel,
            heads=value_heads,
            keys=keys,
            head_keys=c.size("linear_key_head_dim"),
        )

    return write


def kimi_delta(
    c: Settings,
    *,
    heads: int,
    dim: int,
    kernel: int,
    low_rank: bool = True,
    decay: tuple[int, ...] | None = None,
    module: str = "self_attn",
) -> Part[StateMixer]:
    """Kimi's delta attention: a forget gate per channel. `low_rank` factors the two gates through one head's size."""
    hidden, width = c.size("hidden_size"), heads * dim

    def gate(w: Weights, name: str) -> None:
        if low_rank:
            w.linear(f"{name}_a_proj", dim, hidden)
            w.linear(f"{name}_b_proj", width, dim)
        else:
            w.linear(f"{name}_proj", width, hidden)

    def write(w: Weights, _: int) -> StateMixer:
        w = w.at(module, role="attention")
        for name in ("q_proj", "k_proj", "v_proj"):
            w.linear(name, width, hidden)
        w.conv("conv1d", 3 * width, 1, kernel)
        forget = w.at("forget_gate")
        forget.parameter("dt_bias", width)
        forget.parameter("A_log", *(decay or (heads,)))
        gate(forget, "f")
        w.linear("b_proj", heads, hidden)
        gate(w, "g")
        w.norm("o_norm", dim)
        w.linear("o_proj", hidden, width)
        return StateMixer(kind="kimi_delta", width=width, state=width * dim + 3 * width * kernel)

    return write


def lightning(c: Settings, module: str = "self_attn") -> Part[StateMixer]:
    """MiniMax's linear attention with a fixed decay per head."""
    hidden, heads = c.size("hidden_size"), c.size("num_attention_heads")
    dim = c.size("head_dim", hidden // heads)
    width = heads * dim

    def write(w: Weights, _: int) -> StateMixer:
        w = w.at(module, role="attention")
        w.norm("norm", width)
        w.linear("qkv_proj", 3 * width, hidden)
        w.linear("out_proj", hidden, width)
        w.linear("output_gate", width, hidden)
        return StateMixer(kind="lightning", width=width, state=width * dim)

    return write


def short_conv(c: Settings, module: str = "conv") -> Part[StateMixer]:
    """LFM2's gated convolution over a few tokens."""
    hidden, kernel, bias = c.size("hidden_size"), c.size("conv_L_cache"), c.flag("conv_bias")

    def write(w: Weights, _: int) -> StateMixer:
        w = w.at(module, role="attention")
        w.conv("conv", hidden, 1, kernel, bias=bias)
        w.linear("in_proj", 3 * hidden, hidden, bias=bias)
        w.linear("out_proj", hidden, hidden, bias=bias)
        return StateMixer(kind="short_conv", width=hidden, state=hidden * kernel)

    return write
