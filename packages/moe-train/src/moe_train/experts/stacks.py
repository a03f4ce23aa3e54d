"""The frozen weights of a layer's experts: one stack of matrices, dense or quantised, read an expert at a time or whole.

Shapes: E experts, O output features, I input features, N elements of an expert's matrix. A stack yields [O, I] whatever way it is stored.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from moe_train.errors import TrainError

BLOCK = 64
"""Elements that share a scale in NF4 (QLoRA, arXiv:2305.14314; bitsandbytes' default)."""
NESTED = 256
"""Scales that share a scale in double quantisation."""


class Stack(Protocol):
    """A stack of expert matrices."""

    @property
    def experts(self) -> int:
        """E."""
        ...

    @property
    def in_features(self) -> int:
        """I."""
        ...

    @property
    def out_features(self) -> int:
        """O."""
        ...

    def expert(self, index: int, dtype: torch.dtype) -> Tensor:
        """The matrix [O, I] of one expert; made anew where it is quantised."""
        ...

    def whole(self, dtype: torch.dtype) -> Tensor:
        """All matrices [E, O, I]; made anew where they are quantised."""
        ...


@dataclass(frozen=True)
class DenseStack:
    """Weights as they are."""

    weight: Tensor
    """[E, O, I], or [E, I, O] where transposed."""
    transposed: bool = False

    @property
    def experts(self) -> int:
        """E."""
        return self.weight.shape[0]

    @property
    def in_features(self) -> int:
        """I."""
        return self.weight.shape[1 if self.transposed else 2]

    @property
    def out_features(self) -> int:
        """O."""
        return self.weight.shape[2 if self.transposed else 1]

    def expert(self, index: int, dtype: torch.dtype) -> Tensor:
        """A view where the dtype is the weights' own."""
        matrix = self.weight[index].to(dtype)
        return matrix.T if self.transposed else matrix

    def whole(self, dtype: torch.dtype) -> Tensor:
        """A view where the dtype is the weights' own."""
        matrices = self.weight.to(dtype)
        return matrices.transpose(1, 2) if self.transposed else matrices


@dataclass(frozen=True)
class Nf4Stack:
    """4-bit NormalFloat: two elements to a byte, an fp32 scale for every 64, blocks along the stored rows of each expert."""

    packed: Tensor
    """uint8 [E, rows, columns / 2] of the stored matrices."""
    scales_EB: Tensor
    """float32 [E, N / 64], the blocks' absolute maxima; uint8 where they are quantised too."""
    transposed: bool = False
    nested_EC: Tensor | None = None
    """float32 [E, 1 + N / 64 / 256, rounded up]: the mean of an expert's scales, and the scale of every 256 of them less the mean."""

    @property
    def experts(self) -> int:
        """E."""
        return self.packed.shape[0]

    @property
    def _stored(self) -> tuple[int, int]:
        return self.packed.shape[1], self.packed.shape[2] * 2

    @property
    def in_features(self) -> int:
        """I."""
        return self._stored[0 if self.transposed else 1]

    @property
    def out_features(self) -> int:
        """O."""
        return self._stored[1 if self.transposed else 0]

    def expert(self, index: int, dtype: torch.dtype) -> Tensor:
        """Dequantised by bitsandbytes."""
        nested = None if self.nested_EC is None else self.nested_EC[index : index + 1]
        scales = plain_scales(self.scales_EB[index : index + 1], nested)
        matrix = dequantise_nf4(self.packed[index], scales, self._stored, dtype)
        return matrix.T if self.transposed else matrix

    def whole(self, dtype: torch.dtype) -> Tensor:
        """Dequantised by bitsandbytes, all experts in one call."""
        scales = plain_scales(self.scales_EB, self.nested_EC)
        matrices = dequantise_nf4(self.packed, scales, (self.experts, *self._stored), dtype)
        return matrices.transpose(1, 2) if self.transposed else matrices


@dataclass(frozen=True)
class Int8Stack:
    """8-bit integers with an fp32 scale for every row of the stored matrices (LLM.int8(), arXiv:2208.07339, without outliers)."""

    values: Tensor
    """int8 [E, rows, columns] of the stored matrices."""
    scales_ER: Tensor
    """float32 [E, rows]: absolute maximum of the row / 127."""
    transposed: bool = False

    @property
    def experts(self) -> int:
        """E."""
        return self.values.shape[0]

    @property
    def in_features(self) -> int:
        """I."""
        return self.values.shape[1 if self.transposed else 2]

    @property
    def out_features(self) -> int:
        """O."""
        return self.values.shape[2 if self.transposed else 1]

    def expert(self, index: int, dtype: torch.dtype) -> Tensor:
        """Integers times the rows' scales."""
        matrix = self.values[index].to(dtype) * self.scales_ER[index, :, None].to(dtype)
        return matrix.T if self.transposed else matrix

    def whole(self, dtype: torch.dtype) -> Tensor:
        """Integers times the rows' scales."""
        matrices = self.values.to(dtype) * self.scales_ER[:, :, None].to(dtype)
        return matrices.transpose(1, 2) if self.transposed else matrices


def quantise_nf4(weight: Tensor) -> tuple[Tensor, Tensor]:
    """NF4 of a stack [E, rows, columns], expert by expert, by bitsandbytes.

    Returns:
        packed uint8 [E, rows, columns / 2], and scales float32 [E, rows * columns / 64].

    Raises:
        TrainError: where the columns are no multiple of the block, so that a block would run over two rows.
    """
    import bitsandbytes.functional as bnb

    experts, rows, columns = weight.shape
    if columns % BLOCK:
        raise TrainError(
            f"NF4: rows of {columns} elements do not divide into blocks of {BLOCK}; keep these experts dense"
        )
    packed = torch.empty((experts, rows, columns // 2), dtype=torch.uint8, device=weight.device)
    scales = torch.empty((experts, rows * columns // BLOCK), dtype=torch.float32, device=weight.device)
    for e in range(experts):
        bits, state = bnb.quantize_4bit(weight[e].contiguous(), blocksize=BLOCK, quant_type="nf4")
        packed[e] = bits.view(rows, columns // 2)
        scales[e] = state.absmax
    return packed, scales


def dequantise_nf4(packed: Tensor, scales: Tensor, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """The matrices of that shape back from NF4."""
    import bitsandbytes.functional as bnb

    state = bnb.QuantState(
        absmax=scales.reshape(-1), shape=torch.Size(shape), dtype=dtype, blocksize=BLOCK, quant_type="nf4",
        code=_code(str(packed.device)),
    )  # fmt: skip
    matrices: Tensor = bnb.dequantize_4bit(packed.reshape(-1, 1), state)
    return matrices.view(shape)


def nest_scales(scales_EB: Tensor) -> tuple[Tensor, Tensor]:
    """Double quantisation (QLoRA, section 3): scales in 8 bits, expert by expert, so that a stack can be divided by experts.

    Returns:
        uint8 [E, B], and float32 [E, 1 + B / 256, rounded up].
    """
    import bitsandbytes.functional as bnb

    experts, blocks = scales_EB.shape
    nested = torch.empty((experts, 1 + -(-blocks // NESTED)), dtype=torch.float32, device=scales_EB.device)
    codes = torch.empty((experts, blocks), dtype=torch.uint8, device=scales_EB.device)
    for e in range(experts):
        nested[e, 0] = scales_EB[e].mean()
        codes[e], state = bnb.quantize_blockwise(scales_EB[e] - nested[e, 0], blocksize=NESTED)
        nested[e, 1:] = state.absmax
    return codes, nested


def plain_scales(scales_EB: Tensor, nested_EC: Tensor | None) -> Tensor:
    """The scales in float32."""
    if nested_EC is None:
        return scales_EB
    import bitsandbytes.functional as bnb

    if "dynamic" not in _codes:
        _codes["dynamic"] = bnb.create_dynamic_map()
    levels = _codes["dynamic"].to(scales_EB.device)
    experts, blocks = scales_EB.shape
    steps = nested_EC[:, 1:].repeat_interleave(NESTED, dim=1)[:, :blocks]
    return levels[scales_EB.long()].view(experts, blocks) * steps + nested_EC[:, :1]


def _code(device: str) -> Tensor:
    import bitsandbytes.functional as bnb

    if device not in _codes:
        _codes[device] = bnb.get_4bit_type("nf4", device=device)
    return _codes[device]


_codes: dict[str, Tensor] = {}


def quantise_int8(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Integers int8 and scales float32 [E, rows] of a stack [E, rows, columns]."""
    scales = weight.abs().amax(-1).float() / 127
    divisor = torch.where(scales == 0, torch.ones_like(scales), scales)
    values = torch.round(weight.float() / divisor[..., None]).to(torch.int8)
    return values, scales
