"""The four phases of a fine-tune, each with what is in memory at its highest moment.

Nothing here imports torch. Letters: T tokens of the forward pass, H hidden, V vocabulary, n elements.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from moe_memprof.architectures.base import Attention, Layer, Model, StateMixer
from moe_memprof.optimizer import optimizer_memory, state_parts
from moe_memprof.parallel import STEP_FORMULAS, own, spread, step_parts
from moe_memprof.plan import BASELINE, CONTEXT, Part, Phase, PhaseName
from moe_memprof.replay.engine import F32, Memory, fresh
from moe_memprof.replay.exactness import beyond_the_replay, exactness
from moe_memprof.replay.how import How
from moe_memprof.replay.layers import decoder_layer
from moe_memprof.replay.step import Task, replay
from moe_memprof.spec import RunSpec
from moe_memprof.weights import Trained, is_quantised, weight_parts

FORMULAS = {
    "norms": "T · (H + 1) in fp32 per norm, the input once more in 16-bit; the scaled input too where norms train",
    "attention": "projections' inputs where they train, rotated query and keys, values, output, a log-sum-exp per head and token",
    "router": "T · E logits and probabilities in fp32, T · k weights and indices",
    "dispatch": "rows sorted by expert: T · k indices, T · k · H activations, and the way back",
    "experts": "T · k · (2 I + I + I + H) elements, by what autograd saves",
    "shared experts": "T · (4 I + H) elements",
    "dense MLP": "T · (4 I + H) elements",
    "materialised expert weights": "W + ΔW of every expert, built by PEFT for each layer and kept for the backward pass",
    "dequantised weights": "the layer's weights in 16 bits while they are multiplied",
    "logits": "T · V elements",
    "loss": "positions with a loss · V in fp32: log-softmax, its gradient, and the gradient of the logits",
    "residual stream": "T · H per layer: what is kept of a layer under checkpointing, and the sum that runs through all",
    "gradients": "trainable parameters whose backward pass is over",
    "state mixer": "what its code keeps of its streams, in fp32 where it works in fp32",
    "masks": "T · length elements: the kernel takes the mask as numbers, made in every layer",
    "positions": "cosines and sines of the rotary embedding",
}
CACHING = 0.045
"""Reserved over allocated, less one: median of the nine published pairs in evidence.json (1.9 to 22 %)."""


def how_of(model: Model, spec: RunSpec) -> How:
    """What the replay needs of a run."""
    lora = spec.method != "full"
    quantised = spec.method == "qlora"
    return How(
        sequences=spec.sequences,
        length=spec.length,
        hidden=model.hidden,
        width=spec.width,
        base_trains=not lora,
        rank=spec.lora_rank if lora else 0,
        expert_rank=spec.expert_rank if lora else 0,
        adapts_attention=lora and spec.lora_attention,
        adapts_experts=lora and spec.lora_experts,
        device=spec.device,
        padded=spec.padded,
        attention=spec.attention,
        experts=spec.experts,
        linear_bits=spec.bits if quantised else 0,
        expert_bits=spec.bits if quantised and spec.quantise_experts else 0,
        expert_lora=spec.expert_lora,
        family=model.model_type,
    )


def task_of(spec: RunSpec) -> Task:
    """What surrounds the layers of a run."""
    return Task(
        loss=spec.loss,
        wanted=spec.tokens if spec.loss == "stock" else max(1, round(spec.tokens * spec.loss_share)),
        checkpointing=str(spec.checkpointing),  # type: ignore[arg-type]
        capped_logits=bool((spec.config.get("text_config") or spec.config).get("final_logit_softcapping")),
        accumulating=spec.accumulation > 1,
    )


def baseline_parts(spec: RunSpec) -> list[Part]:
    """What the process takes without the model, where that is known."""
    if spec.baseline is None:
        return []
    if spec.device == "cuda":
        formula = "above what torch reserves, as nvidia-smi shows it: 0.13 to 0.96 GiB in published runs, median 0.6"
        return [Part(name=CONTEXT, bytes=spec.baseline, kind="heuristic", formula=formula)]
    formula = "resident memory of the process before the model"
    return [Part(name=BASELINE, bytes=spec.baseline, kind="measured", formula=formula)]


def resident_parts(model: Model, spec: RunSpec, trains: Sequence[Trained]) -> list[Part]:
    """What stays from step to step: the process, weights, adapters and optimizer states of this rank."""
    p = spec.parallel
    states = state_parts(own(trains, p, sharded=p.shards_states), spec)
    adapters = state_parts(own(trains, p, sharded=p.shards_weights), spec)
    kept = [*weight_parts(model, spec)]
    kept += [part for part in adapters if part.name.startswith("LoRA:")]
    kept += [part for part in states if not part.name.startswith("LoRA:")]
    return [*baseline_parts(spec), *spread(kept, spec.parallel)]


def allocator_part(spec: RunSpec, parts: Sequence[Part]) -> list[Part]:
    """What CUDA's caching allocator keeps reserved beyond the tensors."""
    if spec.device != "cuda" or not spec.allocator:
        return []
    tensors = sum(p.bytes for p in parts if p.name not in {BASELINE, CONTEXT})
    return [
        Part(
            name="allocator: cached and fragmented",
            bytes=round(tensors * CACHING),
            kind="heuristic",
            formula=f"{100 * CACHING:.1f} % of the tensors: median of published pairs of reserved and allocated memory",
        )
    ]


def finished(name: PhaseName, moment: str, parts: Sequence[Part], spec: RunSpec) -> Phase:
    """A phase with what the user knows better put in, the allocator's share, and the buffer that was asked for."""
    known = [
        part if part.name not in spec.overrides
        else replace(part, bytes=spec.overrides[part.name], kind="given", formula="given by the user")
        for part in parts
    ]  # fmt: skip
    known += allocator_part(spec, known)
    if spec.buffer:
        size = round(spec.buffer * sum(p.bytes for p in known))
        why = f"{100 * spec.buffer:g} % on top, as asked for"
        known.append(Part(name="buffer", bytes=size, kind="given", formula=why))
    return Phase(name=name, moment=moment, parts=tuple(known))


def load_phase(model: Model, spec: RunSpec) -> Phase:
    """Reading the weights."""
    largest = max((t for t in model.tensors), key=lambda t: t.elements)
    factor, why = 1.0, "the largest weight once more: fused experts are stacked from the file's separate ones"
    if is_quantised(largest, spec):
        factor, why = 1.33, "the largest fused weight before it is quantised, a third more while it is gathered"
    reading = Part(
        name="tensor being read", bytes=round(largest.elements * spec.width * factor), kind="heuristic", formula=why
    )
    parts = [*baseline_parts(spec), *spread(weight_parts(model, spec), spec.parallel), reading]
    return finished("load", "reading the last weights", parts, spec)


def step_phase(model: Model, spec: RunSpec, trains: Sequence[Trained]) -> Phase:
    """A micro-batch forward and backward, and the optimizer's step; the highest moment of all."""
    accumulating = spec.accumulation > 1
    task = task_of(spec)
    gradients = sum(t.bytes for t in trains)
    how = how_of(model, spec)
    moments = [(m.name, m.parts) for m in replay(model, how, task)]
    memory = optimizer_memory(own(trains, spec.parallel, sharded=spec.parallel.shards_states), spec)
    if accumulating:
        moments = [(name, Counter(parts) + Counter({"gradients": gradients})) for name, parts in moments]
    moments.append(("the optimizer's step", Counter({"gradients": gradients, "optimizer's temporaries": memory.step})))
    if not spec.parallel.alone:
        moments = [(n, step_parts(model, parts, trains, spec.width, spec.parallel)) for n, parts in moments]
    moment, highest = max(moments, key=lambda m: sum(m[1].values()))
    fixed = resident_parts(model, spec, trains)
    rough = any(exactness(layer, how) == "heuristic" for layer in model.layers) or bool(beyond_the_replay(spec.config))
    formulas = {**FORMULAS, **STEP_FORMULAS, "optimizer's temporaries": memory.step_formula}
    here = [
        Part(
            name=_activation_name(name),
            bytes=size,
            kind="heuristic" if rough and name in _ACTIVATIONS else "derived",
            formula=formulas.get(name, name),
        )
        for name, size in highest.items()
        if size > 0
    ]
    here = _without_debts(here, highest)
    parts = [*fixed, *here]
    return finished("step", moment, parts, spec)


_ACTIVATIONS = frozenset(
    {
        "norms",
        "attention",
        "router",
        "dispatch",
        "experts",
        "shared experts",
        "dense MLP",
        "residual stream",
        "state mixer",
    }
)


def _activation_name(name: str) -> str:
    return f"activations: {name}" if name in _ACTIVATIONS else name


def _without_debts(parts: list[Part], counted: Counter[str]) -> list[Part]:
    """Bytes that changed their label between two stretches can leave one part below zero; the sum is kept."""
    debt = -sum(size for size in counted.values() if size < 0)
    kept: list[Part] = []
    for part in sorted(parts, key=lambda p: -p.bytes):
        paid = min(debt, part.bytes)
        debt -= paid
        kept.append(replace(part, bytes=part.bytes - paid))
    return kept


def evaluate_phase(model: Model, spec: RunSpec, trains: Sequence[Trained]) -> Phase:
    """Generating answers: the cache at its longest, or the prompt's pass where that is higher."""
    cache = sum(_cache(layer, spec) for layer in model.layers)
    logits = spec.eval_sequences * model.vocabulary * (spec.width + F32)
    parts = [
        *resident_parts(model, spec, trains),
        Part(
            name="cache",
            bytes=cache,
            kind="derived",
            formula="keys and values of every layer, within its window; states",
        ),
        Part(name="logits", bytes=logits, kind="derived", formula="one position per sequence · V, once in fp32"),
        Part(
            name="activations: one layer",
            bytes=_prompt_pass(model, spec),
            kind="heuristic",
            formula="the prompt's pass through the layer that takes most, without gradients",
        ),
    ]
    if spec.merged_eval and spec.method == "lora":
        roles = {"attention"} if spec.lora_attention else set()
        roles |= {"routed expert"} if spec.lora_experts else set()
        base = sum(t.elements for t in model.tensors if t.role in roles) * spec.width
        why = "kept to be put back after the evaluation"
        parts.append(Part(name="base weights beside merged ones", bytes=base, kind="derived", formula=why))
    return finished("evaluate", "the longest answers' last token", parts, spec)


def _cache(layer: Layer, spec: RunSpec) -> int:
    mixer = layer.mixer
    if isinstance(mixer, Attention):
        kept = spec.eval_length if mixer.window is None else min(spec.eval_length, mixer.window)
        return spec.eval_sequences * kept * mixer.kv_heads * (mixer.head_dim + mixer.value_dim) * spec.width
    if isinstance(mixer, StateMixer):
        return spec.eval_sequences * mixer.state * spec.width
    return 0


def _prompt_pass(model: Model, spec: RunSpec) -> int:
    how = replace(how_of(model, spec), sequences=spec.eval_sequences, length=spec.eval_length, rank=0)
    how = replace(how, adapts_attention=False, adapts_experts=False, base_trains=False)
    highest = 0
    for layer in dict.fromkeys(model.layers):
        m = Memory(device=spec.device)
        with m.no_grad():
            rotated = layer.mixer.head_dim if isinstance(layer.mixer, Attention) else 0
            cos, sin = (fresh(m, how.length * rotated, how.width) for _ in range(2))
            decoder_layer(m, how, layer, fresh(m, how.tokens * how.hidden, how.width), cos, sin)
        highest = max(highest, m.peak().bytes)
    return highest


def save_phase(model: Model, spec: RunSpec, trains: Sequence[Trained]) -> Phase:
    """Writing a checkpoint: on a GPU tensors are copied to the host, on a CPU they are serialised beside themselves."""
    copies = sum(t.bytes for t in trains) + optimizer_memory(trains, spec).states if spec.device == "cpu" else 0
    parts = resident_parts(model, spec, trains)
    if copies:
        why = "trainable weights and optimizer state once more while they are serialised"
        parts.append(Part(name="file being written", bytes=copies, kind="heuristic", formula=why))
    return finished("save", "writing a checkpoint", parts, spec)
