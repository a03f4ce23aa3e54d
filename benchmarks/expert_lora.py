"""Grouped expert LoRA beside PEFT's target_parameters: python benchmarks/expert_lora.py [--rounds N] [--device cuda]

One layer's experts (Mixtral's module of transformers: hidden 1024, intermediate 512, 16 experts, top-2; on a GPU the layers of
Mixtral-8x7B, Qwen3-30B-A3B and gpt-oss-20b), frozen, adapters of rank 16 on both stacks. Forward and backward pass, the two ways in
turns in one process; time as the ratio within each round. Memory is the highest sum of live tensor bytes during the passes above what
was there before: on a CPU from every allocation that torch's profiler records, on a GPU from the allocator. Writes expert_lora.json
beside this file.
"""

from __future__ import annotations

import argparse
import copy
import json
import platform
import statistics
import time
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import Any

import peft
import torch
from transformers import AutoConfig
from transformers.models.gpt_oss.modeling_gpt_oss import GptOssExperts
from transformers.models.mixtral.modeling_mixtral import MixtralExperts
from transformers.models.qwen3_moe.modeling_qwen3_moe import Qwen3MoeExperts

from moe_memprof.measure import measure_step
from moe_train.experts import expert_lora_config

OUT = Path(__file__).with_suffix(".json")
SMALL = {
    "small": (
        MixtralExperts,
        "mixtral",
        {"hidden_size": 1024, "intermediate_size": 512, "num_local_experts": 16, "num_experts_per_tok": 2},
    )
}
FULL = {
    "Mixtral-8x7B": (MixtralExperts, "mixtral", {
        "hidden_size": 4096, "intermediate_size": 14336, "num_local_experts": 8, "num_experts_per_tok": 2}),
    "Qwen3-30B-A3B": (Qwen3MoeExperts, "qwen3_moe", {
        "hidden_size": 2048, "moe_intermediate_size": 768, "num_experts": 128, "num_experts_per_tok": 8}),
    "gpt-oss-20b": (GptOssExperts, "gpt_oss", {
        "hidden_size": 2880, "intermediate_size": 2880, "num_local_experts": 32, "num_experts_per_tok": 4}),
}  # fmt: skip
BARS = {32: 0.2, 128: 0.45, 512: 0.7}


class Layer(torch.nn.Module):
    """A model that is nothing but experts, so that PEFT finds them by name."""

    def __init__(self, experts: torch.nn.Module, config: Any) -> None:
        super().__init__()
        self.experts, self.config = experts, config

    def forward(self, x: torch.Tensor, ids: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        """What the experts make of the tokens."""
        out: torch.Tensor = self.experts(x, ids, weights)
        return out


def build(kind: tuple[Any, str, dict[str, int]], dtype: torch.dtype, device: str, *, grouped: bool) -> Any:
    """The layer with random weights and adapters, PEFT's way or ours; both get the same numbers."""
    experts_class, name, sizes = kind
    config = AutoConfig.for_model(name, **sizes)
    config._experts_implementation = "grouped_mm"
    torch.manual_seed(0)
    experts = experts_class(config).to(device=device, dtype=dtype)
    for parameter in experts.parameters():
        torch.nn.init.normal_(parameter, std=0.02)
    layer = Layer(experts, config)
    lora = peft.LoraConfig(
        r=16, lora_alpha=32, target_modules=[], target_parameters=["experts.gate_up_proj", "experts.down_proj"], init_lora_weights=False
    )  # fmt: skip
    torch.manual_seed(1)
    return peft.get_peft_model(layer, expert_lora_config(layer, lora) if grouped else lora)


def batch(sizes: dict[str, int], each: int, dtype: torch.dtype, device: str) -> tuple[torch.Tensor, ...]:
    """Tokens of which every expert gets exactly `each`."""
    experts = sizes.get("num_local_experts", sizes.get("num_experts", 0))
    top_k = sizes["num_experts_per_tok"]
    tokens = each * experts // top_k
    torch.manual_seed(2)
    start = torch.randperm(tokens)[:, None] * top_k
    ids = ((start + torch.arange(top_k)) % experts).to(device)
    x = torch.randn(tokens, sizes["hidden_size"], device=device, dtype=dtype, requires_grad=True)
    return x, ids, torch.full((tokens, top_k), 1 / top_k, device=device, dtype=dtype)


def passes(model: Any, inputs: tuple[torch.Tensor, ...]) -> None:
    """Forward and backward, gradients thrown away at the end."""
    model(*inputs).sum().backward()


def clear(model: Any, inputs: tuple[torch.Tensor, ...]) -> None:
    model.zero_grad(set_to_none=True)
    inputs[0].grad = None


def seconds(model: Any, inputs: tuple[torch.Tensor, ...], device: str) -> float:
    clear(model, inputs)
    if device == "cuda":
        torch.cuda.synchronize()
    started = time.perf_counter()
    passes(model, inputs)
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started


def floor(model: Any, each: int, device: str) -> float:
    """Seconds of the four products with the frozen weights that any way has to do, and of nothing else."""
    experts = model.get_base_model().experts
    while hasattr(experts, "base_layer"):
        experts = experts.base_layer
    stacks = [getattr(experts, name) for name in ("gate_up_proj", "down_proj")]
    if experts.is_transposed:
        stacks = [stack.transpose(1, 2) for stack in stacks]
    rows = [torch.randn(stack.shape[0], each, stack.shape[2], device=device, dtype=stack.dtype) for stack in stacks]
    grads = [torch.randn(stack.shape[0], each, stack.shape[1], device=device, dtype=stack.dtype) for stack in stacks]
    if device == "cuda":
        torch.cuda.synchronize()
    started = time.perf_counter()
    with torch.no_grad():
        for stack, x, g in zip(stacks, rows, grads, strict=True):
            for e in range(stack.shape[0]):
                torch.mm(x[e], stack[e].T)
                torch.mm(g[e], stack[e])
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started


def case(name: str, kind: Any, each: int, dtype: torch.dtype, device: str, rounds: int) -> dict[str, Any]:
    """Both ways on the same tokens."""
    models = {way: build(kind, dtype, device, grouped=way == "ours") for way in ("peft", "ours")}
    inputs = batch(kind[2], each, dtype, device)
    outputs = [m(*inputs).detach().float() for m in models.values()]
    difference = float((outputs[0] - outputs[1]).norm() / outputs[0].norm())
    times: dict[str, list[float]] = {way: [] for way in (*models, "floor")}
    for model in models.values():
        seconds(model, inputs, device)
    for _ in range(rounds):
        for way, model in models.items():
            times[way].append(seconds(model, inputs, device))
        times["floor"].append(floor(models["peft"], each, device))
    peaks = {}
    for way, model in models.items():
        clear(model, inputs)
        peaks[way] = measure_step(lambda model=model: passes(model, inputs)).peak
    ratios = sorted(o / p for o, p in zip(times["ours"], times["peft"], strict=True))
    least = statistics.median(f / p for f, p in zip(times["floor"], times["peft"], strict=True))
    found = {
        "layer": name, "tokens_per_expert": each, "dtype": str(dtype).removeprefix("torch."), "relative_difference": difference,
        "seconds": {way: statistics.median(t) for way, t in times.items()},
        "time_ratio": {"lowest": ratios[0], "median": statistics.median(ratios), "highest": ratios[-1]},
        "floor_ratio": least, "peak_bytes": peaks, "memory_ratio": peaks["ours"] / peaks["peft"],
        "time_bar": BARS[each], "memory_bar": 0.25,
    }  # fmt: skip
    print(
        f"{name} {found['dtype']} {each} tokens per expert: time {found['time_ratio']['median']:.3f} "
        f"({ratios[0]:.3f} to {ratios[-1]:.3f}, bar {BARS[each]}, the base's products alone {least:.3f}), "
        f"memory {found['memory_ratio']:.3f} (bar 0.25), "
        f"difference {difference:.1e}",
        flush=True,
    )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    args = parser.parse_args()
    warnings.filterwarnings("ignore")
    layers = SMALL if args.device == "cpu" else FULL
    dtypes = (torch.float32, torch.bfloat16) if args.device == "cpu" else (torch.bfloat16,)
    rows = [
        case(name, copy.deepcopy(kind), each, dtype, args.device, args.rounds)
        for name, kind in layers.items() for dtype in dtypes for each in BARS
    ]  # fmt: skip
    packages = {name: version(name) for name in ("torch", "transformers", "peft")}
    device = torch.cuda.get_device_name() if args.device == "cuda" else platform.processor() or platform.machine()
    environment = {
        **packages,
        "python": platform.python_version(),
        "device": device,
        "threads": torch.get_num_threads(),
    }
    path = OUT if args.device == "cpu" else OUT.with_stem("expert_lora_cuda")
    path.write_text(
        json.dumps({"rounds": args.rounds, "environment": environment, "rows": rows}, indent=1) + "\n", encoding="utf-8"
    )


if __name__ == "__main__":
    main()
