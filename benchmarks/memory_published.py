"""Published peak memory of the stock stack beside the estimate: python benchmarks/memory_published.py

Writes `memory_published.json`. Where a source leaves something of the configuration out, the estimate is a range over what it may have
been. Needs moe-memprof alone; nothing is measured here, the published figures are others'.
"""

from __future__ import annotations

import json
import platform
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from moe_memprof import RunSpec, __version__, estimate
from moe_memprof.devices import Parallel

GIB = 2**30
GB = 10**9

# Sizes from the models' config.json on the hub.
MIXTRAL: dict[str, Any] = {"model_type": "mixtral"}  # the defaults of its configuration class are Mixtral-8x7B
OLMOE: dict[str, Any] = {
    "model_type": "olmoe",
    "intermediate_size": 1024,
    "num_experts": 64,
    "num_experts_per_tok": 8,
    "num_key_value_heads": 16,
}
QWEN3 = {
    "model_type": "qwen3_moe", "hidden_size": 2048, "intermediate_size": 6144, "moe_intermediate_size": 768, "num_hidden_layers": 48,
    "num_attention_heads": 32, "num_key_value_heads": 4, "head_dim": 128, "num_experts": 128, "num_experts_per_tok": 8,
    "vocab_size": 151936,
}  # fmt: skip
QWEN35 = {
    "model_type": "qwen3_5_moe",
    "text_config": {
        "model_type": "qwen3_5_moe_text", "hidden_size": 2048, "moe_intermediate_size": 512, "shared_expert_intermediate_size": 512,
        "num_hidden_layers": 40, "num_attention_heads": 16, "num_key_value_heads": 2, "head_dim": 256, "num_experts": 256,
        "num_experts_per_tok": 8, "vocab_size": 248320, "linear_num_value_heads": 32, "linear_num_key_heads": 16,
        "linear_key_head_dim": 128, "linear_value_head_dim": 128,
    },
}  # fmt: skip
GLM47 = {
    "model_type": "glm4_moe_lite", "vocab_size": 154880, "hidden_size": 2048, "intermediate_size": 10240, "moe_intermediate_size": 1536,
    "num_hidden_layers": 47, "num_attention_heads": 20, "num_key_value_heads": 20, "q_lora_rank": 768, "kv_lora_rank": 512,
    "qk_nope_head_dim": 192, "qk_rope_head_dim": 64, "v_head_dim": 256, "n_routed_experts": 64, "n_shared_experts": 1,
    "num_experts_per_tok": 4, "first_k_dense_replace": 1,
}  # fmt: skip
GPT_OSS = {
    "model_type": "gpt_oss", "hidden_size": 2880, "intermediate_size": 2880, "num_hidden_layers": 24, "num_attention_heads": 64,
    "num_key_value_heads": 8, "head_dim": 64, "num_local_experts": 32, "num_experts_per_tok": 4, "vocab_size": 201088, "attention": "eager",
}  # fmt: skip
CAMPAIGN = {
    "method": "qlora", "lora_rank": 16, "optimizer": "adamw_8bit", "checkpointing": "non-reentrant", "sequences": 2, "length": 555,
    "padded": True, "accumulation": 4, "loss": "stock",
}  # fmt: skip
UNSLOTH = {"method": "lora", "optimizer": "adamw_8bit", "loss": "stock"}
UNSTATED = {
    "lora_rank": (8, 64), "lora_attention": (True, False), "checkpointing": ("none", "non-reentrant"), "sequences": (1, 2),
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Row:
    """A published figure, and the runs it may have been."""

    id: str
    model: dict[str, Any]
    published: float | None
    """Bytes; None where it ran out of memory, or is known only as what fitted."""
    room: float | None = None
    """Bytes that were too few, or enough."""
    fitted: bool = False
    """The batch was the largest that ran: it fitted, and one more did not."""
    what: str
    """What was measured: allocated, reserved, after load (with or without adapters), or stated (allocated or reserved)."""
    values: dict[str, Any]
    unstated: dict[str, tuple[Any, ...]] | None = None
    trust: str
    source: str


E4B = "pjordanandrsn/experts4bit-qlora, campaign of October 2026"
DOC = "unsloth.ai/docs/new/faster-moe, column of transformers 5"
STSXXX = "stsxxx/finetune, analytical_capacity/plot.py; transformers 4.40, experts as modules"
ROWS = (
    Row(id="olmoe-qlora", model=OLMOE, published=16.32 * GB, what="allocated", values=CAMPAIGN, trust="A", source=E4B),
    Row(id="qwen3-30b-qlora-24gb", model=QWEN3, published=None, room=23.5 * GIB, what="allocated", values=CAMPAIGN, trust="A", source=E4B),
    Row(id="qwen3.5-35b-qlora-32gb", model=QWEN35, published=None, room=31.36 * GIB, what="allocated", values=CAMPAIGN, trust="A",
        source=E4B),
    Row(id="qwen3-30b-qlora-load", model=QWEN3, published=62.0 * GB, what="after load", values=CAMPAIGN, trust="C", source=E4B),
    *(
        Row(
            id=f"mixtral-qlora-batch-{batch}-on-{room}gb", model=MIXTRAL, published=None, room=room * GB, fitted=True, what="reserved",
            values={
                "method": "qlora", "lora_rank": 16, "quantise_experts": True, "expert_lora": "grouped", "experts": "eager",
                "sequences": batch, "padded": True, "checkpointing": "non-reentrant", "loss": "stock",
            },
            unstated={"optimizer": ("adamw_fused", "adamw_8bit"), "double_quant": (True, False), "lora_attention": (False,),
                      "length": (512, 1024)},
            trust="B", source=STSXXX,
        )
        for room, batch in ((40, 6), (48, 8), (80, 27))
    ),
    *(
        Row(
            id=f"{name}-lora-{length}", model=model, published=value * GB, what="stated", values={**UNSLOTH, "length": length},
            unstated=UNSTATED, trust="D", source=DOC,
        )
        for name, model, length, value in (
            ("glm-4.7-flash", GLM47, 1024, 62.55), ("glm-4.7-flash", GLM47, 4096, 76.78), ("qwen3-30b", QWEN3, 2048, 104.81),
            ("qwen3-30b", QWEN3, 16384, 116.61), ("gpt-oss-20b", GPT_OSS, 1024, 43.88), ("gpt-oss-20b", GPT_OSS, 2048, 44.93),
        )
    ),
    Row(
        id="qwen3-30b-full-zero3-16", model=QWEN3, published=80 * GIB, what="stated",
        values={"method": "full", "length": 8192, "checkpointing": "non-reentrant", "loss": "stock", "master_weights": True,
                "optimizer": "adamw_fused", "parallel": Parallel(world=16, zero=3)},
        unstated={"attention": ("sdpa",)}, trust="D", source="modelscope/ms-swift, examples/megatron/moe/qwen3_moe.sh",
    ),
    Row(
        id="qwen3.5-35b-lora-zero3-4", model=QWEN35, published=30 * GIB, what="stated",
        values={"method": "lora", "lora_rank": 8, "lora_experts": False, "sequences": 4, "checkpointing": "non-reentrant", "padded": True,
                "loss": "stock", "optimizer": "adamw_fused", "parallel": Parallel(world=4, zero=3)},
        unstated={"length": (512, 2048)}, trust="C", source="modelscope/ms-swift, examples/models/qwen3_5/transformers.sh",
    ),
)  # fmt: skip


def estimates(row: Row) -> list[float]:
    """The peak, or what is there after loading, for every run that the row may have been, in bytes."""
    found: list[float] = []
    options = {
        "allocator": {"stated": (True, False), "reserved": (True,)}.get(row.what, (False,)),
        **(row.unstated or {}),
    }
    config = {k: v for k, v in row.model.items() if k != "attention"}
    for chosen in product(*options.values()):
        values = {"dtype": "bfloat16", **row.values, **dict(zip(options, chosen, strict=True))}
        values.setdefault("attention", row.model.get("attention", "sdpa"))
        made = estimate(RunSpec(config=config, **values))
        if row.what == "after load":
            weights = [p for p in made.phase("save").parts if p.name.startswith(("weights:", "LoRA:"))]
            found += [sum(p.bytes for p in weights if p.name.startswith("weights:")), sum(p.bytes for p in weights)]
        else:
            found.append(made.peak)
    return found


def account(row: Row) -> dict[str, Any]:
    """The row beside its estimate."""
    found = estimates(row)
    low, high = min(found) / GIB, max(found) / GIB
    entry: dict[str, Any] = {
        "id": row.id,
        "what": row.what,
        "trust": row.trust,
        "source": row.source,
        "low": low,
        "high": high,
    }
    if row.published is not None:
        value = row.published / GIB
        nearest = min(max(value, low), high)
        entry |= {"published": value, "error": nearest / value - 1}
    else:
        assert row.room is not None
        room = row.room / GIB
        agrees = low <= room if row.fitted else high > room
        if row.fitted:
            one_more = Row(**{**vars(row), "values": {**row.values, "sequences": row.values["sequences"] + 1}})
            agrees = agrees and max(estimates(one_more)) / GIB > room
        entry |= {"room": room, "fitted": row.fitted, "agrees": agrees}
    return entry


def main() -> None:
    rows = [account(row) for row in ROWS]
    for r in rows:
        between = f"{r['low']:.1f}" if r["high"] - r["low"] < 0.05 else f"{r['low']:.1f} to {r['high']:.1f}"
        if "published" in r:
            print(
                f"{r['id']:34} {r['trust']}  published {r['published']:6.1f} GiB  estimate {between:>16}  error {100 * r['error']:+.1f} %"
            )
        else:
            word = "largest in" if r["fitted"] else "did not fit in"
            print(
                f"{r['id']:34} {r['trust']}  {word} {r['room']:.1f} GiB  estimate {between:>16}  {'agrees' if r['agrees'] else 'DISAGREES'}"
            )
    result = {"moe_memprof": __version__, "python": platform.python_version(), "rows": rows}
    Path(__file__).with_suffix(".json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
