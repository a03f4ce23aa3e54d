"""Storages, tensors and a backward pass that follow PyTorch's rules of when memory is taken and given back.

A storage is alive while a variable, a saved tensor or a gradient refers to it, as Python's own reference counts tell, so the layers in
this package are written as the modelling code is, and their memory follows from that. The rules (what is kept
until when, when a gradient is added in place) are those of torch/csrc/autograd: engine.cpp, input_buffer.h, accumulate_grad.h.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from heapq import heappop, heappush
from itertools import count
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from moe_memprof.replay.checkpointing import Frame

F32 = 4
INDEX = 8


@dataclass(frozen=True)
class Snapshot:
    """Live bytes by what they are for."""

    parts: Counter[str]

    @property
    def bytes(self) -> int:
        """All of them."""
        return sum(self.parts.values())

    def above(self, before: Snapshot) -> Counter[str]:
        """What has come since; negative where something has gone."""
        difference = Counter(self.parts)
        difference.subtract(before.parts)
        return Counter({name: size for name, size in difference.items() if size})


class Memory:
    """Counts live bytes by label, and remembers the highest moment since it was last asked."""

    def __init__(self, *, device: str = "cuda", accumulating: bool = False) -> None:
        self.device, self.accumulating = device, accumulating
        self.live = 0
        self.parts: Counter[str] = Counter()
        self.label = ""
        self.recording = True
        self.frame: Frame | None = None
        """Whether operations are taped for a backward pass."""
        self._highest = 0
        self._at_highest: Counter[str] = Counter()
        self.sequence = count()
        self.leaves: list[Leaf] = []
        """Trainable weights that have been used: they keep their gradients."""

    def take(self, size: int, label: str) -> None:
        """Allocate."""
        self.live += size
        self.parts[label] += size
        if self.live > self._highest:
            self._highest = self.live
            self._at_highest = self.parts.copy()

    def give_back(self, size: int, label: str) -> None:
        """Free."""
        self.live -= size
        self.parts[label] -= size

    def now(self) -> Snapshot:
        """What is live."""
        return Snapshot(self.parts.copy())

    def peak(self) -> Snapshot:
        """The highest moment since the last call; starts anew from here."""
        highest = Snapshot(self._at_highest)
        self._highest, self._at_highest = self.live, self.parts.copy()
        return highest

    @contextmanager
    def labelled(self, label: str) -> Iterator[None]:
        """What is allocated inside, and in the backward pass of what is done inside, is for this."""
        before, self.label = self.label, label
        try:
            yield
        finally:
            self.label = before

    @contextmanager
    def no_grad(self) -> Iterator[None]:
        """Nothing inside is taped."""
        before, self.recording = self.recording, False
        try:
            yield
        finally:
            self.recording = before

    @contextmanager
    def grad(self) -> Iterator[None]:
        """What is inside is taped, even in a backward pass."""
        before, self.recording = self.recording, True
        try:
            yield
        finally:
            self.recording = before


class Storage:
    """Bytes that are live as long as something refers to them."""

    __slots__ = ("holders", "label", "memory", "size")

    def __init__(self, memory: Memory, size: int, label: str) -> None:
        self.memory, self.size, self.label, self.holders = memory, size, label, 0
        memory.take(size, label)

    def __del__(self) -> None:
        self.memory.give_back(self.size, self.label)

    def relabel(self, label: str) -> None:
        """The same bytes are for something else now."""
        if label != self.label:
            self.memory.parts[self.label] -= self.size
            self.memory.parts[label] += self.size
            self.label = label


class Tensor:
    """A tensor's size; several may share a storage."""

    __slots__ = ("elements", "node", "slot", "storage", "width")

    def __init__(
        self, storage: Storage | None, elements: int, width: int, node: Node | None = None, slot: int = 0
    ) -> None:
        self.storage, self.elements, self.width, self.node, self.slot = storage, elements, width, node, slot
        if storage is not None:
            storage.holders += 1

    def __del__(self) -> None:
        if self.storage is not None:
            self.storage.holders -= 1

    @property
    def needs_grad(self) -> bool:
        """Whether a gradient flows to it."""
        return self.node is not None

    @property
    def size(self) -> int:
        """Bytes, when contiguous."""
        return self.elements * self.width

    def alias(self) -> Tensor:
        """The same storage without its past."""
        return Tensor(self.storage, self.elements, self.width)

    def view(self) -> Tensor:
        """The same storage and past in another shape."""
        return Tensor(self.storage, self.elements, self.width, self.node, self.slot)


Grads = list[Tensor | None]
Backward = Callable[[list[Tensor | None], list[Tensor]], Grads]
"""From the gradients of the outputs and what was saved to a gradient, or None, for every input. It may clear both lists on the way,
as an operation made of several lets go of things between them."""


@dataclass(eq=False)
class Node:
    """An operation of the tape: where its gradients go and how they come about."""

    order: int
    inputs: list[tuple[Node | None, int, int, int]]
    """Of every input: its node and which of its outputs it is, elements and width, for gradients are reduced and cast to what they
    belong to."""
    backward: Backward
    saved: list[Tensor]
    label: str
    frame: Frame | None = None
    """The checkpointed layer whose second run brings what was saved."""
    outputs: int = 1


@dataclass(eq=False)
class Leaf(Node):
    """A trainable weight, which keeps its gradient."""

    grad: Tensor | None = field(default=None)


def fresh(memory: Memory, elements: int, width: int, label: str | None = None) -> Tensor:
    """A new tensor with bytes of its own."""
    return Tensor(Storage(memory, elements * width, memory.label if label is None else label), elements, width)


def weight(memory: Memory, elements: int, width: int, *, trains: bool) -> Tensor:
    """A weight. Its own bytes are counted with the model, not here; its gradient is."""
    if not trains:
        return Tensor(None, elements, width)
    leaf = Leaf(order=-1, inputs=[], backward=lambda _g, _s: [], saved=[], label="gradients")
    memory.leaves.append(leaf)
    return Tensor(None, elements, width, leaf)


def record(
    memory: Memory,
    output: Tensor | tuple[int, int],
    inputs: Sequence[Tensor],
    backward: Backward,
    saved: Sequence[Tensor] = (),
    *,
    save_output: bool = False,
    scratch: Sequence[tuple[int, int]] = (),
) -> Tensor:
    """Run an operation and tape it where a gradient flows through it.

    Args:
        memory: where it happens.
        output: elements and width of the new tensor, or a view that exists already.
        inputs: what gradients go to.
        backward: gives a gradient (or None) for every input.
        saved: inputs that the gradient needs; saved before the output is there, as autograd does it.
        save_output: whether the gradient needs the output.
        scratch: elements and width of temporaries that are alive while the output is made.
    """
    taped = memory.recording and any(x.needs_grad for x in inputs)
    frame = memory.frame
    if taped and frame is not None:
        frame.keep(list(saved))
    temporaries = [fresh(memory, *size) for size in scratch]
    out = fresh(memory, *output) if isinstance(output, tuple) else output
    temporaries.clear()
    if not taped:
        return out
    kept = list(saved)
    if save_output:
        kept.append(out.alias())
    needs_frame = frame is not None and not frame.recomputing and bool(kept)
    if frame is not None:
        kept = frame.keep(kept, after=True)
    out.node = Node(
        order=next(memory.sequence),
        inputs=[(x.node, x.slot, x.elements, x.width) for x in inputs],
        backward=backward,
        saved=kept,
        label=memory.label,
        frame=frame if needs_frame else None,
    )
    return out


def backward(memory: Memory, root: Tensor, *, between: Callable[[Node], None] | None = None) -> None:
    """Run the tape backwards from a scalar; `between` is told each node before it runs."""
    assert root.node is not None
    buffers: dict[Node, list[Tensor | None]] = {root.node: [fresh(memory, root.elements, root.width)]}
    heap = [(-root.node.order, id(root.node), root.node)]
    root.node = None
    queued = set(buffers)
    label_before = memory.label
    with memory.no_grad():
        while heap:
            node = heappop(heap)[2]
            queued.discard(node)
            memory.label = node.label
            if between is not None:
                between(node)
            run_node(memory, node, buffers, heap, queued)
    memory.label = label_before


def run_node(
    memory: Memory,
    node: Node,
    buffers: dict[Node, list[Tensor | None]],
    heap: list[tuple[int, int, Node]],
    queued: set[Node],
) -> None:
    """Run one node backwards and hand its gradients on."""
    if node.frame is not None:
        node.frame.fill(memory)
        node.frame = None
    grads = buffers.pop(node)
    found = node.backward(grads, node.saved)
    grads.clear()
    node.saved = []
    node.backward = spent
    for i, (target, slot, elements, width) in enumerate(node.inputs):
        grad, found[i] = found[i], None
        if target is None or grad is None:
            continue
        grad = _fitted(memory, grad, elements, width)
        if isinstance(target, Leaf):
            _accumulate(memory, target, grad)
            continue
        buffer = buffers.get(target)
        if buffer is None:
            buffer = buffers[target] = [None] * target.outputs
            if target not in queued:
                queued.add(target)
                heappush(heap, (-target.order, id(target), target))
        held, buffer[slot] = buffer[slot], None
        buffer[slot] = grad if held is None else _added(memory, held, grad)
        del held
        del grad
    node.inputs = []


def spent(_grads: list[Tensor | None], _saved: list[Tensor]) -> Grads:
    """In the place of a backward pass that has run."""
    raise AssertionError("a node's backward pass runs once")


def _fitted(memory: Memory, grad: Tensor, elements: int, width: int) -> Tensor:
    """Summed over what was broadcast, and in the dtype of what it belongs to."""
    if grad.elements != elements:
        grad = fresh(memory, elements, grad.width)
    if grad.width != width:
        grad = fresh(memory, elements, width)
    return grad


def _unshared(grad: Tensor) -> bool:
    return grad.storage is not None and grad.storage.holders == 1


def _added(memory: Memory, held: Tensor, grad: Tensor) -> Tensor:
    """One gradient added to another: in place where one of them is referred to from nowhere else."""
    if _unshared(held):
        return held
    if _unshared(grad):
        return grad
    return fresh(memory, held.elements, held.width)


def _accumulate(memory: Memory, leaf: Leaf, grad: Tensor) -> None:
    if memory.accumulating and leaf.label == "gradients":
        return  # added to the gradient of an earlier micro-batch, in place
    if leaf.grad is None:
        # Taken over where nothing else refers to it, else copied.
        leaf.grad = grad if _unshared(grad) else fresh(memory, grad.elements, grad.width, "gradients")
        assert leaf.grad.storage is not None
        leaf.grad.storage.relabel("gradients")
