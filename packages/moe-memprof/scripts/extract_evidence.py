"""Write evidence.json: what estimates were measured against, for the error band that they state.

Run it after benchmarks/memory_grid.py: python scripts/extract_evidence.py
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[3]
OUT = Path(__file__).parents[1] / "src" / "moe_memprof" / "evidence.json"

RESERVED_OVER_ALLOCATED = {
    # max_memory_reserved and max_memory_allocated of one run, GiB.
    "SimuMax, DeepSeek-V2 ep4pp2": (47.05, 44.7),
    "SimuMax, DeepSeek-V2 ep8pp1": (48.79, 45.63),
    "SimuMax, DeepSeek-V3 ep8pp1": (110.18, 104.3),
    "SimuMax, DeepSeek-V3 ep4pp2": (118.61, 114.0),
    "axolotl PR 3797, OLMoE offloaded, one device": (14.78, 14.15),
    "axolotl PR 3797, OLMoE offloaded, two devices": (14.76, 14.16),
    "axolotl PR 3797, OLMoE resident, two devices": (17.3, 16.97),
    "Megatron Bridge, Gemma 4 LoRA": (45.637, 44.252),
    "loggetta, OLMoE": (6.6836, 5.471),
}
CONTEXT_GIB = {"lowest": 0.13, "median": 0.6, "highest": 0.96}
"""nvidia-smi less reserved, in published runs of loggetta and axolotl."""


def extract() -> dict[str, Any]:
    """The evidence as it is shipped."""
    grid = json.loads((ROOT / "benchmarks" / "memory_grid.json").read_text(encoding="utf-8"))
    runs = [*grid["runs"], *grid["real_runs"]]
    pairs = sorted(reserved / allocated for reserved, allocated in RESERVED_OVER_ALLOCATED.values())
    return {
        "step_cpu": {
            "source": "benchmarks/memory_grid.json",
            "measured_over_planned": sorted(round(r["measured"] / r["planned"], 6) for r in runs),
        },
        "reserved_over_allocated": {
            "source": "; ".join(RESERVED_OVER_ALLOCATED),
            "pairs": len(pairs),
            "lowest": round(pairs[0], 4),
            "median": round(pairs[len(pairs) // 2], 4),
            "highest": round(pairs[-1], 4),
        },
        "context_gib": {"source": "nvidia-smi less reserved, published runs of loggetta and axolotl", **CONTEXT_GIB},
    }


if __name__ == "__main__":
    OUT.write_text(json.dumps(extract(), indent=1) + "\n", encoding="utf-8")
    print(OUT)
