"""What a model answers to given tokens: its logits, and the experts that ran. Run as a file, it knows nothing of moe-train.

    python plain.py '{"model": FOLDER, "adapter": null, "tokens": FILE.json, "out": FILE.npz, "dtype": "float32", "device": "cpu"}'

T predicted tokens, V vocabulary, L layers, K experts of a token, P tokens in all.
"""

from __future__ import annotations

import json
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch


def compute(model: Any, sequences: list[tuple[list[int], int]]) -> dict[str, np.ndarray]:
    """Logits and routing of each sequence by itself, so that no padding is in the way.

    Args:
        model: a causal language model in evaluation mode.
        sequences: token ids, and from which of them on they are predicted.

    Returns:
        `logits` float32 [T, V], and `experts.N` [P, K] for every MoE layer, each row in ascending order.
    """
    from moe_router import RouterError, find_moe_layers

    try:
        layers = find_moe_layers(model)
    except RouterError:
        layers = []
    seen: list[list[np.ndarray]] = [[] for _ in layers]

    def reader(number: int) -> Any:
        return lambda routing: seen[number].append(routing.indices_TK.sort(dim=-1).values.cpu().numpy())

    handles = [handle for number, layer in enumerate(layers) for handle in layer.attach(reader(number))]
    found = []
    try:
        with torch.no_grad():
            for ids, first in sequences:
                given = torch.tensor([ids], device=model.device)
                logits_SV = model(input_ids=given, attention_mask=torch.ones_like(given), use_cache=False).logits[0]
                found.append(logits_SV[first - 1 : -1].float().cpu().numpy())
    finally:
        for handle in handles:
            handle.remove()
    experts = {f"experts.{number}": np.concatenate(rows) for number, rows in enumerate(seen) if rows}
    return {"logits": np.concatenate(found), **experts}


def main(arguments: dict[str, Any]) -> None:
    """Load with transformers, and PEFT where there is an adapter, and write what it computes."""
    from transformers import AutoConfig, AutoModelForCausalLM, Mxfp4Config
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    for name in arguments.get("imports", ()):
        import_module(name)
    device = {"": arguments["device"]} if arguments.get("imports") else None
    more: dict[str, Any] = {}
    stated = getattr(AutoConfig.from_pretrained(arguments["model"]), "quantization_config", None)
    if isinstance(stated, dict) and stated.get("quant_method") == "mxfp4":  # an adapter is of the weights made dense
        more["quantization_config"] = Mxfp4Config(dequantize=True)
    model: Any = AutoModelForCausalLM.from_pretrained(
        arguments["model"], dtype=getattr(torch, arguments["dtype"]), device_map=device, **more
    )
    if arguments["adapter"]:
        from peft import PeftModel

        model = PeftModel.from_pretrained(model, arguments["adapter"])
    model = (model if device else model.to(arguments["device"])).eval()
    sequences = json.loads(Path(arguments["tokens"]).read_text(encoding="utf-8"))
    with Path(arguments["out"]).open("wb") as file:
        np.savez(file, allow_pickle=False, **compute(model, sequences))


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
