"""Cut a micro-batch's context, to see what a long one is worth."""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F

from clinical_pretrain.data.collator import MicroBatch
from clinical_pretrain.models.attention.documents import first_tokens

CONTEXT_TOKENS = 512
"""Tokens of a piece: what BERT and its kin see."""


def cut_context(batch: MicroBatch, pad_id: int) -> MicroBatch:
    """Each sequence in pieces of CONTEXT_TOKENS, which become sequences of their own. The same tokens are masked, and
    predicted in the same order; all keep their positions, so that nothing differs but the context.

    Args:
        batch: (batch, length).
        pad_id: fills the last piece.

    Returns:
        (batch * pieces, CONTEXT_TOKENS).
    """
    length = batch.input_ids.shape[1]
    padding = -length % CONTEXT_TOKENS

    def cut(x: torch.Tensor, value: int = 0) -> torch.Tensor:
        return F.pad(x, (0, padding), value=value).view(-1, CONTEXT_TOKENS)

    documents, position_ids = cut(batch.documents), batch.position_ids
    if position_ids is None:
        position_ids = torch.arange(length).expand_as(batch.input_ids)
    return replace(
        batch,
        input_ids=cut(batch.input_ids, pad_id),
        documents=torch.where(documents > 0, first_tokens(documents).cumsum(1), 0),  # from 1 in each piece
        position_ids=cut(position_ids),
        positions=batch.positions + batch.positions // length * padding,
    )
