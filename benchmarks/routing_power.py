"""What the routing tests see: rejections under the null, and power against planted shifts, on real traces.

The traces are those published with ESFT (DeepSeek MoE, 26 layers of 64 experts, top-6): `law`, 33 sequences, and `summary`, 13.
Sequences are split into random halves; in one half a share of the tokens that do not use an expert, one of a layer drawn at random, is
made to use it in the place of another. Run with MOE_TEST_DATA naming the folder that holds `esft_routing/traces.npz`:

    MOE_TEST_DATA=... python benchmarks/routing_power.py
"""

from __future__ import annotations

import json
import os
import platform
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path

import numpy as np
from scipy import stats

from moe_router.metrics.significance import compare_units

TRIALS, PERMUTATIONS = 100, 999
SHIFTS = (0.0, 0.01, 0.02, 0.04, 0.08, 0.16)
"""Share of a layer's tokens, in one half."""


def units_of(task: str) -> np.ndarray:
    """Assignments of every sequence, layer and expert."""
    data = np.load(Path(os.environ["MOE_TEST_DATA"]) / "esft_routing" / "traces.npz")
    starts = np.cumsum([0, *data[f"{task}_seqlen"]])
    return np.array(
        [[np.bincount(layer[a:b].ravel(), minlength=64) for layer in data[f"{task}_idx"]] for a, b in pairwise(starts)],
        dtype=float,
    )


def planted(counts_ULE: np.ndarray, first: int, layer: int, expert: int, shift: float) -> np.ndarray:
    """The counts after `shift` of the tokens of the first units went to the expert instead of others of theirs."""
    changed = counts_ULE.copy()
    rows_UE = changed[:first, layer]
    tokens_U = rows_UE.sum(1) / 6
    moved_U = np.minimum(np.round(shift * tokens_U), tokens_U - rows_UE[:, expert])
    others_UE = rows_UE.copy()
    others_UE[:, expert] = 0
    rows_UE -= others_UE * (moved_U / others_UE.sum(1))[:, None]
    rows_UE[:, expert] += moved_U
    return changed


def by_tokens(counts_ULE: np.ndarray, first: int) -> float:
    """Share of experts in which a two-proportion z-test over assignments rejects."""
    a, b = counts_ULE[:first].sum(0), counts_ULE[first:].sum(0)
    n, m = a.sum(-1, keepdims=True), b.sum(-1, keepdims=True)
    pooled = (a + b) / (n + m)
    z = (a / n - b / m) / np.sqrt(np.maximum(pooled * (1 - pooled) * (1 / n + 1 / m), 1e-12))
    return float((2 * stats.norm.sf(np.abs(z)) <= 0.05).mean())


def measure(task: str) -> dict[str, object]:
    """The curve of one task."""
    counts = units_of(task)
    first = len(counts) // 2
    rows = []
    for shift in SHIFTS:
        rng = np.random.default_rng(0)
        single, adjusted, null, family, tokens = [], [], [], [], []
        for trial in range(TRIALS):
            shuffled = counts[rng.permutation(len(counts))]
            layer, expert = int(rng.integers(26)), int(rng.integers(64))
            changed = planted(shuffled, first, layer, expert, shift)
            found = compare_units(changed, first, permutations=PERMUTATIONS, seed=trial)
            single.append(found.p_LE[layer, expert] <= 0.05)
            adjusted.append(found.p_adjusted_LE[layer, expert] <= 0.05)
            elsewhere = np.delete(np.arange(26), layer)
            null.append((found.p_LE[elsewhere] <= 0.05).mean())
            family.append((found.p_adjusted_LE[elsewhere] <= 0.05).any())
            tokens.append(by_tokens(changed[:, elsewhere], first))
        row = {
            "shift": shift,
            "found_alone": float(np.mean(single)),
            "found_max_t": float(np.mean(adjusted)),
            "rejected_elsewhere": round(float(np.mean(null)), 4),
            "any_max_t_elsewhere": float(np.mean(family)),
            "rejected_elsewhere_by_tokens": round(float(np.mean(tokens)), 4),
        }
        rows.append(row)
        print(task, json.dumps(row))
    return {"sequences": len(counts), "tokens": int(counts[:, 0].sum() / 6), "curve": rows}


def main() -> None:
    """Both tasks, to routing_power.json."""
    result = {
        "environment": {"python": platform.python_version(), "numpy": version("numpy"), "scipy": version("scipy")},
        "trials": TRIALS,
        "permutations": PERMUTATIONS,
        "tasks": {task: measure(task) for task in ("law", "summary")},
    }
    Path(__file__).with_suffix(".json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
