"""Is the fine-tune still there? The exported model, loaded afresh, against the trained one and against the base.

V vocabulary, T predicted tokens.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moe_train.errors import GateFailed
from moe_train.export import plain

if TYPE_CHECKING:
    import numpy as np

    from moe_train.data import Sample

KEPT = 0.5
"""Below this share the exported model is no nearer to the trained model than to the base, and the export has failed."""
_RECORDS, _TOKENS = 16, 512


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """How far a model is from the trained one, over the same tokens."""

    largest_logit_difference: float
    kl: float
    """Mean over tokens of the Kullback-Leibler divergence of its prediction from the trained model's, in nats."""
    same_choice: float
    """Share of tokens whose most probable next token is the same."""
    same_experts: float | None
    """Share of tokens and layers that were sent to the very same experts; None for a dense model."""


@dataclass(frozen=True, kw_only=True)
class Check:
    """What reloading showed."""

    tokens: int
    exported: Agreement
    base: Agreement
    dtype: str
    """In which both were computed."""

    @property
    def kept(self) -> float:
        """1 - KL(trained, exported) / KL(trained, base): 1 where the export is the trained model, 0 where it is the base."""
        return 1 - self.exported.kl / self.base.kl if self.base.kl > 0 else 0.0

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {**asdict(self), "kept": self.kept}

    def require(self) -> None:
        """Refuse an export in which the fine-tune is not.

        Raises:
            GateFailed: with both distances.
        """
        if self.base.kl < 1e-9:
            raise GateFailed(
                f"export: the trained model predicts what its base does (KL {self.base.kl:.1e} nats a token): there is nothing to export"
            )
        if not self.kept >= KEPT:
            raise GateFailed(
                f"export: the fine-tune vanished: reloaded, the model is {self.exported.kl:.2e} nats a token from the trained one, "
                f"which is {self.base.kl:.2e} from its base ({max(self.kept, 0):.0%} kept); nothing was left at the target"
            )


def check_tokens(samples: Sequence[Sample]) -> list[tuple[list[int], int]]:
    """Tokens of held-out records, and where their completions begin: 16 records, or as many as have 512 completion tokens."""
    found: list[tuple[list[int], int]] = []
    total = 0
    for sample in samples:
        if len(found) == _RECORDS or total >= _TOKENS:
            break
        first = max(1, len(sample.ids) - sample.completion_tokens)
        if len(sample.ids) > first:
            found.append((list(sample.ids), first))
            total += len(sample.ids) - first
    return found


def agreement(trained: Mapping[str, np.ndarray], other: Mapping[str, np.ndarray]) -> Agreement:
    """Compare what `plain.compute` returned for two models."""
    import numpy as np
    from scipy.special import log_softmax

    kl = []
    for row, others in zip(trained["logits"], other["logits"], strict=True):
        p, q = log_softmax(row.astype(np.float64)), log_softmax(others.astype(np.float64))
        kl.append(float(np.sum(np.exp(p) * (p - q))))
    layers = [name for name in trained if name.startswith("experts.")]
    same = [np.all(trained[name] == other[name], axis=1) for name in layers]
    return Agreement(
        largest_logit_difference=float(np.abs(trained["logits"] - other["logits"]).max()),
        kl=max(0.0, float(np.mean(kl))),
        same_choice=float(np.mean(trained["logits"].argmax(1) == other["logits"].argmax(1))),
        same_experts=float(np.mean(np.concatenate(same))) if same else None,
    )


def computed_afresh(
    model: str,
    tokens: Sequence[tuple[list[int], int]],
    *,
    adapter: Path | None,
    dtype: str,
    device: str,
    imports: Sequence[str] = (),
) -> dict[str, np.ndarray]:
    """What a new process computes that imports transformers and PEFT, and of moe-train only what is named.

    Raises:
        GateFailed: where it cannot load the model.
    """
    import numpy as np

    with tempfile.TemporaryDirectory() as folder:
        given, out = Path(folder) / "tokens.json", Path(folder) / "out.npz"
        given.write_text(json.dumps(list(tokens)), encoding="utf-8")
        arguments = {
            "model": model, "adapter": None if adapter is None else str(adapter), "tokens": str(given), "out": str(out),
            "dtype": dtype, "device": device, "imports": list(imports),
        }  # fmt: skip
        done = subprocess.run(
            [sys.executable, plain.__file__, json.dumps(arguments)],
            capture_output=True, text=True, check=False, env={**os.environ, "TRANSFORMERS_VERBOSITY": "error"},
        )  # fmt: skip
        if done.returncode:
            last = (done.stderr.strip().splitlines() or ["no message"])[-1]
            raise GateFailed(f"export: {'PEFT' if adapter else 'transformers'} cannot load what was written: {last}")
        with np.load(out) as found:
            return dict(found)
