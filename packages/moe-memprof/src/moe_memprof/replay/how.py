"""What of a run a layer's memory depends on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from moe_memprof.replay.families import Family, family_of


@dataclass(frozen=True, kw_only=True)
class How:
    """A run, as a layer sees it."""

    sequences: int
    length: int
    hidden: int
    width: int
    """Bytes of an element of weights and activations."""
    base_trains: bool
    """Every weight trains; otherwise adapters alone."""
    rank: int = 0
    """LoRA rank on linear layers; 0 for none."""
    expert_rank: int | None = None
    """On fused experts; None takes `rank`."""
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
    family: str = "mixtral"
    """The model type whose code runs; `replay` takes it from the model."""
    kernels: bool = True
    """Fused kernels of state mixers (flash-linear-attention, mamba-ssm) are installed; a CPU has none."""
    loads: Sequence[int] | None = None
    """Rows of each expert, for implementations that take one expert after the other; None is an even share."""

    @property
    def rank_of_experts(self) -> int:
        """LoRA rank on fused experts; 0 for none."""
        return self.rank if self.expert_rank is None else self.expert_rank

    @property
    def tokens(self) -> int:
        """Padded tokens of one forward pass."""
        return self.sequences * self.length

    @property
    def written(self) -> Family:
        """How the model type's code is written."""
        return family_of(self.family)
