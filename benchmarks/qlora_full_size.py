"""QLoRA of full-size models on one GPU, with random weights made straight in 4 bits: python benchmarks/qlora_full_size.py

Mixtral-8x7B and Qwen3-30B-A3B: NF4 with double quantisation for experts and linear layers, LoRA of rank 16 on attention and experts,
float32 adapters, AdamW with 8-bit states, checkpointing, the loss in chunks, one sequence of 2,048 tokens a step. Peak memory beside
moe-memprof's plan, part by part, and tokens a second, with the share of the GPU's peak that the arithmetic of the model makes up. In
turns with it in the same process: the stock way where it fits, bfloat16 with PEFT's `target_parameters` and transformers' loss (QLoRA
of experts does not work in the stock stack at all), and experts4bit-qlora where it is installed. Writes qlora_full_size.json. Not
measured yet: it has run on a CPU only, at reduced size (`--device cpu --layers 2 --divide 4 --length 64`).
"""

from __future__ import annotations

import argparse
import gc
import json
import platform
import statistics
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from memory_grid_cuda import config_of
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.quantizers.auto import AutoHfQuantizer

from moe_memprof import RunSpec, estimate
from moe_memprof.hardware import detect
from moe_memprof.measure import measure_step
from moe_train.data import Batch
from moe_train.experts import expert_lora_config
from moe_train.experts.forward import is_dispatched
from moe_train.experts.kernels import CHOICES
from moe_train.experts.quantizer import MoeQuantizationConfig, quantise_stack, quantised_stacks
from moe_train.loss import after_head, completion_loss
from moe_train.replay import RoutingReplay

OUT = Path(__file__).with_suffix(".json")
RANK = 16
LIMITS_GIB = {"mixtral": 27.5, "qwen3_moe": 23.0}
"""Peaks aimed at. Published for Mixtral at two sequences a step: Unsloth 27.1 GiB, experts4bit-qlora 28.2 GiB."""
ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]


def random_4bit(config: Any, device: str) -> Any:
    """A model whose weights are drawn and quantised one at a time on the device, so that it is never there in 16 bits."""
    settings = MoeQuantizationConfig(bits=4, double_quant=True)
    quantizer = AutoHfQuantizer.from_config(settings, pre_quantized=False)
    with torch.device("meta"):
        model: Any = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    quantizer.preprocess_model(model=model, dtype=torch.bfloat16, device_map={"": device})
    std = float(getattr(config, "initializer_range", 0.02))
    with torch.no_grad():
        for module in model.modules():
            if is_dispatched(module):
                for name in quantised_stacks(module):
                    _fill_stack(module, name, std, device)
            elif type(module).__name__ == "Linear4bit":
                drawn = torch.randn(module.out_features, module.in_features, dtype=torch.bfloat16, device=device) * std
                kept = {
                    key: getattr(module.weight, key) for key in ("compress_statistics", "quant_type", "quant_storage")
                }
                module.weight = type(module.weight)(drawn.cpu(), requires_grad=False, **kept).to(device)
        _fill_rest(model, std, device)
    model = quantizer.postprocess_model(model) or model
    model.tie_weights()
    return model


def _fill_stack(module: Any, name: str, std: float, device: str) -> None:
    """Drawn, quantised and put in place expert by expert."""
    packed = getattr(module, name)
    experts, rows, half = packed.shape
    parts: dict[str, torch.Tensor] = {}
    for e in range(experts):
        drawn = torch.randn(1, rows, half * 2, dtype=torch.bfloat16, device=device) * std
        for suffix, one in quantise_stack(drawn, bits=4, double_quant=True).items():
            if e == 0:
                parts[suffix] = one.new_empty((experts, *one.shape[1:]))
            parts[suffix][e] = one[0]
    for suffix, whole in parts.items():
        if suffix:
            module.register_buffer(name + suffix, whole)
        else:
            setattr(module, name, nn.Parameter(whole, requires_grad=False))


def _fill_rest(model: Any, std: float, device: str) -> None:
    """Norms at one, everything else drawn; what is no parameter is made as the model makes it."""
    for module in model.modules():
        for name, p in list(module._parameters.items()):
            if p is not None and p.is_meta:
                made = torch.randn if p.ndim > 1 else torch.ones
                drawn = made(p.shape, dtype=p.dtype, device=device) * (std if p.ndim > 1 else 1.0)
                module._parameters[name] = nn.Parameter(drawn, requires_grad=False)
        if any(b is not None and b.is_meta for b in module._buffers.values()):
            with torch.device(device):
                fresh = type(module)(model.config)  # rotary embeddings
            module._buffers.update(fresh._buffers)


@dataclass
class Way:
    """One way of training, ready to step."""

    name: str
    model: Any
    optimizer: torch.optim.Optimizer
    step: Callable[[], None]
    loaded: int
    """Bytes after the model was there."""


def _finish(model: Any, loss: Callable[[Any], torch.Tensor], name: str, loaded: int) -> Way:
    model.get_base_model().gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    model.enable_input_require_grads()
    model.train()
    import bitsandbytes

    optimizer = bitsandbytes.optim.AdamW8bit([p for p in model.parameters() if p.requires_grad], lr=1e-4)

    def step() -> None:
        loss(model).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return Way(name, model, optimizer, step, loaded)


def ours(config: Any, ids: torch.Tensor, device: str) -> Way:
    """moe-train's way."""
    base = random_4bit(config, device)
    after = after_head(base)
    names = [n for n, m in base.named_modules() if is_dispatched(m)]
    stacks = [f"{name}.{stack}" for name in names for stack in quantised_stacks(base.get_submodule(name))]
    lora = LoraConfig(r=RANK, lora_alpha=2 * RANK, target_modules=ATTENTION, target_parameters=stacks)
    loaded = allocated()
    model = get_peft_model(base, expert_lora_config(base, lora))
    RoutingReplay(model)
    batch = Batch(
        input_ids_BS=ids, attention_mask_BS=torch.ones_like(ids), labels_BS=ids, lengths_B=[ids.shape[1]] * len(ids)
    )
    return _finish(
        model, lambda m: completion_loss(m, batch, after=after) / batch.completion_tokens, "moe-train", loaded
    )


def stock(config: Any, ids: torch.Tensor, device: str) -> Way:
    """bfloat16, PEFT's target_parameters, transformers' loss."""
    with torch.device(device):
        base: Any = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    stacks = [n for n, p in base.named_parameters() if p.ndim == 3 and ".experts." in n]
    loaded = allocated()
    model = get_peft_model(
        base, LoraConfig(r=RANK, lora_alpha=2 * RANK, target_modules=ATTENTION, target_parameters=stacks)
    )
    return _finish(
        model, lambda m: m(input_ids=ids, labels=ids, use_cache=False).loss, "stock bfloat16 with PEFT", loaded
    )


def e4b(config: Any, ids: torch.Tensor, device: str) -> Way:
    """experts4bit-qlora's own stacks, adapters and loss, as its trainer sets them up, and on a GPU its kernels."""
    from experts4bit_qlora import Experts4bit, ExpertsLoRA, add_attention_lora
    from experts4bit_qlora.absmax_dq import compress_expert_absmax_
    from experts4bit_qlora.engines.fast import enable_fast_train
    from experts4bit_qlora.lora import quantize_attention_projections_4bit

    std = float(getattr(config, "initializer_range", 0.02))
    with torch.device("meta"):
        model: Any = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    with torch.no_grad():
        for name, module in [(n, m) for n, m in model.named_modules() if is_dispatched(m)]:
            drawn = [
                torch.randn(getattr(module, stack).shape, dtype=torch.bfloat16, device=device) * std
                for stack in quantised_stacks(module)
            ]
            base = Experts4bit.from_float(*drawn, activation=module.act_fn, compute_dtype=torch.bfloat16)
            adapted = ExpertsLoRA(base, r=RANK, alpha=2 * RANK, dtype=torch.float32).to(device)
            model.get_submodule(name.rpartition(".")[0]).experts = adapted
        _fill_rest(model, std, device)
    model.tie_weights()
    for name, p in model.named_parameters():
        p.requires_grad_("lora" in name)
    quantize_attention_projections_4bit(model)
    loaded = allocated()
    add_attention_lora(model, RANK, 2 * RANK, torch.float32)
    model.to(device)
    model.config.use_cache = False
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    model.enable_input_require_grads()
    model.train()
    if device == "cuda":
        assert enable_fast_train(model, dgrad=True), "its kernels are not installed"  # compresses the scales, too
    else:
        compress_expert_absmax_(model)
    import bitsandbytes

    trains = [p for n, p in model.named_parameters() if p.requires_grad]
    optimizer = bitsandbytes.optim.AdamW8bit(trains, lr=1e-4)

    def step() -> None:
        model(input_ids=ids, labels=ids, use_cache=False).loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return Way("experts4bit-qlora", model, optimizer, step, loaded)


def allocated() -> int:
    return int(torch.cuda.memory_allocated()) if torch.cuda.is_available() else 0


def plan_of(values: dict[str, Any], ids: torch.Tensor, device: str) -> dict[str, Any]:
    """What moe-memprof says of our way: its parts and their sum without the allocator's share."""
    spec = RunSpec(
        config=values, method="qlora", bits=4, double_quant=True, quantise_experts=True, expert_lora="grouped", dtype="bfloat16",
        lora_rank=RANK, sequences=ids.shape[0], length=ids.shape[1], loss="chunked", optimizer="adamw_8bit", checkpointing="non-reentrant",
        device=device,
    )  # type: ignore[arg-type]  # fmt: skip
    parts = {p.name: p.bytes for p in estimate(spec).phase("step").parts if not p.name.startswith("allocator:")}
    return {"parts": parts, "sum": sum(parts.values())}


def peak(way: Way, device: str) -> int:
    """Highest bytes of live tensors in a step, the second one: with the optimizer's states."""
    way.step()
    if device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        way.step()
        return int(torch.cuda.max_memory_allocated())
    return held_bytes(way) + measure_step(way.step).peak


def held_bytes(way: Way) -> int:
    """Of weights, what stands behind 4-bit linears, and the optimizer's states (on a CPU, where no allocator counts)."""
    states = [t for state in way.optimizer.state.values() for t in state.values() if torch.is_tensor(t)]
    held = [*way.model.parameters(), *way.model.buffers(), *{t.data_ptr(): t for t in states}.values()]
    for p in way.model.parameters():
        if (quantised := getattr(p, "quant_state", None)) is not None:
            held += [quantised.absmax, *([quantised.state2.absmax] if quantised.nested else [])]
    return sum(t.numel() * t.element_size() for t in held)


def active_parameters(config: Any) -> int:
    """Weights that a token is multiplied with: all but embeddings, of the experts only those it is routed to."""
    experts = getattr(config, "num_local_experts", None) or config.num_experts
    share, total = config.num_experts_per_tok / experts, 0.0
    for name, p in _meta(config).named_parameters():
        if p.ndim > 1 and "embed" not in name:
            total += p.numel() * (share if p.ndim == 3 else 1.0)
    return round(total)


def run(name: str, a: argparse.Namespace, room: int) -> dict[str, Any]:
    values = config_of(name, layers=a.layers, divide=a.divide)
    config = AutoConfig.for_model(name, **{k: v for k, v in values.items() if k != "model_type"}, pad_token_id=0)
    ids = torch.randint(1, config.vocab_size, (1, a.length), device=a.device)
    plan = plan_of(values, ids, a.device)
    way = ours(config, ids, a.device)
    highest = peak(way, a.device)
    row: dict[str, Any] = {
        "model": name, "plan": plan, "loaded": way.loaded, "peak": highest, "limit_gib": LIMITS_GIB[name],
        "plan_error": plan["sum"] / highest - 1,
    }  # fmt: skip
    ways, skipped = [way], {}
    weights = sum(p.numel() for p in _meta(config).parameters()) * 2
    if a.device == "cpu" or weights + 2**33 + highest < room:
        ways.append(stock(config, ids, a.device))
        row["stock_peak_beside_ours"] = peak(ways[-1], a.device)
    else:
        skipped["stock bfloat16 with PEFT"] = f"{weights / 2**30:.0f} GiB of weights do not fit beside ours"
    if find_spec("experts4bit_qlora") is None:
        skipped["experts4bit-qlora"] = "not installed"
    else:
        ways.append(e4b(config, ids, a.device))
        row["e4b_peak_beside_ours"] = peak(ways[-1], a.device)
    seconds: dict[str, list[float]] = {w.name: [] for w in ways}
    for w in ways:
        w.step()
    for _ in range(a.rounds):
        for w in ways:
            seconds[w.name].append(timed(w.step, a.device))
    flops = 6 * active_parameters(config) * a.length  # forward, again in the backward pass, and the gradient of inputs
    rate = detect().gpus[0].bf16 if a.device == "cuda" and detect().gpus else None
    row["tokens_per_second"] = {n: a.length / statistics.median(s) for n, s in seconds.items()}
    row["roofline_fraction"] = None if not rate else flops / (rate * 1e12) / statistics.median(seconds[way.name])
    for key, other in (("stock", "stock bfloat16 with PEFT"), ("e4b", "experts4bit-qlora")):
        ratios = [x / y for x, y in zip(seconds[way.name], seconds.get(other, []), strict=False)]
        found = {"lowest": min(ratios), "median": statistics.median(ratios), "highest": max(ratios)} if ratios else None
        row[f"time_ratio_to_{key}"] = found
    row["skipped"] = skipped
    row["kernels"] = CHOICES.to_dict()["products"]
    return row


def _meta(config: Any) -> Any:
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config)


def timed(step: Callable[[], None], device: str) -> float:
    if device == "cuda":
        torch.cuda.synchronize()
    started = time.perf_counter()
    step()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--layers", type=int, help="layers of each model, instead of its own number")
    parser.add_argument("--divide", type=int, default=1, help="make every width this many times smaller")
    parser.add_argument("--length", type=int, default=2048)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", default="", help="mixtral or qwen3_moe")
    parser.add_argument("--output", type=Path, default=OUT)
    a = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.manual_seed(0)
    room = int(torch.cuda.get_device_properties(0).total_memory) if a.device == "cuda" else 2**34
    environment = {
        "python": platform.python_version(), "device": torch.cuda.get_device_name(0) if a.device == "cuda" else "cpu", "layers": a.layers,
        "divide": a.divide, "length": a.length, **{n: version(n) for n in ("torch", "transformers", "peft", "bitsandbytes", "moe-train")},
    }  # fmt: skip
    rows = []
    for name in LIMITS_GIB:
        if a.only in name:
            rows.append(run(name, a, room))
            r = rows[-1]
            print(
                f"{name}: peak {r['peak'] / 2**30:.3f} GiB, planned {r['plan']['sum'] / 2**30:.3f} ({100 * r['plan_error']:+.1f} %)"
            )
            for part, size in sorted(r["plan"]["parts"].items(), key=lambda kv: -kv[1]):
                print(f"  {part:36} {size / 2**30:8.3f} GiB")
            ratio, roofline = r["time_ratio_to_stock"], r["roofline_fraction"]
            print(f"  tokens/s {r['tokens_per_second']}, time to stock {ratio}, roofline {roofline}", flush=True)
            a.output.write_text(json.dumps({"environment": environment, "rows": rows}, indent=1) + "\n")
            gc.collect()


if __name__ == "__main__":
    main()
