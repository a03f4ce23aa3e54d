"""What recording costs, and how long a large trace takes to analyse.

    python benchmarks/routing_capture.py [--rounds N] [--tokens N]

The first part runs a Mixtral of 100 million parameters on the CPU, a forward pass without and one with the recorder in turn, in an
order drawn at random; what is reported is the ratio within each pair and, steadier, the time the recorder's hooks took over that of the
rest. The second writes a trace of 10 million tokens, 32 layers and top-2, and from it the report with all its tests, in a process of its
own, whose peak memory is taken. Writes routing_capture.json beside this file.
"""

from __future__ import annotations

import argparse
import json
import platform
import random
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import MixtralConfig, MixtralForCausalLM

from moe_router import RoutingRecorder, TokenTrace

OUT = Path(__file__).with_suffix(".json")
ANALYSE = """
import json, resource, sys, time
from pathlib import Path
from moe_router.pages.analysis import analyse
from moe_router.pages.page import write
from moe_router.summary import summarise_tokens
from moe_router.token_trace import TokenTrace
started = time.perf_counter()
summed = summarise_tokens(TokenTrace.load(Path(sys.argv[1])))
sums = time.perf_counter() - started
write(analyse(summed), Path(sys.argv[1]).with_suffix(".html"))
print(json.dumps({"seconds": time.perf_counter() - started, "seconds_of_sums": sums, "assignments": int(summed.counts_ULE.sum()),
                  "peak_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20}))
"""


class Timed(RoutingRecorder):
    """A recorder that knows the seconds it took."""

    taken = 0.0

    def _before_model(self, *args: Any) -> None:
        started = time.perf_counter()
        super()._before_model(*args)
        self.taken += time.perf_counter() - started

    def _reader(self, number: int) -> Any:
        read = super()._reader(number)

        def timed(routing: Any) -> None:
            started = time.perf_counter()
            read(routing)
            self.taken += time.perf_counter() - started

        return timed


def capture(rounds: int) -> dict[str, object]:
    """The ratio of a recorded forward pass to a plain one."""
    torch.manual_seed(0)
    config = MixtralConfig(
        vocab_size=8192, hidden_size=512, intermediate_size=1024, num_hidden_layers=7, num_attention_heads=8, num_key_value_heads=8,
        num_local_experts=8, num_experts_per_tok=2,
    )  # fmt: skip
    model = MixtralForCausalLM(config).eval()
    ids_BS = torch.randint(0, 8192, (4, 256))
    mask_BS = torch.ones_like(ids_BS)
    mask_BS[1, 200:] = 0

    def seconds() -> float:
        started = time.perf_counter()
        model(input_ids=ids_BS, attention_mask=mask_BS, use_cache=False)
        return time.perf_counter() - started

    ratios, plain = [], []
    generator = random.Random(0)
    recorder, shares = Timed(model), []
    with torch.inference_mode():
        seconds()
        for _ in range(rounds):
            times = {}
            for recorded in generator.sample([False, True], 2):
                if recorded:
                    before = recorder.taken
                    with recorder:
                        times[True] = seconds()
                    shares.append((recorder.taken - before) / (times[True] - recorder.taken + before))
                else:
                    times[False] = seconds()
            ratios.append(times[True] / times[False])
            plain.append(times[False])
    low, middle, high = statistics.quantiles(ratios, n=4)
    mean = statistics.fmean(ratios)
    error = statistics.stdev(ratios) / len(ratios) ** 0.5
    return {
        "parameters": sum(p.numel() for p in model.parameters()),
        "tokens_per_pass": int(mask_BS.sum()),
        "rounds": rounds,
        "plain_seconds": statistics.median(plain),
        "recorder_over_rest_quartiles": [round(x, 4) for x in statistics.quantiles(shares, n=4)],
        "ratio_quartiles": [round(x, 4) for x in (low, middle, high)],
        "ratio_mean": round(mean, 4),
        "ratio_standard_error": round(error, 4),
    }


def analysis(tokens: int) -> dict[str, object]:
    """Seconds and peak memory of analysing a large trace."""
    layers, experts, length = 32, 8, 1000
    rng = np.random.default_rng(0)
    first = rng.integers(0, experts, (tokens, layers, 1), dtype=np.uint8)
    second = (first + rng.integers(1, experts, (tokens, layers, 1), dtype=np.uint8)) % experts
    starts = np.arange(0, tokens + 1, length)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "large.trace"
        TokenTrace(
            model="drawn at random",
            layers=tuple(f"layer {n}" for n in range(layers)),
            experts_L=(experts,) * layers,
            top_k_L=(2,) * layers,
            groups=("a", "b"),
            experts_TLK=np.concatenate([first, second], -1),
            starts_N=starts,
            group_N=(np.arange(len(starts) - 1) % 2).astype(np.int32),
        ).save(path)
        size = path.stat().st_size
        done = subprocess.run([sys.executable, "-c", ANALYSE, str(path)], check=True, capture_output=True, text=True)
    return {
        "tokens": tokens,
        "layers": layers,
        "top_k": 2,
        "file_gib": round(size / 2**30, 3),
        **json.loads(done.stdout),
    }


def main() -> None:
    """Both parts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--tokens", type=int, default=10_000_000)
    options = parser.parse_args()
    values = {
        "benchmark": "routing_capture",
        "capture": capture(options.rounds),
        "analysis": analysis(options.tokens),
        "environment": {
            "python": platform.python_version(), "torch": version("torch"), "transformers": version("transformers"),
            "threads": torch.get_num_threads(), "machine": platform.machine(),
        },
    }  # fmt: skip
    print(json.dumps(values, indent=1))
    OUT.write_text(json.dumps(values, indent=1) + "\n")


if __name__ == "__main__":
    main()
