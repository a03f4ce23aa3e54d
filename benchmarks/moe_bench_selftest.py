"""The checkers of moe-bench on labelled data: python benchmarks/moe_bench_selftest.py [--data DIR]

Runs what `moe-bench selftest` runs and writes moe_bench_selftest.json beside this file, with the number of the cases that differ from
their labels instead of the cases. `python docs/generate.py` puts the table into docs/checkers.md.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from pathlib import Path

from moe_bench.commands.selftest import report
from moe_bench.selftest import run_selftest

OUT = Path(__file__).with_suffix(".json")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=os.environ.get("MOE_TEST_DATA"))
    data = parser.parse_args().data
    if data is None:
        parser.error("--data or MOE_TEST_DATA must name the folder of data")
    begun = time.process_time()
    rows = run_selftest(Path(data), tell=print)
    written = {
        **report(rows, cases=False),
        "python": platform.python_version(),
        "processor_seconds": round(time.process_time() - begun),
    }
    OUT.write_text(json.dumps(written, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    for row in rows:
        if row.met is False:
            print(f"missed: {row.checker}, {row.data}: {row.metric} {row.value:.4f}, bar {row.bar}")


if __name__ == "__main__":
    main()
