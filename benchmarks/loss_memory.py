"""What the loss takes, in three ways: python benchmarks/loss_memory.py [--rounds N]

transformers' own, all logits with the wanted ones upcast, and chunks. A Mixtral of 2 layers with a vocabulary of 128,256 and its head
frozen, LoRA on attention, 4 rows of 512 tokens, half of them with a loss.
Bytes are the highest sum of live tensors of one forward and backward pass above what was there before, beside moe-memprof's plan of the
same; time is the ratio to transformers' own loss within each round, the three in turns. Writes loss_memory.json beside this file.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from transformers import MixtralConfig, MixtralForCausalLM

from moe_memprof import RunSpec, estimate
from moe_memprof.error_band import step_rise
from moe_memprof.measure import measure_step
from moe_train.data import IGNORED, Batch
from moe_train.loss import after_head, completion_loss

OUT = Path(__file__).with_suffix(".json")
ROWS, LENGTH, VOCABULARY = 4, 512, 128_256
LOSSES = ("stock", "whole", "chunked")


def model_of(dtype: torch.dtype) -> Any:
    config = MixtralConfig(
        vocab_size=VOCABULARY, hidden_size=256, intermediate_size=256, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=4,
        num_local_experts=4, num_experts_per_tok=2,
    )  # fmt: skip
    torch.manual_seed(0)
    targets = ["q_proj", "k_proj", "v_proj", "o_proj"]
    return get_peft_model(
        MixtralForCausalLM(config).to(dtype), LoraConfig(r=8, lora_alpha=16, target_modules=targets)
    ).train()


def batch() -> Batch:
    ids = torch.randint(3, VOCABULARY, (ROWS, LENGTH), generator=torch.Generator().manual_seed(0))
    labels = ids.clone()
    labels[:, : LENGTH // 2] = IGNORED
    return Batch(input_ids_BS=ids, attention_mask_BS=torch.ones_like(ids), labels_BS=labels, lengths_B=[LENGTH] * ROWS)


def step_of(kind: str, model: Any, given: Batch) -> Any:
    after = after_head(model.get_base_model()) if kind == "chunked" else None

    def step() -> None:
        model.zero_grad(set_to_none=True)
        if kind == "stock":
            inputs = {
                "input_ids": given.input_ids_BS,
                "attention_mask": given.attention_mask_BS,
                "labels": given.labels_BS,
            }
            model(**inputs, use_cache=False).loss.backward()
        else:
            (completion_loss(model, given, after=after) / given.completion_tokens).backward()

    return step


def planned(kind: str, model: Any, dtype: str) -> int:
    spec = RunSpec(
        config=model.get_base_model().config.to_dict(), method="lora", dtype=dtype, lora_rank=8, lora_experts=False, sequences=ROWS,
        length=LENGTH, loss={"whole": "completion"}.get(kind, kind), loss_share=1.0 if kind == "stock" else 0.5, device="cpu",
    )  # type: ignore[arg-type]  # fmt: skip
    return step_rise(estimate(spec).phase("step"))


def rows(dtype: str, rounds: int) -> list[dict[str, Any]]:
    model, given = model_of(getattr(torch, dtype)), batch()
    steps = {kind: step_of(kind, model, given) for kind in LOSSES}
    seconds: dict[str, list[float]] = {kind: [] for kind in LOSSES}
    for kind in LOSSES:
        steps[kind]()
    for _ in range(rounds):
        for kind in LOSSES:
            started = time.perf_counter()
            steps[kind]()
            seconds[kind].append(time.perf_counter() - started)
    found = []
    for kind in LOSSES:
        model.zero_grad(set_to_none=True)
        measured, plan = measure_step(steps[kind]).peak, planned(kind, model, dtype)
        ratios = [a / b for a, b in zip(seconds[kind], seconds["stock"], strict=True)]
        ratio = {"lowest": min(ratios), "median": statistics.median(ratios), "highest": max(ratios)}
        found.append(
            {
                "dtype": dtype, "loss": kind, "measured": measured, "planned": plan,
                "bytes_per_logit": measured / (ROWS * LENGTH * VOCABULARY), "time_ratio": ratio,
            }
        )  # fmt: skip
        print(
            f"{dtype:9} {kind:8} {measured / 2**20:7.0f} MiB, planned {plan / 2**20:7.0f}, time {ratio['median']:.2f}",
            flush=True,
        )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    found = [row for dtype in ("float32", "bfloat16") for row in rows(dtype, rounds)]
    environment = {
        "python": platform.python_version(), "processor": platform.machine(), "threads": torch.get_num_threads(),
        **{name: version(name) for name in ("torch", "transformers", "peft")},
    }  # fmt: skip
    OUT.write_text(json.dumps({"rounds": rounds, "environment": environment, "rows": found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
