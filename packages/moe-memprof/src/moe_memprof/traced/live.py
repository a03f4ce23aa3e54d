"""Counts the live bytes of storages while operations run on fake tensors, stretch by stretch and by what they are for.

Storages of parameters and inputs are left out: they are counted with the model. What a kernel allocates inside itself is not seen.
"""

from __future__ import annotations

import sys
import weakref
from bisect import bisect_right
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from moe_memprof.replay.engine import Memory, Snapshot
from moe_memprof.replay.step import Stretch

ACCUMULATED = 2**63
"""Sequence numbers from here on belong to autograd's nodes that hand a gradient to its parameter."""


_IN_PLACE: dict[Any, Any] = {
    torch.ops.aten.add.Tensor: torch.ops.aten.add_.Tensor,
    torch.ops.aten.index_put.default: torch.ops.aten.index_put_.default,
    torch.ops.aten.scatter.src: torch.ops.aten.scatter_.src,
    torch.ops.aten.scatter.value: torch.ops.aten.scatter_.value,
    torch.ops.aten.scatter_add.default: torch.ops.aten.scatter_add_.default,
}
"""Under a dispatch mode autograd asks isTensorSubclassLike (input_buffer.h, FunctionsManual.cpp) and makes new tensors where otherwise it
writes into one that it alone refers to: the sum of the gradients of a value used twice, the zeros that a gradient is scattered into."""


class Stretches:
    """Cuts a step into stretches and keeps how high each rose and what it left behind."""

    def __init__(self, memory: Memory) -> None:
        self.memory = memory
        self.done: dict[str, Stretch] = {}
        self._name = ""
        self._start: Snapshot = memory.now()

    def begin(self, name: str) -> None:
        """Close the stretch at hand, if any, and open another; an empty name opens none."""
        highest, now = self.memory.peak(), self.memory.now()
        if self._name:
            self.done[self._name] = Stretch(rise=highest.above(self._start), change=now.above(self._start))
        self._name, self._start = name, now


class Live(TorchDispatchMode):
    """The counting mode; put it above a FakeTensorMode."""

    def __init__(self, resident: Iterator[torch.Tensor], *, says_yes: bool, casts: bool) -> None:
        """Start with nothing but what is resident.

        Args:
            resident: tensors whose storages are not counted.
            says_yes: answer `if tensor:` with yes, which is what transformers' checks ask of a batch without padding ("is the mask
                all ones", "is each row one sequence").
            casts: count what a CPU's kernels cast of operands of mixed precision; a GPU's cast as they read.
        """
        super().__init__()  # type: ignore[no-untyped-call]
        self.memory = Memory()
        self.stretches = Stretches(self.memory)
        self.operations = 0
        self._says_yes, self._casts = says_yes, casts
        self._known: dict[int, tuple[int, str]] = {t.untyped_storage()._cdata: (0, "") for t in resident}
        self._labels: tuple[list[int], list[str]] = ([], [])
        self._starts: list[int] = []
        self._at = -1
        self._exclusive = _reference_counts()
        self._grouped = getattr(torch.ops.aten, "_grouped_mm", None)

    @contextmanager
    def labelled(self, label: str) -> Iterator[None]:
        """What is allocated inside, and in the backward pass of what is done inside, is for this."""
        before = self.memory.label
        self.label(label)
        try:
            yield
        finally:
            self.label(before)

    def label(self, label: str) -> None:
        """From here on it is for this; nodes of the tape made from here on are as well."""
        self.memory.label = label
        self._labels[0].append(torch._C._autograd._get_sequence_nr())
        self._labels[1].append(label)

    def forward(self, name: str) -> None:
        """The next stretch of the forward pass begins; its backward pass is a stretch as well."""
        self._starts.append(torch._C._autograd._get_sequence_nr())
        self.stretches.begin(f"forward {name}")

    def backward_begins(self, layers: int) -> None:
        """The forward pass is over."""
        if len(self._starts) < layers + 2:
            self.forward("head")  # no module runs after the last layer
        self._at = len(self._starts) - 1
        self.stretches.begin(self._backward_name())

    def done(self) -> None:
        """The step is over: close the stretches that are left."""
        while self._at >= 0:
            self._at -= 1
            self.stretches.begin(self._backward_name())

    def keep(self, parameter: torch.Tensor) -> None:
        """A parameter has its gradient: that storage is a gradient from now on."""
        if parameter.grad is not None:
            key = parameter.grad.untyped_storage()._cdata
            size, label = self._known.get(key, (0, ""))
            self.memory.parts[label] -= size
            self.memory.parts["gradients"] += size
            self._known[key] = (size, "gradients")

    def _backward_name(self) -> str:
        layers = len(self._starts) - 2
        return {-1: "", 0: "backward embedding", layers + 1: "backward head"}.get(self._at, f"backward {self._at - 1}")

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation and count what it returns in storages of their own."""
        kwargs = kwargs or {}
        self.operations += 1
        label = self._place()
        if func is torch.ops.aten._local_scalar_dense.default and self._says_yes and args[0].dtype is torch.bool:
            return True
        if func in _IN_PLACE and self._alone(func, args):
            return _IN_PLACE[func](*args, **kwargs)
        grouped = self._grouped is not None and func is self._grouped.default
        out = _grouped_mm(*args, **kwargs) if grouped else func(*args, **kwargs)
        for leaf in tree_leaves(out):
            if isinstance(leaf, torch.Tensor):
                self._note(leaf, label)
        if self._casts and torch.Tag.pointwise in func.tags:
            cast = _cast_bytes(args, out)
            self.memory.take(cast, label)
            self.memory.give_back(cast, label)
        return out

    def _note(self, tensor: torch.Tensor, label: str) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._known:
            return
        size = storage.nbytes()
        self._known[key] = (size, label)
        self.memory.take(size, label)
        weakref.finalize(storage, self._forget, key).atexit = False

    def _forget(self, key: int) -> None:
        size, label = self._known.pop(key)
        self.memory.give_back(size, label)

    def _place(self) -> str:
        """Follow the backward pass by the sequence numbers of its nodes; what the operation at hand is for."""
        if self._at < 0 or torch.is_grad_enabled():
            return self.memory.label  # the forward pass, or a checkpointed layer's second run
        node = torch._C._current_autograd_node()
        order = ACCUMULATED if node is None else node._sequence_nr()
        if order >= ACCUMULATED:
            return "gradients"
        while self._at > 0 and order < self._starts[self._at]:
            self._at -= 1
            self.stretches.begin(self._backward_name())
        at = bisect_right(self._labels[0], order) - 1
        return self._labels[1][at] if at >= 0 else self.memory.label

    def _alone(self, func: Any, args: Any) -> bool:
        """Whether autograd alone refers to the first operand, in a backward pass, and could have written into it."""
        if torch.is_grad_enabled() or torch._C._current_graph_task_id() == -1:
            return False
        first, second = args[0], args[1]
        is_sum = isinstance(second, torch.Tensor)
        if is_sum and (first.shape != second.shape or first.dtype != second.dtype):
            return False
        # Asked for by the engine itself, not by Python code in some function's backward.
        frame, depth = sys._getframe(2), 0
        while depth < 2 and frame.f_code.co_name != "_engine_run_backward":
            if frame.f_back is None:
                return False
            frame, depth = frame.f_back, depth + 1
        if frame.f_code.co_name != "_engine_run_backward":
            return False
        exclusive = self._exclusive.get(func, self._exclusive[torch.ops.aten.add.Tensor])
        return all(seen <= alone for seen, alone in zip(_counts(first), exclusive, strict=True))


def _cast_bytes(args: Any, out: Any) -> int:
    """Of the operands that TensorIterator casts to the dtype it works in, into temporaries."""
    if not isinstance(out, torch.Tensor) or not out.dtype.is_floating_point:
        return 0
    operands = [a for a in args if isinstance(a, torch.Tensor) and a.dim()]
    width = max((a.element_size() for a in operands if a.dtype.is_floating_point), default=0)
    return sum(a.numel() * width for a in operands if a.dtype.is_floating_point and a.element_size() < width)


def _counts(tensor: torch.Tensor) -> tuple[int, int]:
    storage = torch._C._storage_Use_Count(tensor.untyped_storage()._cdata)
    return int(storage), int(tensor._use_count())  # type: ignore[attr-defined]


class _Probe(TorchDispatchMode):
    """Reads the reference counts of a tensor that autograd alone refers to, as this version of torch shows them to a mode."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.seen: dict[Any, tuple[int, int]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in _IN_PLACE and torch._C._current_graph_task_id() != -1:
            self.seen[func] = min(_counts(args[0]), self.seen.get(func, (9, 9)))
        return func(*args, **(kwargs or {}))


def _reference_counts() -> dict[Any, tuple[int, int]]:
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        x, rows = torch.ones(8, requires_grad=True), torch.arange(4)
        probe = _Probe()
        with probe:
            h = x * 2
            # The gradients of sine and cosine are new tensors, summed where h is used twice; those of rows go into zeros.
            (h.sin() * h.cos())[rows].sum().backward()  # type: ignore[no-untyped-call]
    return {torch.ops.aten.add.Tensor: (0, 0)} | probe.seen


def _grouped_mm(a: Any, b: Any, offs: Any = None, _bias: Any = None, out_dtype: Any = None) -> Any:
    """The shape alone: torch's own rule for fake tensors refuses all but bfloat16, which the kernels do not."""
    dtype = out_dtype or a.dtype
    if a.dim() == 2 and b.dim() == 2:
        return a.new_empty((offs.shape[0], a.shape[0], b.shape[1]), dtype=dtype)
    if a.dim() == 3 and b.dim() == 2:
        return a.new_empty((a.shape[1], b.shape[1]), dtype=dtype)
    return a.new_empty((*a.shape[:-1], b.shape[-1]), dtype=dtype)
