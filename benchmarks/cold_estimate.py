"""Time and memory of one estimate from nothing: python benchmarks/cold_estimate.py [--rounds N]

Every round starts an empty interpreter, one that imports what the command stands on (click, rich, psutil), and `moe-memprof estimate` of
Mixtral-8x7B's config, each a process of its own, one after the other. Resident memory is the highest the system counted for the process.
Writes cold_estimate.json beside this file.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

OUT = Path(__file__).with_suffix(".json")
MIXTRAL = {
    "model_type": "mixtral", "architectures": ["MixtralForCausalLM"], "hidden_size": 4096, "intermediate_size": 14336,
    "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8, "num_local_experts": 8, "num_experts_per_tok": 2,
    "vocab_size": 32000, "max_position_embeddings": 32768, "rms_norm_eps": 1e-05, "rope_theta": 1000000.0, "sliding_window": None,
    "tie_word_embeddings": False, "torch_dtype": "bfloat16", "hidden_act": "silu",
}  # fmt: skip


def run(*arguments: str) -> tuple[float, int]:
    """Wall-clock seconds and highest resident bytes of a process."""
    started = time.perf_counter()
    process = subprocess.Popen([sys.executable, *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - started
    assert process.stderr is not None
    if status not in (0, 256):  # the command's 1 says that it does not fit
        raise SystemExit(process.stderr.read().decode())
    return seconds, usage.ru_maxrss * 1024


def summary(rows: list[tuple[float, int]]) -> dict[str, Any]:
    """Spread of the seconds, and the highest resident bytes of all rounds."""
    seconds = [s for s, _ in rows]
    spread = {"lowest": min(seconds), "median": statistics.median(seconds), "highest": max(seconds)}
    return {"seconds": spread, "resident_bytes": max(r for _, r in rows)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "config.json"
        config.write_text(json.dumps(MIXTRAL))
        cases = {
            "empty interpreter": ("-c", "pass"),
            "click, rich, psutil": ("-c", "import click, psutil, rich.console, rich.table"),
            "estimate": ("-m", "moe_memprof", "estimate", str(config), "--method", "qlora", "--gpu", "RTX 4090"),
        }
        for arguments in cases.values():  # byte code is compiled once
            run(*arguments)
        found: dict[str, list[tuple[float, int]]] = {name: [] for name in cases}
        for _ in range(rounds):
            for name, arguments in cases.items():
                found[name].append(run(*arguments))
    environment = {"python": platform.python_version(), "platform": platform.platform(), "cpus": os.cpu_count()}
    values: dict[str, Any] = {
        "benchmark": "cold_estimate",
        "rounds": rounds,
        "processes": {name: summary(rows) for name, rows in found.items()},
        "environment": {**environment, "moe-memprof": version("moe-memprof")},
    }
    OUT.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(values["processes"], indent=1))


if __name__ == "__main__":
    main()
