"""`moe-train plan`: everything a run would do, and nothing run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moe_train.assembly import adapted, find_layers, planned_targets, prove_on_batch
from moe_train.memory import MemoryPlan, plan_memory
from moe_train.prepare import environment, prepare
from moe_train.verify import Proof
from moe_train.workflow import run_name

if TYPE_CHECKING:
    from moe_train.config import RunConfig
    from moe_train.console import Screen


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What `run` would do."""

    data: dict[str, Any]
    memory: MemoryPlan
    proof: Proof

    @property
    def fits(self) -> bool | None:
        """Whether the memory suffices; None where it could not be estimated."""
        return None if self.memory.needed is None else self.memory.needed <= self.memory.available

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {"data": self.data, "memory": self.memory.to_dict(), "proof": self.proof.to_dict(), "fits": self.fits}


def make_plan(config: RunConfig, screen: Screen) -> Plan:
    """Load, account for data and memory, and prove on one batch what would train.

    Raises:
        TrainError: for everything that would stop the run, a failed proof too.
    """
    loaded, data = prepare(config)
    layers = find_layers(loaded)
    targets = planned_targets(config, loaded, layers)
    memory = plan_memory(config, loaded, data)
    folder = Path(config.output) / run_name(config)
    screen.header(environment(loaded.model.device.type, folder), data.to_dict(), folder)
    screen.plan(memory)
    model = adapted(config, loaded, targets)
    proof = prove_on_batch(config, loaded, data, model, layers, targets)
    screen.proof(proof)
    proof.require()
    return Plan(data=data.to_dict(), memory=memory, proof=proof)
