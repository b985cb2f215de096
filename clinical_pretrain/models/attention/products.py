"""Attention by matrix products of its own on a CPU, where scaled_dot_product_attention is slow: in bf16, with dropout.

In bf16 torch's kernel takes about twice as long. With dropout it keeps all weights and draws each from bernoulli_.

Shapes: n query blocks, h heads, q queries and k keys of a block, d width of a head.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F


def attention(
    q_nhqd: torch.Tensor,
    k_nhkd: torch.Tensor,
    v_nhkd: torch.Tensor,
    attn_mask: torch.Tensor | None,
    dropout_p: float = 0.0,
) -> torch.Tensor:
    """scaled_dot_product_attention, (n, h, q, d); on a CPU by products of its own where these are faster: for
    all n at once, and one h after the other.

    Args:
        q_nhqd: queries.
        k_nhkd: keys.
        v_nhkd: values.
        attn_mask: (n or 1, h or 1, q or 1, k), added to the scores, or bool, which keys are seen; each query must see a
            key.
        dropout_p: probability of dropping a weight, on a CPU rounded to a multiple of 2^-16.
    """
    if (dropout_p and q_nhqd.device.type == "cpu") or by_products(q_nhqd):
        out: torch.Tensor = _ByProducts.apply(q_nhqd, k_nhkd, v_nhkd, _added(attn_mask, q_nhqd), dropout_p)
        return out
    return F.scaled_dot_product_attention(q_nhqd, k_nhkd, v_nhkd, attn_mask=attn_mask, dropout_p=dropout_p)


def by_products(x: torch.Tensor) -> bool:
    """Whether products are faster than torch's kernel, without dropout."""
    return x.device.type == "cpu" and x.dtype == torch.bfloat16


def _added(mask: torch.Tensor | None, q: torch.Tensor) -> torch.Tensor:
    """What a mask adds to the scores."""
    if mask is None:
        return q.new_zeros(1, 1, 1, 1)
    return q.new_zeros(mask.shape).masked_fill_(~mask, -torch.inf) if mask.dtype == torch.bool else mask


class _ByProducts(torch.autograd.Function):
    """The backward pass computes the weights again: kept is which of them were dropped."""

    @staticmethod
    def forward(
        ctx: Any, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor, probability: float
    ) -> torch.Tensor:
        out, keeps = torch.empty_like(q), []
        for head in range(q.shape[1]):
            weights = softmax(q[:, head], k[:, head], mask[:, head % mask.shape[1]])
            if probability:
                keeps.append(_keep(weights.shape, probability))
                weights *= keeps[-1]
            out[:, head] = torch.bmm(weights, v[:, head])
        ctx.save_for_backward(q, k, v, mask, *keeps)
        ctx.kept_share = 1 - probability
        return out.div_(ctx.kept_share) if keeps else out

    @staticmethod
    def backward(ctx: Any, grad_nhqd: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        q, k, v, mask, *keeps = ctx.saved_tensors
        if keeps:
            grad_nhqd = grad_nhqd / ctx.kept_share
        grads = [torch.empty_like(x) for x in (q, k, v)]
        for head in range(q.shape[1]):
            of_head = [x[:, head] for x in (grad_nhqd, q, k, v)]
            keep = keeps[head] if keeps else None
            for grad, found in zip(grads, gradients(of_head, mask[:, head % mask.shape[1]], keep), strict=True):
                grad[:, head] = found
        return *grads, None, None


def softmax(q_nqd: torch.Tensor, k_nkd: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """(n, q, k): the weights of one head. mask: (n or 1, q or 1, k), added to the scores."""
    return torch.baddbmm(mask, q_nqd, k_nkd.mT, alpha=_scale(q_nqd)).softmax(-1)


def gradients(
    of_head: Sequence[torch.Tensor], mask: torch.Tensor, keep: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Of one head's queries, keys and values.

    Args:
        of_head: the output's gradient, queries, keys and values.
        mask: as for `softmax`.
        keep: (n, q, k) bool, False where a weight was dropped.
    """
    grad_nqd, q_nqd, k_nkd, v_nkd = of_head
    weights, grad_nqd = softmax(q_nqd, k_nkd, mask), grad_nqd.contiguous()
    of_weights = torch.bmm(grad_nqd, v_nkd.mT)
    kept = weights
    if keep is not None:
        of_weights *= keep
        kept = weights * keep
    grad_v = torch.bmm(kept.mT, grad_nqd)
    of_scores = torch._softmax_backward_data(of_weights, weights, -1, weights.dtype)
    scale = _scale(q_nqd)
    return torch.bmm(of_scores, k_nkd).mul_(scale), torch.bmm(of_scores.mT, q_nqd).mul_(scale), grad_v


def _scale(q: torch.Tensor) -> float:
    return 1 / math.sqrt(q.shape[-1])


def _keep(shape: torch.Size, probability: float) -> torch.Tensor:
    """Bool, False with this probability. Of each random number of 64 bits, four are made: bernoulli_ takes three times
    as long."""
    count = math.prod(shape)
    bits = torch.empty(-(-count // 4), dtype=torch.int64).random_(-(2**63), None).view(torch.int16)[:count]
    return (bits >= round(probability * 2**16) - 2**15).view(shape)
