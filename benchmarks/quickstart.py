"""How long the quickstart takes, stage by stage, and how much memory: python benchmarks/quickstart.py [--rounds N] [--report FILE]

Runs `moe-train run` as a newcomer does, each round in a process and a folder of its own, and writes quickstart.json beside this
file. Nothing else should run on the machine meanwhile.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

OUT = Path(__file__).with_suffix(".json")


def one_round(folder: Path) -> dict[str, Any]:
    started, used = time.perf_counter(), processor_seconds()
    done = subprocess.run(
        [sys.executable, "-m", "moe_train", "run", "name=quickstart", "--json"],
        cwd=folder, stdout=subprocess.PIPE, text=True, check=True,
    )  # fmt: skip
    seconds, used = time.perf_counter() - started, processor_seconds() - used
    run = folder / "runs" / "quickstart"
    stages = json.loads((run / "stages.json").read_text())["seconds"]
    memory = [json.loads(line) for line in (run / "memory.jsonl").read_text().splitlines()]
    peaks: dict[str, int] = {}
    for line in memory:
        if line["phase"]:
            peaks[line["phase"]] = max(line["rss"], peaks.get(line["phase"], 0))
    receipt = json.loads((run / "receipt.json").read_text())["phases"][0]
    plan = json.loads((run / "plan.json").read_text())["estimate"]
    return {
        "seconds": seconds,
        "processor_seconds": used,
        "stages": {**stages, "start-up, comparison and report": seconds - sum(stages.values())},
        "peak_by_stage": peaks,
        "planned_peak": max(phase["peak"] for phase in plan["phases"]),
        "step_planned": receipt["estimated"],
        "step_measured": receipt["measured"],
        "result": json.loads(done.stdout),
    }


def processor_seconds() -> float:
    """Of all processes so far; what a run on one thread would take on a machine of its own."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def spread(values: list[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "lowest": min(values), "highest": max(values)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--report", type=Path, help="where to keep the last round's report.html")
    arguments = parser.parse_args()
    rounds = arguments.rounds
    found = []
    for number in range(rounds):
        with tempfile.TemporaryDirectory() as folder:
            found.append(one_round(Path(folder)))
            if arguments.report is not None:
                shutil.copy(Path(folder) / "runs" / "quickstart" / "report.html", arguments.report)
        print(f"round {number + 1} of {rounds}: {found[-1]['seconds']:.1f} s", flush=True)
    first = found[0]["result"]
    values = {
        "benchmark": "quickstart",
        "rounds": rounds,
        "seconds": spread([f["seconds"] for f in found]),
        "processor_seconds": spread([f["processor_seconds"] for f in found]),
        "seconds_by_stage": {s: spread([f["stages"][s] for f in found]) for s in found[0]["stages"]},
        "peak_bytes_by_stage": {s: spread([f["peak_by_stage"][s] for f in found]) for s in found[0]["peak_by_stage"]},
        # The kernel's own account of the largest process, which sampling could miss.
        "peak_bytes": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024,
        "planned_peak_bytes": found[0]["planned_peak"],
        "step_tensor_bytes": {"planned": found[0]["step_planned"], "measured": found[0]["step_measured"]},
        "identical_results": all(f["result"] == first for f in found),
        "accuracy": {
            k: [first[k]["accuracy_a"], first[k]["accuracy_b"], first[k]["p_value"]] for k in ("answers", "retained")
        },
        "held_out_loss": [first["held_out_loss"]["before"], first["held_out_loss"]["after"]],
        "environment": {
            "python": platform.python_version(),
            "platform": platform.platform(),
            "processor": _processor(),
            "cores": len(os.sched_getaffinity(0)),
            **{name: version(name) for name in ("torch", "transformers", "peft", "moe-train")},
        },
    }
    OUT.write_text(json.dumps(values, indent=1) + "\n")
    print(f"written to {OUT}")


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor()


if __name__ == "__main__":
    main()
