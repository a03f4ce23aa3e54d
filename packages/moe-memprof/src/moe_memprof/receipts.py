"""A receipt: what was estimated beside what was measured. The error one may expect is read off receipts, never stated."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from moe_memprof.errors import MemprofError

SCHEMA = "moe-memprof/receipt@1"


@dataclass(frozen=True, kw_only=True)
class Reading:
    """One phase, estimated and measured."""

    phase: str
    estimated: int
    measured: int

    @property
    def error(self) -> float:
        """(estimated − measured) / measured."""
        return (self.estimated - self.measured) / self.measured


@dataclass(frozen=True, kw_only=True)
class Receipt:
    """The readings of one run."""

    label: str
    readings: tuple[Reading, ...]
    environment: Mapping[str, Any]

    def __post_init__(self) -> None:
        """Refuse a receipt without a measurement.

        Raises:
            MemprofError: for no readings, or a measurement that is not above zero.
        """
        if not self.readings or any(r.measured <= 0 for r in self.readings):
            raise MemprofError(f"receipt {self.label}: needs at least one reading, each measured above 0 bytes")

    def save(self, path: Path) -> None:
        """Write the file at once: a stop leaves the old one or the new."""
        values = {
            "schema": SCHEMA,
            "label": self.label,
            "phases": [asdict(r) for r in self.readings],
            "environment": dict(self.environment),
        }
        temporary = path.with_name(f".{path.name}.tmp")
        try:
            with temporary.open("w", encoding="utf-8") as file:
                json.dump(values, file, indent=1)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)

    @classmethod
    def load(cls, path: Path) -> Receipt:
        """Read a receipt.

        Raises:
            MemprofError: for a file that is missing, is no receipt, or is of a newer major version.
        """
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            reason = "no such file" if isinstance(error, FileNotFoundError) else "not a readable JSON file"
            raise MemprofError(f"receipt {path}: {reason}") from None
        schema = values.get("schema") if isinstance(values, dict) else None
        if schema != SCHEMA:
            raise MemprofError(f"receipt {path}: its schema is {schema}, this version reads {SCHEMA}")
        return cls(
            label=values["label"],
            readings=tuple(Reading(**r) for r in values["phases"]),
            environment=values["environment"],
        )


@dataclass(frozen=True, kw_only=True)
class ErrorSummary:
    """How good the estimates of several receipts were."""

    readings: int
    median_absolute_error: float
    worst_error: float
    """The signed error that is largest in size."""


def summarise(receipts: Sequence[Receipt]) -> ErrorSummary:
    """Median and worst error over all readings of the receipts."""
    errors = [reading.error for receipt in receipts for reading in receipt.readings]
    if not errors:
        raise MemprofError("no receipt to summarise")
    return ErrorSummary(
        readings=len(errors), median_absolute_error=median(abs(e) for e in errors), worst_error=max(errors, key=abs)
    )
