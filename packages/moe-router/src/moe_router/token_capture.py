"""From a running model to a full trace.

Shapes: T positions of a pass, L MoE layers, K experts per token (of the layer that takes most).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from moe_router.architectures.base import MoELayer, Routing
from moe_router.positions import Positions
from moe_router.token_trace import TokenWriter, expert_dtype


class TokenCapture:
    """Gathers the decisions of one forward pass after another, layer by layer, and writes each pass when its last layer ran.

    A sequence that is generated goes on where its prompt ended.
    """

    def __init__(
        self, path: Path, layers: list[MoELayer], header: dict[str, Any], *, weights: bool, types: bool
    ) -> None:
        self.layers, self.types = layers, types
        self.writer = TokenWriter(path, header, weights=weights, types=types)
        self._top_k = max(layer.top_k for layer in layers)
        self._idle = int(np.iinfo(expert_dtype(max(layer.num_experts for layer in layers))).max)
        self._sequences = 0
        self._rows: NDArray[np.int64] = np.zeros(0, dtype=np.int64)
        self._now: dict[int, tuple[Tensor, Tensor]] = {}

    def begin(self, positions: Positions) -> None:
        """A forward pass begins."""
        if not (positions.continued and len(self._rows) == positions.sequences):
            self._rows = np.arange(self._sequences, self._sequences + positions.sequences)
            self._sequences += positions.sequences
        self._now = {}

    def add(
        self,
        number: int,
        routing: Routing,
        positions: Positions,
        mask_T: Tensor | None,
        type_T: Tensor | None,
        group: str,
    ) -> None:
        """One layer's decisions; the pass is written with those of the last layer."""
        experts_TK = routing.indices_TK
        if routing.idle_TK is not None:
            experts_TK = torch.where(routing.idle_TK, self._idle, experts_TK)
        self._now[number] = experts_TK, routing.weights_TK
        if len(self._now) < len(self.layers):
            return
        keep_T = np.ones(len(experts_TK), dtype=bool) if mask_T is None else mask_T.cpu().numpy()
        experts = [self._wide(self._now[n][0], self._idle) for n in range(len(self.layers))]
        weights = [self._wide(self._now[n][1].float(), 0) for n in range(len(self.layers))]
        sequence_T = self._rows[positions.sequence_T.cpu().numpy()]
        ids = np.full(len(keep_T), -1) if positions.token_ids_T is None else positions.token_ids_T.cpu().numpy()
        rows: dict[str, Any] = {
            "experts_TLK": np.stack(experts, 1)[keep_T],
            "weights_TLK": np.stack(weights, 1)[keep_T],
            "sequence_T": sequence_T[keep_T],
            "token_ids_T": ids[keep_T],
        }
        if self.types:
            rows["type_T"] = (np.zeros(len(keep_T)) if type_T is None else type_T.cpu().numpy())[keep_T]
        self.writer.add(rows, {int(s): group for s in self._rows})
        self._now = {}

    def _wide(self, tensor: Tensor, fill: int) -> NDArray[Any]:
        array = tensor.cpu().numpy()
        return np.pad(array, ((0, 0), (0, self._top_k - array.shape[1])), constant_values=fill)
