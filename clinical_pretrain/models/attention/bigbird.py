"""BigBird's block-sparse self-attention, exactly as Hugging Face's, by several backends.

What every backend computes (transformers' BigBirdBlockSparseAttention; Zaheer et al. 2020, section 2) is said by a
layer's Plan: which key blocks a query block sees, and how often each counts in the softmax.

Shapes: b batch, l length, h heads, d width of a head, m blocks of a sequence, n = b * (m - 2) query blocks but the
first and the last of each sequence, q tokens of a query block, k tokens that a query block sees.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import torch.nn.functional as F
from torch.nn.attention.flex_attention import BlockMask

from clinical_pretrain.models.attention import products
from clinical_pretrain.models.attention.backend import (
    AttentionInputs,
    AttentionSettings,
    Backend,
    DocumentBatch,
    project,
)
from clinical_pretrain.models.attention.bigbird_plan import Plan, is_sparse, make_plan
from clinical_pretrain.models.attention.flex import compiled_flex_attention

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass
class BigBirdContext:
    """What all layers share for one batch. The length is a multiple of the block size."""

    documents: torch.Tensor | None
    """(batch, length) int64: the document within its sequence that a token belongs to, from 1; 0 on padding. None where
    each sequence is one document that fills it."""
    batch: int
    """Number of sequences."""
    block_size: int
    isolated: bool
    """Whether a sequence may hold several documents. If not, `documents` is 0 or 1, and only keys must be masked."""
    dropout: float
    """On attention to everything, that of short sequences; block-sparse attention has none."""
    bias: torch.Tensor | None = None
    """For `blocked`: added to the scores, the same in all layers, (n, q or 1, k)."""
    backend: Backend | None = None

    def prepare(self, backend: Backend, plans: list[Plan], dtype: torch.dtype) -> list[Any]:
        """Choose the backend. Returns each layer's layout, for hidden states of `dtype`."""
        self.backend = backend
        return [backend.prepare(plan, self, dtype) for plan in plans]

    @cached_property
    def by_mask(self) -> tuple[torch.Tensor, torch.Tensor]:
        """For `flex`, each (batch, 1, 1) int32: 1 where blocks must be masked; where one document fills a sequence."""
        whole = torch.ones(self.batch) if self.documents is None else (self.documents == 1).all(1)
        is_whole = whole.int()[:, None, None]
        return 1 - is_whole, is_whole

    def seen(self, of_queries: torch.Tensor, of_keys: torch.Tensor) -> torch.Tensor:
        """Which keys queries see, (…, q or 1, k) bool, by the documents of queries, (…, q), and keys, (…, k). Where a
        sequence is one document its padding sees it, too: all queries then have one mask, and nobody reads padding."""
        if self.isolated:
            return of_queries[..., :, None] == of_keys[..., None, :]
        return (of_keys > 0)[..., None, :]


class BigBirdAttention:
    """The attention of one BigBird; see FamilyAttention."""

    def __init__(self, model: PreTrainedModel, settings: AttentionSettings) -> None:
        self._config, self._layers = model.config, model.base_model.encoder.layer
        self._backend, self._settings = BACKENDS[settings.backend], settings
        self._plans: dict[tuple[int, bool], list[Plan]] = {}

    def prepare(self, batch: DocumentBatch, dtype: torch.dtype) -> tuple[BigBirdContext, list[Any]]:
        """The batch's context, and each layer's layout; None for layers that attend to everything."""
        documents = batch.documents
        # Asking a GPU would make it wait, and code would be compiled for both answers.
        may_ask = documents.device.type == "cpu" and not self._settings.compiled
        is_full = may_ask and not batch.isolated and bool((documents == 1).all())
        context = BigBirdContext(
            None if is_full else documents,
            len(documents),
            self._config.block_size,
            batch.isolated,
            self._settings.dropout,
        )
        plans = self._plans_for(documents, batch.training)
        return context, context.prepare(self._backend, plans, dtype) or [None] * len(self._layers)

    def _plans_for(self, documents: torch.Tensor, training: bool) -> list[Plan]:
        """Each layer's plan; none where Hugging Face's model would attend to everything."""
        length = documents.shape[1]
        if not is_sparse(self._config, length):
            return []
        if (length, training) not in self._plans:
            self._plans[length, training] = [
                make_plan(layer.attention.self, length, training, documents.device) for layer in self._layers
            ]
        return self._plans[length, training]

    @staticmethod
    def self_attention(module: Any, hidden: torch.Tensor, context: BigBirdContext, layout: Any) -> torch.Tensor:
        """The output of a BigBirdBlockSparseAttention, (batch, length, width), for hidden states of the same shape."""
        shape = (*hidden.shape[:2], module.num_attention_heads, module.attention_head_size)
        q, k, v = (x.view(shape) for x in project(hidden, module.query, module.key, module.value))
        dropout = context.dropout if module.training else 0.0
        inputs = AttentionInputs(q, k, v, layout, context, dropout)
        if layout is None:
            return _attend_to_all(inputs).flatten(2)
        assert context.backend is not None
        return context.backend.attend(inputs).flatten(2)


def _attend_to_all(inputs: AttentionInputs) -> torch.Tensor:
    """Full attention within each document: (b, l, h, d)."""
    q, k, v = _heads_first(inputs)
    documents = inputs.context.documents
    mask = None if documents is None else inputs.context.seen(documents, documents)[:, None]
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=inputs.dropout)
    return out.transpose(1, 2)


def _heads_first(inputs: AttentionInputs) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """q, k and v as (b, h, l, d)."""
    return inputs.q_blhd.transpose(1, 2), inputs.k_blhd.transpose(1, 2), inputs.v_blhd.transpose(1, 2)


# blocked ------------------------------------------------------------------------------------------------------------


class BlockGather:
    """The layout of `blocked`: which key blocks to gather for the n query blocks, and the mask that goes with them."""

    def __init__(self, plan: Plan, context: BigBirdContext, dtype: torch.dtype) -> None:
        self.plan, self.context = plan, context
        self.documents = None if context.documents is None else context.documents.unflatten(1, (-1, context.block_size))
        self._first_block = torch.arange(context.batch, device=plan.bias.device)[:, None, None] * (len(plan.bias) + 2)
        if context.bias is None:  # the same in all layers
            bias = plan.bias.repeat_interleave(context.block_size, 1).repeat(context.batch, 1)[:, None].to(dtype)
            context.bias = bias.expand(-1, context.block_size, -1).contiguous() if self.documents is None else bias
        self._bias = context.bias

    def __call__(self, heads: int | slice) -> tuple[torch.Tensor, torch.Tensor]:
        """For a head, or for several (then (h, …)): indices into the blocks of all sequences, (n, blocks seen) int64,
        and what is added to the scores, (n, q or 1, k)."""
        indices = (self._first_block + self.plan.blocks[heads].unsqueeze(-3)).flatten(-3, -2)
        if self.documents is None:
            return indices, self._bias
        of_keys = self.documents.flatten(0, 1)[indices].flatten(-2)
        of_queries = self.documents[:, 1:-1].flatten(0, 1)
        return indices, torch.where(self.context.seen(of_queries, of_keys), self._bias, -torch.inf)


def blocked(inputs: AttentionInputs) -> torch.Tensor:
    """Blocks of queries against gathered blocks of keys, by scaled_dot_product_attention."""
    (q_bhld, k_bhld, v_bhld), context, mask = _heads_first(inputs), inputs.context, None
    size, documents = context.block_size, context.documents
    k_hbld, v_hbld = (x.transpose(0, 1).contiguous() for x in (k_bhld, v_bhld))
    # Slices would each have a gradient of the whole length.
    first, middle, last = q_bhld.split([size, q_bhld.shape[2] - 2 * size, size], 2)
    ends = torch.cat([first, last], 2)
    if documents is not None:
        of_ends = torch.cat([documents[:, :size], documents[:, -size:]], 1)
        mask = context.seen(of_ends, documents)[None]
    ends = products.attention(ends.transpose(0, 1), k_hbld, v_hbld, mask).transpose(0, 1)
    head_by_head = q_bhld.device.type == "cpu" and q_bhld.dtype != torch.float64
    middle = (_HeadByHead.apply if head_by_head else _at_once)(middle, k_hbld, v_hbld, inputs.layout, size)
    first, last = ends.split(size, 2)
    return torch.cat([part.transpose(1, 2) for part in (first, middle, last)], 1)  # as the output's layer reads them


def _at_once(
    q_bhld: torch.Tensor, k_hbld: torch.Tensor, v_hbld: torch.Tensor, gather: BlockGather, size: int
) -> torch.Tensor:
    """The query blocks between the first and the last. Autograd keeps the gathered keys and values."""
    batch, heads, _, width = q_bhld.shape
    q_hnqd = q_bhld.transpose(0, 1).reshape(heads, -1, size, width)
    indices, mask = gather(slice(None))
    blocks = k_hbld.shape[1] * k_hbld.shape[2] // size
    index = (indices + torch.arange(heads, device=indices.device)[:, None, None] * blocks).flatten()
    k, v = (x.view(-1, size, width)[index].view(*indices.shape[:2], -1, width) for x in (k_hbld, v_hbld))
    out = F.scaled_dot_product_attention(q_hnqd, k, v, attn_mask=mask)
    return out.reshape(heads, batch, -1, width).transpose(0, 1)  # a GPU's kernel may give it transposed


class _HeadByHead(torch.autograd.Function):
    """The same on a CPU, by its flash kernel or by products. Keys and values are gathered again in the backward pass,
    since the gathered ones are eight times as large.

    Relies on torch's private aten::_scaled_dot_product_flash_attention_for_cpu and its backward, which
    scaled_dot_product_attention calls too: only they give and take the log-sums of the softmax, without which the
    backward pass would have to compute the forward pass again.
    """

    @staticmethod
    def forward(ctx: Any, q_bhld: torch.Tensor, k_hbld: torch.Tensor, v_hbld: torch.Tensor, gather: BlockGather,
                size: int) -> torch.Tensor:  # fmt: skip
        batch, heads, _, width = q_bhld.shape
        q = q_bhld.transpose(0, 1).reshape(heads, -1, 1, size, width)
        k, v = (x.view(heads, -1, size * width) for x in (k_hbld, v_hbld))
        out, sums = torch.empty_like(q), []
        attend = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
        for head in range(heads):
            indices, mask = gather(head)
            seen = (len(indices), 1, -1, width)
            k_seen, v_seen = (x[head].index_select(0, indices.flatten()).view(seen) for x in (k, v))
            if products.by_products(q):
                weights = products.softmax(q[head, :, 0], k_seen[:, 0], mask)
                out[head, :, 0] = torch.bmm(weights, v_seen[:, 0])
                continue
            out[head], log_sum = attend(q[head], k_seen, v_seen, attn_mask=mask[:, None])
            sums.append(log_sum)
        ctx.save_for_backward(q, k, v, *((out, *sums) if sums else ()))
        ctx.gather, ctx.batch = gather, batch
        return out.view(heads, batch, -1, width).transpose(0, 1)

    @staticmethod
    def backward(ctx: Any, grad_bhld: torch.Tensor) -> tuple[Any, ...]:
        q, k, v, *of_kernel = ctx.saved_tensors
        heads, width = len(q), q.shape[-1]
        grad = grad_bhld.transpose(0, 1).reshape(q.shape)
        grad_q, grad_k, grad_v = torch.empty_like(q), torch.zeros_like(k), torch.zeros_like(v)
        attend_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward
        for head in range(heads):
            indices, mask = ctx.gather(head)
            index, seen = indices.flatten(), (len(indices), 1, -1, width)
            k_seen, v_seen = (x[head].index_select(0, index).view(seen) for x in (k, v))
            if of_kernel:
                out, *sums = of_kernel
                grad_q[head], *grads = attend_backward(
                    grad[head], q[head], k_seen, v_seen, out[head], sums[head], 0.0, False, attn_mask=mask[:, None]
                )
            else:
                of_head = [x[:, 0] for x in (grad[head], q[head], k_seen, v_seen)]
                grad_q[head, :, 0], *grads = products.gradients(of_head, mask)
            grad_k[head].index_add_(0, index, grads[0].reshape(len(index), -1))
            grad_v[head].index_add_(0, index, grads[1].reshape(len(index), -1))
        shape = (heads, ctx.batch, -1, width)
        return grad_q.view(shape).transpose(0, 1), grad_k.view(shape), grad_v.view(shape), None, None


# flex ---------------------------------------------------------------------------------------------------------------


class FlexLayout(NamedTuple):
    """A layer's plan, as flex_attention takes it."""

    block_mask: BlockMask
    score_mod: Callable[..., Any] | None


def flex_layout(plan: Plan, context: BigBirdContext, dtype: torch.dtype) -> FlexLayout:
    """For `flex`: a BlockMask with blocks of their own for each head. Where one document fills a sequence, blocks are
    seen whole, and the mask isn't asked about single tokens."""
    size, documents, counts = context.block_size, context.documents, plan.counts
    log_counts = counts.log().clamp(min=0) if plan.counts_twice else counts
    length = counts.shape[-1] * size

    def mask_mod(batch: torch.Tensor, head: torch.Tensor, query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
        in_plan = counts[head, query // size, key // size] > 0
        return in_plan if documents is None else in_plan & (documents[batch, query] == documents[batch, key])

    def by_count(
        score: torch.Tensor, batch: torch.Tensor, head: torch.Tensor, query: torch.Tensor, key: torch.Tensor
    ) -> torch.Tensor:
        return score + log_counts[head, query // size, key // size]

    parts: dict[str, Any] = {}
    orders = iter(plan.orders(context.batch))
    for side, count in (("kv", plan.seen_keys[0]), ("q", plan.seen_by[0])):
        for part, is_part in zip(("", "full_"), context.by_mask, strict=True):
            parts[f"{part}{side}_num_blocks"], parts[f"{part}{side}_indices"] = count * is_part, next(orders)
    block_mask = BlockMask((length, length), **parts, BLOCK_SIZE=(size, size), mask_mod=mask_mod)
    return FlexLayout(block_mask, by_count if plan.counts_twice else None)


def flex(inputs: AttentionInputs) -> torch.Tensor:
    """`torch.nn.attention.flex_attention` with a BlockMask of the plan."""
    return compiled_flex_attention(*_heads_first(inputs), **inputs.layout._asdict()).transpose(1, 2)


BACKENDS = {"blocked": Backend(BlockGather, blocked), "flex": Backend(flex_layout, flex)}
