"""The kept notes of the whole corpus, in buckets that fit into memory."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from tokenizer_tools.corpus.deduplicate import HASH_DTYPE
from tokenizer_tools.shards.scan import Outcome, ScannedNotes


def kept_by_hash(
    scanned: ScannedNotes, outcomes: npt.NDArray[np.uint8], buckets: int, hashed: str, *others: str
) -> Iterator[tuple[npt.NDArray[np.int64], npt.NDArray[np.bytes_]]]:
    """Yield the kept notes in buckets. Notes with the same value in the column `hashed` share a bucket, and a bucket
    fits into memory, however large the corpus is.

    Args:
        scanned: has the columns.
        outcomes: (notes read,): Outcome.
        buckets: how many.
        hashed: a column of hashes.
        others: more columns.

    Yields:
        (notes,): the notes' numbers among all notes, ascending; (notes, 1 + others): the columns' values.
    """
    for bucket in range(buckets):
        indices, columns = [], []
        for number in range(scanned.parts):
            values = scanned.columns(number, hashed, *others)
            chosen = outcomes[scanned.notes_of(number)] == Outcome.KEPT
            if buckets > 1:
                chosen &= _bucket_of(values[0], buckets) == bucket
            indices.append(np.flatnonzero(chosen) + scanned.starts[number])
            columns.append(np.stack([column[chosen].astype(HASH_DTYPE) for column in values], axis=1))
        yield np.concatenate(indices), np.concatenate(columns)


def _bucket_of(hashes: npt.NDArray[np.bytes_], buckets: int) -> npt.NDArray[np.uint64]:
    """(notes,): a number below `buckets` that equal hashes share."""
    first_digits = np.ascontiguousarray(hashes).view(np.uint64)[:: HASH_DTYPE.itemsize // 8]
    mixed = (first_digits * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(32)  # text has few different low bits
    return mixed % np.uint64(buckets)
