"""Notes to sequences of a fixed length.

Notes stand back to back, sequences are cut from the stream, and nothing is dropped. `run_mlm.py`, which made the corpus
of Clinical-Longformer, groups texts in the same way, but drops the remainder; here the last sequence is shorter, and
the collator pads it. Where sequences mustn't cross patients, each patient's notes are a stream of their own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

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
    notes: Sequence[npt.NDArray[np.integer]],
    note_numbers: Sequence[int],
    length: int,
    dtype: npt.DTypeLike,
    patients: npt.NDArray[np.integer] | None = None,
) -> list[PackedSequence]:
    """Cut a stream of notes into sequences.

    Args:
        notes: each (tokens,), begin and end tokens included.
        note_numbers: each note's row in the notes table.
        length: tokens per sequence.
        dtype: of the ids.
        patients: (notes,), a number for each note's patient, whose notes stand together. A sequence then holds notes of
            one patient alone. None: of whichever.
    """
    lengths = np.array([len(ids) for ids in notes], np.int64)
    if not lengths.any():
        return []
    stream = np.concatenate(notes).astype(dtype)
    has_tokens = lengths > 0
    numbers = np.array(note_numbers, np.int64)[has_tokens]
    note_starts = (np.cumsum(lengths) - lengths)[has_tokens]
    begins = np.arange(len(numbers)) == 0  # notes that begin a stream
    if patients is not None:
        begins[1:] = np.diff(patients[has_tokens]) != 0
    sequences = []
    for stream_start, stream_end in pairwise([*note_starts[begins].tolist(), len(stream)]):
        for start in range(stream_start, stream_end, length):
            stop = min(start + length, stream_end)
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
