"""How a fine-tune is spread over devices."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from moe_memprof.errors import MemprofError


@dataclass(frozen=True, kw_only=True)
class Parallel:
    """How a fine-tune is spread over devices."""

    world: int = 1
    """Ranks, one device each."""
    zero: Literal[0, 1, 2, 3] = 0
    """DeepSpeed ZeRO stage; 0 is plain data parallelism."""
    fsdp: bool = False
    """FSDP2: everything sharded, a layer gathered at a time."""
    expert_parallel: int = 1
    """Ranks over which a layer's experts are spread."""
    offload_optimizer: Literal["none", "cpu", "nvme"] = "none"
    offload_parameters: Literal["none", "cpu", "nvme"] = "none"
    hottest_share: float | None = None
    """Share of all routed rows that the busiest rank of `expert_parallel` receives; None is an even share."""

    def __post_init__(self) -> None:
        """Check that the choices go together.

        Raises:
            MemprofError: naming the field, the rule and the mend.
        """
        if self.world < 1:
            raise MemprofError(f"world: must be at least 1, got {self.world}")
        if self.zero not in (0, 1, 2, 3):
            raise MemprofError(f"zero: must be 0, 1, 2 or 3, got {self.zero}")
        if self.fsdp and self.zero:
            raise MemprofError("fsdp and zero are both given; they shard the same things, keep one")
        if self.expert_parallel < 1 or self.world % self.expert_parallel:
            raise MemprofError(
                f"expert_parallel: must divide world ({self.world}), got {self.expert_parallel}; give --world too"
            )
        if self.offload_optimizer != "none" and not self.zero:
            raise MemprofError("offload_optimizer: goes with ZeRO; add --zero 1, 2 or 3")
        if self.offload_parameters != "none" and self.zero != 3:
            raise MemprofError("offload_parameters: only ZeRO-3 moves parameters; add --zero 3")
        if self.hottest_share is not None and not 1 / self.expert_parallel <= self.hottest_share <= 1:
            raise MemprofError(
                f"hottest_share: must be between 1/{self.expert_parallel} (even) and 1, got {self.hottest_share}"
            )

    @property
    def alone(self) -> bool:
        """Whether there is one device and nothing is sharded."""
        return self.world == 1 and self.offload_optimizer == "none" and self.offload_parameters == "none"

    @property
    def shards_weights(self) -> bool:
        """Whether weights are spread over ranks."""
        return self.fsdp or self.zero == 3

    @property
    def shards_gradients(self) -> bool:
        """Whether gradients are."""
        return self.fsdp or self.zero >= 2

    @property
    def shards_states(self) -> bool:
        """Whether optimizer states are."""
        return self.fsdp or self.zero >= 1

    @property
    def imbalance(self) -> float:
        """Rows of the busiest rank over an even share."""
        return 1.0 if self.hottest_share is None else self.hottest_share * self.expert_parallel
