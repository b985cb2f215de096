"""BigBird's block-sparse self-attention, exactly as Hugging Face's, in several ways behind one signature.

What every backend computes (transformers' BigBirdBlockSparseAttention; Zaheer et al. 2020, section 2): the first and
the last block of a row attend to everything; any other block to the first, the last, itself, its neighbours, and
random blocks, different in each head. In training Hugging Face draws the random blocks anew at every step from the
same seed, the layer's number, so that they never change. In evaluation all of them are block 0, which then counts
1 + random_blocks times in each softmax. Blocks that a training plan names twice count twice.

Shapes: b batch, l length, h heads, d width of a head, m blocks of a row, k tokens that a query block sees.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch.nn.attention.flex_attention import BlockMask

from clinical_pretrain.models.attention.flex import chosen_first, compiled_flex_attention

OLD_PLAN_LENGTHS = (1024, 3072, 4096)
"""Lengths at which Hugging Face draws the plan as the paper's code did."""


@dataclass(frozen=True)
class Plan:
    """Which blocks a layer's query blocks see; a function of layer, length and mode."""

    blocks: torch.Tensor
    """(h, m - 2, 5 + random blocks) int64: for each query block but the first and the last."""
    bias: torch.Tensor
    """(m - 2, 5 + random blocks) fp32, added to the scores: -inf where a block stands twice by position, log of the
    count where it counts several times."""
    counts: torch.Tensor
    """(h, m, m) fp32: how often a query block sees a key block."""
    counts_twice: bool
    """Whether any of them is above 1."""
    seen_keys: tuple[torch.Tensor, torch.Tensor]
    """For each query block, how many key blocks it sees, (h, m) int32, and which, (h, m, m) int32, those first."""
    seen_by: tuple[torch.Tensor, torch.Tensor]
    """The same for each key block: the query blocks that see it."""


@dataclass
class BigBirdContext:
    """What all layers share for one batch. The length is a multiple of the block size."""

    documents: torch.Tensor | None
    """(batch, length) int64: the document within its row that a token belongs to, from 1; 0 on padding. None where
    each row is one document that fills it."""
    rows: int
    block_size: int
    isolated: bool
    """Whether a row may hold several documents. If not, 0 and 1 stand in `documents`, and only keys need a look."""
    dropout: float
    """On attention to everything, that of short rows; block-sparse attention has none."""
    bias: torch.Tensor | None = None
    """Of all layers' plans, (rows * (m - 2), q or 1, k); for `blocked`."""
    backend: Backend | None = None

    def prepare(self, backend: Backend, plans: list[Plan], dtype: torch.dtype) -> list[Any]:
        """Choose the backend. Returns what it makes of each layer's plan, for hidden states of `dtype`."""
        self.backend = backend
        return [backend.prepare(plan, self, dtype) for plan in plans]

    def seen(self, of_queries: torch.Tensor, of_keys: torch.Tensor) -> torch.Tensor:
        """Whether keys, by their documents (…, k), are seen by queries, by theirs (…, q): (…, q or 1, k) bool. In rows
        of one document the padding sees it, too: nobody looks at that, and all queries have one mask."""
        if self.isolated:
            return of_queries[..., :, None] == of_keys[..., None, :]
        return (of_keys > 0)[..., None, :]


class Backend(NamedTuple):
    """One way to compute block-sparse attention."""

    prepare: Callable[[Plan, BigBirdContext, torch.dtype], Any]
    """plan, context, dtype -> layout."""
    attend: Callable[[torch.Tensor, torch.Tensor, torch.Tensor, Any, BigBirdContext], torch.Tensor]
    """q_bhld, k_bhld, v_bhld, layout, context -> out_bhld."""


def self_attention(module: Any, hidden: torch.Tensor, context: BigBirdContext, layout: Any) -> torch.Tensor:
    """A BigBirdBlockSparseAttention's output, (batch, length, width), for hidden states of the same shape and what
    `context` prepared for the layer; None: it attends to everything."""
    shape = (*hidden.shape[:2], module.num_attention_heads, module.attention_head_size)
    q, k, v = (linear(hidden).view(shape).transpose(1, 2) for linear in (module.query, module.key, module.value))
    if layout is not None:
        assert context.backend is not None
        out = context.backend.attend(q, k, v, layout, context)
    else:
        documents = context.documents
        mask = None if documents is None else context.seen(documents, documents)[:, None]
        dropout = context.dropout if module.training else 0.0
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout)
    return out.transpose(1, 2).flatten(2)


def random_blocks(module: Any, length: int) -> torch.Tensor:
    """The plan of Hugging Face's training mode, by its own functions: (h, m - 2, random blocks) int64.

    They draw from NumPy's global generator, which is left as it was.
    """
    size, count = module.block_size, module.num_random_blocks
    state, training = np.random.get_state(), module.training
    try:
        module.training = True
        np.random.seed(module.seed)
        if length in OLD_PLAN_LENGTHS:
            longest = module.max_seqlen
            heads = [
                module._bigbird_block_rand_mask(longest, longest, size, size, count, last_idx=1024)
                for _ in range(module.num_attention_heads)
            ]
        else:
            ends, counts = module._get_rand_attn_plan(length, size, count)
            heads = module._bigbird_block_rand_mask_with_head(
                length, length, size, size, module.num_attention_heads, ends, counts
            )
    finally:
        module.training = training
        np.random.set_state(state)
    return torch.from_numpy(np.stack(heads)[:, : length // size - 2].astype(np.int64))


def make_plan(module: Any, length: int, training: bool, device: torch.device) -> Plan:
    """A layer's plan in training mode or in evaluation mode."""
    blocks = length // module.block_size
    middle = torch.arange(1, blocks - 1)[:, None]
    first, last = torch.zeros_like(middle), torch.full_like(middle, blocks - 1)
    fixed = torch.cat([first, middle - 1, middle, middle + 1, last], 1).expand(module.num_attention_heads, -1, -1)
    bias = torch.zeros(blocks - 2, 5)
    bias[0, 1] = bias[-1, 3] = -torch.inf  # the first and last block, which stand there already
    if training:
        drawn = random_blocks(module, length)
        fixed, bias = torch.cat([fixed, drawn], 2), F.pad(bias, (0, drawn.shape[2]))
    else:
        bias[:, 0] += math.log(1 + module.num_random_blocks)
    counts = torch.zeros(len(fixed), blocks, blocks)
    counts[:, [0, -1]] = 1
    counts[:, 1:-1].scatter_add_(2, fixed, bias.exp().expand(len(fixed), -1, -1))
    counts = counts.round()
    counts_twice = bool((counts > 1).any())
    counts = counts.to(device)
    seen = counts > 0
    return Plan(
        blocks=fixed.contiguous().to(device),
        bias=bias.to(device),
        counts=counts,
        counts_twice=counts_twice,
        seen_keys=chosen_first(seen),
        seen_by=chosen_first(seen.transpose(1, 2)),
    )


def shortest_sparse(block_size: int, random_count: int) -> int:
    """Hugging Face's model attends to everything at this length or less, and at any length from then on."""
    return (5 + 2 * random_count) * block_size


# blocked ------------------------------------------------------------------------------------------------------------


class Gather:
    """Which blocks the middle query blocks of all rows see, and the mask that goes with them."""

    def __init__(self, plan: Plan, context: BigBirdContext, dtype: torch.dtype) -> None:
        self.plan, self.rows, self.context = plan, context.rows, context
        self.documents = None if context.documents is None else context.documents.unflatten(1, (-1, context.block_size))
        self._row = torch.arange(self.rows, device=plan.bias.device)[:, None, None] * (len(plan.bias) + 2)
        if context.bias is None:  # the same in all layers
            bias = plan.bias.repeat_interleave(context.block_size, 1).repeat(self.rows, 1)[:, None].to(dtype)
            context.bias = bias.expand(-1, context.block_size, -1).contiguous() if self.documents is None else bias
        self._bias = context.bias

    def __call__(self, heads: int | slice) -> tuple[torch.Tensor, torch.Tensor]:
        """For a head, or for several (then (h, …)): indices into the rows' blocks, (rows * (m - 2), blocks seen) int64,
        and what is added to the scores, (rows * (m - 2), q or 1, k)."""
        places = (self._row + self.plan.blocks[heads].unsqueeze(-3)).flatten(-3, -2)
        if self.documents is None:
            return places, self._bias
        of_keys = self.documents.flatten(0, 1)[places].flatten(-2)
        of_queries = self.documents[:, 1:-1].flatten(0, 1)
        return places, torch.where(self.context.seen(of_queries, of_keys), self._bias, -torch.inf)


def blocked(
    q_bhld: torch.Tensor, k_bhld: torch.Tensor, v_bhld: torch.Tensor, gather: Gather, context: BigBirdContext
) -> torch.Tensor:
    """Blocks of queries against gathered blocks of keys, by scaled_dot_product_attention."""
    size, documents, mask = context.block_size, context.documents, None
    k_hbld, v_hbld = (x.transpose(0, 1).contiguous() for x in (k_bhld, v_bhld))
    ends = torch.cat([q_bhld[:, :, :size], q_bhld[:, :, -size:]], 2)
    if documents is not None:
        of_ends = torch.cat([documents[:, :size], documents[:, -size:]], 1)
        mask = context.seen(of_ends, documents)[:, None]
    ends = F.scaled_dot_product_attention(ends, k_hbld.transpose(0, 1), v_hbld.transpose(0, 1), attn_mask=mask)
    head_by_head = q_bhld.device.type == "cpu" and q_bhld.dtype != torch.float64
    middle = (_HeadByHead.apply if head_by_head else _at_once)(q_bhld, k_hbld, v_hbld, gather, size)
    return torch.cat([ends[:, :, :size], middle, ends[:, :, size:]], 2)


def _at_once(
    q_bhld: torch.Tensor, k_hbld: torch.Tensor, v_hbld: torch.Tensor, gather: Gather, size: int
) -> torch.Tensor:
    """All query blocks but the first and the last. Autograd keeps the gathered keys and values."""
    rows, heads, _, width = q_bhld.shape
    q_hnqd = q_bhld[:, :, size:-size].transpose(0, 1).reshape(heads, -1, size, width)
    places, mask = gather(slice(None))
    blocks = k_hbld.shape[1] * k_hbld.shape[2] // size
    index = (places + torch.arange(heads, device=places.device)[:, None, None] * blocks).flatten()
    k, v = (x.view(-1, size, width)[index].view(*places.shape[:2], -1, width) for x in (k_hbld, v_hbld))
    out = F.scaled_dot_product_attention(q_hnqd, k, v, attn_mask=mask)
    return out.reshape(heads, rows, -1, width).transpose(0, 1)  # a GPU's kernel may give it transposed


class _HeadByHead(torch.autograd.Function):
    """The same on a CPU, by its flash kernel. Keys and values are gathered again in the backward pass, since the
    gathered ones are eight times as large."""

    @staticmethod
    def forward(ctx: Any, q_bhld: torch.Tensor, k_hbld: torch.Tensor, v_hbld: torch.Tensor, gather: Gather,
                size: int) -> torch.Tensor:  # fmt: skip
        rows, heads, _, width = q_bhld.shape
        q = q_bhld[:, :, size:-size].transpose(0, 1).reshape(heads, -1, 1, size, width)
        k, v = (x.view(heads, -1, size * width) for x in (k_hbld, v_hbld))
        out, sums = torch.empty_like(q), []
        attention = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
        for head in range(heads):
            places, mask = gather(head)
            seen = (len(places), 1, -1, width)
            k_seen, v_seen = (x[head].index_select(0, places.flatten()).view(seen) for x in (k, v))
            out[head], log_sum = attention(q[head], k_seen, v_seen, attn_mask=mask[:, None])
            sums.append(log_sum)
        ctx.save_for_backward(q, k, v, out, *sums)
        ctx.gather, ctx.rows, ctx.size = gather, rows, size
        return out.view(heads, rows, -1, width).transpose(0, 1)

    @staticmethod
    def backward(ctx: Any, grad_bhld: torch.Tensor) -> tuple[Any, ...]:
        q, k, v, out, *sums = ctx.saved_tensors
        heads, width = len(q), q.shape[-1]
        grad = grad_bhld.transpose(0, 1).reshape(out.shape)
        grad_q, grad_k, grad_v = torch.empty_like(q), torch.zeros_like(k), torch.zeros_like(v)
        attention_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward
        for head in range(heads):
            places, mask = ctx.gather(head)
            index, seen = places.flatten(), (len(places), 1, -1, width)
            k_seen, v_seen = (x[head].index_select(0, index).view(seen) for x in (k, v))
            grad_q[head], *grads = attention_backward(
                grad[head], q[head], k_seen, v_seen, out[head], sums[head], 0.0, False, attn_mask=mask[:, None]
            )
            grad_k[head].index_add_(0, index, grads[0].reshape(len(index), -1))
            grad_v[head].index_add_(0, index, grads[1].reshape(len(index), -1))
        shape = (heads, ctx.rows, -1, width)
        grad_q = F.pad(grad_q.view(shape), (0, 0, ctx.size, ctx.size))
        return grad_q.transpose(0, 1), grad_k.view(shape), grad_v.view(shape), None, None


# flex ---------------------------------------------------------------------------------------------------------------


class FlexLayout(NamedTuple):
    """A layer's plan, as flex_attention takes it."""

    block_mask: BlockMask
    score_mod: Callable[..., Any] | None


def flex_layout(plan: Plan, context: BigBirdContext, dtype: torch.dtype) -> FlexLayout:
    """For `flex`: each head has a BlockMask of its own. Rows that one document fills need no look at single tokens."""
    size, documents, rows = context.block_size, context.documents, context.rows
    seen, log_counts = plan.counts > 0, plan.counts.log().clamp(min=0)
    length = plan.counts.shape[-1] * size

    def mask_mod(batch: Any, head: Any, query: Any, key: Any) -> Any:
        in_plan = seen[head, query // size, key // size]
        return in_plan if documents is None else in_plan & (documents[batch, query] == documents[batch, key])

    def by_count(score: Any, batch: Any, head: Any, query: Any, key: Any) -> Any:
        return score + log_counts[head, query // size, key // size]

    whole = seen.new_ones(rows) if documents is None else (documents == 1).all(1)
    whole = whole[:, None, None]
    parts: dict[str, Any] = {}
    for name, count, order in (("kv", *plan.seen_keys), ("q", *plan.seen_by)):
        for part, counted in (("", torch.where(whole, 0, count)), ("full_", torch.where(whole, count, 0))):
            parts[f"{part}{name}_num_blocks"] = counted
            # Each a copy: the compiler takes one tensor in two places for one argument, and fails.
            parts[f"{part}{name}_indices"] = order.repeat(rows, 1, 1, 1)
    block_mask = BlockMask((length, length), **parts, BLOCK_SIZE=(size, size), mask_mod=mask_mod)
    return FlexLayout(block_mask, by_count if plan.counts_twice else None)


def flex(
    q_bhld: torch.Tensor, k_bhld: torch.Tensor, v_bhld: torch.Tensor, layout: FlexLayout, context: BigBirdContext
) -> torch.Tensor:
    """`torch.nn.attention.flex_attention` with a BlockMask of the plan."""
    return compiled_flex_attention(q_bhld, k_bhld, v_bhld, **layout._asdict())


BACKENDS = {"blocked": Backend(Gather, blocked), "flex": Backend(flex_layout, flex)}
