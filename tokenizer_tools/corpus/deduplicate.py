"""Find exact duplicates, of which the first in input order stays, and rank notes by time."""

from __future__ import annotations

import hashlib

import numpy as np
import numpy.typing as npt

HASH_DTYPE = np.dtype("S32")


def text_hash(text: str) -> str:
    """First 128 bits of the text's sha256, hex."""
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def first_occurrences(hashes: npt.NDArray[np.bytes_]) -> npt.NDArray[np.bool_]:
    """True where a hash occurs for the first time.

    Args:
        hashes: (notes,), in input order.
    """
    first = np.zeros(len(hashes), dtype=bool)
    first[np.unique(hashes, return_index=True)[1]] = True
    return first


def ranks_within(groups: npt.NDArray[np.bytes_], times: npt.NDArray[np.bytes_]) -> npt.NDArray[np.int32]:
    """Rank the notes of each group by time: 0 for the earliest. Equal times keep their order.

    Args:
        groups: (notes,), the note's patient.
        times: (notes,), from `sort_key`.
    """
    order = np.lexsort((np.arange(len(groups)), times, groups))
    starts = np.ones(len(order), dtype=bool)
    starts[1:] = groups[order][1:] != groups[order][:-1]
    position = np.arange(len(order))
    start_of_group = np.maximum.accumulate(np.where(starts, position, 0))
    ranks = np.empty(len(order), dtype=np.int32)
    ranks[order] = position - start_of_group
    return ranks
