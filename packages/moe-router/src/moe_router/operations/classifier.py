"""Which operation a step carries out, with a calibrated probability.

Logistic regression over hashed features (`features`), its logits divided by a temperature that was fitted on steps of patterns the
weights had not seen (Guo et al. 2017, arXiv 1706.04599).

Shapes: N steps, O operations.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from moe_router.errors import RouterError
from moe_router.operations.features import SIZE, features
from moe_router.operations.vocabulary import OPERATIONS, UNCERTAIN

SCHEMA = "moe-router/operations@1"
THRESHOLD = 0.45
"""Below this probability a step is called uncertain."""
_BATCH = 4096


@dataclass(frozen=True)
class OperationClassifier:
    """Weights that tell the ten operations of `OPERATIONS` apart."""

    weights_FO: NDArray[np.float32]
    bias_O: NDArray[np.float32]
    temperature: float
    threshold: float = THRESHOLD

    def probabilities(self, steps: Sequence[str]) -> NDArray[np.float64]:
        """(steps, operations): how probable each operation is for every step."""
        if not steps:
            return np.zeros((0, len(OPERATIONS)))
        return np.concatenate([self._of(steps[at : at + _BATCH]) for at in range(0, len(steps), _BATCH)])

    def classify(self, steps: Sequence[str]) -> list[str]:
        """The operation of every step, or `uncertain` where none is probable enough."""
        return [
            OPERATIONS[int(p_O.argmax())] if p_O.max() >= self.threshold else UNCERTAIN
            for p_O in self.probabilities(steps)
        ]

    def _of(self, steps: Sequence[str]) -> NDArray[np.float64]:
        found = features(steps)
        summed_NO = np.add.reduceat(self.weights_FO[found.ids_F], found.starts_N, axis=0).astype(np.float64)
        number_N = np.diff(np.append(found.starts_N, len(found.ids_F)))
        logits_NO = (summed_NO / np.sqrt(number_N)[:, None] + self.bias_O) / self.temperature
        raised_NO = np.exp(logits_NO - logits_NO.max(1, keepdims=True))
        return np.asarray(raised_NO / raised_NO.sum(1, keepdims=True))

    def save(self, path: Path) -> None:
        """Write the weights, in half precision, as one npz file."""
        with path.open("wb") as file:
            self._write(file)

    def _write(self, file: BinaryIO) -> None:
        np.savez_compressed(
            file,
            schema=np.array(SCHEMA),
            operations=np.array(OPERATIONS),
            weights=self.weights_FO.astype(np.float16),
            bias=self.bias_O,
            temperature=np.array(self.temperature),
            threshold=np.array(self.threshold),
        )

    @classmethod
    def load(cls, path: Path) -> OperationClassifier:
        """Read weights that `save` wrote.

        Raises:
            RouterError: for a file that holds none, or was made for other operations or features.
        """
        try:
            with np.load(path, allow_pickle=False) as held:
                read: dict[str, Any] = {name: held[name] for name in held.files}
        except (OSError, ValueError) as error:
            raise RouterError(f"operations model {path}: cannot be read ({error})") from None
        if str(read.get("schema")) != SCHEMA or read["weights"].shape != (SIZE, len(OPERATIONS)):
            raise RouterError(
                f"operations model {path}: not a {SCHEMA} file; make one with moe-router operations train"
            )
        return cls(
            read["weights"].astype(np.float32),
            read["bias"].astype(np.float32),
            float(read["temperature"]),
            float(read["threshold"]),
        )


@cache
def shipped() -> OperationClassifier:
    """The classifier that comes with the package."""
    with resources.as_file(resources.files(__package__) / "operations.npz") as path:
        return OperationClassifier.load(path)


def classify(steps: Sequence[str]) -> list[str]:
    """The operation of every step, by the shipped classifier: one of `OPERATIONS`, or `uncertain`."""
    return shipped().classify(steps)
