"""Routing losses of one layer.

Shapes: T tokens, E experts. Both losses are sums over tokens divided by a count that the caller gives, so that the shares
of a batch's micro-batches add up to the batch's loss.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from moe_router.errors import RouterError


def routing_probabilities(logits_TE: Tensor, *, scoring: str) -> Tensor:
    """Probabilities over experts in fp32, [T, E].

    Args:
        logits_TE: the router's raw scores.
        scoring: "softmax"; or "sigmoid" or "sqrtsoftplus", whose scores are divided by their sum (DeepSeek-V3, arXiv 2412.19437,
            eq. 17-20).

    Raises:
        RouterError: for a scoring that gives no probabilities over experts.
    """
    if scoring == "softmax":
        return logits_TE.float().softmax(-1)
    if scoring == "sigmoid":
        scores_TE = logits_TE.float().sigmoid()
        return scores_TE / scores_TE.sum(-1, keepdim=True)
    if scoring == "sqrtsoftplus":
        scores_TE = functional.softplus(logits_TE.float()).sqrt()
        return scores_TE / scores_TE.sum(-1, keepdim=True)
    raise RouterError(
        f"scoring {scoring!r}: routing losses need softmax, sigmoid or sqrtsoftplus scores over the experts"
    )


def load_balancing_loss(probs_TE: Tensor, fractions_E: Tensor, *, tokens: int) -> Tensor:
    """E · Σ_e f_e · P_e with P_e = Σ_t p_te / tokens (Fedus et al. 2021, arXiv 2101.03961, eq. 4-6, for any top-k).

    It is 1 when f or P is even, and grows as probability gathers on the experts that are busy. transformers' function of
    the same purpose takes f as counts / T, so its value for one layer is top-k times this one.

    Args:
        probs_TE: probabilities of the tokens, padding left out.
        fractions_E: f, the share of the executed assignments of each expert, count / (k · T), summing to 1; no gradient.
        tokens: tokens of the whole batch, of which `probs_TE` may be a part.

    Returns:
        A scalar; summed over the parts of a batch, the batch's loss.
    """
    return probs_TE.shape[-1] * (fractions_E.detach().to(probs_TE) * probs_TE.sum(0)).sum() / tokens


def z_loss(logits_TE: Tensor, *, tokens: int) -> Tensor:
    """Σ_t (log Σ_e exp x_te)² / tokens: keeps router logits small (Zoph et al. 2022, arXiv 2202.08906, eq. 5).

    Args:
        logits_TE: raw scores of the tokens, padding left out.
        tokens: tokens of the whole batch, of which these may be a part.
    """
    return torch.logsumexp(logits_TE.float(), dim=-1).square().sum() / tokens
