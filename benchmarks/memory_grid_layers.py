"""Layer by layer for memory_grid.py: what is live after each layer's forward pass, and the highest point of each layer's backward pass."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile, record_function

from moe_memprof.architectures.registry import describe
from moe_memprof.phases import how_of, task_of
from moe_memprof.replay.step import replay
from moe_memprof.spec import RunSpec

Layers = list[tuple[int, int]]
"""Of every layer: live bytes when its forward pass ends, and at the highest point of its backward pass."""


def decoder_layers(model: torch.nn.Module) -> torch.nn.ModuleList:
    """The stack of layers."""
    found = (
        m for n, m in model.named_modules() if isinstance(m, torch.nn.ModuleList) and n.endswith(("layers", "blocks"))
    )
    return next(found)


def measured_layers(model: torch.nn.Module, step: Callable[[], None]) -> Layers:
    """From the profiler's allocations and releases, cut where layers end; recomputed layers belong to the backward pass."""
    stack, ended, handles = decoder_layers(model), set[int](), []

    def mark(name: str) -> None:
        with record_function(f"mark {name}"):
            pass

    def after(i: int) -> Callable[..., None]:
        def hook(_module: torch.nn.Module, _inputs: object, output: Any) -> None:
            if i in ended:
                return
            ended.add(i)
            mark(f"end {i}")
            out = output[0] if isinstance(output, tuple) else output
            if out.requires_grad:
                out.register_hook(lambda _grad: mark(f"back {i}"))

        return hook

    handles = [layer.register_forward_hook(after(i)) for i, layer in enumerate(stack)]
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        step()
    for handle in handles:
        handle.remove()
    events = sorted(profiler.profiler.kineto_results.events(), key=lambda e: e.start_ns())  # type: ignore[union-attr]
    live, section, at_end, highest = 0, "", dict[int, int](), dict[str, int]()
    for event in events:
        if event.name().startswith("mark "):
            section = event.name()[5:]
            if section.startswith("end "):
                at_end[int(section[4:])] = live
            highest[section] = live
        elif event.name() == "[memory]" and event.device_type().name == "CPU":
            live += event.nbytes()
            highest[section] = max(highest.get(section, 0), live)
    return [(at_end[i], highest.get(f"back {i}", 0)) for i in range(len(stack))]


def replayed_layers(spec: RunSpec) -> Layers:
    """The same from the replay."""
    model = describe(spec.config)
    live, kept, peaks = 0, dict[str, int](), dict[str, int]()
    for moment in replay(model, how_of(model, spec), task_of(spec)):
        live += moment.change
        kept[moment.name], peaks[moment.name] = live, moment.bytes
    # Nothing marks the end of the first layer's backward pass: the embedding's is measured with it.
    first = "the backward pass of layer 0"
    peaks[first] = max(peaks[first], peaks["the backward pass of the embedding"])
    return [
        (kept[f"the forward pass of layer {i}"], peaks[f"the backward pass of layer {i}"])
        for i in range(len(model.layers))
    ]
