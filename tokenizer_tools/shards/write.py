"""Arrow files of a shard folder, in the stream format of `datasets`: `Dataset.from_file` reads them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tokenizer_tools.manifest import NOTES_TABLE_NAME, SPLITS
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


def write_notes_table(folder: Path, keep: KeepList) -> list[int]:
    """Write the notes table of a build.

    Returns:
        Notes in each split.
    """
    import pyarrow as pa

    notes = np.zeros(len(SPLITS), np.int64)

    def tables() -> Iterator[pa.Table]:
        for number in range(keep.scanned.parts):
            kept = keep.kept(number)
            names = ("groups", "categories", "sources", "splits")
            groups, categories, sources, splits = (column[kept] for column in keep.scanned.columns(number, *names))
            notes[:] += np.bincount(splits, minlength=len(SPLITS))
            yield pa.table(
                {
                    "patient": pa.array([group.decode() for group in groups], pa.string()),
                    "category": pa.array([category.decode() for category in categories], pa.string()),
                    "source": pa.array(sources),
                    "time_order": pa.array(np.asarray(keep.time_order[keep.scanned.notes_of(number)])[kept]),
                }
            )

    write_notes(folder, tables())
    return [int(count) for count in notes]


def write_notes(folder: Path, tables: Iterable[Any]) -> None:
    """Write `notes.arrow`, one row per kept note in input order.

    Columns: patient (keyed hash), category, source (which input, from 0) and time_order (place among the patient's kept
    notes).
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
