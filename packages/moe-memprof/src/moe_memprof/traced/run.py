"""One step of a model at a small depth on fake tensors, cut into embedding, layers, head and loss."""

from __future__ import annotations

import contextlib
import logging
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook

from moe_memprof.architectures.base import TensorSpec
from moe_memprof.errors import MemprofError
from moe_memprof.replay.step import Stretch
from moe_memprof.spec import RunSpec
from moe_memprof.traced.build import adapt, build, fake, layers_of, shortened
from moe_memprof.traced.inventory import read_tensors
from moe_memprof.traced.live import Live
from moe_memprof.traced.pretend import as_if_real
from moe_memprof.traced.task import batch_of, loss_of


@dataclass(frozen=True, kw_only=True)
class StepTrace:
    """What a traced step did."""

    depth: int
    done: Mapping[str, Stretch]
    trainable: int
    """Numbers that train, as PEFT made them."""
    operations: int


def trace_step(
    config: Any, spec: RunSpec, depth: int, tensors: Callable[[Any], Sequence[TensorSpec]] | None = None
) -> StepTrace:
    """Run one micro-batch forward and backward with `depth` layers.

    Args:
        config: transformers' config of the whole model.
        spec: the run.
        depth: layers to keep.
        tensors: tells what the weights of a shortened config are for; without it their names do.

    Raises:
        MemprofError: when the model cannot be built or its code does not run without data.
    """
    short = shortened(config, depth)
    model = build(short, spec)
    named = layers_of(model, depth)
    head = model.get_output_embeddings()
    known = read_tensors(model, named)
    if tensors is not None:
        told = tensors(short)
        if {t.name for t in told} == {
            t.name for t in known
        }:  # not so where a class with towers is built around the decoder
            known = tuple(told)
    layers = list(model.get_submodule(named))
    model = adapt(model, known, spec)
    labels = _labels(model, layers, head)
    mode = fake(model)
    with mode:
        batch = batch_of(spec)
        if spec.accumulation > 1:  # gradients of earlier micro-batches: counted by their size, with the trained weights
            for parameter in model.parameters():
                parameter.grad = torch.zeros_like(parameter) if parameter.requires_grad else None
    resident = [*model.parameters(), *model.buffers(), *batch.tensors]
    resident += [p.grad for p in model.parameters() if p.grad is not None]
    live = Live(iter(resident), says_yes=not spec.padded, casts=spec.device == "cpu")
    hooks = [
        p.register_post_accumulate_grad_hook(live.keep)
        for p in model.parameters()
        if p.requires_grad and p.grad is None
    ]
    with _quiet(), as_if_real(spec), _follow(live, layers, labels), mode, live:
        try:
            live.forward("embedding")
            loss = loss_of(model, spec, batch, live.labelled)
            live.backward_begins(depth)
            loss.backward()  # type: ignore[no-untyped-call]
            del loss
        except MemprofError:
            raise
        except Exception as error:
            raise _readable(error, short.model_type, spec) from error
        live.done()
    for hook in hooks:
        hook.remove()
    return StepTrace(
        depth=depth,
        done=live.stretches.done,
        trainable=sum(p.numel() for p in model.parameters() if p.requires_grad),
        operations=live.operations,
    )


def _readable(error: Exception, kind: str, spec: RunSpec) -> MemprofError:
    name = type(error).__name__
    if spec.experts == "eager":
        return MemprofError(
            "traced estimate: experts=eager asks which tokens each expert got, and fake tensors hold none; trace with experts=grouped_mm"
        )
    if name in {"DataDependentOutputException", "DynamicOutputShapeException", "GuardOnDataDependentSymNode"}:
        return MemprofError(
            f"traced estimate: the code of {kind} asks for the values of tensors ({' '.join(str(error).split())[:80]}), and fake tensors "
            "hold none"
        )
    return MemprofError(
        f"traced estimate: the code of {kind} does not run on fake tensors ({name}: {' '.join(str(error).split())[:160]})"
    )


def _labels(model: Any, layers: Sequence[Any], head: Any) -> dict[int, str]:
    """What the modules are for, by their id; those that are not named take the word of the module around them."""
    found: dict[int, str] = {id(head): "logits"}
    inside = {id(module) for layer in layers for module in layer.modules()}
    for path, module in model.named_modules():
        word = _word(path.rpartition(".")[2], type(module).__name__, module, inside=id(module) in inside)
        if word:
            found.setdefault(id(module), word)
    found |= {id(layer): "residual stream" for layer in layers}
    return found


_PROXY = re.compile(r"_Lora\w*Proxy")
"""PEFT's modules that put W + ΔW in a parameter's place while a layer runs; made anew each time."""
_WORDS = (
    (("shared_expert", "shared_mlp"), "shared experts"),
    (("experts",), "experts"),
    (("router",), "router"),
    (("attn", "attention", "mixer", "mamba", "conv", "delta", "recurrent"), "attention"),
)


def _word(name: str, kind: str, module: Any, *, inside: bool) -> str:
    if kind == "ParamWrapper":
        return "materialised expert weights"
    if name == "base_layer":
        return "experts" if "Experts" in kind else ""
    if "Norm" in kind:
        return "norms"
    if not inside:
        return "positions" if "Rotary" in kind else "residual stream" if isinstance(module, torch.nn.Embedding) else ""
    for parts, word in _WORDS:
        if any(part in name for part in parts):
            return word
    if name == "gate":
        return "router"
    if any(part in name for part in ("mlp", "feed_forward", "ffn", "moe")):
        return "dispatch" if any("experts" in inner for inner, _ in module.named_modules()) else "dense MLP"
    return ""


@contextlib.contextmanager
def _follow(live: Live, layers: Sequence[Any], labels: Mapping[int, str]) -> Iterator[None]:
    """Tell the count which module and which layer is running."""
    numbers = {id(layer): i for i, layer in enumerate(layers)}
    around: list[str] = []
    upto, over = -1, False

    def before(module: Any, _args: Any) -> None:
        nonlocal upto, over
        if over:
            over = False
            live.forward("head")
        around.append(live.memory.label)
        word = labels.get(id(module), live.memory.label)
        if _PROXY.fullmatch(type(module).__name__):
            word = "materialised expert weights"
        number = numbers.get(id(module))
        if number is not None and torch._C._current_graph_task_id() == -1:
            if number != upto + 1:
                raise MemprofError(
                    "traced estimate: the layers do not run once each in their order, so one cannot stand for another"
                )
            upto = number
            live.forward(str(number))
        if word != live.memory.label:
            live.label(word)

    def after(module: Any, _args: Any, _out: Any) -> None:
        nonlocal over
        word = around.pop()
        if word != live.memory.label:
            live.label(word)
        if numbers.get(id(module)) == len(layers) - 1 and torch._C._current_graph_task_id() == -1:
            over = True  # but the caller still holds the layer's input; the next module to run finds it gone

    handles = [register_module_forward_pre_hook(before), register_module_forward_hook(after, always_call=True)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Torch logs a traceback for operations that fail on fake tensors, transformers its advice; the error says it in a line."""
    import warnings

    loggers = [logging.getLogger(name) for name in ("torch._subclasses.fake_tensor", "transformers")]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL + 1)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)
