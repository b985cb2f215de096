"""Longformer's self-attention, exactly as Hugging Face's, by several backends.

What every backend computes (transformers' LongformerSelfAttention; Beltagy et al. 2020, section 3): a token attends to
the `window` tokens on each side of it and to the global tokens; a global token attends to everything, with
projections of its own. Here a token sees its own document alone; padding counts as a document, so that no softmax
is ever empty.

Shapes: b batch, l length, h heads, d width of a head, g global tokens of a sequence, n query blocks of the whole batch,
q tokens of a query block, k tokens that a query block sees.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import torch.nn.functional as F
from torch.nn.attention.flex_attention import BlockMask
from torch.nn.attention.varlen import varlen_attn

from clinical_pretrain.models.attention import products
from clinical_pretrain.models.attention.backend import (
    AttentionInputs,
    AttentionSettings,
    Backend,
    DocumentBatch,
    project,
)
from clinical_pretrain.models.attention.documents import first_tokens
from clinical_pretrain.models.attention.flex import FLEX_BLOCK, block_mask, compiled_flex_attention

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass
class LongformerContext:
    """What all layers share for one batch."""

    documents: torch.Tensor
    """(batch, length) int64: the document within its sequence that a token belongs to, from 1; 0 on padding."""
    max_documents: int
    """Upper bound of the documents in any sequence."""
    is_global: torch.Tensor | None = None
    """(batch, length) bool, or None where no token is global."""
    max_globals: int = 0
    """Upper bound of the global tokens in any sequence."""
    backend: Backend | None = None
    global_slots: tuple[torch.Tensor, torch.Tensor] | None = None
    """Positions of the global tokens, (batch, g) int64, and which of these slots are in use, (batch, g) bool."""

    def prepare(self, backend: Backend, windows: list[int], dtype: torch.dtype) -> list[WindowLayout]:
        """Choose the backend. Returns each layer's layout, for hidden states of `dtype`."""
        self.backend = backend
        if self.is_global is not None:
            used, positions = torch.topk(self.is_global.to(torch.int8), self.max_globals, dim=1)
            self.global_slots = positions, used.bool()
        layouts = {window: WindowLayout(window, backend.prepare(window, self, dtype)) for window in set(windows)}
        return [layouts[window] for window in windows]

    @cached_property
    def document_ids(self) -> torch.Tensor:
        """(batch * length,): the number of a token's document, unique over the batch: tokens see each other where it is
        equal."""
        batch, length = self.documents.shape
        offset = torch.arange(batch, device=self.documents.device)[:, None] * (length + 1)
        return (self.documents + offset).flatten()


class WindowLayout(NamedTuple):
    """What layers with one window share."""

    window: int
    """Tokens seen on each side."""
    mask: Any
    """What the backend's `prepare` returned."""


class LongformerAttention:
    """The attention of one Longformer; see FamilyAttention."""

    def __init__(self, model: PreTrainedModel, settings: AttentionSettings) -> None:
        self._backend, self._global_tokens = BACKENDS[settings.backend], settings.global_tokens
        layers = model.base_model.encoder.layer
        self._windows = [layer.attention.self.one_sided_attn_window_size for layer in layers]

    def prepare(self, batch: DocumentBatch, dtype: torch.dtype) -> tuple[LongformerContext, list[WindowLayout]]:
        """The batch's context, and each layer's layout."""
        documents, is_global, max_globals = batch.documents, None, 0
        max_documents = int(documents.max()) if batch.max_documents is None else batch.max_documents
        if batch.global_attention_mask is not None:
            is_global = batch.global_attention_mask.bool() & (documents > 0)
            max_globals = int(is_global.sum(1).max())
        elif self._global_tokens == "first":
            is_global, max_globals = first_tokens(documents), max_documents
        context = LongformerContext(documents, max_documents, is_global if max_globals else None, max_globals)
        return context, context.prepare(self._backend, self._windows, dtype)

    @staticmethod
    def self_attention(
        module: Any, hidden: torch.Tensor, context: LongformerContext, layout: WindowLayout
    ) -> torch.Tensor:
        """The output of a LongformerSelfAttention, (batch, length, width), for hidden states of the same shape."""
        assert context.backend is not None
        shape = (*hidden.shape[:2], module.num_heads, module.head_dim)
        q, k, v = (x.view(shape) for x in project(hidden, module.query, module.key, module.value))
        dropout = module.dropout if module.training else 0.0
        out = context.backend.attend(AttentionInputs(q, k, v, layout, context, dropout)).flatten(2)
        if context.is_global is None:
            return out
        return torch.where(context.is_global[..., None], _global_rows(module, hidden, context, dropout), out)


def _global_rows(module: Any, hidden: torch.Tensor, context: LongformerContext, dropout: float) -> torch.Tensor:
    """(batch, length, width): the attention output of the global tokens, at their positions; zero elsewhere."""
    assert context.global_slots is not None
    positions, used = context.global_slots
    index = positions[..., None].expand(-1, -1, hidden.shape[-1])
    heads = (module.num_heads, module.head_dim)
    q = module.query_global(hidden.gather(1, index)).unflatten(-1, heads).transpose(1, 2)
    k = module.key_global(hidden).unflatten(-1, heads).transpose(1, 2)
    v = module.value_global(hidden).unflatten(-1, heads).transpose(1, 2)
    seen = context.documents.gather(1, positions)[:, :, None] == context.documents[:, None, :]
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=seen[:, None], dropout_p=dropout)
    out = out.transpose(1, 2).flatten(2) * used[..., None]
    return torch.zeros_like(hidden).scatter_add(1, index, out.to(hidden.dtype))


# blocked ------------------------------------------------------------------------------------------------------------


def blocked(inputs: AttentionInputs) -> torch.Tensor:
    """Blocks of queries against the windows of keys around them.

    The sequences lie one after the other, so that one strided view holds all windows; the mask keeps them apart.
    """
    q_blhd, k_blhd, v_blhd, (window, mask), context, dropout = inputs
    batch, length, heads, width = q_blhd.shape
    block = _query_block(window, q_blhd.device.type == "cpu", q_blhd.dtype)
    padding = -length % block
    if padding:  # a padding of 0 would copy them
        q_blhd, k_blhd, v_blhd = (F.pad(x, (0, 0, 0, 0, 0, padding)) for x in (q_blhd, k_blhd, v_blhd))
    q, k, v = (x.flatten(0, 1) for x in (q_blhd, k_blhd, v_blhd))
    q_nhqd = q.unflatten(0, (-1, block)).transpose(1, 2)
    k_nhkd, v_nhkd = (_Windows.apply(x, block, window) for x in (k, v))
    if context.global_slots is not None:
        positions, _ = context.global_slots
        index = positions[..., None, None].expand(-1, -1, heads, width)
        blocks = (length + padding) // block

        def in_front(x_blhd: torch.Tensor, windows: torch.Tensor) -> torch.Tensor:
            globals_ = x_blhd.gather(1, index).transpose(1, 2).repeat_interleave(blocks, 0)
            return torch.cat([globals_, windows], 2)

        k_nhkd, v_nhkd = in_front(k_blhd, k_nhkd), in_front(v_blhd, v_nhkd)
    out_nhqd = products.attention(q_nhqd, k_nhkd, v_nhkd, mask, dropout)
    return out_nhqd.transpose(1, 2).reshape(batch, length + padding, heads, width)[:, :length]


def _query_block(window: int, on_cpu: bool, dtype: torch.dtype) -> int:
    """Tokens of a query block; divides the window. Half a window wastes less of it; a GPU's half-precision kernels like
    larger ones."""
    is_halved = (on_cpu or dtype == torch.float32) and window >= 256 and window % 2 == 0
    return window // 2 if is_halved else window


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


def window_mask(window: int, context: LongformerContext, dtype: torch.dtype) -> torch.Tensor:
    """For `blocked`: 0 or -inf, (n, 1, q, g + k); the columns of the global tokens come first."""
    batch, length = context.documents.shape
    device = context.documents.device
    block = _query_block(window, device.type == "cpu", dtype)
    padding = -length % block
    # Ids that no token has: -1 pads the last block, -2 stands before the first and after the last sequence, -3 in
    # unused global slots.
    document_ids = F.pad(context.document_ids.view(batch, length), (0, padding), value=-1).flatten()
    local = torch.ones_like(document_ids, dtype=torch.bool)
    if context.is_global is not None:
        local = ~F.pad(context.is_global, (0, padding)).flatten()
    distance = torch.arange(block + 2 * window, device=device) - torch.arange(block, device=device)[:, None]
    band = (distance >= 0) & (distance <= 2 * window)

    def windows(x: torch.Tensor, outside: int) -> torch.Tensor:
        return F.pad(x, (window, window), value=outside).unfold(0, block + 2 * window, block)[:, None]

    queries = document_ids.view(-1, block)[:, :, None]
    seen = band & (queries == windows(document_ids, -2)) & windows(local, False)
    if context.global_slots is not None:
        positions, used = context.global_slots
        global_ids = torch.where(used, context.document_ids.view(batch, length).gather(1, positions), -3)
        columns = global_ids.repeat_interleave((length + padding) // block, 0)[:, None]
        seen = torch.cat([queries == columns, seen], -1)
    return torch.zeros(seen.shape, dtype=dtype, device=device).masked_fill_(~seen, -torch.inf)[:, None]


# flex ---------------------------------------------------------------------------------------------------------------


def flex(inputs: AttentionInputs) -> torch.Tensor:
    """`torch.nn.attention.flex_attention` with a BlockMask of the documents, the windows and the global tokens."""
    assert not inputs.dropout
    q, k, v = (x.transpose(1, 2) for x in (inputs.q_blhd, inputs.k_blhd, inputs.v_blhd))
    return compiled_flex_attention(q, k, v, block_mask=inputs.layout.mask).transpose(1, 2)


def flex_mask(window: int, context: LongformerContext, dtype: torch.dtype) -> BlockMask:
    """For `flex`."""
    documents, is_global = context.documents, context.is_global
    length = documents.shape[1]

    def seen(batch: torch.Tensor, head: torch.Tensor, query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
        near = (query - key).abs() <= window
        if is_global is not None:
            near = near | is_global[batch, key]
        return near & (documents[batch, query] == documents[batch, key])

    block = torch.arange(-(-length // FLEX_BLOCK), device=documents.device)
    distance = (block[:, None] - block).abs()
    some = (distance - 1) * FLEX_BLOCK + 1 <= window
    whole = (distance + 1) * FLEX_BLOCK - 1 <= window
    some = some[None].expand(len(documents), -1, -1)
    if is_global is not None:
        holds_global = F.pad(is_global, (0, -length % FLEX_BLOCK)).unflatten(1, (-1, FLEX_BLOCK)).any(-1)
        some = some | holds_global[:, None]
    return block_mask(documents, some, whole, seen)


# varlen -------------------------------------------------------------------------------------------------------------


def varlen(inputs: AttentionInputs) -> torch.Tensor:
    """FlashAttention with a sliding window over documents of varying length; without global tokens."""
    q_blhd, k_blhd, v_blhd, (window, starts), context, dropout = inputs
    assert not dropout and context.is_global is None
    longest = q_blhd.shape[1]
    q, k, v = (x.flatten(0, 1) for x in (q_blhd, k_blhd, v_blhd))
    out: Any = varlen_attn(q, k, v, starts, starts, longest, longest, window_size=(window, window))
    return out.view_as(q_blhd)


def cumulative_lengths(window: int, context: LongformerContext, dtype: torch.dtype) -> torch.Tensor:
    """For `varlen`: where documents begin, padded with the end; (batch * (max_documents + 1) + 1,) int32."""
    ids = context.document_ids
    first = torch.ones_like(ids)
    first[1:] = ids[1:] != ids[:-1]
    # A sequence has at most max_documents documents and its padding: the shape doesn't depend on the documents.
    count = len(context.documents) * (context.max_documents + 1) + 1
    # Document n begins where the sum reaches n; the one after the last at the end.
    return torch.searchsorted(first.cumsum(0), torch.arange(1, count + 1, device=ids.device), out_int32=True)


BACKENDS = {
    "blocked": Backend(window_mask, blocked),
    "flex": Backend(flex_mask, flex),
    "varlen": Backend(cumulative_lengths, varlen),
}
