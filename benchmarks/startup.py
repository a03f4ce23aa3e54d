"""How long each command takes to say its help: python benchmarks/startup.py [--rounds N]

Every round runs all commands once after an empty interpreter, so that a busy moment falls on all alike; what is reported is each
command's time over the empty interpreter's of the same round. Writes startup.json beside this file.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

OUT = Path(__file__).with_suffix(".json")
COMMANDS = ("moe_memprof", "moe_router", "moe_bench", "moe_train")


def seconds(*arguments: str) -> float:
    started = time.perf_counter()
    subprocess.run([sys.executable, *arguments], check=True, capture_output=True)
    return time.perf_counter() - started


def modules(command: str) -> int:
    code = f"import sys\ntry:\n from {command}.cli import main; main(['--help'])\nfinally: print('MODULES', len(sys.modules))"
    out = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    return int(out.rpartition("MODULES")[2])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    rounds = parser.parse_args().rounds
    empty: list[float] = []
    times: dict[str, list[float]] = {command: [] for command in (*COMMANDS, "import torch")}
    for _ in range(rounds):
        empty.append(seconds("-c", "pass"))
        for command in COMMANDS:
            times[command].append(seconds("-m", command, "--help"))
        times["import torch"].append(seconds("-c", "import torch"))
    values = {
        "benchmark": "startup",
        "rounds": rounds,
        "empty_interpreter_seconds": statistics.median(empty),
        "commands": {
            command: {
                "seconds": statistics.median(found),
                "over_empty": dict(
                    zip(
                        ("lowest", "median", "highest"),
                        _spread([t / e for t, e in zip(found, empty, strict=True)]),
                        strict=True,
                    )
                ),
                **({"modules": modules(command)} if command in COMMANDS else {}),
            }
            for command, found in times.items()
        },
        "environment": {
            "python": platform.python_version(),
            "platform": platform.platform(),
            "torch": version("torch"),
        },
    }
    OUT.write_text(json.dumps(values, indent=1) + "\n")
    print(json.dumps(values["commands"], indent=1))


def _spread(values: list[float]) -> tuple[float, float, float]:
    return min(values), statistics.median(values), max(values)


if __name__ == "__main__":
    main()
