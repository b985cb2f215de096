"""Attention with dropout on a CPU, where scaled_dot_product_attention keeps all weights and draws each from bernoulli_.

Shapes: n query blocks, h heads, q queries and k keys of a block, d width of a head.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F


def attention_with_dropout(
    q_nhqd: torch.Tensor,
    k_nhkd: torch.Tensor,
    v_nhkd: torch.Tensor,
    attn_mask: torch.Tensor,
    dropout_p: float,
) -> torch.Tensor:
    """scaled_dot_product_attention, (n, h, q, d), on CPUs with less memory and time if there is dropout.

    Args:
        q_nhqd: queries.
        k_nhkd: keys.
        v_nhkd: values.
        attn_mask: (n, 1, q, k), added to the scores; each query must see a key.
        dropout_p: probability of dropping a weight, rounded to a multiple of 2^-16.
    """
    if not dropout_p or q_nhqd.device.type != "cpu":
        return F.scaled_dot_product_attention(q_nhqd, k_nhkd, v_nhkd, attn_mask=attn_mask, dropout_p=dropout_p)
    out: torch.Tensor = _AttentionWithDropout.apply(q_nhqd, k_nhkd, v_nhkd, attn_mask, dropout_p)
    return out


class _AttentionWithDropout(torch.autograd.Function):
    """Head by head. The backward pass computes the weights again: kept is which of them were dropped."""

    @staticmethod
    def forward(
        ctx: Any, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor, probability: float
    ) -> torch.Tensor:
        out, keeps = torch.empty(q.shape, dtype=q.dtype), []
        for head in range(q.shape[1]):
            weights = _weights(q[:, head], k[:, head], mask)
            keeps.append(_keep(weights.shape, probability))
            weights *= keeps[-1]
            out[:, head] = torch.bmm(weights.to(v.dtype), v[:, head])
        ctx.save_for_backward(q, k, v, mask, *keeps)
        ctx.kept_share = 1 - probability
        return out / ctx.kept_share

    @staticmethod
    def backward(ctx: Any, grad_nhqd: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        q, k, v, mask, *keeps = ctx.saved_tensors
        grad_nhqd = grad_nhqd / ctx.kept_share
        grad_q, grad_k, grad_v = (torch.empty(x.shape, dtype=x.dtype) for x in (q, k, v))
        scale = 1 / math.sqrt(q.shape[-1])
        for head, keep in enumerate(keeps):
            grad, weights = grad_nhqd[:, head], _weights(q[:, head], k[:, head], mask)
            grad_v[:, head] = torch.bmm((weights * keep).to(grad.dtype).mT, grad)
            of_weights = torch.bmm(grad, v[:, head].mT).to(weights.dtype).mul_(keep)
            of_scores = torch._softmax_backward_data(of_weights, weights, -1, weights.dtype).mul_(scale).to(q.dtype)
            grad_q[:, head] = torch.bmm(of_scores, k[:, head])
            grad_k[:, head] = torch.bmm(of_scores.mT, q[:, head])
        return grad_q, grad_k, grad_v, None, None


def _weights(q_nqd: torch.Tensor, k_nkd: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """(n, q, k), at least in fp32: the softmax of one head's scores."""
    scores = torch.baddbmm(mask[:, 0], q_nqd, k_nkd.mT, alpha=1 / math.sqrt(q_nqd.shape[-1]))
    return scores.to(torch.promote_types(scores.dtype, torch.float32)).softmax(-1)


def _keep(shape: torch.Size, probability: float) -> torch.Tensor:
    """Bool, False with this probability. Of each random number of 64 bits, four are made: bernoulli_ takes three times
    as long."""
    count = math.prod(shape)
    bits = torch.empty(-(-count // 4), dtype=torch.int64).random_(-(2**63), None).view(torch.int16)[:count]
    return (bits >= round(probability * 2**16) - 2**15).view(shape)
