"""Shards, memory-mapped: sequences are read where they lie, without datasets, pandas or network."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tokenizer_tools.errors import UserError
from tokenizer_tools.manifest import NOTES_TABLE_NAME, Manifest
from tokenizer_tools.shard_reading import Lists, columns_of_lists, record_batches, whole_notes


@dataclass(frozen=True)
class PackedSequence:
    """One training sequence. Its arrays are views into the memory map: don't write to them."""

    input_ids: npt.NDArray[np.integer]
    """(tokens,), at most the manifest's sequence_length."""
    segment_starts: npt.NDArray[np.int32]
    """(segments,): where each note, or the rest of one, begins. The first is 0."""
    segment_notes: npt.NDArray[np.int64]
    """(segments,): which note it is, a row of the notes table."""


class Split:
    """The sequences of one split, in the order of the manifest.

    Raises:
        UserError: a file is missing, or holds another number of sequences than the manifest says.
    """

    def __init__(self, folder: Path, manifest: Manifest, name: str) -> None:
        self._batches: list[dict[str, Lists]] = []
        starts = [0]
        for entry in manifest.splits[name].files:
            batches = list(record_batches(folder / entry.path))
            if sum(batch.num_rows for batch in batches) != entry.sequences:
                raise UserError(
                    f"{folder / entry.path}: not the number of sequences in the manifest; build the shards again"
                )
            for batch in batches:
                self._batches.append(columns_of_lists(batch))
                starts.append(starts[-1] + batch.num_rows)
        self._starts = np.array(starts)

    @property
    def max_segments(self) -> int:
        """Largest number of segments in a sequence; 0 without sequences."""
        lengths = [np.diff(batch["segment_starts"][0]).max() for batch in self._batches]
        return int(max(lengths, default=0))

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __getitem__(self, number: int) -> PackedSequence:
        batch = int(np.searchsorted(self._starts, number, side="right")) - 1
        row = number - int(self._starts[batch])
        columns = {}
        for name, (offsets, values) in self._batches[batch].items():
            columns[name] = values[offsets[row] : offsets[row + 1]]
        return PackedSequence(**columns)

    def notes(self) -> Iterator[tuple[int, npt.NDArray[np.integer]]]:
        """Yield the notes in order: row of the notes table, and token ids, (tokens,)."""
        for notes in whole_notes(self._batches):
            yield from notes


def note_categories(folder: Path) -> tuple[npt.NDArray[np.int32], list[str]]:
    """Each note's category as an index, (notes,), and the categories' names."""
    table = pa.Table.from_batches(record_batches(folder / NOTES_TABLE_NAME)).select(["category"])
    encoded = table.column("category").combine_chunks().dictionary_encode()
    return encoded.indices.to_numpy(zero_copy_only=False), encoded.dictionary.to_pylist()


def note_patients(folder: Path, notes: npt.NDArray[np.int64]) -> set[str]:
    """Keyed hashes of the patients of some notes; of a note without a patient, of its admission or text.

    Args:
        folder: of the shards.
        notes: (notes,), rows of the notes table.
    """
    table = pa.Table.from_batches(record_batches(folder / NOTES_TABLE_NAME)).select(["patient"])
    return set(table.take(notes).column("patient").unique().to_pylist())
