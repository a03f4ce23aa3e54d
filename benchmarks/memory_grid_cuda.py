"""Planned beside measured memory on a CUDA GPU, models of full size: python benchmarks/memory_grid_cuda.py

Mixtral-8x7B, Qwen3-30B-A3B, OLMoE-1B-7B and gpt-oss-20b with random weights, built on the GPU where the plan says that they fit: peaks of
allocated and of reserved memory of loading and of a training step, beside the plan's tensors and its sum with the allocator's share. Writes
`memory_grid_cuda.json` after every case, with the versions at hand. No result is committed yet: it has not run on a GPU.

`--device cpu --layers 2 --divide 16` tries the same code on a CPU, on models 16 times narrower.
"""

from __future__ import annotations

import argparse
import gc
import json
import platform
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoConfig, AutoModelForCausalLM

from moe_memprof import RunSpec, __version__, estimate
from moe_memprof.measure import measure_step

MODELS: dict[str, dict[str, Any]] = {
    "mixtral": {"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32,
                "num_key_value_heads": 8, "num_local_experts": 8, "num_experts_per_tok": 2, "vocab_size": 32000},
    "qwen3_moe": {"hidden_size": 2048, "intermediate_size": 6144, "moe_intermediate_size": 768, "num_hidden_layers": 48,
                  "num_attention_heads": 32, "num_key_value_heads": 4, "head_dim": 128, "num_experts": 128, "num_experts_per_tok": 8,
                  "vocab_size": 151936},
    "olmoe": {"hidden_size": 2048, "intermediate_size": 1024, "num_hidden_layers": 16, "num_attention_heads": 16,
              "num_key_value_heads": 16, "num_experts": 64, "num_experts_per_tok": 8, "vocab_size": 50304},
    "gpt_oss": {"hidden_size": 2880, "intermediate_size": 2880, "num_hidden_layers": 24, "num_attention_heads": 64,
                "num_key_value_heads": 8, "head_dim": 64, "num_local_experts": 32, "num_experts_per_tok": 4, "vocab_size": 201088},
}  # fmt: skip
SIZES = ("hidden_size", "intermediate_size", "moe_intermediate_size", "head_dim", "vocab_size")


@dataclass(frozen=True, kw_only=True)
class Case:
    """One run."""

    model: str
    method: str
    sequences: int
    length: int
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Unique in the grid."""
        extra = " ".join(f"{k}={v}" for k, v in self.options.items())
        return f"{self.model} {self.method} {self.sequences}x{self.length} {extra}".strip()


def cases() -> Iterator[Case]:
    """Every model with and without checkpointing, adapters on attention alone and on experts too, two lengths; OLMoE in full."""
    for model in MODELS:
        for checkpointing in ("non-reentrant", "none"):
            for experts in (False, True):
                for sequences, length in ((1, 2048), (4, 512)):
                    options = {"checkpointing": checkpointing, "lora_experts": experts, "loss": "stock"}
                    yield Case(model=model, method="lora", sequences=sequences, length=length, options=options)
    for optimizer in ("adamw", "adamw_fused"):
        options = {"checkpointing": "non-reentrant", "loss": "stock", "optimizer": optimizer}
        yield Case(model="olmoe", method="full", sequences=1, length=2048, options=options)


def config_of(model: str, *, layers: int | None, divide: int) -> dict[str, Any]:
    """The model's sizes, fewer layers and narrower where asked for."""
    values = {k: v // divide if k in SIZES else v for k, v in MODELS[model].items()}
    return {"model_type": model, **values, **({"num_hidden_layers": layers} if layers else {})}


def spec_of(case: Case, config: dict[str, Any], device: str) -> RunSpec:
    """The case as the estimate takes it; the head of gpt-oss has sinks, which transformers computes eagerly."""
    return RunSpec(
        config=config, method=case.method, dtype="bfloat16", sequences=case.sequences, length=case.length, lora_rank=16, device=device,
        attention="eager" if case.model == "gpt_oss" else "sdpa", **case.options,
    )  # type: ignore[arg-type]  # fmt: skip


def build(case: Case, config: dict[str, Any], device: str) -> torch.nn.Module:
    """Random weights made on the device, adapted as the case has it."""
    import peft

    torch.manual_seed(0)
    kind = {k: v for k, v in config.items() if k != "model_type"}
    made = AutoConfig.for_model(config["model_type"], **kind, pad_token_id=0)
    eager = case.model == "gpt_oss"
    with torch.device(device):
        model: Any = AutoModelForCausalLM.from_config(
            made, dtype=torch.bfloat16, attn_implementation="eager" if eager else "sdpa"
        )
    if case.method == "lora":
        experts = [n for n, p in model.named_parameters() if p.ndim == 3 and ".experts." in n]
        lora = peft.LoraConfig(
            r=16,
            target_modules=["q_proj", "k_proj", "v_proj", "o_proj"],
            target_parameters=experts if case.options["lora_experts"] else None,
        )
        model = peft.get_peft_model(model, lora)
    if case.options["checkpointing"] != "none":
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        model.enable_input_require_grads()
    return model.train()


def run(case: Case, config: dict[str, Any], device: str) -> dict[str, Any]:
    """Measured peaks of a step, optimizer's step included, beside the plan's."""
    spec = spec_of(case, config, device)
    made = estimate(spec).phase("step")
    tensors = sum(p.bytes for p in made.parts if not p.name.startswith("allocator:"))
    model = build(case, config, device)
    parameters = [p for p in model.parameters() if p.requires_grad]
    fused = case.options.get("optimizer") == "adamw_fused"
    optimizer = torch.optim.AdamW(parameters, lr=1e-5, fused=True if fused else None)
    ids = torch.randint(1, config["vocab_size"], (case.sequences, case.length), device=device)

    def step() -> None:
        model(input_ids=ids, labels=ids, use_cache=False).loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    step()
    found: dict[str, Any] = {"name": case.name, "planned_tensors": tensors, "planned": made.peak}
    if device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        step()
        found |= {"allocated": torch.cuda.max_memory_allocated(), "reserved": torch.cuda.max_memory_reserved()}
    else:
        held = sum(p.numel() * p.element_size() for p in model.parameters()) + sum(
            t.numel() * t.element_size() for s in optimizer.state.values() for t in s.values() if torch.is_tensor(t)
        )
        found["allocated"] = held + measure_step(step).peak
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--layers", type=int, help="layers of each model, instead of its own number")
    parser.add_argument("--divide", type=int, default=1, help="make every width this many times smaller")
    parser.add_argument("--only", default="", help="cases whose name has this text")
    parser.add_argument("--output", type=Path, default=Path(__file__).with_suffix(".json"))
    a = parser.parse_args()
    room = torch.cuda.get_device_properties(0).total_memory if a.device == "cuda" else 2**34
    environment = {
        "torch": torch.__version__, "transformers": transformers.__version__, "moe_memprof": __version__,
        "python": platform.python_version(), "device": torch.cuda.get_device_name(0) if a.device == "cuda" else "cpu",
        "layers": a.layers, "divide": a.divide,
    }  # fmt: skip
    rows: list[dict[str, Any]] = []
    for case in cases():
        config = config_of(case.model, layers=a.layers, divide=a.divide)
        if a.only not in case.name:
            continue
        if estimate(spec_of(case, config, a.device)).peak > room:
            rows.append({"name": case.name, "skipped": "the plan is above the device's memory"})
            continue
        row = run(case, config, a.device)
        rows.append(row)
        error = row["planned_tensors"] / row["allocated"] - 1
        print(
            f"{case.name:86} {row['planned_tensors'] / 2**30:8.3f} {row['allocated'] / 2**30:8.3f} GiB {100 * error:+.2f} %",
            flush=True,
        )
        gc.collect()
        a.output.write_text(json.dumps({"environment": environment, "runs": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
