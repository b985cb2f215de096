"""Find exact duplicates, of which the first in input order stays, and rank notes by time."""

from __future__ import annotations

import hashlib

import numpy as np
import numpy.typing as npt

from tokenizer_tools.corpus.times import sort_numbers

HASH_DTYPE = np.dtype("S32")


def text_hash(text: str) -> str:
    """First 128 bits of the text's sha256, hex."""
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def numbered(values: npt.NDArray[np.bytes_]) -> npt.NDArray[np.int64]:
    """(n,): the same number, from 0, for equal values, in no order.

    NumPy compares bytes one by one, so values are sorted by 64 bits that are made of each, ten times as fast. Another
    64 tell whether different values share the first.
    """
    width = -(-max(values.dtype.itemsize, 1) // 8)
    words = np.ascontiguousarray(values, f"S{8 * width}").view(np.uint64).reshape(-1, width)
    first, second = (_mixed(words, np.uint64(seed)) for seed in (0, 1))
    order = np.argsort(first)
    first, second = first[order], second[order]
    starts = np.append(True, first[1:] != first[:-1])[: len(values)]
    if (second[1:] != second[:-1])[~starts[1:]].any():
        return np.unique(values, return_inverse=True)[1]
    numbers = np.empty(len(values), np.int64)
    numbers[order] = np.cumsum(starts) - 1
    return numbers


def _mixed(words: npt.NDArray[np.uint64], seed: np.uint64) -> npt.NDArray[np.uint64]:
    """(n,): 64 bits of each row of (n, words)."""
    mixed = np.full(len(words), seed)
    for word in words.T:
        mixed = (mixed ^ word) * np.uint64(0x9E3779B97F4A7C15)
        mixed ^= mixed >> np.uint64(32)
    return mixed


def first_occurrences(hashes: npt.NDArray[np.bytes_]) -> npt.NDArray[np.bool_]:
    """True where a hash occurs for the first time.

    Args:
        hashes: (notes,), in input order.
    """
    numbers, places = numbered(hashes), np.arange(len(hashes))
    first = np.zeros(len(hashes), np.int64)
    first[numbers[::-1]] = places[::-1]  # of equal indices the last one counts
    return np.asarray(first[numbers] == places)


def ranks_within(groups: npt.NDArray[np.bytes_], times: npt.NDArray[np.bytes_]) -> npt.NDArray[np.int32]:
    """Rank the notes of each group by time: 0 for the earliest. Equal times keep their order.

    Args:
        groups: (notes,), the note's patient.
        times: (notes,), from `sort_key`.
    """
    numbers = numbered(groups)
    order = np.lexsort((sort_numbers(times), numbers))
    numbers = numbers[order]
    position = np.arange(len(order))
    starts = np.append(True, numbers[1:] != numbers[:-1])[: len(order)]
    ranks = np.empty(len(order), dtype=np.int32)
    ranks[order] = position - np.maximum.accumulate(np.where(starts, position, 0))
    return ranks
