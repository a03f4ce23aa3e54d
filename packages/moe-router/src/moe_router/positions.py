"""Which positions of a model's input are tokens, and to which sequence each belongs.

Shapes: B batch, S sequence, T = B · S positions.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from moe_router.errors import RouterError


def token_mask(attention_mask: Tensor | None, batch: int, sequence: int) -> Tensor | None:
    """Which of the B · S input positions are tokens and not padding, flattened to [T]; None where all are.

    Args:
        attention_mask: [B, S], or [B, past + S] when a key-value cache is in use: the last S columns are this input's.
            Masks of four dimensions say nothing about padding that could be read back, and are refused.
        batch: B.
        sequence: S.

    Raises:
        RouterError: for a mask of another form.
    """
    if attention_mask is None:
        return None
    if attention_mask.ndim != 2 or attention_mask.shape[0] != batch or attention_mask.shape[1] < sequence:
        raise RouterError(
            f"attention_mask of shape {tuple(attention_mask.shape)}: cannot tell the padding of an input of shape "
            f"({batch}, {sequence}) from it; pass the two-dimensional mask"
        )
    return attention_mask[:, -sequence:].reshape(-1).bool()


_CUMULATIVE = ("cu_seq_lens_q", "cu_seqlens_q", "cu_seqlens")
_INPUTS = ("input_ids", "inputs_embeds", "decoder_input_ids", "decoder_inputs_embeds")


@dataclass(frozen=True, kw_only=True)
class Positions:
    """One forward pass's input, position by position."""

    batch: int
    length: int
    mask_T: Tensor | None
    """True on tokens; None where all are."""
    sequence_T: Tensor
    """Number of the sequence each position belongs to, from 0 within this pass, [T] int64; not meaningful on padding."""
    sequences: int
    token_ids_T: Tensor | None
    """None where the model was given embeddings."""
    continued: bool
    """Whether a key-value cache holds what came before: the rows go on with the sequences of the pass before."""

    @property
    def decoding(self) -> bool:
        """Whether these are tokens generated one by one. Several at once on top of a cache are a further part of a prompt."""
        return self.continued and self.length == 1


def positions_of(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Positions:
    """The positions of a model's call, read off its arguments.

    A row is one sequence, unless the call says that several are packed in it: by `position_ids` that start again, by `cu_seq_lens_q`
    or by `seq_idx`. Counting them looks at values on the device, which waits for them.

    Raises:
        RouterError: for a call without `input_ids` or `inputs_embeds`, or a mask that cannot be read.
    """
    inputs = next((kwargs[name] for name in _INPUTS if isinstance(kwargs.get(name), Tensor)), None)
    if inputs is None:
        inputs = next((a for a in args if isinstance(a, Tensor)), None)
    if inputs is None:
        raise RouterError("the model was called without input_ids or inputs_embeds, so its tokens cannot be told")
    mask = kwargs.get("attention_mask")
    if mask is None and len(args) > 1 and isinstance(args[1], Tensor):
        mask = args[1]
    mask = mask if isinstance(mask, Tensor) else None
    batch, length = inputs.shape[0], inputs.shape[1]
    mask_T = token_mask(mask, batch, length)
    continued = _cached_tokens(kwargs.get("past_key_values")) > 0
    starts_BS = torch.zeros(batch, length, dtype=torch.bool, device=inputs.device)
    packed = [] if continued else list(_packing(kwargs, batch, length))
    for inner_BS in packed:
        starts_BS[:, 1:] |= inner_BS.to(inputs.device)
    if packed and mask_T is not None:  # left padding repeats position 0 or 1
        tokens_BS = mask_T.reshape(batch, length)
        starts_BS[:, 1:] &= tokens_BS[:, :-1] & tokens_BS[:, 1:]
    starts_BS[:, 0] = True
    sequence_T = starts_BS.reshape(-1).cumsum(0) - 1
    return Positions(
        batch=batch,
        length=length,
        mask_T=mask_T,
        sequence_T=sequence_T,
        sequences=int(sequence_T[-1]) + 1 if packed else batch,
        token_ids_T=None if inputs.is_floating_point() else inputs.reshape(-1),
        continued=continued,
    )


def _packing(kwargs: dict[str, Any], batch: int, length: int) -> Iterator[Tensor]:
    """Where another sequence begins within a row, as each argument that tells says it, [B, S - 1]; nothing where none tells."""
    position_ids = kwargs.get("position_ids")
    if isinstance(position_ids, Tensor) and position_ids.ndim == 3 and len(position_ids) == 4:
        position_ids = position_ids[0]  # Qwen-VL: positions in the text before those of time, height and width
    if isinstance(position_ids, Tensor) and position_ids.ndim == 2 and position_ids.shape[1] == length:
        yield position_ids.expand(batch, length)[:, 1:] == 0
    ends = next((kwargs[name] for name in _CUMULATIVE if isinstance(kwargs.get(name), Tensor)), None)
    if ends is not None:
        starts_T = torch.zeros(batch * length, dtype=torch.bool, device=ends.device)
        starts_T[ends[(ends >= 0) & (ends < batch * length)].long()] = True
        yield starts_T.reshape(batch, length)[:, 1:]
    numbers = kwargs.get("seq_idx")
    if isinstance(numbers, Tensor) and numbers.shape == (batch, length):
        yield numbers[:, 1:] != numbers[:, :-1]


def _cached_tokens(cache: Any) -> int:
    """Tokens in a key-value cache; 0 for none, and for kinds without a length (recurrent states)."""
    try:
        return int(cache.get_seq_length())
    except (AttributeError, ValueError, TypeError):
        return 0
