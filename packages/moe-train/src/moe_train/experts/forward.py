"""The experts' forward pass for frozen stacks with adapters, registered with transformers as an experts implementation.

It takes the place of `grouped_mm` in every architecture whose experts transformers dispatches (`use_experts_implementation`):
gated or not, with biases, transposed, with interleaved gates or a norm behind, whichever way the module says. The gate itself stays
the module's own code.
Shapes: T tokens, K experts a token goes to, R = T·K rows, H hidden, E experts.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from moe_train.errors import TrainError
from moe_train.experts.fused import Block, fused_experts
from moe_train.experts.ops import Factors, expert_linear
from moe_train.experts.stacks import DenseStack, Int8Stack, Nf4Stack, Stack

if TYPE_CHECKING:
    from transformers import PreTrainedModel

IMPLEMENTATION = "moe_train"
"""Name under which transformers knows it."""
_ADAPTERS = "_moe_train_adapters"
PARAMETERS = ("gate_up_proj", "up_proj", "down_proj")
"""Names of stacks in modules that transformers dispatches."""


def stack_of(experts: nn.Module, name: str) -> Stack:
    """The stack of weights that a module holds under a name, as it is stored: beside quantised weights stand their scales."""
    weight = getattr(experts, name)
    transposed = bool(getattr(experts, "is_transposed", False))
    scales = getattr(experts, f"{name}_scales", None)
    if weight.dtype == torch.uint8 and scales is not None:
        return Nf4Stack(weight, scales, transposed, getattr(experts, f"{name}_nested", None))
    if weight.dtype == torch.int8 and scales is not None:
        return Int8Stack(weight, scales, transposed)
    return DenseStack(weight.detach(), transposed)


@contextmanager
def adapted(experts: nn.Module, name: str, factors: tuple[Factors, ...]) -> Iterator[None]:
    """While inside, the module's forward pass multiplies these adapters of the parameter `name` too."""
    held: dict[str, tuple[Factors, ...]] = experts.__dict__.setdefault(_ADAPTERS, {})
    before = held.get(name, ())
    held[name] = (*before, *factors)
    try:
        yield
    finally:
        held[name] = before


def experts_forward(self: Any, hidden_TH: Tensor, top_k_index_TK: Tensor, top_k_weights_TK: Tensor) -> Tensor:
    """What the chosen experts make of their tokens, weighted and summed, [T, H].

    As transformers' `grouped_mm_experts_forward` (5.23) but for the products. Indices of E or more (experts of another rank) count nothing.
    """
    tokens, top_k = top_k_index_TK.shape
    ids_R = top_k_index_TK.reshape(-1)
    ids_R, order_R = torch.sort(ids_R, stable=True)
    bounds_E = torch.arange(1, self.num_experts + 1, device=ids_R.device, dtype=ids_R.dtype)
    offsets_E = torch.searchsorted(ids_R, bounds_E).to(torch.int32)
    if _goes_fused(self, hidden_TH):
        block, one, two = _block(self, hidden_TH)
        return fused_experts(block, hidden_TH, top_k_weights_TK, order_R, offsets_E, one, two)
    own_R = (ids_R < self.num_experts) if getattr(self, "_is_expert_parallel", False) else None
    safe_R = ids_R.clamp(max=self.num_experts - 1)
    rows = hidden_TH[order_R // top_k]
    first = "gate_up_proj" if self.has_gate else "up_proj"
    rows = _project(self, first, rows, offsets_E, safe_R)
    rows = self._apply_gate(rows) if self.has_gate else self.act_fn(rows)
    rows = _project(self, "down_proj", rows, offsets_E, safe_R)
    if getattr(self, "has_post_expert_norm", False):
        rows = self.post_expert_norm(rows)
    weights_R = top_k_weights_TK.reshape(-1)[order_R]
    if own_R is not None:
        weights_R = weights_R.masked_fill(~own_R, 0.0)
    rows = rows * weights_R[:, None]
    back_R = torch.empty_like(order_R)
    back_R[order_R] = torch.arange(order_R.numel(), device=order_R.device)
    return rows[back_R].view(tokens, top_k, -1).sum(1).to(hidden_TH.dtype)


def _goes_fused(experts: Any, hidden: Tensor) -> bool:
    """Whether the block runs one expert at a time: on a CPU, or in a dtype the grouped kernel does not know, without what it leaves out."""
    if hidden.is_cuda and _compute_dtype(hidden, experts, "down_proj") == torch.bfloat16:
        return False
    held = experts.__dict__.get(_ADAPTERS, {})
    plain = all(len(factors) <= 1 and not any(f.dropout for f in factors) for factors in held.values())
    return (
        plain
        and not getattr(experts, "has_post_expert_norm", False)
        and not getattr(experts, "_is_expert_parallel", False)
    )


def _block(experts: Any, hidden: Tensor) -> tuple[Block, Factors | None, Factors | None]:
    name = "gate_up_proj" if experts.has_gate else "up_proj"
    held = experts.__dict__.get(_ADAPTERS, {})
    block = Block(
        first=stack_of(experts, name),
        second=stack_of(experts, "down_proj"),
        gate=experts._apply_gate if experts.has_gate else experts.act_fn,
        first_bias_EG=getattr(experts, f"{name}_bias").detach() if experts.has_bias else None,
        second_bias_EH=experts.down_proj_bias.detach() if experts.has_bias else None,
        dtype=_compute_dtype(hidden, experts, name),
    )
    return block, next(iter(held.get(name, ())), None), next(iter(held.get("down_proj", ())), None)


def _project(experts: Any, name: str, rows: Tensor, offsets_E: Tensor, ids_R: Tensor) -> Tensor:
    stack = stack_of(experts, name)
    dtype = _compute_dtype(rows, experts, name)
    factors = experts.__dict__.get(_ADAPTERS, {}).get(name, ())
    out = expert_linear(rows.to(dtype), offsets_E, stack, factors)
    return out + getattr(experts, f"{name}_bias")[ids_R].to(dtype) if experts.has_bias else out


def _compute_dtype(rows: Tensor, experts: Any, name: str) -> torch.dtype:
    """The rows' under no autocast (a dense base's own, as transformers has it), else autocast's."""
    if torch.is_autocast_enabled(rows.device.type):
        return torch.get_autocast_dtype(rows.device.type)
    weight: Tensor = getattr(experts, name)
    return weight.dtype if weight.dtype.is_floating_point else rows.dtype


def use_grouped_experts(model: PreTrainedModel) -> list[str]:
    """Let every dispatched experts module of the model run this forward pass.

    Returns:
        The names of those modules.

    Raises:
        TrainError: where weights of experts train, which this forward pass gives no gradient.
    """
    from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS

    ALL_EXPERTS_FUNCTIONS.register(IMPLEMENTATION, experts_forward)
    found = []
    for name, module in model.named_modules():
        if not is_dispatched(module):
            continue
        trains = [n for n in PARAMETERS if getattr(getattr(module, n, None), "requires_grad", False)]
        if trains:
            raise TrainError(
                f"experts: {name}.{trains[0]} trains; grouped expert LoRA is for frozen experts, freeze it or use training.method=full"
            )
        module.config._experts_implementation = IMPLEMENTATION
        found.append(name)
    return found


def is_dispatched(module: nn.Module) -> bool:
    """Whether transformers looks up this module's forward pass by name."""
    return all(hasattr(module, name) for name in ("has_gate", "has_bias", "is_transposed", "config")) and hasattr(
        module, "down_proj"
    )
