"""What a traced estimate says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from moe_memprof.plan import Estimate, Phase

SCHEMA = "moe-memprof/traced@1"


@dataclass(frozen=True, kw_only=True)
class Traced:
    """What a fine-tune takes, by running its model's code without data."""

    model_type: str
    described: bool
    """Whether closed forms know the architecture; if not, this is the only opinion and weights are told by name."""
    layers: int
    depths: tuple[int, ...]
    """How many layers were really traced; all of them where one depth is given."""
    estimate: Estimate
    """Phases whose parts add up; what was traced is of kind `traced`."""
    moment: str
    rise: int
    """Bytes of the step's highest traced moment above weights and optimizer state."""
    held: int
    """Of these, bytes at the end of the forward pass."""
    deviation: float | None
    """Of the shallower depth's peak put together from the deeper trace, from its own trace; None where all layers were traced."""
    notes: tuple[str, ...]
    seconds: float

    @property
    def step(self) -> Phase:
        """The step, part by part."""
        return self.estimate.phase("step")

    @property
    def peak(self) -> int:
        """Bytes of the step's highest moment."""
        return self.step.peak

    def difference(self, other: Estimate) -> float:
        """How far this step's peak lies above another estimate's, as a share of that."""
        return self.peak / other.phase("step").peak - 1

    def to_dict(self) -> dict[str, Any]:
        """Plain values, schema moe-memprof/traced@1."""
        names = (
            "model_type",
            "described",
            "layers",
            "depths",
            "moment",
            "rise",
            "held",
            "deviation",
            "notes",
            "seconds",
        )
        values = {name: getattr(self, name) for name in names}
        return {"schema": SCHEMA, **values, "peak": self.peak, "estimate": self.estimate.to_dict()}
