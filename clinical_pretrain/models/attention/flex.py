"""flex_attention, as the attention of every family uses it."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch.nn.attention.flex_attention import BlockMask, flex_attention

FLEX_BLOCK = 128
"""Tokens of a block, where the family has no block size of its own."""

COMPILE_OPTIONS: dict[str, Any] = {"max_autotune": True, "max_autotune_gemm_backends": "ATEN"}
"""By default flex_attention uses kernels with tiles of 128 tokens on Ampere, Hopper and Blackwell, which blocks of 64,
as BigBird's, don't fit. Among those that max_autotune tries some fit. Matrix products are left as they are."""

RECOMPILE_LIMIT = 64
"""Compiled versions of one function: layers may need one per window, and torch gives up after 8 by default."""


def raise_recompile_limit() -> None:
    """Call it before compiling code that all layers share. Sets a private option of torch, recompile_limit."""
    import torch._dynamo

    settings: Any = torch._dynamo.config
    settings.recompile_limit = max(RECOMPILE_LIMIT, settings.recompile_limit)


@cache
def _compiled() -> Callable[..., torch.Tensor]:
    raise_recompile_limit()
    return torch.compile(flex_attention, dynamic=False, options=COMPILE_OPTIONS)


def compiled_flex_attention(q_bhld: torch.Tensor, *rest: torch.Tensor, **options: Any) -> torch.Tensor:
    """flex_attention, compiled on a GPU; uncompiled on a CPU, where it has no backward pass."""
    function: Any = _compiled() if q_bhld.is_cuda and not torch.compiler.is_compiling() else flex_attention
    out: torch.Tensor = function(q_bhld, *rest, **options)
    return out


def block_mask(documents: torch.Tensor, some: torch.Tensor, whole: torch.Tensor, seen: Callable[..., Any]) -> BlockMask:
    """Make a BlockMask from blocks, without asking about every token.

    Args:
        documents: (batch, length) int64.
        some: (batch, query blocks, key blocks) bool: whether the pattern lets some query of the block see some key.
        whole: (query blocks, key blocks) bool: whether it lets every query of the block see every key.
        seen: mask_mod over batch, head, query and key: pattern and documents.
    """
    length = documents.shape[1]
    blocks = F.pad(documents, (0, -length % FLEX_BLOCK), value=-1).unflatten(1, (-1, FLEX_BLOCK))
    low, high = blocks.min(-1).values, blocks.max(-1).values
    one = (low == high)[:, :, None] & (low == high)[:, None, :] & (low[:, :, None] == low[:, None, :])
    full = whole & one & some
    counts, order = chosen_first((some & ~full)[:, None])
    full_counts, full_order = chosen_first(full[:, None])
    return BlockMask.from_kv_blocks(
        counts, order, full_counts, full_order, BLOCK_SIZE=FLEX_BLOCK, mask_mod=seen, seq_lengths=(length, length)
    )


def chosen_first(chosen: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(…, rows, columns) bool -> number of chosen columns per row, (…, rows) int32, and all columns, the chosen ones
    first, (…, rows, columns) int32."""
    order = chosen.to(torch.int8).argsort(dim=-1, descending=True, stable=True)
    return chosen.sum(-1).int(), order.int()
