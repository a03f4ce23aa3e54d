"""The traced estimate: a step of the real code at two small depths, put together for all layers, beside the derived weights."""

from __future__ import annotations

import importlib.util
import time
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from typing import Any

from moe_memprof.architectures.base import Model, TensorSpec
from moe_memprof.architectures.registry import SUPPORTED, describe
from moe_memprof.errors import MemprofError
from moe_memprof.estimate import NOT_MODELLED
from moe_memprof.optimizer import optimizer_memory
from moe_memprof.phases import evaluate_phase, finished, load_phase, resident_parts, save_phase
from moe_memprof.plan import Estimate, Part, Phase
from moe_memprof.replay.step import compose
from moe_memprof.spec import RunSpec
from moe_memprof.traced.pattern import Pattern, find_pattern, given_pattern, held
from moe_memprof.traced.result import Traced
from moe_memprof.weights import Trained, trained

NOT_TRACED = "what kernels take inside themselves: fake tensors have no kernels"
_CONSTANT = frozenset(
    {"logits", "loss", "gradients", "optimizer's temporaries", "positions", "materialised expert weights"}
)


def require() -> None:
    """Look whether what a trace needs is installed.

    Raises:
        MemprofError: naming what is missing and how to get it.
    """
    missing = [name for name in ("torch", "transformers", "peft") if importlib.util.find_spec(name) is None]
    if missing:
        raise MemprofError(f"a traced estimate needs {', '.join(missing)}; pip install 'moe-memprof[traced]'")


def traced_estimate(
    spec: RunSpec, *, depths: tuple[int, int] | None = None, progress: Callable[[str], None] | None = None
) -> Traced:
    """What the fine-tune takes, from the model's real code on fake tensors.

    Args:
        spec: the run, on one device.
        depths: how many layers to trace, twice; their difference is the period of the layers. Found from the config by default.
        progress: is told, in a line, what is being done.

    Raises:
        MemprofError: when torch, transformers or peft is missing, and for a model or a run that cannot be traced.
    """
    require()
    _check(spec)
    from moe_memprof.traced import build
    from moe_memprof.traced.run import StepTrace, trace_step

    say = progress or (lambda _: None)
    began = time.monotonic()
    described = _described(spec)
    say("reading the config")
    config = build.full_config(spec.config, described.model_type if described else None)
    layers = build.depth_of(config)
    pattern = given_pattern(depths, layers) if depths else find_pattern(_kinds(config, layers, described))
    traces: list[StepTrace] = []
    for depth in pattern.depths:
        say(f"tracing {config.model_type} with {depth} of its {layers} layers")
        traces.append(trace_step(config, spec, depth, _namer if described else None))
    deepest = traces[-1]
    if described is None:
        say(f"counting the weights of all {layers} layers")
        model, active = _read(build, config, layers, spec)
    else:
        model, active = described, described.active_parameters
    trains = trained(model, spec)
    order = pattern.order(layers)
    moments = [(m.name, m.parts) for m in compose(deepest.done, order)]
    gradients = sum(t.bytes for t in trains)
    if spec.accumulation > 1:
        moments = [(name, parts + Counter({"gradients": gradients})) for name, parts in moments]
    moment, highest = max(moments, key=lambda m: sum(m[1].values()))
    step = _step(spec, model, trains, moments, pattern)
    phases = [load_phase(model, spec), step, save_phase(model, spec, trains)]
    if described is not None:
        phases.insert(2, evaluate_phase(model, spec, trains))
    return Traced(
        model_type=config.model_type,
        described=described is not None,
        layers=layers,
        depths=pattern.depths,
        estimate=Estimate(
            parameters=model.parameters,
            active_parameters=active,
            trainable_parameters=sum(t.elements for t in trains),
            phases=tuple(phases),
            not_modelled=(NOT_TRACED, *NOT_MODELLED),
        ),
        moment=moment,
        rise=sum(highest.values()),
        held=held(deepest.done, order),
        deviation=_deviation(pattern, traces),
        notes=tuple(_notes(spec, described, pattern, traces, trains)),
        seconds=time.monotonic() - began,
    )


def _check(spec: RunSpec) -> None:
    if not spec.parallel.alone:
        raise MemprofError("traced estimate: traces one device; leave the options for several out")
    if spec.method != "full" and spec.lora_experts and spec.expert_lora == "grouped":
        raise MemprofError(
            "traced estimate: expert_lora=grouped is neither transformers' nor PEFT's code; trace with expert_lora=peft, or with "
            "lora_experts off"
        )
    if spec.method == "qlora" and spec.quantise_experts:
        raise MemprofError(
            "traced estimate: quantised experts are not transformers' own code; leave quantise_experts out"
        )


def _described(spec: RunSpec) -> Model | None:
    try:
        return describe(spec.config)
    except MemprofError:
        if spec.config.get("model_type") in SUPPORTED:
            raise  # a known architecture with a value that is wrong
        return None


def _namer(short: Any) -> Sequence[TensorSpec]:
    return describe(short.to_dict()).tensors


def _read(build: Any, config: Any, layers: int, spec: RunSpec) -> tuple[Model, int]:
    from moe_memprof.traced.inventory import read_model

    whole = build.build(config, spec)
    read = read_model(whole, build.layers_of(whole, layers), build.text_of(config))
    return read.model, read.active


def _kinds(config: Any, layers: int, described: Model | None) -> Sequence[Hashable]:
    """A mark for every layer; layers with the same mark are alike."""
    from moe_memprof.traced.build import text_of

    if described is not None and len(described.layers) == layers:
        return described.layers
    values = text_of(config).to_dict()
    lists = [v for v in values.values() if isinstance(v, list) and len(v) == layers]
    dense = values.get("first_k_dense_replace") or 0
    return [(i < dense, *(str(v[i]) for v in lists)) for i in range(layers)]


def _step(
    spec: RunSpec, model: Model, trains: Sequence[Trained], moments: list[tuple[str, Counter[str]]], pattern: Pattern
) -> Phase:
    memory = optimizer_memory(trains, spec)
    last = Counter({"gradients": sum(t.bytes for t in trains), "optimizer's temporaries": memory.step})
    moment, highest = max([*moments, ("the optimizer's step", last)], key=lambda m: sum(m[1].values()))
    depths = " and ".join(map(str, pattern.depths))
    how = (
        "traced with all layers"
        if len(pattern.depths) == 1
        else f"traced with {depths} layers, put together for {pattern.layers}"
    )
    parts = [
        Part(
            name=name if name in _CONSTANT else f"activations: {name or 'between the modules'}",
            bytes=size,
            kind="derived" if highest is last else "traced",
            formula=memory.step_formula if highest is last else how,
        )
        for name, size in _settled(highest).items()
    ]
    return finished("step", moment, [*resident_parts(model, spec, trains), *parts], spec)


def _settled(counted: Counter[str]) -> dict[str, int]:
    """Bytes that changed their label between two stretches can leave one part below zero; the sum is kept."""
    debt = -sum(size for size in counted.values() if size < 0)
    settled: dict[str, int] = {}
    for name, size in sorted(counted.items(), key=lambda item: -item[1]):
        paid = min(debt, max(0, size))
        debt -= paid
        if size - paid > 0:
            settled[name] = size - paid
    return settled


def _deviation(pattern: Pattern, traces: Sequence[Any]) -> float | None:
    if len(traces) < 2:
        return None
    shallow, deep = traces
    direct = max(m.bytes for m in compose(shallow.done, range(shallow.depth)))
    put_together = max(m.bytes for m in compose(deep.done, pattern.order(shallow.depth)))
    return put_together / direct - 1


def _notes(
    spec: RunSpec, described: Model | None, pattern: Pattern, traces: Sequence[Any], trains: Sequence[Trained]
) -> list[str]:
    notes = []
    if described is None:
        notes.append(
            f"the roles of weights are told by their names; experts run as {spec.experts}, where they have the choice"
        )
    deviation = _deviation(pattern, traces)
    if deviation is not None and abs(deviation) > 0.01:
        notes.append(f"layers do not add up evenly: {100 * deviation:+.1f} % at {pattern.depths[0]} layers")
    if spec.method == "qlora":
        notes.append("bitsandbytes' kernels are stood in for by a copy of the weight in 16 bits")
    if spec.loss == "liger":
        notes.append(
            "liger-kernel's chunks are stood in for by chunks of another size: it cannot be traced without a GPU"
        )
    periods, rest = divmod(pattern.layers - traces[-1].depth, pattern.period)
    if len(traces) == 2 and not rest:
        shallow, deep = (t.trainable for t in traces)
        really, said = deep + periods * (deep - shallow), sum(t.elements for t in trains)
        if really != said:
            notes.append(f"{really:,} parameters train in the traced model, the closed forms count {said:,}")
    return notes
