"""The estimate: four phases, each the sum of what is in memory at its highest moment.

Nothing here imports torch.
"""

from __future__ import annotations

from collections import Counter

from moe_memprof.activations import F32, LayerMemory, head_memory, layer_memory
from moe_memprof.inventory import (
    ModelShape,
    TensorSpec,
    active_parameters,
    adapter_elements,
    count_by_role,
    read_shape,
    tensors,
)
from moe_memprof.plan import BASELINE, Estimate, Part, Phase
from moe_memprof.spec import RunSpec

NOT_MODELLED = (
    "fragmentation and caching of the allocator, and the CUDA context",
    "more than one device",
    "experts that receive much more than their share (the routed rows are the same in sum; kernels' workspaces are not modelled)",
    "the data, its tokens and the tokenizer",
)
_FORMULAS = {
    "norms": "2 · T · (H + 1) in fp32, the input once more in 16-bit; the scaled input too where norms train",
    "attention": "T · (H + A + 2 · A repeated keys and values + A) · c, and a log-sum-exp per head",
    "router": "T · (E + 2 k) in fp32, T · k indices, T · H · c",
    "dispatch": "three index arrays of T · k, and the routed rows T · k · H · c where expert weights need them",
    "experts": "T · k · (2 I + I + I + H) · c",
    "dense MLP": "T · (H + 4 I) · c",
    "materialised expert weights": "W + ΔW of every expert, built by PEFT for each layer and kept for the backward pass",
    "gradient of expert weights": "E · 2 I · H · c of the layer at work",
    "logits": "T · V · c, twice in the backward pass",
    "loss": "positions with a loss · V in fp32, twice in the forward pass",
}


def estimate(spec: RunSpec) -> Estimate:
    """What the fine-tune takes, phase by phase.

    Raises:
        MemprofError: for a config that is not covered or not complete.
    """
    shape = read_shape(spec.config)
    found = tensors(shape)
    adapters = _adapters(shape, found, spec)
    total = sum(t.elements for t in found)
    return Estimate(
        parameters=total,
        active_parameters=active_parameters(shape, found),
        trainable_parameters=total if spec.method == "full" else sum(adapters.values()),
        phases=(
            _load(found, spec),
            _step(shape, found, spec, adapters),
            _evaluate(shape, found, spec, adapters),
            _save(found, spec, adapters),
        ),
        not_modelled=NOT_MODELLED,
    )


def _adapters(shape: ModelShape, found: list[TensorSpec], spec: RunSpec) -> dict[str, int]:
    if spec.method == "full":
        return {}
    return adapter_elements(shape, found, rank=spec.lora_rank, attention=spec.lora_attention, experts=spec.lora_experts)


def _baseline(spec: RunSpec) -> list[Part]:
    if spec.baseline is None:
        return []
    return [
        Part(
            name=BASELINE,
            bytes=spec.baseline,
            kind="measured",
            formula="resident memory of the process before the model",
        )
    ]


def _weights(found: list[TensorSpec], spec: RunSpec) -> list[Part]:
    return [
        Part(
            name=f"weights: {role}",
            bytes=n * spec.width,
            kind="derived",
            formula=f"{n:,} parameters · {spec.width} bytes",
        )
        for role, n in count_by_role(found).items()
    ]


def _adapter_weights(adapters: dict[str, int]) -> list[Part]:
    return [
        Part(name=f"LoRA: {role}", bytes=n * F32, kind="derived", formula=f"{n:,} parameters · 4 bytes")
        for role, n in adapters.items()
    ]


def _optimizer(found: list[TensorSpec], spec: RunSpec, adapters: dict[str, int]) -> list[Part]:
    elements, width = _trainable(found, spec, adapters)
    if spec.optimizer == "sgd":
        return []
    return [
        Part(
            name="optimizer state",
            bytes=2 * elements * width,
            kind="derived",
            formula="two moments per trainable parameter",
        )
    ]


def _trainable(found: list[TensorSpec], spec: RunSpec, adapters: dict[str, int]) -> tuple[int, int]:
    """Trainable elements and their bytes each."""
    if spec.method == "full":
        return sum(t.elements for t in found), spec.width
    return sum(adapters.values()), F32


def _load(found: list[TensorSpec], spec: RunSpec) -> Phase:
    largest = max(t.elements for t in found)
    reading = Part(
        name="tensor being read",
        bytes=largest * spec.width,
        kind="heuristic",
        formula="the largest weight once more: fused experts are stacked from the file's separate ones",
    )
    return Phase(
        name="load", moment="reading the last weights", parts=(*_baseline(spec), *_weights(found, spec), reading)
    )


def _step(shape: ModelShape, found: list[TensorSpec], spec: RunSpec, adapters: dict[str, int]) -> Phase:
    """The highest of: the end of the forward pass, the start of the backward pass, and the backward pass of every layer.

    Gradients grow from the last layer on while saved activations go: both are counted at each of these moments.
    """
    memories = [layer_memory(shape, spec, layer) for layer in range(shape.layers)]
    grads = _layer_gradients(shape, found, spec)
    head_forward, head_backward = head_memory(shape, spec)
    outer = _outer_gradient(found, spec)
    moments: list[tuple[str, Counter[str]]] = []
    held = _held(shape, spec, memories)
    everything = sum((Counter(h) for h in held), Counter())
    moments.append(("the end of the forward pass", everything + Counter(head_forward)))
    moments.append(("the start of the backward pass", everything + Counter(head_backward)))
    running = Counter({"gradients": outer})
    for layer in reversed(range(shape.layers)):
        below = sum((Counter(h) for h in held[:layer]), Counter())
        here = Counter(memories[layer].saved) + Counter(memories[layer].backward)
        moments.append((f"the backward pass of layer {layer}", below + here + running))
        running["gradients"] += grads[layer]
    moments.append(("the end of the backward pass", running))
    moment, highest = max(moments, key=lambda m: sum(m[1].values()))
    fixed = [*_baseline(spec), *_weights(found, spec), *_adapter_weights(adapters), *_optimizer(found, spec, adapters)]
    parts = [
        Part(
            name=name,
            bytes=size,
            kind="derived",
            formula=_FORMULAS.get(name, "trainable parameters whose backward pass is over"),
        )
        for name, size in highest.items()
        if size
    ]
    return Phase(name="step", moment=moment, parts=(*fixed, *_activation_names(parts)))


def _activation_names(parts: list[Part]) -> list[Part]:
    named = {"norms", "attention", "router", "dispatch", "experts", "dense MLP", "checkpoints"}
    return [
        Part(
            name=f"activations: {p.name}" if p.name in named else p.name,
            bytes=p.bytes,
            kind=p.kind,
            formula=p.formula,
        )
        for p in parts
    ]


def _held(shape: ModelShape, spec: RunSpec, memories: list[LayerMemory]) -> list[dict[str, int]]:
    """What stays of every layer until its backward pass: all that it saved, or with checkpointing its input alone."""
    if not spec.checkpointing:
        return [memory.saved for memory in memories]
    return [{"checkpoints": spec.tokens * shape.hidden * spec.width} for _ in memories]


def _layer_gradients(shape: ModelShape, found: list[TensorSpec], spec: RunSpec) -> list[int]:
    if spec.method == "full":
        return [sum(t.elements for t in found if t.layer == layer) * spec.width for layer in range(shape.layers)]
    in_layer = [[t for t in found if t.layer == layer] for layer in range(shape.layers)]
    return [
        sum(
            adapter_elements(
                shape, ts, rank=spec.lora_rank, attention=spec.lora_attention, experts=spec.lora_experts
            ).values()
        )
        * F32
        for ts in in_layer
    ]


def _outer_gradient(found: list[TensorSpec], spec: RunSpec) -> int:
    """Gradients of the head, known before those of the layers."""
    return sum(t.elements for t in found if t.layer is None) * spec.width if spec.method == "full" else 0


def _evaluate(shape: ModelShape, found: list[TensorSpec], spec: RunSpec, adapters: dict[str, int]) -> Phase:
    cache = 2 * shape.layers * spec.eval_sequences * spec.eval_length * shape.key_value * spec.width
    logits = spec.eval_sequences * shape.vocabulary * (spec.width + F32)
    prompt = spec.eval_sequences * spec.eval_length
    working = (
        prompt * spec.width * (4 * shape.hidden + shape.top_k * (2 * shape.hidden + 3 * shape.expert_intermediate))
    )
    parts = [
        *_baseline(spec),
        *_weights(found, spec),
        *_adapter_weights(adapters),
        *_optimizer(found, spec, adapters),
        Part(name="KV cache", bytes=cache, kind="derived", formula="2 · layers · sequences · length · KV · c"),
        Part(name="logits", bytes=logits, kind="derived", formula="one position per sequence · V, once in fp32"),
        Part(
            name="activations: one layer",
            bytes=working,
            kind="heuristic",
            formula="the prompt's pass through one layer: T · (4 H + k · (2 H + 3 I)) · c",
        ),
    ]
    if spec.method == "lora" and spec.lora_experts:
        # Built for one layer at a time where the adapter is not merged; a saved copy of the base where it is.
        base = sum(t.elements for t in found if t.role in {"attention", "routed expert"}) * spec.width
        parts.append(
            Part(
                name="base weights beside merged ones",
                bytes=base,
                kind="derived",
                formula="kept to be put back after the evaluation",
            )
        )
    return Phase(name="evaluate", moment="the longest answers' last token", parts=tuple(parts))


def _save(found: list[TensorSpec], spec: RunSpec, adapters: dict[str, int]) -> Phase:
    elements, width = _trainable(found, spec, adapters)
    copy = Part(
        name="file being written",
        bytes=3 * elements * width,
        kind="heuristic",
        formula="trainable weights and optimizer state once more while they are serialised",
    )
    return Phase(
        name="save",
        moment="writing a checkpoint",
        parts=(
            *_baseline(spec),
            *_weights(found, spec),
            *_adapter_weights(adapters),
            *_optimizer(found, spec, adapters),
            copy,
        ),
    )
