"""Longformer's self-attention, exactly as Hugging Face's, in several ways behind one signature.

What every backend computes (transformers' LongformerSelfAttention; Beltagy et al. 2020, section 3): a token attends to
the `window` tokens on each side of it and to the global tokens; a global token attends to everything, with
projections of its own. Here a token sees its own document alone; a row's padding counts as a document, so that no
softmax is ever empty.

Shapes: b batch, l length, h heads, d width of a head, g global tokens of a row, n query blocks of the whole batch,
q tokens of a query block, k tokens that a query block sees.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch.nn.attention.flex_attention import BlockMask
from torch.nn.attention.varlen import varlen_attn

from clinical_pretrain.models.attention.flex import FLEX_BLOCK, compiled_flex_attention, flex_layout


@dataclass
class LongformerContext:
    """What all layers share for one batch."""

    documents: torch.Tensor
    """(batch, length) int64: the document within its row that a token belongs to, from 1; 0 on padding."""
    max_documents: int
    """At least the documents of any row."""
    is_global: torch.Tensor | None = None
    """(batch, length) bool, or None where no token is global."""
    max_globals: int = 0
    """At least the global tokens of any row."""
    backend: Backend | None = None
    global_slots: tuple[torch.Tensor, torch.Tensor] | None = None
    """Places of the global tokens, (batch, g) int64, and which of these slots are in use, (batch, g) bool."""

    def prepare(self, backend: Backend, windows: list[int], dtype: torch.dtype) -> list[Any]:
        """Choose the backend. Returns the mask that it makes for each layer's window, for hidden states of `dtype`."""
        self.backend = backend
        if self.is_global is not None:
            used, places = torch.topk(self.is_global.to(torch.int8), self.max_globals, dim=1)
            self.global_slots = places, used.bool()
        masks = {window: backend.prepare(self, window, dtype) for window in set(windows)}
        return [masks[window] for window in windows]

    @cached_property
    def keys(self) -> torch.Tensor:
        """(batch * length,): equal where two tokens see each other, unique over the batch."""
        rows, length = self.documents.shape
        row = torch.arange(rows, device=self.documents.device)[:, None] * (length + 1)
        return (self.documents + row).flatten()


class Backend(NamedTuple):
    """One way to compute a local token's attention."""

    prepare: Callable[[LongformerContext, int, torch.dtype], Any]
    """context, window, dtype -> mask: what its layers share."""
    attend: Callable[[torch.Tensor, torch.Tensor, torch.Tensor, int, Any, LongformerContext, float], torch.Tensor]
    """q_blhd, k_blhd, v_blhd, window, mask, context, dropout -> out_blhd."""


def self_attention(module: Any, hidden: torch.Tensor, context: LongformerContext, mask: Any) -> torch.Tensor:
    """A LongformerSelfAttention's output, (batch, length, width), for hidden states of the same shape and the mask that
    `context` prepared for the layer."""
    shape = (*hidden.shape[:2], module.num_heads, module.head_dim)
    q, k, v = (linear(hidden).view(shape) for linear in (module.query, module.key, module.value))
    dropout = module.dropout if module.training else 0.0
    window = module.one_sided_attn_window_size
    assert context.backend is not None
    out = context.backend.attend(q, k, v, window, mask, context, dropout).flatten(2)
    if context.is_global is None:
        return out
    return torch.where(context.is_global[..., None], _global_rows(module, hidden, context, dropout), out)


def _global_rows(module: Any, hidden: torch.Tensor, context: LongformerContext, dropout: float) -> torch.Tensor:
    """(batch, length, width): what the global tokens see, at their places; zero elsewhere."""
    assert context.global_slots is not None
    places, valid = context.global_slots
    index = places[..., None].expand(-1, -1, hidden.shape[-1])
    heads = (module.num_heads, module.head_dim)
    q = module.query_global(hidden.gather(1, index)).unflatten(-1, heads).transpose(1, 2)
    k = module.key_global(hidden).unflatten(-1, heads).transpose(1, 2)
    v = module.value_global(hidden).unflatten(-1, heads).transpose(1, 2)
    seen = context.documents.gather(1, places)[:, :, None] == context.documents[:, None, :]
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=seen[:, None], dropout_p=dropout)
    out = out.transpose(1, 2).flatten(2) * valid[..., None]
    return torch.zeros_like(hidden).scatter_add(1, index, out.to(hidden.dtype))


# blocked ------------------------------------------------------------------------------------------------------------


def blocked(
    q_blhd: torch.Tensor,
    k_blhd: torch.Tensor,
    v_blhd: torch.Tensor,
    window: int,
    mask: Any,
    context: LongformerContext,
    dropout: float,
) -> torch.Tensor:
    """Blocks of queries against the windows of keys around them, by scaled_dot_product_attention.

    The rows lie one after the other, so that one strided view holds all windows; the mask keeps rows apart.
    """
    batch, length, heads, width = q_blhd.shape
    block = _query_block(window, q_blhd.dtype)
    padding = -length % block
    q, k, v = (F.pad(x, (0, 0, 0, 0, 0, padding)).flatten(0, 1) for x in (q_blhd, k_blhd, v_blhd))
    q_nhqd = q.unflatten(0, (-1, block)).transpose(1, 2)
    k_nhkd, v_nhkd = (_Windows.apply(x, block, window) for x in (k, v))
    if context.global_slots is not None:
        places, _ = context.global_slots
        index = places[..., None, None].expand(-1, -1, heads, width)
        blocks = (length + padding) // block

        def in_front(x_blhd: torch.Tensor, windows: torch.Tensor) -> torch.Tensor:
            globals_ = x_blhd.gather(1, index).transpose(1, 2).repeat_interleave(blocks, 0)
            return torch.cat([globals_, windows], 2)

        k_nhkd, v_nhkd = in_front(k_blhd, k_nhkd), in_front(v_blhd, v_nhkd)
    out_nhqd = F.scaled_dot_product_attention(q_nhqd, k_nhkd, v_nhkd, attn_mask=mask, dropout_p=dropout)
    return out_nhqd.transpose(1, 2).reshape(batch, length + padding, heads, width)[:, :length]


def _query_block(window: int, dtype: torch.dtype) -> int:
    """Tokens of a query block; divides the window. Half a window wastes less of it; bf16 kernels like larger ones."""
    return window // 2 if dtype == torch.float32 and window >= 256 and window % 2 == 0 else window


class _Windows(torch.autograd.Function):
    """(b * l, h, d) -> (n, h, q + 2 * window, d): a view of one padded copy, which is all that autograd keeps."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, block: int, window: int) -> torch.Tensor:
        ctx.block, ctx.window = block, window
        tokens, heads, width = x.shape
        padded = F.pad(x, (0, 0, 0, 0, window, window))
        shape = (tokens // block, heads, block + 2 * window, width)
        return padded.as_strided(shape, (block * heads * width, width, heads * width, 1))

    @staticmethod
    def backward(ctx: Any, grad_nhkd: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        block, window = ctx.block, ctx.window
        count, heads, seen, width = grad_nhkd.shape
        total = grad_nhkd.new_zeros(count * block + 2 * window, heads, width)
        total_nhqd = total.unflatten(0, (-1, block)).transpose(1, 2)
        for i in range(seen // block):
            total_nhqd[i : i + count] += grad_nhkd[:, :, i * block : (i + 1) * block]
        return total[window : window + count * block], None, None


def window_mask(context: LongformerContext, window: int, dtype: torch.dtype) -> torch.Tensor:
    """For `blocked`: 0 or -inf, (n, 1, q, g + k); the global columns stand in front."""
    block = _query_block(window, dtype)
    rows, length = context.documents.shape
    device = context.documents.device
    padding = -length % block
    keys = F.pad(context.keys.view(rows, length), (0, padding), value=-1).flatten()
    local = torch.ones_like(keys, dtype=torch.bool)
    if context.is_global is not None:
        local = ~F.pad(context.is_global, (0, padding)).flatten()
    distance = torch.arange(block + 2 * window, device=device) - torch.arange(block, device=device)[:, None]
    band = (distance >= 0) & (distance <= 2 * window)

    def windows(x: torch.Tensor, outside: int) -> torch.Tensor:
        return F.pad(x, (window, window), value=outside).unfold(0, block + 2 * window, block)[:, None]

    queries = keys.view(-1, block)[:, :, None]
    seen = band & (queries == windows(keys, -2)) & windows(local, False)
    if context.global_slots is not None:
        places, valid = context.global_slots
        global_keys = torch.where(valid, context.keys.view(rows, length).gather(1, places), -3)
        columns = global_keys.repeat_interleave((length + padding) // block, 0)[:, None]
        seen = torch.cat([queries == columns, seen], -1)
    return torch.zeros(seen.shape, dtype=dtype, device=device).masked_fill_(~seen, -torch.inf)[:, None]


# flex ---------------------------------------------------------------------------------------------------------------


def flex(
    q_blhd: torch.Tensor,
    k_blhd: torch.Tensor,
    v_blhd: torch.Tensor,
    window: int,
    mask: Any,
    context: LongformerContext,
    dropout: float,
) -> torch.Tensor:
    """`torch.nn.attention.flex_attention` with a BlockMask of the documents, the windows and the global tokens."""
    assert not dropout
    q, k, v = (x.transpose(1, 2) for x in (q_blhd, k_blhd, v_blhd))
    return compiled_flex_attention(q, k, v, block_mask=mask).transpose(1, 2)


def flex_mask(context: LongformerContext, window: int, dtype: torch.dtype) -> BlockMask:
    """For `flex`."""
    documents, is_global = context.documents, context.is_global
    length = documents.shape[1]

    def seen(batch: Any, head: Any, query: Any, key: Any) -> Any:
        near = (query - key).abs() <= window
        if is_global is not None:
            near = near | is_global[batch, key]
        return near & (documents[batch, query] == documents[batch, key])

    block = torch.arange(-(-length // FLEX_BLOCK), device=documents.device)
    apart = (block[:, None] - block).abs()
    some = (apart - 1) * FLEX_BLOCK + 1 <= window
    whole = (apart + 1) * FLEX_BLOCK - 1 <= window
    some = some[None].expand(len(documents), -1, -1)
    if is_global is not None:
        holds_global = F.pad(is_global, (0, -length % FLEX_BLOCK)).unflatten(1, (-1, FLEX_BLOCK)).any(-1)
        some = some | holds_global[:, None]
    return flex_layout(documents, some, whole, seen)


# varlen -------------------------------------------------------------------------------------------------------------


def varlen(
    q_blhd: torch.Tensor,
    k_blhd: torch.Tensor,
    v_blhd: torch.Tensor,
    window: int,
    mask: Any,
    context: LongformerContext,
    dropout: float,
) -> torch.Tensor:
    """FlashAttention with a sliding window over documents of varying length; without global tokens."""
    assert not dropout and context.is_global is None
    longest = q_blhd.shape[1]
    q, k, v = (x.flatten(0, 1) for x in (q_blhd, k_blhd, v_blhd))
    out: Any = varlen_attn(q, k, v, mask, mask, longest, longest, window_size=(window, window))
    return out.view_as(q_blhd)


def cumulative_lengths(context: LongformerContext, window: int, dtype: torch.dtype) -> torch.Tensor:
    """For `varlen`: where documents begin, filled up with the end; (batch * (max_documents + 1) + 1,) int32."""
    keys = context.keys
    first = torch.ones_like(keys, dtype=torch.bool)
    first[1:] = keys[1:] != keys[:-1]
    starts = torch.where(first, torch.arange(len(keys), device=keys.device), len(keys)).sort().values
    rows = len(context.documents)
    return F.pad(starts, (0, rows), value=len(keys))[: rows * (context.max_documents + 1) + 1].int()


BACKENDS = {
    "blocked": Backend(window_mask, blocked),
    "flex": Backend(flex_mask, flex),
    "varlen": Backend(cumulative_lengths, varlen),
}
