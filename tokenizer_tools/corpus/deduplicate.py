"""Exact duplicates: of notes with the same cleaned text, the first in input order stays."""

from __future__ import annotations

import hashlib

import numpy as np
import numpy.typing as npt

HASH_DTYPE = np.dtype("S32")


def text_hash(text: str) -> str:
    """First 128 bits of the text's sha256, hex."""
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def first_occurrences(hashes: npt.NDArray[np.bytes_]) -> npt.NDArray[np.bool_]:
    """True where a hash stands for the first time.

    Args:
        hashes: (notes,), in input order.
    """
    first = np.zeros(len(hashes), dtype=bool)
    first[np.unique(hashes, return_index=True)[1]] = True
    return first


def ranks_within(groups: npt.NDArray[np.bytes_], times: npt.NDArray[np.bytes_]) -> npt.NDArray[np.int32]:
    """0 for a group's earliest, 1 for its next, and so on; equal times keep their order.

    Args:
        groups: (notes,), whose note it is.
        times: (notes,), ISO dates, empty where there is none.
    """
    order = np.lexsort((np.arange(len(groups)), times, groups))
    starts = np.ones(len(order), dtype=bool)
    starts[1:] = groups[order][1:] != groups[order][:-1]
    position = np.arange(len(order))
    start_of_group = np.maximum.accumulate(np.where(starts, position, 0))
    ranks = np.empty(len(order), dtype=np.int32)
    ranks[order] = position - start_of_group
    return ranks
