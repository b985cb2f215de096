"""Read the Arrow files of a shard folder: record batches, and the notes in them. Needs pyarrow and numpy alone."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tokenizer_tools.errors import UserError

HASH_CHARACTERS = 32
"""Hexadecimal digits of a patient's hash."""
Lists = tuple[npt.NDArray[np.int32], npt.NDArray[Any]]
"""A column of lists: offsets, (rows + 1,), into the values of all rows."""


def record_batches(path: Path) -> Iterator[Any]:
    """Yield the record batches of an Arrow file, memory-mapped.

    Raises:
        UserError: the file is missing or damaged.
    """
    try:
        yield from pa.ipc.open_stream(pa.memory_map(str(path)))
    except FileNotFoundError:
        raise UserError(f"{path}: missing, though the manifest lists it; build or copy the shards again") from None
    except (pa.ArrowInvalid, OSError) as error:
        raise UserError(f"{path}: damaged ({type(error).__name__}); build or copy the shards again") from None


def columns_of_lists(batch: Any) -> dict[str, Lists]:
    """The columns of a shard file's record batch, by name: views into the memory map."""
    columns = zip(batch.schema.names, batch.columns, strict=True)
    return {name: (column.offsets.to_numpy(), column.values.to_numpy()) for name, column in columns}


def patient_hashes(column: Any) -> npt.NDArray[np.bytes_]:
    """The hashes in a column of the notes table, (rows,), a view of it.

    Raises:
        ValueError: a text has another length.
    """
    _, offsets, characters = column.buffers()
    bounds = np.frombuffer(offsets, np.int32)[column.offset : column.offset + len(column) + 1]
    if (np.diff(bounds) != HASH_CHARACTERS).any():
        raise ValueError
    return np.frombuffer(characters, f"S{HASH_CHARACTERS}", len(column), int(bounds[0]))


@dataclass(frozen=True)
class WholeNotes:
    """Some notes with all their tokens, back to back."""

    notes: npt.NDArray[np.int64]
    """(notes,): which note each is, a row of the notes table."""
    starts: npt.NDArray[np.int64]
    """(notes,): where each begins. The first is 0."""
    ids: npt.NDArray[np.integer]
    """(tokens,)"""

    def __iter__(self) -> Iterator[tuple[int, npt.NDArray[np.integer]]]:
        """Yield each note and its token ids."""
        stops = [*self.starts[1:].tolist(), len(self.ids)]
        for note, start, stop in zip(self.notes.tolist(), self.starts.tolist(), stops, strict=True):
            yield note, self.ids[start:stop]


def whole_notes(batches: Iterable[dict[str, Lists]]) -> Iterator[WholeNotes]:
    """Join the segments of each note, which may go on in the next sequences.

    Args:
        batches: columns input_ids, segment_starts and segment_notes of sequences in order.

    Yields:
        The notes of each batch, at least one. A batch's last note comes with the next batch, as it may go on there.
    """
    rest = WholeNotes(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.uint16))
    for columns in batches:
        (offsets, ids), (start_offsets, starts), (_, notes) = (
            columns[name] for name in ("input_ids", "segment_starts", "segment_notes")
        )
        positions = np.repeat(offsets[:-1].astype(np.int64), np.diff(start_offsets)) + starts + len(rest.ids)
        positions, notes = np.concatenate([rest.starts, positions]), np.concatenate([rest.notes, notes])
        ids = np.concatenate([rest.ids.astype(ids.dtype), ids])
        begins = np.ones(len(notes), dtype=bool)
        begins[1:] = notes[1:] != notes[:-1]
        notes, positions = notes[begins], positions[begins]
        if len(notes) > 1:
            yield WholeNotes(notes[:-1], positions[:-1], ids[: positions[-1]])
        if len(notes):
            rest = WholeNotes(notes[-1:], np.zeros(1, np.int64), ids[positions[-1] :])
    if len(rest.notes):
        yield rest
