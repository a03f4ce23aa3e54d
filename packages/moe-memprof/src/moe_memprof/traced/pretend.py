"""Where code takes another way for fake tensors, or on a CPU, than the run would take: lead it back."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, cast

import torch

from moe_memprof.spec import RunSpec


@contextlib.contextmanager
def as_if_real(spec: RunSpec) -> Iterator[None]:
    """Run what is inside as the run's device would on tensors with data.

    Two things differ. For fake tensors transformers always builds a mask and repeats keys and values, which on real ones it does for a
    padded batch alone. A CPU's fused attention needs values as wide as queries and otherwise builds the scores (multi-head latent
    attention), a GPU's does not.
    """
    from transformers.utils import import_utils

    with contextlib.ExitStack() as stack:
        if hasattr(import_utils, "is_fake_tensor") and not spec.padded:
            stack.enter_context(_replaced(import_utils, "is_fake_tensor", lambda _: False))
        if spec.device == "cuda":
            stack.enter_context(_replaced(torch.nn.functional, "scaled_dot_product_attention", _attention))
        yield


@contextlib.contextmanager
def _replaced(owner: Any, name: str, value: object) -> Iterator[None]:
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)


_fused = torch.nn.functional.scaled_dot_product_attention


def _attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attn_mask: torch.Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> torch.Tensor:
    if query.shape[-1] == value.shape[-1]:
        return _fused(query, key, value, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa)
    if key.shape[-3] != query.shape[-3]:
        groups = query.shape[-3] // key.shape[-3]
        key, value = key.repeat_interleave(groups, -3), value.repeat_interleave(groups, -3)
    if attn_mask is not None:
        if attn_mask.dtype is torch.bool:
            attn_mask = torch.zeros_like(attn_mask, dtype=query.dtype).masked_fill(~attn_mask, float("-inf"))
        attn_mask = attn_mask.expand(*query.shape[:-1], key.shape[-2])
    out = torch.ops.aten._scaled_dot_product_efficient_attention(
        query, key, value, attn_mask, torch.is_grad_enabled(), dropout_p, is_causal, scale=scale
    )
    return cast("torch.Tensor", out[0])
