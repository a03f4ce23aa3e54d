"""Gradient checkpointing, both of torch's kinds."""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappop

from moe_memprof.replay.engine import Grads, Leaf, Memory, Tensor, fresh, record, run_node, spent

RANDOM = 5056
"""Bytes of torch's state of random numbers on a CPU, kept of every layer for its second run."""


class _EnoughError(Exception):
    """A second run has brought all that was saved."""


class Frame:
    """A layer under non-reentrant checkpointing: its operations are taped, what they save is left out until it is asked for.

    Then the layer runs once more, as far as its last saved tensor.
    """

    def __init__(self, memory: Memory, layer: Callable[[Tensor], Tensor], x: Tensor) -> None:
        self.layer, self.x = layer, x
        self.random = _random_state(memory)
        self.places: list[list[Tensor]] = []
        self.last = -1
        self.recomputing = False
        self._next = 0

    def keep(self, saved: list[Tensor], *, after: bool = False) -> list[Tensor]:
        """What a node holds on to; `after` once its output is there."""
        if not after:
            if self.recomputing and self._next == self.last and saved:
                self.places[self._next].extend(saved)
                raise _EnoughError
            return saved
        if self.recomputing:
            self.places[self._next].extend(saved)
            self._next += 1
            if self._next > self.last:
                raise _EnoughError
            return saved
        if saved:
            self.last = len(self.places)
        self.places.append([])
        return self.places[-1]

    def fill(self, memory: Memory) -> None:
        """Run the layer again for what its operations save; once."""
        if self.recomputing:
            return
        self.recomputing = True
        label, memory.label = memory.label, ""
        x = Tensor(self.x.storage, self.x.elements, self.x.width, Leaf(-1, [], spent, [], ""))
        before, memory.frame = memory.frame, self
        current = _random_state(memory)
        try:
            with memory.grad():
                self.layer(x)
        except _EnoughError:
            pass
        finally:
            memory.frame, memory.label = before, label
            del current
            self.places.clear()  # the input and its like stay until the last operation that saved something is done


def _random_state(memory: Memory) -> Tensor:
    return fresh(memory, RANDOM if memory.device == "cpu" else 0, 1, "residual stream")


def checkpoint(memory: Memory, layer: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Run a layer of which only the input is kept (non-reentrant checkpointing)."""
    frame = Frame(memory, layer, x.alias())
    before, memory.frame = memory.frame, frame
    try:
        return layer(x)
    finally:
        memory.frame = before


def reentrant_checkpoint(memory: Memory, layer: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Run a layer without its tape, and once more, with it, when its gradient is wanted (reentrant checkpointing)."""
    with memory.no_grad():
        output = layer(x)
    output = Tensor(output.storage, output.elements, output.width)
    random = [_random_state(memory)]

    def again(grads: list[Tensor | None], saved: list[Tensor]) -> Grads:
        start = Leaf(order=-1, inputs=[], backward=spent, saved=[], label="")
        (kept,) = saved
        with memory.grad():
            y = layer(Tensor(kept.storage, kept.elements, kept.width, start))
        assert y.node is not None
        node, y.node = y.node, None  # the output itself is held until its gradients are made
        buffers = {node: [grads.pop()]}
        heap = [(-node.order, id(node), node)]
        queued = {node}
        del node
        while heap:
            inner = heappop(heap)[2]
            queued.discard(inner)
            memory.label = inner.label
            run_node(memory, inner, buffers, heap, queued)
            del inner
        random.clear()
        del y
        found, start.grad = start.grad, None
        return [found]

    return record(memory, output, [x], again, [x])
