"""Token lists to rows of a fixed length: notes back to back, rows cut from the stream, nothing dropped.

This is how `run_mlm.py` groups texts, which made the corpus of Clinical-Longformer, except that it drops the
remainder: here the last row is shorter, and the collator pads it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class PackedRow:
    """One training row."""

    input_ids: npt.NDArray[np.integer]
    """(length,); only the last row of a stream is shorter."""
    segment_starts: npt.NDArray[np.int32]
    """(segments,): where each note (or the rest of one) begins. The first is 0."""
    segment_notes: npt.NDArray[np.int64]
    """(segments,): which note it is, a row of the notes table."""


def pack_rows(
    notes: Sequence[npt.NDArray[np.integer]], note_numbers: Sequence[int], length: int, dtype: npt.DTypeLike
) -> list[PackedRow]:
    """Cut a stream of notes into rows.

    Args:
        notes: each (tokens,), begin and end tokens included.
        note_numbers: each note's row in the notes table.
        length: tokens per row.
        dtype: of the ids.
    """
    notes_and_numbers = [(ids, number) for ids, number in zip(notes, note_numbers, strict=True) if len(ids)]
    if not notes_and_numbers:
        return []
    stream = np.concatenate([ids for ids, _ in notes_and_numbers]).astype(dtype)
    numbers = np.array([number for _, number in notes_and_numbers], dtype=np.int64)
    lengths = np.array([len(ids) for ids, _ in notes_and_numbers])
    begins = np.concatenate([[0], np.cumsum(lengths)[:-1]])
    rows = []
    for start in range(0, len(stream), length):
        stop = min(start + length, len(stream))
        first = int(np.searchsorted(begins, start, side="right")) - 1
        last = int(np.searchsorted(begins, stop, side="left"))
        rows.append(
            PackedRow(
                input_ids=stream[start:stop],
                segment_starts=np.maximum(begins[first:last] - start, 0).astype(np.int32),
                segment_notes=numbers[first:last],
            )
        )
    return rows
