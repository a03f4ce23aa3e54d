"""The operations that transformers' layers are made of, with what each allocates and saves.

A formula's inputs stay alive until all its gradients are made, so the comments name only what is not plain from the code.
"""

from __future__ import annotations

from collections.abc import Sequence

from moe_memprof.replay.engine import F32, INDEX, Grads, Leaf, Memory, Tensor, fresh, record

Saved = list[Tensor]


def promoted(m: Memory, *operands: Tensor) -> list[tuple[int, int]]:
    """On a CPU an operand in the narrower dtype is cast into a temporary first; a GPU's kernels cast as they read."""
    width = max(x.width for x in operands)
    narrow = max((x.elements for x in operands if x.width < width), default=0)
    return [(narrow, width)] if narrow and m.device == "cpu" else []


def mul(m: Memory, a: Tensor, b: Tensor) -> Tensor:
    """A · b, broadcast; each is saved where the other's gradient needs it."""
    elements, width = max(a.elements, b.elements), max(a.width, b.width)
    saved = [x.alias() for x, other in ((a, b), (b, a)) if other.needs_grad]
    wanted = (a.needs_grad, b.needs_grad)

    def back(_grads: list[Tensor | None], _saved: Saved) -> Grads:
        found: Grads = []
        for wants, other in zip(reversed(wanted), reversed(others), strict=True):
            temporary = fresh(m, other, width) if wants and other and m.device == "cpu" else None
            found.append(fresh(m, elements, width) if wants else None)
            del temporary
        return found[::-1]

    # The second operand's gradient is made first. A gradient is the wide one times the other operand, which is cast where it is narrower.
    others = [x.elements if x.width < width else 0 for x in (b, a)]
    return record(m, (elements, width), [a, b], back, saved, scratch=promoted(m, a, b))


def scale(m: Memory, x: Tensor, *, width: int | None = None) -> Tensor:
    """X times a number."""
    return unary(m, x, width=width)


def unary(m: Memory, x: Tensor, *, width: int | None = None, save: str = "", scratch: int = 0) -> Tensor:
    """An elementwise function; `save` is `in`, `out` or nothing, `scratch` the intermediates of its gradient, in tensors of its size."""
    out_elements, out_width = x.elements, width or x.width

    def back(_grads: list[Tensor | None], _saved: Saved) -> Grads:
        kept = [fresh(m, out_elements, out_width) for _ in range(scratch)]
        found = fresh(m, out_elements, out_width)
        del kept
        return [found]

    saved = [x.alias()] if save == "in" else []
    return record(m, (out_elements, out_width), [x], back, saved, save_output=save == "out")


def cast(m: Memory, x: Tensor, width: int) -> Tensor:
    """X in another dtype; itself where it has that one already."""
    if x.width == width:
        return x

    def back(grads: list[Tensor | None], _saved: Saved) -> Grads:
        grad = grads[0]
        assert grad is not None
        return [grad.alias()]  # cast back by the engine, to what it belongs to

    return record(m, (x.elements, width), [x], back)


def add(m: Memory, a: Tensor, b: Tensor) -> Tensor:
    """A + b of one size; the gradient is handed to both."""
    width = max(a.width, b.width)

    def back(grads: list[Tensor | None], _saved: Saved) -> Grads:
        grad = grads[0]
        assert grad is not None
        return [grad.alias() if x else None for x in wanted]

    wanted = (a.needs_grad, b.needs_grad)
    return record(m, (a.elements, width), [a, b], back, scratch=promoted(m, a, b))


def copied_back(m: Memory, x: Tensor) -> Tensor:
    """A transposed view whose gradient is made contiguous before it goes on."""

    def back(grads: list[Tensor | None], _saved: Saved) -> Grads:
        grad = grads[0]
        assert grad is not None
        return [fresh(m, grad.elements, grad.width)]

    return record(m, x.alias(), [x], back)


def copied(m: Memory, x: Tensor) -> Tensor:
    """The same in another layout; the gradient goes back as a view."""

    def back(grads: list[Tensor | None], _saved: Saved) -> Grads:
        grad = grads[0]
        assert grad is not None
        return [grad.alias()]

    return record(m, (x.elements, x.width), [x], back)


def matmul(m: Memory, x: Tensor, w: Tensor, rows: int, *, width: int | None = None) -> Tensor:
    """X [rows, in] times a weight; x is saved for the weight's gradient, the weight for x's."""
    columns = w.elements // (x.elements // rows)
    saved = ([x.alias()] if w.needs_grad else []) + ([w.alias()] if x.needs_grad else [])
    wanted = (x.needs_grad, w.needs_grad)
    label = "gradients" if isinstance(w.node, Leaf) else None
    sizes = (x.elements, w.elements)

    def back(_grads: list[Tensor | None], _saved: Saved) -> Grads:
        for_w = fresh(m, sizes[1], w_width, label) if wanted[1] else None
        return [fresh(m, sizes[0], x_width) if wanted[0] else None, for_w]

    x_width, w_width = x.width, w.width
    return record(m, (rows * columns, width or x.width), [x, w], back, saved)


def grouped_matmul(m: Memory, x: Tensor, w: Tensor, rows: int, columns: int, experts: int = 0) -> Tensor:
    """Rows sorted by expert times the experts' weights [E, in, out] at once."""
    saved = ([x.alias()] if w.needs_grad else []) + ([w.alias()] if x.needs_grad else [])
    wanted = (x.needs_grad, w.needs_grad)
    label = "gradients" if isinstance(w.node, Leaf) else None
    sizes, widths = (x.elements, w.elements), (x.width, w.width)
    # In 16 bits a CPU's kernel packs one expert's operands and result.
    packs = experts and m.device == "cpu" and widths[1] < F32
    packed = (w.elements + max(x.elements, rows * columns)) // experts if packs else 0

    def back(_grads: list[Tensor | None], _saved: Saved) -> Grads:
        for_w = fresh(m, sizes[1], widths[1], label) if wanted[1] else None
        for_x = fresh(m, sizes[0], widths[0]) if wanted[0] else None
        packing = fresh(m, packed, widths[1])
        del packing
        return [for_x, for_w]

    return record(m, (rows * columns, x.width), [x, w], back, saved)


def gather(m: Memory, x: Tensor, index: Tensor, elements: int) -> Tensor:
    """Rows of x by index; the gradient starts from zeros of x's size."""

    def back(_grads: list[Tensor | None], _saved: Saved) -> Grads:
        return [fresh(m, size, width)]

    size, width = x.elements, x.width
    return record(m, (elements, width), [x], back, [index.alias()])


def softmax(m: Memory, x: Tensor) -> Tensor:
    """In fp32; its output is saved."""
    return unary(m, x, save="out")


def topk(m: Memory, x: Tensor, elements: int) -> tuple[Tensor, Tensor]:
    """The largest values and their indices, which are saved; the gradient starts from zeros of x's size."""
    indices = fresh(m, elements, INDEX)
    return gather(m, x, indices, elements), indices


def reduce_sum(m: Memory, x: Tensor, elements: int) -> Tensor:
    """A sum over one dimension; the gradient is expanded, and copied where the next operation needs it contiguous."""

    def back(_grads: list[Tensor | None], _saved: Saved) -> Grads:
        return [fresh(m, size, width)]

    size, width = x.elements, x.width
    return record(m, (elements, width), [x], back)


def gated(m: Memory, x: Tensor) -> Tensor:
    """act(gate) · up of x = gate | up. Both halves and act(gate) are saved; their gradients are put together in one tensor."""
    half, width = x.elements // 2, x.width
    activated = fresh(m, half, width)

    def back(grads: list[Tensor | None], saved: Saved) -> Grads:
        for_activated, for_up = fresh(m, half, width), fresh(m, half, width)
        grads.clear()
        del saved[1]
        for_gate = fresh(m, half, width)
        del for_activated
        saved.clear()
        joined = fresh(m, 2 * half, width)
        del for_gate, for_up
        return [joined]

    return record(m, (half, width), [x], back, [x.alias(), activated])


def rotate(m: Memory, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary position embedding: x · cos + rotate_half(x) · sin."""
    with_cos = mul(m, x, cos)
    turned = _rotated_half(m, x)
    with_sin = mul(m, turned, sin)
    del turned
    return add(m, with_cos, with_sin)


def rotate_in_chunks(m: Memory, x: Tensor) -> Tensor:
    """The same, half by half (gpt-oss): first · cos - second · sin, and second · cos + first · sin, put together."""
    size, half, width = x.elements, x.elements // 2, x.width

    def back(_grads: list[Tensor | None], _saved: Saved) -> Grads:
        halves = [fresh(m, half, width) for _ in range(4)]
        found = fresh(m, size, width)
        del halves
        return [found]

    halves = [fresh(m, half, width) for _ in range(2)]
    return record(m, (size, width), [x], back, scratch=[(half, width)] if halves else [])


def _rotated_half(m: Memory, x: Tensor) -> Tensor:
    """(-x2, x1); each half's gradient is spread into zeros of x's size."""
    size, width = x.elements, x.width

    def back(_grads: list[Tensor | None], _saved: Saved) -> Grads:
        first = fresh(m, size // 2, width)
        second = fresh(m, size, width)
        del first
        third = fresh(m, size, width)
        del second
        return [third]

    return record(m, (size, width), [x], back, scratch=[(size // 2, width)])


def attend(
    m: Memory, q: Tensor, k: Tensor, v: Tensor, *, heads_tokens: int, out_elements: int, extra: Sequence[Tensor] = ()
) -> Tensor:
    """A fused attention kernel: keeps its inputs, its output and a log-sum-exp per head and token; gradients of all three at once."""
    statistics = fresh(m, heads_tokens, F32)
    sizes, width = (q.elements, k.elements, v.elements), q.width

    def back(_grads: list[Tensor | None], _saved: Saved) -> Grads:
        return [fresh(m, n, width) for n in sizes]

    saved = [q.alias(), k.alias(), v.alias(), *extra, statistics]
    return record(m, (out_elements, width), [q, k, v], back, saved, save_output=True)


def bmm(m: Memory, a: Tensor, b: Tensor, elements: int) -> Tensor:
    """A batched product of two activations; each is saved for the other's gradient."""
    sizes, width = (a.elements, b.elements), a.width

    def back(_grads: list[Tensor | None], _saved: Saved) -> Grads:
        return [fresh(m, n, width) for n in sizes]

    return record(m, (elements, width), [a, b], back, [a.alias(), b.alias()])


def repeated(m: Memory, x: Tensor, times: int) -> Tensor:
    """Keys or values copied to all heads of their group; the gradient is summed over the group."""
    size, width = x.elements, x.width

    def back(_grads: list[Tensor | None], _saved: Saved) -> Grads:
        return [fresh(m, size, width)]

    return record(m, (size * times, width), [x], back)


def concatenated(m: Memory, parts: Sequence[Tensor], *, elements: int | None = None) -> Tensor:
    """Tensors put together; their gradients are views of the whole's, summed where a part was expanded."""
    sizes, width = [x.elements for x in parts], parts[0].width
    total = sum(sizes) if elements is None else elements

    def back(grads: list[Tensor | None], _saved: Saved) -> Grads:
        whole = grads[0]
        assert whole is not None
        return [Tensor(whole.storage, n, width) for n in sizes]

    return record(m, (total, width), parts, back)


def split(m: Memory, x: Tensor, sizes: Sequence[int]) -> list[Tensor]:
    """Views of parts of x; their gradients are put together, with zeros for parts that have none."""
    whole, width, parts = x.elements, x.width, list(sizes)

    def back(grads: list[Tensor | None], _saved: Saved) -> Grads:
        zeros = [fresh(m, n, width) for n, grad in zip(parts, grads, strict=True) if grad is None]
        found = fresh(m, whole, width)
        del zeros
        return [found]

    first = record(m, Tensor(x.storage, parts[0], width), [x], back)
    if first.node is not None:
        first.node.outputs = len(parts)
    return [first, *(Tensor(x.storage, n, width, first.node, i) for i, n in enumerate(parts) if i)]
