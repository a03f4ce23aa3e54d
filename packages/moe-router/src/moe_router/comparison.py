"""Two traces of the same tokens: how far their routing lies apart, layer by layer, with whole sequences as the unit.

Shapes: T tokens, N sequences, U units of them, L MoE layers, E experts, K experts per token, R resamples.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from moe_router.errors import RouterError
from moe_router.metrics.drift import js_divergence, total_variation
from moe_router.metrics.significance import false_discovery_rates
from moe_router.summary import summarise_tokens
from moe_router.token_trace import TokenTrace
from moe_router.trace import RoutingTrace, read_header

Floats = NDArray[np.float64]
RESAMPLES = 999
MIN_UNITS = 5


@dataclass(frozen=True, kw_only=True)
class LayerDrift:
    """One layer in both traces."""

    layer: str
    js_divergence: float
    """Between the loads, in bits: the effect size."""
    js_interval: tuple[float, float] | None
    """95 %, by drawing sequences with replacement; None with fewer than five units."""
    p_value: float | None
    """Of the divergence, by exchanging the two traces for whole sequences at random; None as above."""
    q_value: float | None
    """False discovery rate over layers."""
    total_variation: float
    flipped_tokens: float | None
    """Share of tokens with another set of experts; None unless both traces are token by token."""
    flipped_interval: tuple[float, float] | None
    router_saturation: float | None
    """Mean share of a token's experts that both have."""
    saturation_interval: tuple[float, float] | None


def load_any(path: Path) -> tuple[RoutingTrace, TokenTrace | None]:
    """A trace of sums; or one token by token, summed up, with itself.

    Raises:
        RouterError: for a file that is missing or is no trace.
    """
    if read_header(path)["schema"].startswith("moe-router/tokens@"):
        tokens = TokenTrace.load(path)
        return summarise_tokens(tokens), tokens
    return RoutingTrace.load(path), None


def fingerprint(token_ids_T: ArrayLike, lengths_N: ArrayLike) -> str:
    """Of the tokens of a text in their order, cut into sequences; the same for the same tokens alone."""
    digest = hashlib.sha256(np.ascontiguousarray(token_ids_T, dtype=np.int32).tobytes())
    digest.update(np.ascontiguousarray(lengths_N, dtype=np.int64).tobytes())
    return digest.hexdigest()[:32]


def drift(
    before: RoutingTrace, after: RoutingTrace, tokens: tuple[TokenTrace, TokenTrace] | None = None, *, seed: int = 0
) -> list[LayerDrift]:
    """How far apart the routing of two traces is.

    Args:
        before: of a checkpoint, type or engine.
        after: of another, of the same tokens.
        tokens: both token by token, which shows flipped tokens too.
        seed: of the draws.

    Raises:
        RouterError: for models of other layers or experts, or traces of other tokens.
    """
    if before.experts_L != after.experts_L:
        raise RouterError(
            f"traces of {len(before.layers)} layers of {before.num_experts} experts and {len(after.layers)} of {after.num_experts} "
            "cannot be compared"
        )
    _same_tokens(before, after, tokens)
    a_ULE, b_ULE = before.counts_ULE.astype(np.float64), after.counts_ULE.astype(np.float64)
    seen_L = np.array([js_divergence(p, q) for p, q in zip(a_ULE.sum(0), b_ULE.sum(0), strict=True)])
    enough = len(a_ULE) >= MIN_UNITS
    rng = np.random.default_rng(seed)
    if enough:
        low_L, high_L = _bootstrapped(a_ULE, b_ULE, rng)
        p_L = _exchanged(a_ULE, b_ULE, seen_L, rng)
        q_L = false_discovery_rates(p_L)
    rows = []
    for n, name in enumerate(before.layers):
        flips = None if tokens is None else _flips(*tokens, n, rng)
        rows.append(
            LayerDrift(
                layer=name,
                js_divergence=float(seen_L[n]),
                js_interval=(float(low_L[n]), float(high_L[n])) if enough else None,
                p_value=float(p_L[n]) if enough else None,
                q_value=float(q_L[n]) if enough else None,
                total_variation=total_variation(a_ULE.sum(0)[n], b_ULE.sum(0)[n]),
                flipped_tokens=None if flips is None else flips[0][0],
                flipped_interval=None if flips is None else flips[0][1],
                router_saturation=None if flips is None else flips[1][0],
                saturation_interval=None if flips is None else flips[1][1],
            )
        )
    return rows


def _same_tokens(before: RoutingTrace, after: RoutingTrace, tokens: tuple[TokenTrace, TokenTrace] | None) -> None:
    ways = [trace.metadata.get("fingerprint") for trace in (before, after)]
    same = np.array_equal(before.tokens_U, after.tokens_U) and np.array_equal(before.sequences_U, after.sequences_U)
    same = same and (None in ways or ways[0] == ways[1])
    if same and tokens is not None:
        ids = [trace.token_ids_T for trace in tokens]
        same = np.array_equal(tokens[0].starts_N, tokens[1].starts_N)
        same = same and (ids[0] is None or ids[1] is None or np.array_equal(ids[0], ids[1]))
    if not same:
        raise RouterError(
            f"the traces are not of the same tokens ({int(before.tokens_U.sum()):,} in {int(before.sequences_U.sum()):,} sequences, "
            f"{int(after.tokens_U.sum()):,} in {int(after.sequences_U.sum()):,}): record both on the same data with the same tokenizer "
            "and groups"
        )


def _bootstrapped(a_ULE: Floats, b_ULE: Floats, rng: np.random.Generator) -> tuple[Floats, Floats]:
    units, layers, experts = a_ULE.shape
    draws_RU = rng.multinomial(units, np.full(units, 1 / units), size=RESAMPLES).astype(np.float64)
    sums = ((draws_RU @ x.reshape(units, -1)).reshape(-1, layers, experts) for x in (a_ULE, b_ULE))
    low_L, high_L = np.quantile(_divergence(*sums), [0.025, 0.975], axis=0)
    return low_L, high_L


def _exchanged(a_ULE: Floats, b_ULE: Floats, seen_L: Floats, rng: np.random.Generator) -> Floats:
    units, layers, experts = a_ULE.shape
    signs_RU = rng.choice([-1.0, 1.0], size=(RESAMPLES, units))
    moved = (signs_RU @ (a_ULE - b_ULE).reshape(units, -1)).reshape(-1, layers, experts)
    total_LE = (a_ULE + b_ULE).sum(0)
    drawn_RL = _divergence((total_LE + moved) / 2, (total_LE - moved) / 2)
    p_L: Floats = ((drawn_RL >= seen_L - 1e-12).sum(0) + 1) / (RESAMPLES + 1)
    return p_L


def _divergence(a_RLE: Floats, b_RLE: Floats) -> Floats:
    def entropy(p: Floats) -> Floats:
        total: Floats = -(p * np.log2(p, out=np.zeros_like(p), where=p > 0)).sum(-1)
        return total

    p, q = (x / np.maximum(x.sum(-1, keepdims=True), 1) for x in (a_RLE, b_RLE))
    return np.maximum(0.0, entropy((p + q) / 2) - (entropy(p) + entropy(q)) / 2)


Measured = tuple[float, tuple[float, float] | None]


def _flips(before: TokenTrace, after: TokenTrace, layer: int, rng: np.random.Generator) -> tuple[Measured, Measured]:
    """Flipped tokens and router saturation, each with its interval over sequences."""
    units = min(len(before.group_N), 256)
    top_k = before.top_k_L[layer]
    sums_U3 = np.zeros((units, 3))
    for part in before.chunks():
        a_TK, b_TK = (np.asarray(t.experts_TLK[part, layer, :top_k]) for t in (before, after))
        flipped_T = (np.sort(a_TK, -1) != np.sort(b_TK, -1)).any(-1)
        common_T = (a_TK[:, :, None] == b_TK[:, None, :]).any(2).mean(-1)
        unit_T = before.sequence_of(part) % units
        for column, values_T in enumerate((np.ones(len(unit_T)), flipped_T, common_T)):
            sums_U3[:, column] += np.bincount(unit_T, weights=values_T, minlength=units)
    flipped, common = sums_U3[:, 1:].sum(0) / sums_U3[:, 0].sum()
    if units < MIN_UNITS:
        return (float(flipped), None), (float(common), None)
    drawn_R3 = rng.multinomial(units, np.full(units, 1 / units), size=RESAMPLES) @ sums_U3
    low, high = np.quantile(drawn_R3[:, 1:] / np.maximum(drawn_R3[:, :1], 1), [0.025, 0.975], axis=0)
    return (float(flipped), (float(low[0]), float(high[0]))), (float(common), (float(low[1]), float(high[1])))
