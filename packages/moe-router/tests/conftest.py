"""A batch with padding, for every test of the package."""

from __future__ import annotations

import pytest
import torch


@pytest.fixture
def padded_batch() -> dict[str, torch.Tensor]:
    """Three rows of 11, 7 and 4 tokens, padded on the right."""
    generator = torch.Generator().manual_seed(5)
    mask = torch.tensor([[1] * n + [0] * (11 - n) for n in (11, 7, 4)])
    ids = torch.randint(3, 97, (3, 11), generator=generator) * mask
    return {"input_ids": ids, "attention_mask": mask}
