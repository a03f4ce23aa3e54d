"""An estimate is a sum of named parts; one that does not add up cannot be made."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from moe_memprof.errors import MemprofError

SCHEMA = "moe-memprof/estimate@1"
PhaseName = Literal["load", "step", "evaluate", "save"]


@dataclass(frozen=True, kw_only=True)
class Part:
    """Bytes with a name and a reason."""

    name: str
    bytes: int
    kind: Literal["derived", "heuristic", "measured", "traced", "given"]
    """derived: follows from shapes and from what the software keeps; heuristic: a rule with its source; measured: read on this machine;
    traced: counted while the model's code ran on tensors without data; given: said by the user."""
    formula: str
    """How the bytes come about, in words and letters."""

    def __post_init__(self) -> None:
        """Refuse bytes below zero."""
        if self.bytes < 0:
            raise MemprofError(f"part {self.name}: {self.bytes} bytes")


@dataclass(frozen=True, kw_only=True)
class Phase:
    """A stretch of a run and what is in memory at its highest moment."""

    name: PhaseName
    moment: str
    """When in the phase the peak is."""
    parts: tuple[Part, ...]

    @property
    def peak(self) -> int:
        """Bytes of all parts together."""
        return sum(part.bytes for part in self.parts)

    @property
    def tensor_peak(self) -> int:
        """The peak without the process itself: what torch's allocator holds."""
        return sum(part.bytes for part in self.parts if part.name not in {BASELINE, CONTEXT})


BASELINE = "Python and libraries"
CONTEXT = "CUDA context and libraries"


@dataclass(frozen=True, kw_only=True)
class ErrorBand:
    """Between what an estimated peak may turn out to be."""

    low: int | None
    """Bytes; None where nothing like it has been measured."""
    high: int | None
    readings: int
    """Measurements it rests on."""
    basis: str
    """Which measurements those are, or why there are none."""


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What a fine-tune takes."""

    parameters: int
    active_parameters: int
    trainable_parameters: int
    phases: tuple[Phase, ...]
    host: tuple[Part, ...] = ()
    """In host memory, for the device's sake: paged and offloaded states of all ranks of one machine."""
    not_modelled: tuple[str, ...]
    band: ErrorBand | None = None
    """Of the binding phase's peak; None until it is asked for."""

    def __post_init__(self) -> None:
        """Refuse an estimate without phases."""
        if not self.phases:
            raise MemprofError("an estimate needs at least one phase")

    @property
    def binding(self) -> Phase:
        """The phase with the highest peak: the one that decides whether it fits."""
        return max(self.phases, key=lambda phase: phase.peak)

    @property
    def peak(self) -> int:
        """Bytes of the binding phase."""
        return self.binding.peak

    def phase(self, name: str) -> Phase:
        """A phase by its name."""
        return next(phase for phase in self.phases if phase.name == name)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, schema moe-memprof/estimate@1; the sums are written beside the parts."""
        return {
            "schema": SCHEMA,
            "parameters": self.parameters,
            "active_parameters": self.active_parameters,
            "trainable_parameters": self.trainable_parameters,
            "peak": self.peak,
            "binding": self.binding.name,
            "phases": [
                {
                    "name": phase.name,
                    "moment": phase.moment,
                    "peak": phase.peak,
                    "tensor_peak": phase.tensor_peak,
                    "parts": [vars(part) for part in phase.parts],
                }
                for phase in self.phases
            ],
            "host": [vars(part) for part in self.host],
            "not_modelled": list(self.not_modelled),
            "band": None if self.band is None else vars(self.band),
        }
