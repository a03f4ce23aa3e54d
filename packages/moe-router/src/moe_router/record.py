"""From a model and a file of text to a trace.

Shapes: B batch, S sequence.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import Progress

from moe_router.capture import RoutingRecorder
from moe_router.comparison import fingerprint
from moe_router.errors import RouterError
from moe_router.text import TYPES, Sample, read_texts
from moe_router.trace import RoutingTrace


@dataclass(frozen=True, kw_only=True)
class TraceOptions:
    """What is recorded, and how."""

    by: str | None = None
    """A field of the records to group by."""
    types: str | None = "lexical"
    """How tokens are told apart; None for not at all."""
    tokens: Path | None = None
    """A full trace to write as well."""
    weights: bool = False
    """Routing weights in the full trace too."""
    stream: str | None = None
    batch: int = 8
    """Records in one forward pass."""
    max_length: int = 2048
    """Tokens of a record that are read."""


def load_model(model: str, *, device: str | None = None, with_tokenizer: bool = True) -> tuple[Any, Any]:
    """A model, on the accelerator where there is one, and its tokenizer; None for that where it is not asked for.

    Raises:
        RouterError: when transformers cannot load it.
    """
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer

    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        config = AutoConfig.from_pretrained(model)
        tokenizer = AutoTokenizer.from_pretrained(model) if with_tokenizer else None
        kind: Any = AutoModelForSeq2SeqLM if getattr(config, "is_encoder_decoder", False) else AutoModelForCausalLM
        loaded = kind.from_pretrained(model, dtype=torch.bfloat16 if device == "cuda" else torch.float32)
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise RouterError(f"model {model}: transformers cannot load it: {' '.join(str(error).split())[:300]}") from None
    return loaded.to(device).eval(), tokenizer


def record(model: str, data: Path, options: TraceOptions, console: Console) -> RoutingTrace:
    """The routing of every record of a file.

    Raises:
        RouterError: for a model that cannot be loaded or has no MoE layer, or data that cannot be read.
    """
    loaded, tokenizer = load_model(model)
    samples = list(read_texts(data, by=options.by, tokenizer=tokenizer))
    batches = _batches(samples, options.batch)
    names = TYPES[options.types] if options.types else ()
    recorder = RoutingRecorder(
        loaded, types=names, tokens=options.tokens, weights=options.weights, name=model, stream=options.stream
    )
    with recorder, torch.inference_mode(), Progress(console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("tracing", total=len(batches))
        for batch in batches:
            width = min(options.max_length, max(len(s.ids) for s in batch))
            ids_BS, mask_BS, types_BS = (torch.zeros(len(batch), width, dtype=torch.int64) for _ in range(3))
            for row, sample in enumerate(batch):
                ids = sample.ids[:width]
                ids_BS[row, : len(ids)], mask_BS[row, : len(ids)] = torch.tensor(ids), 1
                if options.types:
                    types_BS[row, : len(ids)] = torch.from_numpy(
                        sample.types(options.types, tokenizer)[:width].astype("int64")
                    )
            inputs = {"input_ids": ids_BS.to(loaded.device), "attention_mask": mask_BS.to(loaded.device)}
            if getattr(loaded.config, "is_encoder_decoder", False):
                inputs |= {f"decoder_{name}": value for name, value in inputs.items()}
            with recorder.group(batch[0].group):
                if options.types:
                    with recorder.typed(types_BS):
                        loaded(**inputs, use_cache=False)
                else:
                    loaded(**inputs, use_cache=False)
            bar.advance(task)
    kept = [sample.ids[: options.max_length] for batch in batches for sample in batch]
    of_tokens = fingerprint(np.concatenate(kept), [len(tokens) for tokens in kept])
    return recorder.trace(metadata={"data": str(data), "types": options.types or "none", "fingerprint": of_tokens})


def _batches(samples: list[Sample], size: int) -> list[list[Sample]]:
    """Samples of one group and of like length together."""
    batches = []
    for group in dict.fromkeys(s.group for s in samples):
        of_group = sorted((s for s in samples if s.group == group), key=lambda s: len(s.ids))
        batches += [of_group[i : i + size] for i in range(0, len(of_group), size)]
    return batches
