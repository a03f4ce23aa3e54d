"""The trace: what was routed where, summed, in one safetensors file.

Shapes: G groups, L MoE layers, E experts.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from moe_router.errors import RouterError

SCHEMA = "moe-router/trace@1"
_ARRAYS = ("counts_GLE", "first_GLE", "mass_GLE", "coactivation_LEE", "tokens_G")


@dataclass(frozen=True, kw_only=True)
class RoutingTrace:
    """Executed routing of a text, by group, layer and expert."""

    model: str
    layers: tuple[str, ...]
    """Names of the MoE layers."""
    num_experts: int
    top_k: int
    groups: tuple[str, ...]
    counts_GLE: NDArray[np.int64]
    """Assignments executed: a token counts once for each of its top-k experts."""
    first_GLE: NDArray[np.int64]
    """Tokens whose heaviest expert it was."""
    mass_GLE: NDArray[np.float64]
    """Sum of the routing weights."""
    coactivation_LEE: NDArray[np.int64]
    """Tokens that went to both experts; symmetric, zero diagonal."""
    tokens_G: NDArray[np.int64]
    metadata: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check that the parts agree.

        Raises:
            RouterError: when shapes or sums contradict one another.
        """
        shape = (len(self.groups), len(self.layers), self.num_experts)
        if any(a.shape != shape for a in (self.counts_GLE, self.first_GLE, self.mass_GLE)):
            raise RouterError(
                f"trace: arrays of {self.counts_GLE.shape} where {shape} (groups, layers, experts) are stated"
            )
        expected_GL = np.broadcast_to((self.tokens_G * self.top_k)[:, None], shape[:2])
        if (self.counts_GLE.sum(-1) != expected_GL).any():
            raise RouterError(
                "trace: the assignments of a layer are not tokens times top-k; part of the routing is missing"
            )

    def save(self, path: Path) -> None:
        """Write the file at once: a stop leaves the old one or the new."""
        from safetensors.numpy import save

        header = {
            "schema": SCHEMA,
            "model": self.model,
            "num_experts": self.num_experts,
            "top_k": self.top_k,
            "layers": self.layers,
            "groups": self.groups,
            "metadata": dict(self.metadata),
        }
        arrays = {name: np.ascontiguousarray(getattr(self, name)) for name in _ARRAYS}
        data = save(arrays, metadata={"moe_router": json.dumps(header)})
        temporary = path.with_name(f".{path.name}.tmp")
        try:
            with temporary.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)

    @classmethod
    def load(cls, path: Path) -> RoutingTrace:
        """Read a trace.

        Raises:
            RouterError: for a file that is missing, is not a trace, or is of a newer major version.
        """
        from safetensors import SafetensorError, safe_open

        if not path.is_file():
            raise RouterError(f"trace {path}: no such file")
        try:
            with safe_open(path, framework="numpy") as file:
                header = json.loads((file.metadata() or {}).get("moe_router", "null"))
                arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
        except (SafetensorError, OSError) as error:
            raise RouterError(f"trace {path}: not a safetensors file ({error})") from None
        if header is None:
            raise RouterError(f"trace {path}: a safetensors file, but not a routing trace")
        if header["schema"] != SCHEMA:
            raise RouterError(
                f"trace {path}: written as {header['schema']}, this version reads {SCHEMA}; upgrade moe-router"
            )
        return cls(
            model=header["model"],
            layers=tuple(header["layers"]),
            num_experts=header["num_experts"],
            top_k=header["top_k"],
            groups=tuple(header["groups"]),
            metadata=header["metadata"],
            **arrays,
        )
