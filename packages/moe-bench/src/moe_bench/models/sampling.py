"""Drawing tokens so that neither the batch nor the order of work matters: every answer has random numbers of its own.

Shapes: B rows, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch


class Draws:
    """The random numbers of one answer: the n-th belongs to its n-th token, whatever else is drawn (Philox; Salmon et al. 2011)."""

    def __init__(self, seed: int) -> None:
        self._generator = np.random.Generator(np.random.Philox(key=seed))

    def next(self) -> float:
        """Uniform on [0, 1)."""
        return float(self._generator.random())


def choose(
    logits_BV: torch.Tensor, draws: Sequence[Draws | None], *, temperature: float, top_p: float = 1.0
) -> list[int]:
    """The next token of every row: the likeliest at temperature 0, else drawn by inversion of the distribution.

    Tokens are drawn from softmax(logits / temperature), restricted to the smallest set of likeliest tokens whose probability is at
    least `top_p` (Holtzman et al. 2020), in double precision and in the order of the vocabulary. Rounding of the logits, which
    depends on the batch, can only matter where a draw falls within it of the border between two tokens.
    """
    import torch

    if temperature == 0:
        likeliest: list[int] = logits_BV.argmax(-1).tolist()
        return likeliest
    numbers_B = [d.next() for d in draws if d is not None]
    p_BV = torch.softmax(logits_BV.double() / temperature, dim=-1)
    if top_p < 1:
        sorted_BV, order_BV = p_BV.sort(dim=-1, descending=True)
        kept_BV = sorted_BV.cumsum(-1) - sorted_BV < top_p
        p_BV = torch.zeros_like(p_BV).scatter(-1, order_BV, sorted_BV * kept_BV)
    total_BV = p_BV.cumsum(-1)
    goal_B1 = torch.tensor(numbers_B, dtype=torch.float64, device=p_BV.device)[:, None] * total_BV[:, -1:]
    drawn_B1 = torch.searchsorted(total_BV, goal_B1, right=True).clamp(max=p_BV.shape[-1] - 1)
    drawn: list[int] = drawn_B1[:, 0].tolist()
    return drawn
