"""Documents in a packed sequence: where each begins, and how to take them apart.

`documents`, (batch, length) int64, numbers the documents of a sequence from 1; 0 is padding.
"""

from __future__ import annotations

import torch


def first_tokens(documents: torch.Tensor) -> torch.Tensor:
    """(batch, length) bool: True on the first token of each document."""
    first = documents > 0
    first[:, 1:] &= documents[:, 1:] != documents[:, :-1]
    return first


def locate_documents(documents: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """For each document of a batch its sequence, (documents,) int64, and its tokens' positions there, (documents,
    longest) int64, -1 after its end."""
    sequences, starts = first_tokens(documents).nonzero(as_tuple=True)
    lengths = (documents[sequences] == documents[sequences, starts][:, None]).sum(1)
    step = torch.arange(int(lengths.max()), device=documents.device)
    return sequences, torch.where(step < lengths[:, None], starts[:, None] + step, -1)
