"""moe-train's experts block for frozen weights on a CPU: some rows at a time, and nothing kept but what the gate was given.

Letters: T tokens, H hidden, k experts a token goes to, n = T · k routed rows, E experts, I expert intermediate, r LoRA rank.
"""

from __future__ import annotations

from moe_memprof.architectures.base import Experts
from moe_memprof.replay.engine import F32, INDEX, Grads, Memory, Tensor, fresh, record, weight
from moe_memprof.replay.how import How
from moe_memprof.replay.ops import copied

ROWS = 512
"""Most rows that moe-train works on together, however tokens fall on experts."""


def runs_fused(how: How) -> bool:
    """Whether an experts block runs in this way: adapted or quantised, and not by the grouped kernel of a GPU in 16 bits."""
    ours = how.expert_lora == "grouped" and ((how.adapts_experts and how.rank_of_experts > 0) or how.expert_bits > 0)
    return ours and not how.base_trains and not (how.device == "cuda" and how.width == 2)


def fused_experts(m: Memory, how: How, e: Experts, x: Tensor, weights: Tensor) -> Tensor:
    """Sorted choices, then one autograd function over all experts."""
    rows, hidden, width = how.tokens * e.top_k, how.hidden, how.width
    inner = 2 * e.intermediate if e.gated else e.intermediate
    at_once = min(rows, ROWS)
    wide = max(F32, width)
    with m.labelled("dispatch"):
        sorted_ids, order, safe = fresh(m, rows, INDEX), fresh(m, rows, INDEX), None
    adapters = _factors(m, how, e, inner) if how.adapts_experts and how.rank_of_experts else []
    matrix = _dequantised(how, e, inner)
    with m.labelled("experts"):
        kept = fresh(m, rows * inner, width)
        forward = [(how.tokens * hidden, wide)] if wide != width else []
        forward += [(at_once * hidden, width), (at_once * e.intermediate, width), (at_once * e.intermediate, width)]
        forward += [(at_once * hidden, width)]
        if width != F32:
            forward.append((at_once * hidden, wide))
        casts = [(a.elements, width) for a in adapters if a.width != width]
        sizes = [(a.elements, a.width) for a in adapters]
        tokens, scores = x.elements, weights.elements
        wants = (x.needs_grad, weights.needs_grad)
        xwidth, swidth = x.width, weights.width

        def back(_grads: Grads, _saved: list[Tensor]) -> Grads:
            found: Grads = [
                fresh(m, tokens, wide) if wants[0] else None,
                fresh(m, scores, swidth) if wants[1] else None,
                *(fresh(m, n, w, "gradients" if i % 2 == 0 else None) for i, (n, w) in enumerate(sizes)),
            ]
            around = [fresh(m, n, w) for n, w in (*casts, *matrix)]
            g = fresh(m, at_once * hidden, width)
            # The activations, their gradient, and what the backward pass of the gate holds at once.
            scratch = [fresh(m, at_once * e.intermediate, width) for _ in range(4 if e.gated else 2)]
            scratch.append(fresh(m, at_once * inner, width))
            scratch.clear()
            # The gate's gradient, the rows once more, and their gradient as it is added up.
            scratch = [fresh(m, at_once * inner, width)] + ([fresh(m, at_once * hidden, width)] if sizes else [])
            scratch += [fresh(m, at_once * hidden, wide)] if wide != width else []
            del scratch, around, g
            if wants[0] and wide != xwidth:
                found[0] = fresh(m, tokens, xwidth)
            return found

        saved = [x.alias(), weights.alias(), kept.alias(), order.alias(), *(a.alias() for a in adapters)]
        out = record(
            m, (how.tokens * hidden, width), [x, weights, *adapters], back, saved, scratch=[*casts, *matrix, *forward]
        )
    del sorted_ids, safe, kept
    return out


def _factors(m: Memory, how: How, e: Experts, inner: int) -> list[Tensor]:
    """A as it is and a contiguous copy of B, for both stacks, in fp32."""
    found: list[Tensor] = []
    for inputs, outputs in ((how.hidden, inner), (e.intermediate, how.hidden)):
        found.append(weight(m, e.count * how.rank_of_experts * inputs, F32, trains=True))
        with m.labelled("experts"):
            found.append(copied(m, weight(m, e.count * how.rank_of_experts * outputs, F32, trains=True)))
    return found


def _dequantised(how: How, e: Experts, inner: int) -> list[tuple[int, int]]:
    """The matrix of one expert while it is multiplied, the larger of the two; none where weights are dense."""
    if not how.expert_bits:
        return []
    largest = max(how.hidden * inner, how.hidden * e.intermediate)
    return [(largest, how.width)] * (2 if how.expert_bits == 8 else 1)
