"""Stage 2, keep list: decide over the whole corpus which notes stay, and order each patient's notes by time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tokenizer_tools.corpus.deduplicate import HASH_DTYPE, first_occurrences, ranks_within
from tokenizer_tools.corpus.times import sort_key
from tokenizer_tools.errors import UserError
from tokenizer_tools.manifest import SPLITS
from tokenizer_tools.shards.copied import leave_out_copies
from tokenizer_tools.shards.folder import ShardBuild
from tokenizer_tools.shards.near_duplicates import near_duplicates
from tokenizer_tools.shards.scan import Named, Outcome, ScannedNotes
from tokenizer_tools.shards.shingles import save_array

NOTES_IN_MEMORY = 4_000_000
"""Notes whose hashes are compared at once, 60 bytes each."""


@dataclass(frozen=True)
class KeepList:
    """What becomes of each note. The arrays are memory-mapped."""

    scanned: ScannedNotes
    outcomes: npt.NDArray[np.uint8]
    """(notes read,): Outcome."""
    time_order: npt.NDArray[np.int32]
    """(notes read,): the note's place among its patient's kept notes, by time."""

    def kept(self, number: int) -> npt.NDArray[np.bool_]:
        """(notes of the part,): which notes of a part stay."""
        return np.asarray(self.outcomes[self.scanned.notes_of(number)]) == Outcome.KEPT


def make_keep_list(scanned: ScannedNotes, build: ShardBuild, workers: int | None) -> KeepList:
    """Make the keep list, or open that of an earlier build.

    Raises:
        UserError: no note stays.
    """
    paths = [build.work / "outcome.npy", build.work / "time_order.npy"]
    if not all(path.exists() for path in paths):
        outcomes = np.concatenate([scanned.column(number, "outcomes") for number in range(scanned.parts)])
        for index, columns in _kept_by_hash(scanned, outcomes, "hashes"):
            outcomes[index[~first_occurrences(columns[:, 0])]] = Outcome.DROPPED_DUPLICATE
        if build.settings.duplicates.near != "off":
            splits = np.concatenate([scanned.column(number, "splits") for number in range(scanned.parts)])
            pairs = near_duplicates(build.shingles, scanned.starts, outcomes == Outcome.KEPT, splits, workers)
            outcomes[pairs[:, 0]] = Outcome.DROPPED_NEAR_DUPLICATE
        time_order = _time_order(scanned, outcomes)
        if build.settings.duplicates.copied == "drop":
            leave_out_copies(scanned, outcomes, time_order, build, workers)
            time_order = _time_order(scanned, outcomes)
        for path, array in zip(paths, (outcomes, time_order), strict=True):
            save_array(path, array)
    keep = KeepList(scanned, *(np.load(path, mmap_mode="r") for path in paths))
    if not (keep.outcomes == Outcome.KEPT).any():
        raise UserError(
            f"no note with text in the input ({len(keep.outcomes):,} read); check --notes and --columns.text"
        )
    return keep


def _time_order(scanned: ScannedNotes, outcomes: npt.NDArray[np.uint8]) -> npt.NDArray[np.int32]:
    """(notes read,): the place of each kept note among its patient's, by time."""
    time_order = np.zeros(len(outcomes), np.int32)
    for index, columns in _kept_by_hash(scanned, outcomes, "groups", "times"):
        time_order[index] = ranks_within(columns[:, 0], columns[:, 1])
    return time_order


def _kept_by_hash(
    scanned: ScannedNotes, outcomes: npt.NDArray[np.uint8], hashed: str, *others: str
) -> Iterator[tuple[npt.NDArray[np.int64], npt.NDArray[np.bytes_]]]:
    """Yield the kept notes in buckets. Notes with the same value in the column `hashed` share a bucket, and a bucket
    fits into memory, however large the corpus is.

    Yields:
        (notes,): the notes' numbers among all notes, ascending; (notes, 1 + others): the columns' values.
    """
    buckets = -(-len(outcomes) // NOTES_IN_MEMORY)
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


@dataclass(frozen=True)
class PeopleCounts:
    """Whose the kept notes are."""

    patients: list[int]
    """Distinct patients in each split."""
    admissions: list[int]
    """Distinct admissions of notes without a patient in each split."""
    patients_in_several_splits: int


def count_people(keep: KeepList) -> PeopleCounts:
    """Count distinct patients and admissions of the kept notes."""
    counts, in_several = {Named.PATIENT: [0] * len(SPLITS), Named.ADMISSION: [0] * len(SPLITS)}, 0
    for _, columns in _kept_by_hash(keep.scanned, keep.outcomes, "groups", "named", "splits"):
        groups, named, splits = np.unique(columns, axis=0).T
        for kind, by_split in counts.items():
            is_kind = named == str(int(kind)).encode()
            for split in range(len(SPLITS)):
                by_split[split] += int((splits[is_kind] == str(split).encode()).sum())
        splits_of_patient = np.unique(groups[named == str(int(Named.PATIENT)).encode()], return_counts=True)[1]
        in_several += int((splits_of_patient > 1).sum())
    return PeopleCounts(counts[Named.PATIENT], counts[Named.ADMISSION], in_several)


def count_times(keep: KeepList) -> dict[str, int]:
    """How many kept notes have no time, and how many have something in a time column that can't be read."""
    counts = {"kept_without_time": 0, "kept_unreadable_time": 0}
    for number in range(keep.scanned.parts):
        times, unreadable = keep.scanned.columns(number, "times", "unreadable_times")
        kept = keep.kept(number)
        counts["kept_without_time"] += int((times[kept] == sort_key("")).sum())
        counts["kept_unreadable_time"] += int(unreadable[kept].sum())
    return counts
