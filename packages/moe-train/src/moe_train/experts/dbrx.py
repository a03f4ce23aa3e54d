"""DBRX's experts as stacks, so that they are adapted and quantised like any others.

transformers keeps them as three matrices of all experts one below the other, [E · F, H], which nothing dispatches and PEFT cannot adapt.
While a checkpoint is loaded in here, the model gets stacks in their place, filled through transformers' own conversions; saving gives
the checkpoint's names and shapes back.
Shapes: E experts, F columns between, H hidden, T tokens, K experts a token goes to.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import conversion_mapping
from transformers.activations import ACT2FN
from transformers.core_model_loading import ConversionOps, WeightConverter
from transformers.integrations.moe import use_experts_implementation
from transformers.models.dbrx import modeling_dbrx

MODEL_TYPE = "dbrx"


@use_experts_implementation
class _Stacked(nn.Module):
    """[E, 2F, H] and [E, H, F], as most architectures have them."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.num_experts, inner, hidden = config.moe_num_experts, config.ffn_hidden_size, config.hidden_size
        self.gate_up_proj = nn.Parameter(torch.empty(self.num_experts, 2 * inner, hidden))
        self.down_proj = nn.Parameter(torch.empty(self.num_experts, hidden, inner))
        self.act_fn = ACT2FN[config.ffn_act_fn.get("name", "silu")]

    def forward(self, hidden_TH: Tensor, top_k_index_TK: Tensor, top_k_weights_TK: Tensor) -> Tensor:
        """One expert after the other, for the implementation "eager"."""
        out_TH = torch.zeros_like(hidden_TH)
        for expert in torch.unique(top_k_index_TK).tolist():
            token, place = torch.where(top_k_index_TK == expert)
            gate, up = (hidden_TH[token] @ self.gate_up_proj[expert].T).chunk(2, dim=-1)
            made = (self.act_fn(gate) * up) @ self.down_proj[expert].T
            out_TH.index_add_(0, token, (made * top_k_weights_TK[token, place, None]).to(out_TH.dtype))
        return out_TH


class StackedDbrxExperts(_Stacked):
    """What stands in for transformers' `DbrxExperts`."""

    def forward(self, hidden_states: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
        """Of [B, S, H] or [T, H]; the choices are [T, K]."""
        flat: Tensor = super().forward(hidden_states.reshape(-1, hidden_states.shape[-1]), top_k_index, top_k_weights)
        return flat.view(hidden_states.shape)


Rearrange = Callable[[Sequence[Tensor], int], Sequence[Tensor]]
"""From a converter's sources, and E, to its targets."""


class _Rearranged(ConversionOps):  # type: ignore[misc]  # transformers is untyped here
    """One layout of the same numbers to another, and back."""

    def __init__(self, there: Rearrange, back: Rearrange) -> None:
        self.there, self.back = there, back

    def convert(
        self, input_dict: dict[str, Any], source_patterns: list[str], target_patterns: list[str], **kwargs: Any
    ) -> dict[str, Any]:
        found = [input_dict.pop(name) for name in source_patterns]
        tensors = [tensor[0] if isinstance(tensor, list) else tensor for tensor in found]
        made = self.there(tensors, int(kwargs["config"].ffn_config.moe_num_experts))
        return dict(zip(target_patterns, made, strict=True))

    @property
    def reverse_op(self) -> ConversionOps:
        return _Rearranged(self.back, self.there)


def _stack_gate_up(tensors: Sequence[Tensor], experts: int) -> list[Tensor]:
    """w1 and v1 [E · F, H] to [E, 2F, H]."""
    return [torch.cat([tensor.view(experts, -1, tensor.shape[-1]) for tensor in tensors], dim=1)]


def _flatten_gate_up(tensors: Sequence[Tensor], _: int) -> list[Tensor]:
    """[E, 2F, H] to w1 and v1 [E · F, H]."""
    return [half.reshape(-1, half.shape[-1]) for half in tensors[0].chunk(2, dim=1)]


def _stack_down(tensors: Sequence[Tensor], experts: int) -> list[Tensor]:
    """w2 [E · F, H] to [E, H, F]."""
    return [tensors[0].view(experts, -1, tensors[0].shape[-1]).transpose(1, 2).contiguous()]


def _flatten_down(tensors: Sequence[Tensor], _: int) -> list[Tensor]:
    """[E, H, F] to w2 [E · F, H]."""
    return [tensors[0].transpose(1, 2).reshape(-1, tensors[0].shape[1])]


@contextmanager
def stacked_dbrx() -> Iterator[None]:
    """Models of DBRX that are made in here have stacks of experts, and read and write the checkpoint's names."""
    plain = modeling_dbrx.DbrxExperts
    conversion_mapping.register_checkpoint_conversion_mapping(
        MODEL_TYPE,
        [
            WeightConverter(
                ["ffn.experts.mlp.w1", "ffn.experts.mlp.v1"],
                "ffn.experts.gate_up_proj",
                [_Rearranged(_stack_gate_up, _flatten_gate_up)],
            ),
            WeightConverter("ffn.experts.mlp.w2", "ffn.experts.down_proj", [_Rearranged(_stack_down, _flatten_down)]),
        ],
        overwrite=True,
    )
    modeling_dbrx.DbrxExperts = StackedDbrxExperts
    try:
        yield
    finally:
        modeling_dbrx.DbrxExperts = plain
        conversion_mapping._checkpoint_conversion_mapping_cache.pop(MODEL_TYPE)
        # There from transformers 5.17 on.
        getattr(conversion_mapping, "USER_REGISTERED_MAPPINGS", set()).discard(MODEL_TYPE)
