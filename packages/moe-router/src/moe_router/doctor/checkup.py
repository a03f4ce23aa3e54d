"""All checks, one after another."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from moe_router.doctor import adapters, losses, runs, structure
from moe_router.doctor.findings import ERROR, NOTE, WARNING, Finding, Patient
from moe_router.errors import RouterError

CHECKS: dict[str, Callable[[Patient], list[Finding]]] = {
    "transformers version and architecture": structure.unsupported_version,
    "adapters on routers": adapters.adapted_router,
    "experts out of reach of adapters": adapters.experts_out_of_reach,
    "adapters without gradient": adapters.adapters_without_gradient,
    "experts left unquantised": structure.experts_unquantised,
    "compiled model": structure.compiled_before,
    "selection that never ran": losses.selection_never_ran,
    "auxiliary loss without effect": losses.logits_off,
    "auxiliary loss and accumulation": losses.grows_with_accumulation,
    "collapse hidden by pooling": losses.pooled_collapse,
    "probabilities as logits": losses.probabilities_as_logits,
    "reentrant checkpointing": losses.reentrant_checkpointing,
    "selection biases": structure.bias_never_updated,
    "routers without gradient": structure.routers_without_gradient,
    "restarts with trained weights": runs.restarts_with_trained_weights,
    "losses that are not numbers": runs.hidden_nan,
    "leaf modules of ZeRO-3": runs.zero3_leaves,
}
"""What is looked for, by name."""
SEVERITIES = (ERROR, WARNING, NOTE)


def examine(
    model: nn.Module, batch: dict[str, Tensor], *, run: Mapping[str, Any] | None = None, random_tokens: bool = False
) -> list[Finding]:
    """Look for every known silent failure of a model's routing; the gravest first.

    The model is run forward and backward on the batch, a dozen times; its weights are left as they are.

    Args:
        model: as it would be trained.
        batch: `input_ids` and `attention_mask`, [B, S]; two rows or more let more be seen.
        run: the configuration of the run it is meant for.
        random_tokens: whether the batch is no text.

    Raises:
        RouterError: for a model without MoE layers, or whose routing cannot be read.
    """
    patient = Patient(model=model, batch=batch, run=run or {}, random_tokens=random_tokens)
    found = [finding for check in CHECKS.values() for finding in check(patient)]
    return sorted(found, key=lambda finding: SEVERITIES.index(finding.severity))


def batch_for(
    model: Any, tokenizer: Any, data: Path | None, *, rows: int = 4, length: int = 128, seed: int = 0
) -> dict[str, Tensor]:
    """Text of the user's, or tokens drawn at random, as a batch with padding.

    Raises:
        RouterError: for data that cannot be read.
    """
    if data is None:
        size = int(model.get_input_embeddings().weight.shape[0])
        ids_BS = torch.randint(min(5, size - 1), size, (rows, length), generator=torch.Generator().manual_seed(seed))
        mask_BS = torch.ones_like(ids_BS)
        mask_BS[-1, 3 * length // 4 :] = 0
        return {"input_ids": (ids_BS * mask_BS).to(model.device), "attention_mask": mask_BS.to(model.device)}
    from moe_router.text import read_texts

    samples = [
        s.ids[: 4 * length] for s, _ in zip(read_texts(data, by=None, tokenizer=tokenizer), range(rows), strict=False)
    ]
    width = max(map(len, samples))
    ids_BS = torch.tensor([ids + [0] * (width - len(ids)) for ids in samples])
    mask_BS = torch.tensor([[1] * len(ids) + [0] * (width - len(ids)) for ids in samples])
    return {"input_ids": ids_BS.to(model.device), "attention_mask": mask_BS.to(model.device)}


def read_run(path: Path) -> dict[str, Any]:
    """A run's configuration, YAML or JSON.

    Raises:
        RouterError: for a file that is missing or is neither.
    """
    import json

    if not path.is_file():
        raise RouterError(f"config {path}: no such file")
    text = path.read_text(encoding="utf-8")
    try:
        values = json.loads(text)
    except json.JSONDecodeError:
        import yaml

        try:
            values = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise RouterError(f"config {path}: neither JSON nor YAML ({' '.join(str(error).split())[:160]})") from None
    if not isinstance(values, dict):
        raise RouterError(f"config {path}: holds no keys")
    return values
