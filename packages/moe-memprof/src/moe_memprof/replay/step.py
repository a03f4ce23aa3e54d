"""One micro-batch, forward and backward: what is live at each moment, by what for.

Layers of one kind are alike, so each kind is replayed once, between an embedding and a head, and the step of the whole model is put
together from what each adds and how high it rises.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from moe_memprof.architectures.base import Attention, Layer, Model
from moe_memprof.replay.checkpointing import checkpoint, reentrant_checkpoint
from moe_memprof.replay.engine import (
    F32,
    Grads,
    Memory,
    Node,
    Snapshot,
    Tensor,
    backward,
    fresh,
    record,
    weight,
)
from moe_memprof.replay.how import How
from moe_memprof.replay.layers import decoder_layer
from moe_memprof.replay.linears import norm
from moe_memprof.replay.ops import cast, matmul, scale, unary


@dataclass(frozen=True, kw_only=True)
class Stretch:
    """What a piece of the model does to the live bytes in one direction."""

    rise: Counter[str]
    """At its highest moment, above its start."""
    change: Counter[str]
    """At its end, above its start."""


@dataclass(frozen=True, kw_only=True)
class Moment:
    """A high point of the step."""

    name: str
    parts: Counter[str]
    rise: int
    """Bytes above the start of its stretch."""
    change: int
    """Bytes that the stretch leaves behind, above its start."""

    @property
    def bytes(self) -> int:
        """All parts together."""
        return sum(self.parts.values())


@dataclass(frozen=True, kw_only=True)
class Task:
    """What surrounds the layers."""

    loss: Literal["completion", "stock", "chunked", "liger"] = "completion"
    wanted: int = 0
    """Positions with a loss."""
    checkpointing: Literal["none", "non-reentrant", "reentrant"] = "none"
    capped_logits: bool = False
    """Logits are divided, squashed by tanh and multiplied again (final_logit_softcapping)."""
    accumulating: bool = False
    """Gradients of an earlier micro-batch are there, and new ones are added to them."""


class _Stretches:
    """Cuts a replay into stretches and keeps what each did."""

    def __init__(self, memory: Memory) -> None:
        self.memory = memory
        self.done: dict[str, Stretch] = {}
        self._name = ""
        self._start: Snapshot = memory.now()

    def begin(self, name: str) -> None:
        """Close the stretch at hand, if any, and open another."""
        self.end()
        self._name, self._start = name, self.memory.now()
        self.memory.peak()

    def end(self) -> None:
        """Close the stretch at hand."""
        if self._name:
            self.done[self._name] = Stretch(
                rise=self.memory.peak().above(self._start), change=self.memory.now().above(self._start)
            )
        self._name = ""


def replay(model: Model, how: How, task: Task) -> list[Moment]:
    """The high points of one micro-batch in their order: embedding, every layer, head and loss, and back.

    Model weights are in none of them; what their gradients take is.
    """
    how = replace(how, family=model.model_type)
    # The first layer's input needs no gradient where the embedding is frozen, so it is a kind of its own.
    others = list(dict.fromkeys(model.layers[1:]))
    done = _replay_kinds([*model.layers[:1], *others], model, how, task)
    order = [0, *(1 + others.index(layer) for layer in model.layers[1:])]
    return compose(done, order)


def compose(done: Mapping[str, Stretch], order: Sequence[int]) -> list[Moment]:
    """The high points of a step from what each of its stretches does.

    Args:
        done: `forward N` and `backward N` of every kind of layer N, and of embedding and head.
        order: the kind of each layer.
    """
    state: Counter[str] = Counter()
    moments: list[Moment] = []

    def go(name: str, key: str) -> None:
        stretch = done[key]
        at_peak = Counter(state)
        at_peak.update(stretch.rise)
        rise, change = sum(stretch.rise.values()), sum(stretch.change.values())
        moments.append(Moment(name=name, parts=at_peak, rise=rise, change=change))
        state.update(stretch.change)

    go("the embedding", "forward embedding")
    for i, kind in enumerate(order):
        go(f"the forward pass of layer {i}", f"forward {kind}")
    go("the forward pass of head and loss", "forward head")
    go("the backward pass of head and loss", "backward head")
    for i, kind in reversed(list(enumerate(order))):
        go(f"the backward pass of layer {i}", f"backward {kind}")
    go("the backward pass of the embedding", "backward embedding")
    return moments


def _replay_kinds(kinds: list[Layer], model: Model, how: How, task: Task) -> dict[str, Stretch]:
    m = Memory(device=how.device, accumulating=task.accumulating)
    stretches = _Stretches(m)
    stretches.begin("forward embedding")
    with m.labelled("positions"):
        rotated = max((_rotated(layer) for layer in kinds), default=0)
        wide = how.written.rotation in {"halves wide", "halves remade", "complex"}
        cos, sin = (fresh(m, how.length * rotated, F32 if wide else how.width) for _ in range(2))
    masks = _masks(m, how, model)
    x = _embed(m, how, model, grad=task.checkpointing != "none" and not how.base_trains)
    embedded = x  # a local of the model's forward pass
    run = {"non-reentrant": checkpoint, "reentrant": reentrant_checkpoint}.get(task.checkpointing)
    ends: list[int] = []
    for i, layer in enumerate(kinds):
        ends.append(next(m.sequence))
        stretches.begin(f"forward {i}")

        mask = masks.get(_window(layer))

        # A checkpointed layer holds on to its arguments, the mask among them.
        def through(y: Tensor, layer: Layer = layer, _mask: Tensor | None = mask) -> Tensor:
            return decoder_layer(m, how, layer, y, cos, sin)

        x = through(x) if run is None else run(m, through, x)
    ends.append(next(m.sequence))
    stretches.begin("forward head")
    x = norm(m, how, x, how.hidden)
    del embedded, masks, mask, through
    loss = _head(m, how, model, task, x)
    del x
    stretches.begin("backward head")
    at = len(kinds)

    def between(node: Node) -> None:
        nonlocal at
        while at >= 0 and node.order < ends[at]:
            at -= 1
            stretches.begin(f"backward {at}" if at >= 0 else "backward embedding")

    backward(m, loss, between=between)
    del loss
    while at >= 0:
        at -= 1
        stretches.begin(f"backward {at}" if at >= 0 else "backward embedding")
    stretches.end()
    return stretches.done


def _rotated(layer: Layer) -> int:
    if not isinstance(layer.mixer, Attention):
        return 0
    return layer.mixer.rope_dim or layer.mixer.head_dim


def _masks(m: Memory, how: How, model: Model) -> dict[int | None, Tensor]:
    """One for each window where one is needed: numbers for eager attention, booleans for the kernels."""
    attentions = [layer.mixer for layer in model.layers if isinstance(layer.mixer, Attention)]
    windows = {a.window for a in attentions} | ({None, 0} if how.written.two_masks and len(attentions) else set())
    pairs = how.sequences * how.length**2
    with m.labelled("masks"):
        if how.attention == "eager" or any(a.sinks for a in attentions):
            return {window: fresh(m, pairs, how.width) for window in windows}
        return {w: fresh(m, pairs, 1) for w in windows if how.padded or 0 < (w or 0) < how.length}


def _window(layer: Layer) -> int | None:
    return layer.mixer.window if isinstance(layer.mixer, Attention) else None


def _embed(m: Memory, how: How, model: Model, *, grad: bool) -> Tensor:
    elements, table = how.tokens * how.hidden, model.vocabulary * how.hidden

    def back(_grads: Grads, _saved: list[Tensor]) -> Grads:
        # A model that is adapted only passes the gradient on to its inputs, for checkpointing's sake.
        return [fresh(m, table, how.width, "gradients") if how.base_trains else None]

    with m.labelled("residual stream"):
        x = record(m, (elements, how.width), [weight(m, table, how.width, trains=how.base_trains or grad)], back)
        if how.written.scaled_embedding == "inside":
            return scale(m, x) if how.base_trains else x
        if not how.written.scaled_embedding:
            return x
        # Where its output is made to need a gradient, for checkpointing's sake, it is a leaf and stays for that.
        kept = [x.alias()] if grad else []
        return record(m, (elements, how.width), [x], lambda _g, _s: [fresh(m, elements, how.width)], kept)


def _head(m: Memory, how: How, model: Model, task: Task, x: Tensor) -> Tensor:
    """Logits, log-softmax in fp32 and the loss."""
    head = weight(m, model.vocabulary * how.hidden, how.width, trains=how.base_trains)
    if task.loss in {"chunked", "liger"}:
        return _chunked(m, how, model, task, x, head)
    with m.labelled("logits"):
        logits = matmul(m, x, head, how.tokens)
        if how.written.scaled_logits:
            logits = scale(m, logits)
        if task.capped_logits:
            logits = scale(m, logits)
            logits = unary(m, logits, save="out")
            logits = scale(m, logits)
    del x
    with m.labelled("loss"):
        everywhere, width = logits.elements, logits.width
        if task.loss == "stock":
            wanted, outer = cast(m, logits, F32), logits  # an output of the forward pass, which the loss is worked in
        else:

            def spread(_grads: Grads, _saved: list[Tensor]) -> Grads:
                return [fresh(m, everywhere, width)]

            # Selecting rows copies them; upcasting copies them again where logits are in 16 bits.
            rows = task.wanted * model.vocabulary
            wanted, outer = cast(m, record(m, (rows, width), [logits], spread), F32), None
        del logits
        likelihoods = unary(m, wanted, save="out")
        size = wanted.elements
        del wanted, outer
        return record(m, (1, F32), [likelihoods], lambda _g, _s: [fresh(m, size, F32)], [likelihoods.alias()])


CHUNK = 256
"""Rows whose logits are alive together in a chunked loss, as moe-train does it."""


def liger_rows(wanted: int, vocabulary: int, hidden: int) -> int:
    """Rows of a chunk of liger-kernel's fused linear cross-entropy: about as many numbers as the hidden states of all rows (0.8)."""
    each = -(-wanted // -(-vocabulary // hidden))
    return min(wanted, 1 << (each - 1).bit_length())


def _chunked(m: Memory, how: How, model: Model, task: Task, x: Tensor, head: Tensor) -> Tensor:
    """Logits of some rows at a time, with their gradient at once: what is kept is the gradient of the rows' hidden states."""
    rows, copies = min(CHUNK, task.wanted), [F32] * 3
    if task.loss == "liger":
        rows, copies = liger_rows(task.wanted, model.vocabulary, how.hidden), [how.width]
    hidden, trains, size, width = task.wanted * how.hidden, head.needs_grad, x.elements, how.width
    with m.labelled("loss"):
        chosen = record(m, (hidden, width), [x], lambda _g, _s: [fresh(m, size, width)])
        for_hidden = fresh(m, hidden, width)
        for_head = fresh(m, head.elements, F32) if trains else None
        with m.labelled("logits"):
            # Log-softmax, the gradient of the likelihoods and that of the logits: more than the logits and their copy in fp32 before.
            # Liger's kernel writes the gradient where the logits were.
            chunk = [fresh(m, rows * model.vocabulary, bytes_each) for bytes_each in copies]
        del chunk
        saved = [for_hidden] + ([for_head] if for_head is not None else [])
        del for_hidden, for_head

        def back(_grads: Grads, saved: list[Tensor]) -> Grads:
            return [fresh(m, hidden, width), saved[1].alias() if trains else None]

        return record(m, (1, F32), [chosen, head], back, saved)
