"""Arrow files of a shard folder, in the stream format of `datasets`: `Dataset.from_file` reads them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tokenizer_tools.manifest import NOTES_TABLE_NAME
from tokenizer_tools.shards.earlier_notes import GroupNotes
from tokenizer_tools.shards.keep_list import KeepList
from tokenizer_tools.shards.sequences import PackedSequence

_BATCH = 1000
"""Sequences per Arrow record batch."""


def load_libraries() -> None:
    """Import what this module needs when it writes, ahead of time."""
    import datasets.arrow_writer  # noqa: F401


def write_sequences(path: Path, sequences: Sequence[PackedSequence], id_dtype: np.dtype[Any]) -> None:
    """Write a shard file, one row per sequence.

    Columns: input_ids (list<uint16>, or list<int32> for vocabularies over 65,536), segment_starts (list<int32>) and
    segment_notes (list<int64>, rows of the notes table).
    """
    import pyarrow as pa
    from datasets import Features, List, Value

    def lists(arrays: list[npt.NDArray[Any]]) -> pa.ListArray:
        offsets = np.concatenate([[0], np.cumsum([len(array) for array in arrays])]).astype(np.int32)
        return pa.ListArray.from_arrays(pa.array(offsets), pa.array(np.concatenate(arrays)))

    features = Features(
        {
            "input_ids": List(Value(id_dtype.name)),
            "segment_starts": List(Value("int32")),
            "segment_notes": List(Value("int64")),
        }
    )
    batches = (sequences[start : start + _BATCH] for start in range(0, len(sequences), _BATCH))
    tables = (
        pa.table({name: lists([getattr(sequence, name) for sequence in batch]) for name in features})
        for batch in batches
    )
    _write_arrow(path, features, tables)


def notes_tables(keep: KeepList, first_input: int, earlier: GroupNotes) -> Iterator[Any]:
    """Yield the rows of the notes table, part by part.

    Args:
        keep: the notes that stay.
        first_input: the number of their first input.
        earlier: what earlier shards hold of their patients: a patient's new notes are numbered behind these.
    """
    import pyarrow as pa

    for number in range(keep.scanned.parts):
        kept = keep.kept(number)
        columns = keep.scanned.columns(number, "groups", "categories", "sources")
        groups, categories, sources = (column[kept] for column in columns)
        order = np.asarray(keep.time_order[keep.scanned.notes_of(number)])[kept] + earlier.of(groups).sum(axis=1)
        yield pa.table(
            {
                "patient": pa.array([group.decode() for group in groups], pa.string()),
                "category": pa.array([category.decode() for category in categories], pa.string()),
                "source": pa.array(sources + np.int16(first_input)),
                "time_order": pa.array(order.astype(np.int32)),
            }
        )


def write_notes(folder: Path, tables: Iterable[Any]) -> None:
    """Write `notes.arrow`, one row per kept note in input order.

    Columns: patient (keyed hash), category, source (which input, from 0) and time_order (place among the patient's kept
    notes; appended ones stand behind the earlier ones, whose times shards don't hold).
    """
    from datasets import Features, Value

    features = Features(
        {
            "patient": Value("string"),
            "category": Value("string"),
            "source": Value("int16"),
            "time_order": Value("int32"),
        }
    )
    _write_arrow(folder / NOTES_TABLE_NAME, features, tables)


def _write_arrow(path: Path, features: Any, tables: Iterable[Any]) -> None:
    """Write tables to a temporary name, flush it to disk, rename it."""
    from datasets.arrow_writer import ArrowWriter

    path.parent.mkdir(exist_ok=True, mode=0o700)
    temporary = path.with_suffix(".tmp")
    with temporary.open("wb") as stream:
        with ArrowWriter(features=features, stream=stream) as writer:
            for table in tables:
                writer.write_table(table)
            writer.finalize(close_stream=False)
        stream.flush()
        os.fsync(stream.fileno())
    temporary.replace(path)
