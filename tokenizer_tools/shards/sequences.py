"""Notes to sequences of a fixed length.

Notes stand back to back, sequences are cut from the stream, and nothing is dropped. `run_mlm.py`, which made the corpus
of Clinical-Longformer, groups texts in the same way, but drops the remainder; here the last sequence is shorter, and
the collator pads it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class PackedSequence:
    """One training sequence."""

    input_ids: npt.NDArray[np.integer]
    """(length,); only the last sequence of a stream is shorter."""
    segment_starts: npt.NDArray[np.int32]
    """(segments,): where each note, or the rest of one, begins. The first is 0."""
    segment_notes: npt.NDArray[np.int64]
    """(segments,): which note it is, a row of the notes table."""


def pack_sequences(
    notes: Sequence[npt.NDArray[np.integer]], note_numbers: Sequence[int], length: int, dtype: npt.DTypeLike
) -> list[PackedSequence]:
    """Cut a stream of notes into sequences.

    Args:
        notes: each (tokens,), begin and end tokens included.
        note_numbers: each note's row in the notes table.
        length: tokens per sequence.
        dtype: of the ids.
    """
    notes_and_numbers = [(ids, number) for ids, number in zip(notes, note_numbers, strict=True) if len(ids)]
    if not notes_and_numbers:
        return []
    stream = np.concatenate([ids for ids, _ in notes_and_numbers]).astype(dtype)
    numbers = np.array([number for _, number in notes_and_numbers], dtype=np.int64)
    lengths = np.array([len(ids) for ids, _ in notes_and_numbers])
    note_starts = np.concatenate([[0], np.cumsum(lengths)[:-1]])
    sequences = []
    for start in range(0, len(stream), length):
        stop = min(start + length, len(stream))
        first = int(np.searchsorted(note_starts, start, side="right")) - 1
        last = int(np.searchsorted(note_starts, stop, side="left"))
        sequences.append(
            PackedSequence(
                input_ids=stream[start:stop],
                segment_starts=np.maximum(note_starts[first:last] - start, 0).astype(np.int32),
                segment_notes=numbers[first:last],
            )
        )
    return sequences
