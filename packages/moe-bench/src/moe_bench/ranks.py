"""One run shared by several processes, as torchrun and accelerate start them.

Every process answers its part of the requests and writes them to a file of its own; the first puts all parts into
samples.jsonl, in the order of the items. Parts of a run that was killed are put there when it is gone on with, by however
many processes.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from moe_bench.errors import BenchError

_PATIENCE = timedelta(days=7)
"""How long processes wait for one another: parts of a run differ in length. A process that dies ends the others through its launcher."""


@dataclass(frozen=True, kw_only=True)
class Ranks:
    """Which of several processes this one is."""

    rank: int = 0
    world: int = 1
    local: int = 0
    """Its number on this machine, which is that of its GPU."""

    @classmethod
    def from_environment(cls) -> Ranks:
        """What RANK, WORLD_SIZE and LOCAL_RANK say; a single process where they are not set.

        Raises:
            BenchError: when they contradict one another.
        """
        if "WORLD_SIZE" not in os.environ:
            return cls()
        try:
            world = int(os.environ["WORLD_SIZE"])
            rank = int(os.environ.get("RANK", "0"))
            local = int(os.environ.get("LOCAL_RANK", str(rank)))
        except ValueError:
            raise BenchError("environment: RANK, WORLD_SIZE and LOCAL_RANK must be whole numbers") from None
        if not 0 <= rank < world:
            raise BenchError(
                f"environment: RANK {rank} is none of WORLD_SIZE {world}; start the run with torchrun or accelerate"
            )
        return cls(rank=rank, world=world, local=local)

    @property
    def first(self) -> bool:
        """Whether this process is the one that speaks and puts the parts together."""
        return self.rank == 0

    def share(self, count: int) -> range:
        """Which of so many requests are this process's, whatever has been answered already."""
        return range(self.rank, count, self.world)

    def wait(self) -> None:
        """Go on when all processes have come here.

        Raises:
            BenchError: without torch, or when the processes cannot find one another.
        """
        if self.world == 1:
            return
        distributed: Any
        try:
            from torch import distributed
        except ImportError:
            raise BenchError(
                "run: several processes need torch to wait for one another; pip install 'moe-bench[hf]'"
            ) from None
        try:
            if not distributed.is_initialized():
                distributed.init_process_group("gloo", rank=self.rank, world_size=self.world, timeout=_PATIENCE)
            distributed.barrier()
        except (RuntimeError, ValueError) as error:
            raise BenchError(
                f"run: process {self.rank} of {self.world} lost the others ({' '.join(str(error).split())[:200]})"
            ) from None

    def close(self) -> None:
        """Leave the others."""
        if self.world > 1:
            from torch import distributed

            if distributed.is_initialized():
                distributed.destroy_process_group()
