"""What is to be estimated: a model's config and how it is to be trained."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from moe_memprof.devices import Parallel
from moe_memprof.errors import MemprofError

BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
"""Bytes per element of the dtypes of base weights."""

Method = Literal["full", "lora", "qlora"]
Optimizer = Literal[
    "adamw", "adamw_fused", "adamw_8bit", "paged_adamw_8bit", "paged_adamw", "adafactor", "sgd", "sgd_momentum", "lion", "lion_8bit"
]  # fmt: skip
Checkpointing = Literal["none", "non-reentrant", "reentrant"]
Loss = Literal["completion", "stock", "chunked", "liger"]


@dataclass(frozen=True, kw_only=True)
class RunSpec:
    """A fine-tune, as far as its memory depends on it."""

    config: Mapping[str, Any]
    """The model's config.json."""
    method: Method = "lora"
    """qlora is lora on a quantised base."""
    dtype: str = "float32"
    """Of the base weights and activations; adapters, gradients of adapters and optimizer states are float32."""
    device: Literal["cuda", "cpu"] = "cuda"
    """Kernels differ: on a CPU, operands of mixed precision are cast into temporaries."""

    bits: Literal[4, 8] = 4
    """Of the quantised weights (qlora)."""
    double_quant: bool = False
    """Quantise the scales of 4-bit blocks too (qlora)."""
    quantise_experts: bool = False
    """Whether fused experts are quantised (qlora): moe-train does it, bitsandbytes in transformers 5 leaves them in `dtype`."""
    kbit_prepare: bool = False
    """PEFT's prepare_model_for_kbit_training, which casts what is not quantised to float32 (qlora)."""

    lora_rank: int = 8
    expert_rank: int | None = None
    """On fused experts; None takes `lora_rank`."""
    lora_attention: bool = True
    lora_experts: bool = True
    """Adapt the fused expert weights."""
    expert_lora: Literal["peft", "grouped"] = "peft"
    """peft: target_parameters, which builds W + ΔW for every layer; grouped: low-rank products for the rows of each expert."""
    master_weights: bool = False
    """A float32 copy of every trainable 16-bit weight beside it (full)."""

    sequences: int = 1
    """Sequences in one forward pass (the micro-batch, not the batch)."""
    length: int = 2048
    """Padded length of a sequence in tokens."""
    accumulation: int = 1
    """Micro-batches in one optimizer step: from the second one on all gradients are there from the start."""
    padded: bool = False
    """Rows of different lengths: a mask is built, and keys and values are repeated to all heads."""
    loss: Loss = "completion"
    """completion: logits of all positions, the wanted ones upcast; stock: transformers' own, all upcast; chunked: 256 rows
    at a time; liger: in liger-kernel's own chunks."""
    loss_share: float = 1.0
    """Share of the positions on which a loss is taken (all but stock)."""
    attention: Literal["sdpa", "eager"] = "sdpa"
    experts: Literal["grouped_mm", "eager", "batched_mm"] = "grouped_mm"
    """transformers' experts_implementation."""
    optimizer: Optimizer = "adamw"
    checkpointing: Checkpointing | bool = "none"
    """Keep a layer's input alone and run it again in the backward pass; True is non-reentrant."""

    eval_sequences: int = 1
    """Sequences generated together in evaluation."""
    eval_length: int = 512
    """Longest prompt and answer together."""
    parallel: Parallel = field(default_factory=Parallel)
    """How the run is spread over devices."""
    merged_eval: bool = False
    """Adapters are merged for the evaluation, and the base weights kept beside to be put back."""
    allocator: bool = True
    """Count what CUDA's caching allocator keeps beyond the tensors (device cuda)."""
    buffer: float = 0.0
    """Share of every phase's sum that is added on top, to be on the safe side."""
    overrides: Mapping[str, int] = field(default_factory=dict)
    """Bytes of parts that are known better, by the part's name."""
    baseline: int | None = None
    """Bytes that the process takes before the model: Python, torch and libraries, or the CUDA context. None leaves it out of the sums."""

    def __post_init__(self) -> None:
        """Check the numbers.

        Raises:
            MemprofError: naming the field, the rule and the value.
        """
        for name in ("lora_rank", "sequences", "length", "accumulation", "eval_sequences", "eval_length"):
            if getattr(self, name) < 1:
                raise MemprofError(f"{name}: must be at least 1, got {getattr(self, name)}")
        if self.expert_rank is not None and self.expert_rank < 1:
            raise MemprofError(f"expert_rank: must be at least 1, got {self.expert_rank}")
        if self.dtype not in BYTES:
            raise MemprofError(f"dtype: {self.dtype!r} is not one of {', '.join(BYTES)}")
        for name, values in (("method", Method), ("optimizer", Optimizer), ("loss", Loss)):
            if getattr(self, name) not in get_args(values):
                raise MemprofError(f"{name}: {getattr(self, name)!r} is not one of {', '.join(get_args(values))}")
        if isinstance(self.checkpointing, bool):
            object.__setattr__(self, "checkpointing", "non-reentrant" if self.checkpointing else "none")
        if self.checkpointing not in get_args(Checkpointing):
            raise MemprofError(
                f"checkpointing: {self.checkpointing!r} is not one of {', '.join(get_args(Checkpointing))}"
            )
        if not 0 < self.loss_share <= 1:
            raise MemprofError(f"loss_share: must be above 0 and at most 1, got {self.loss_share}")
        if not 0 <= self.buffer <= 1:
            raise MemprofError(f"buffer: must be between 0 and 1, got {self.buffer}")
        if self.method != "full" and not (self.lora_attention or self.lora_experts):
            raise MemprofError("lora: attention and experts are both off, so nothing would train")
        if self.method == "qlora" and self.quantise_experts and self.lora_experts and self.expert_lora == "peft":
            raise MemprofError(
                "expert_lora: PEFT cannot adapt packed 4-bit experts; use expert_lora=grouped, or lora_experts=false, or "
                "quantise_experts=false"
            )
        if self.master_weights and (self.method != "full" or self.dtype == "float32"):
            raise MemprofError("master_weights: only a full fine-tune in a 16-bit dtype keeps a float32 copy")

    @property
    def tokens(self) -> int:
        """Padded tokens of one forward pass."""
        return self.sequences * self.length

    @property
    def width(self) -> int:
        """Bytes of an element of weights and activations."""
        return BYTES[self.dtype]


def read_config(model: str | Path) -> dict[str, Any]:
    """The config.json of a model: a folder, the file itself, or a hub id that the local cache holds.

    Raises:
        MemprofError: when there is none, or it is not JSON.
    """
    path = Path(model).expanduser()
    if path.is_dir():
        path = path / "config.json"
    if not path.is_file():
        path = _cached(str(model)) or path
    if not path.is_file():
        raise MemprofError(
            f"model {model}: no config.json there; give a folder, a config.json, or a hub id that is in the local cache"
        )
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise MemprofError(f"model {path}: not JSON ({error})") from None
    if not isinstance(values, dict):
        raise MemprofError(f"model {path}: expected an object, found a {type(values).__name__}")
    return values


def _cached(hub_id: str) -> Path | None:
    """The newest config.json of a hub id in huggingface_hub's cache, found by its folder layout."""
    import os

    if hub_id.count("/") != 1:
        return None
    home = Path(os.environ.get("HF_HOME", "~/.cache/huggingface")).expanduser()
    cache = Path(os.environ.get("HF_HUB_CACHE", home / "hub")).expanduser()
    found = list((cache / f"models--{hub_id.replace('/', '--')}" / "snapshots").glob("*/config.json"))
    return max(found, key=lambda p: p.stat().st_mtime) if found else None
