"""Routers, as transformers writes them: from hidden states to the chosen experts' weights.

Letters: T tokens, H hidden, E experts, k experts a token goes to. What a router returns is alive while the experts run, its logits too.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from moe_memprof.architectures.base import Experts
from moe_memprof.replay.engine import F32, INDEX, Memory, Tensor, fresh, weight
from moe_memprof.replay.families import Router
from moe_memprof.replay.how import How
from moe_memprof.replay.linears import norm
from moe_memprof.replay.ops import cast, gather, matmul, mul, reduce_sum, scale, softmax, topk, unary


@dataclass(frozen=True)
class Routing:
    """What a router returns."""

    logits: Tensor
    weights: Tensor
    indices: Tensor


def route(m: Memory, how: How, e: Experts, x: Tensor) -> Routing:
    """Every token's experts and their weights."""
    with m.labelled("router"):
        return _ROUTERS[how.written.router](m, how, e, x)


def _scores(m: Memory, how: How, e: Experts, x: Tensor, *, wide: bool = False) -> Tensor:
    """Logits; `wide` is worked in fp32 with weights and inputs cast to it."""
    w = weight(m, (e.count + e.identities) * how.hidden, how.width, trains=how.base_trains)
    if wide:
        return matmul(m, cast(m, x, F32), cast(m, w, F32), how.tokens)
    return matmul(m, x, w, how.tokens)


def _normalised(m: Memory, how: How, values: Tensor) -> Tensor:
    return mul(m, values, reduce_sum(m, values, how.tokens))


def _softmax(m: Memory, how: How, e: Experts, x: Tensor, *, normalised: bool, width: int) -> Routing:
    """Softmax over all experts in fp32, the top k of it."""
    logits = _scores(m, how, e, x)
    probabilities = softmax(m, cast(m, logits, F32))
    values, indices = topk(m, probabilities, how.tokens * e.top_k)
    if normalised:
        values = _normalised(m, how, values)
    return Routing(logits, cast(m, values, width), indices)


def _softmax_narrow(m: Memory, how: How, e: Experts, x: Tensor) -> Routing:
    logits = _scores(m, how, e, x)
    values, indices = topk(m, softmax(m, logits), how.tokens * e.top_k)
    return Routing(logits, _normalised(m, how, values), indices)


def _softmax_after(m: Memory, how: How, e: Experts, x: Tensor, *, width: int) -> Routing:
    """The top k of the logits, and softmax over those."""
    logits = cast(m, _scores(m, how, e, x), width)
    values, indices = topk(m, logits, how.tokens * e.top_k)
    return Routing(logits, cast(m, softmax(m, values), how.width), indices)


def _from_wide(m: Memory, how: How, e: Experts, x: Tensor) -> Routing:
    """Logits in fp32; the choice is made by probabilities with a bias, the weights are those without."""
    logits = _scores(m, how, e, x, wide=True)
    probabilities = softmax(m, logits)
    _choice, indices = topk(m, unary(m, probabilities), how.tokens * e.top_k)
    values = _normalised(m, how, gather(m, probabilities, indices, how.tokens * e.top_k))
    return Routing(logits, cast(m, values, how.width), indices)


def _from_wide_plain(m: Memory, how: How, e: Experts, x: Tensor) -> Routing:
    logits = _scores(m, how, e, x, wide=True)
    values, indices = topk(m, softmax(m, logits), how.tokens * e.top_k)
    return Routing(logits, scale(m, values), indices)


def _sigmoid(m: Memory, how: How, e: Experts, x: Tensor, *, wide: bool, narrow: bool = False) -> Routing:
    """Sigmoid scores; the choice is made with a bias (DeepSeek-V3, arXiv:2412.19437, section 2.1.2), within groups where wide."""
    logits = _scores(m, how, e, x, wide=wide)
    scores = unary(m, logits if narrow else cast(m, logits, F32), save="out")
    choice = unary(m, scores, width=F32)
    if wide:
        mask = [fresh(m, choice.elements, F32), fresh(m, choice.elements, 1)]
        choice = unary(m, choice)
        del mask
    indices = fresh(m, how.tokens * e.top_k, INDEX)
    del choice
    values = _normalised(m, how, gather(m, scores, indices, how.tokens * e.top_k))
    return Routing(logits, scale(m, values) if wide or narrow else values, indices)


def _sparsemixer(m: Memory, how: How, e: Experts, x: Tensor) -> Routing:
    """Two rounds of masking, sampling and softmax (SparseMixer, arXiv:2310.00811), each with a mask that is saved."""
    logits = _scores(m, how, e, x)
    values: list[Tensor] = []
    for _ in range(2):
        mask = fresh(m, logits.elements, 1)
        gates = softmax(m, gather(m, logits, mask, logits.elements))
        values.append(gather(m, gates, fresh(m, how.tokens, INDEX), how.tokens))
    return Routing(logits, unary(m, values[0]), fresh(m, how.tokens * e.top_k, INDEX))


def _into_inputs(m: Memory, how: How, e: Experts, x: Tensor) -> Routing:
    """Scores of all experts, a sigmoid of the top k's and zero elsewhere: inputs are multiplied by them, every expert sees all tokens."""
    logits = _scores(m, how, e, x)
    values, indices = topk(m, logits, how.tokens * e.top_k)
    spread = gather(m, values, indices, logits.elements)
    return Routing(logits, cast(m, unary(m, cast(m, spread, F32), save="out"), how.width), indices)


def _normed(m: Memory, how: How, e: Experts, x: Tensor) -> Routing:
    """A norm and a scale of its own before the scores; the weights are multiplied by one number per expert."""
    x = norm(m, how, x, how.hidden, weighted=False)
    x = scale(m, mul(m, x, weight(m, how.hidden, how.width, trains=how.base_trains)))
    routing = _softmax(m, how, e, x, normalised=True, width=F32)
    own = gather(m, weight(m, e.count, how.width, trains=how.base_trains), routing.indices, routing.weights.elements)
    return Routing(routing.logits, mul(m, routing.weights, own), routing.indices)


_Route = Callable[[Memory, How, Experts, Tensor], Routing]
_ROUTERS: dict[Router, _Route] = {
    "softmax normalised wide": lambda m, how, e, x: _softmax(m, how, e, x, normalised=True, width=F32),
    "softmax normalised": lambda m, how, e, x: _softmax(m, how, e, x, normalised=True, width=how.width),
    "softmax": lambda m, how, e, x: _softmax(m, how, e, x, normalised=False, width=how.width),
    "softmax narrow": _softmax_narrow,
    "sigmoid grouped": lambda m, how, e, x: _sigmoid(m, how, e, x, wide=True),
    "sigmoid": lambda m, how, e, x: _sigmoid(m, how, e, x, wide=False),
    "sigmoid narrow": lambda m, how, e, x: _sigmoid(m, how, e, x, wide=False, narrow=True),
    "softmax after": lambda m, how, e, x: _softmax_after(m, how, e, x, width=F32),
    "softmax after narrow": lambda m, how, e, x: _softmax_after(m, how, e, x, width=how.width),
    "softmax from wide": _from_wide,
    "softmax from wide plain": _from_wide_plain,
    "sparsemixer": _sparsemixer,
    "scores into inputs": _into_inputs,
    "normed": _normed,
}
