"""A plain loop over tokens and experts in float64, the reference for grouped products. It shares no code with the package."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def dense(experts: Any, name: str) -> Tensor:
    """The stack [E, out, in] in float64."""
    weight = getattr(experts, name).detach().double()
    return weight.transpose(1, 2) if experts.is_transposed else weight


def loop(
    experts: Any,
    stacks: dict[str, Tensor],
    hidden_TH: Tensor,
    ids_TK: Tensor,
    weights_TK: Tensor,
    adapters: dict[str, tuple[Tensor, Tensor, float]],
) -> Tensor:
    """What an experts module with these stacks and adapters (A [E, r, in], B [E, out, r], scaling) makes of each token, [T, H]."""
    first = "gate_up_proj" if experts.has_gate else "up_proj"

    def product(name: str, e: int, x: Tensor) -> Tensor:
        w = stacks[name][e]
        if name in adapters:
            a, b, s = adapters[name]
            w = w + s * (b[e].double() @ a[e].double())
        y = w @ x
        if experts.has_bias:
            y = y + getattr(experts, f"{name}_bias")[e].detach().double()
        return y

    rows = []
    for t in range(hidden_TH.shape[0]):
        total = torch.zeros(hidden_TH.shape[1], dtype=torch.float64)
        for k in range(ids_TK.shape[1]):
            e = int(ids_TK[t, k])
            up = product(first, e, hidden_TH[t].double())[None]
            act = (experts._apply_gate(up) if experts.has_gate else experts.act_fn(up))[0]
            y = product("down_proj", e, act)
            if experts.has_post_expert_norm:
                y = experts.post_expert_norm(y[None])[0]
            total = total + weights_TK[t, k].double() * y
        rows.append(total)
    return torch.stack(rows)
