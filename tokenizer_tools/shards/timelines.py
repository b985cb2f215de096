"""Which notes stand together with `pack: timeline`: those of a patient, in time order.

Patients are in the order of their first notes in the input. Every `notes_per_part` notes another shard file begins,
with the next patient. So no patient is torn, and a file holds that many notes and at most one patient more. Dropped
notes count, too. So:

- an input sorted by patient is read from front to back; a shard file of any other gathers its notes from many parts;
- the order doesn't depend on the patient key;
- a patient without text has the same place as before: `withdraw` moves nobody else to another file.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tokenizer_tools.shards.folder import ShardBuild
from tokenizer_tools.shards.keep_list import KeepList, first_notes_of_patients
from tokenizer_tools.shards.scan import Outcome
from tokenizer_tools.shards.shingles import save_array


@dataclass(frozen=True)
class Timelines:
    """The kept notes of some patients: patient after patient, and the notes of each in time order."""

    number: int
    """Of their shard file in each split."""
    notes: npt.NDArray[np.int32]
    """(notes,), numbers among all notes."""
    rows: npt.NDArray[np.int32]
    """(notes,), rows of the notes table."""
    patients: npt.NDArray[np.int32]
    """(notes,), the number of the patient's first note."""
    splits: npt.NDArray[np.uint8]
    """(notes,)"""


def order_timelines(keep: KeepList, build: ShardBuild) -> list[Timelines]:
    """Divide the kept notes into timelines, one item for each shard file of a split. Memory: 45 bytes per note."""
    path = build.work / "first_notes.npy"
    if not path.exists():
        save_array(path, first_notes_of_patients(keep))
    first_notes: npt.NDArray[np.int32] = np.load(path, mmap_mode="r")
    file_of = _files(first_notes, build.settings.notes_per_part)
    kept = np.flatnonzero(keep.outcomes == Outcome.KEPT).astype(np.int32)
    rows = np.lexsort((keep.time_order[kept], first_notes[kept])).astype(np.int32)
    notes = kept[rows]
    patients = first_notes[notes]
    splits = np.concatenate([keep.scanned.column(number, "splits") for number in range(keep.scanned.parts)])[notes]
    files = file_of[patients]
    starts = np.flatnonzero(np.diff(files, prepend=-1))
    cut = (np.split(column, starts[1:]) for column in (notes, rows, patients, splits))
    return [Timelines(number, *columns) for number, *columns in zip(files[starts].tolist(), *cut, strict=True)]


def _files(first_notes: npt.NDArray[np.int32], notes_per_file: int) -> npt.NDArray[np.int32]:
    """(notes,): for the number of a patient's first note the number of the patient's shard file."""
    sizes = np.bincount(first_notes, minlength=len(first_notes))
    before = np.cumsum(sizes)
    before -= sizes
    before //= notes_per_file
    return before.astype(np.int32)
