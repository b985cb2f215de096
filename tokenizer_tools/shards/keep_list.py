"""Stage 2, keep list: decide over the whole corpus which notes stay, and order each patient's notes by time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from tempfile import TemporaryFile
from typing import Any

import numpy as np
import numpy.typing as npt

from tokenizer_tools.corpus.deduplicate import HASH_DTYPE, first_occurrences, numbered, ranks_within
from tokenizer_tools.corpus.times import sort_key
from tokenizer_tools.errors import UserError
from tokenizer_tools.manifest import SPLITS
from tokenizer_tools.shards.copied import leave_out_copies
from tokenizer_tools.shards.earlier_notes import EarlierNotes, GroupNotes
from tokenizer_tools.shards.folder import ShardBuild
from tokenizer_tools.shards.near_duplicates import near_duplicates
from tokenizer_tools.shards.scan import Named, Outcome, ScannedNotes
from tokenizer_tools.shards.shingles import save_array
from tokenizer_tools.shards.summary import describe_dropped
from tokenizer_tools.shards.workers import Workers

NOTES_IN_MEMORY = 2_000_000
"""Notes whose hashes are compared at once, 200 bytes each."""
_TO_CHECK = {
    Outcome.DROPPED_EMPTY: "--columns.text",
    Outcome.DROPPED_INVALID_UTF8: "the encoding, which must be UTF-8",
    Outcome.DROPPED_MALFORMED: "how the rows are written",
    Outcome.DROPPED_NO_PATIENT: "--columns.patient",
    Outcome.DROPPED_MARKED_ERROR: "--columns.error",
    Outcome.DROPPED_FILTERED: "the filters of --sources",
    Outcome.DROPPED_UNLISTED: "--split.lists",
}
"""What to look at where all notes are dropped, some of them for this reason."""


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


def make_keep_list(
    scanned: ScannedNotes, build: ShardBuild, workers: Workers, earlier: EarlierNotes | None = None
) -> KeepList:
    """Make the keep list, or open that of an earlier build.

    Args:
        scanned: the notes.
        build: the build.
        workers: compare near-duplicates.
        earlier: the notes of the shards that these are appended to. They stay.

    Raises:
        UserError: no note stays.
    """
    paths = [build.work / "outcome.npy", build.work / "time_order.npy"]
    if not all(path.exists() for path in paths):
        outcomes = np.concatenate([scanned.column(number, "outcomes") for number in range(scanned.parts)])
        for index, (hashes,) in _kept_by_hash(scanned, outcomes, "hashes"):
            outcomes[index[~first_occurrences(hashes)]] = Outcome.DROPPED_DUPLICATE
        if earlier:
            outcomes[earlier.known(outcomes == Outcome.KEPT)] = Outcome.DROPPED_DUPLICATE
        if build.settings.duplicates.near != "off":
            outcomes[_near(scanned, outcomes == Outcome.KEPT, build, workers, earlier)] = Outcome.DROPPED_NEAR_DUPLICATE
        time_order = _time_order(scanned, outcomes)
        if build.settings.duplicates.copied == "drop":
            leave_out_copies(scanned, outcomes, time_order, build, workers)
            time_order = _time_order(scanned, outcomes)
        for path, array in zip(paths, (outcomes, time_order), strict=True):
            save_array(path, array)
    keep = KeepList(scanned, *(np.load(path, mmap_mode="r") for path in paths))
    if not (keep.outcomes == Outcome.KEPT).any():
        counts = np.bincount(keep.outcomes, minlength=len(Outcome)).tolist()
        raise _nothing_kept({one: counts[one] for one in Outcome if counts[one]}, build)
    return keep


def _nothing_kept(counts: dict[Outcome, int], build: ShardBuild) -> UserError:
    """What to say if no note stays. Of the notes read, so many were dropped for each reason that occurs."""
    read, reasons = sum(counts.values()), describe_dropped({one.name.lower(): count for one, count in counts.items()})
    if build.appends:
        is_known = counts.keys() & {Outcome.DROPPED_DUPLICATE, Outcome.DROPPED_NEAR_DUPLICATE}
        return UserError(
            f"nothing to append: none of the {read:,} notes {'is new' if is_known else 'can be used'} ({reasons}); "
            f"{build.out.parents[1]} are as they were"
        )
    if counts.keys() <= {Outcome.DROPPED_EMPTY}:
        return UserError(f"no note with text in the input ({read:,} read); check --notes and --columns.text")
    check = ", ".join(what for outcome, what in _TO_CHECK.items() if outcome in counts)
    return UserError(f"no note is left of the {read:,} in the input ({reasons}); check --notes, and {check}")


def first_notes_of_patients(keep: KeepList) -> npt.NDArray[np.int32]:
    """(notes read,): the number of the first note of each note's patient; else of its admission, else of its text.
    Dropped notes count, too."""
    first = np.zeros(len(keep.outcomes), np.int32)
    for index, (groups,) in _kept_by_hash(keep.scanned, np.full_like(keep.outcomes, Outcome.KEPT), "groups"):
        _, firsts, group = np.unique(numbered(groups), return_index=True, return_inverse=True)
        first[index] = index[firsts][group]
    return first


def _near(
    scanned: ScannedNotes,
    candidates: npt.NDArray[np.bool_],
    build: ShardBuild,
    workers: Workers,
    earlier: EarlierNotes | None,
) -> npt.NDArray[np.int64]:
    """(n,): the numbers of the notes that are near-duplicates."""
    splits = np.concatenate([scanned.column(number, "splits") for number in range(scanned.parts)])
    if earlier is None:
        return near_duplicates(build.shingles, scanned.starts, candidates, splits, workers)[:, 0]
    starts = [*earlier.starts, *(earlier.starts[-1] + start for start in scanned.starts[1:])]
    candidates = np.concatenate([np.ones(earlier.starts[-1], dtype=bool), candidates])
    splits = np.concatenate([earlier.splits, splits])
    pairs = near_duplicates(build.shingles, starts, candidates, splits, workers, earlier.starts[-1])
    return pairs[:, 0] - earlier.starts[-1]


def _time_order(scanned: ScannedNotes, outcomes: npt.NDArray[np.uint8]) -> npt.NDArray[np.int32]:
    """(notes read,): the place of each kept note among its patient's, by time."""
    time_order = np.zeros(len(outcomes), np.int32)
    for index, (groups, times) in _kept_by_hash(scanned, outcomes, "groups", "times"):
        time_order[index] = ranks_within(groups, times)
    return time_order


def _kept_by_hash(
    scanned: ScannedNotes, outcomes: npt.NDArray[np.uint8], hashed: str, *others: str
) -> Iterator[tuple[npt.NDArray[np.int64], list[npt.NDArray[Any]]]]:
    """Yield the kept notes in buckets. Notes with the same value in the column `hashed` share a bucket, and a bucket
    fits into memory, however large the corpus is. Each part is read once, as opening its file takes the longest.

    Yields:
        (notes,): the notes' numbers among all notes, ascending; and (notes,): each of the columns.
    """
    names, buckets = (hashed, *others), -(-len(outcomes) // NOTES_IN_MEMORY)
    dtypes = (HASH_DTYPE if column.dtype.kind == "S" else column.dtype for column in scanned.columns(0, *names))
    record = np.dtype([("note", np.int64), *zip(names, dtypes, strict=True)])
    with ExitStack() as stack:
        files = [stack.enter_context(TemporaryFile(dir=scanned.folder)) for _ in range(buckets)]
        for number in range(scanned.parts):
            chosen = outcomes[scanned.notes_of(number)] == Outcome.KEPT
            records = np.empty(np.count_nonzero(chosen), record)
            records["note"] = np.flatnonzero(chosen) + scanned.starts[number]
            for name, column in zip(names, scanned.columns(number, *names), strict=True):
                records[name] = column[chosen]
            bucket_of = _bucket_of(records[hashed], buckets)
            for bucket, file in enumerate(files):
                file.write(records[bucket_of == bucket].data)
        for file in files:
            file.seek(0)
            records = np.frombuffer(file.read(), record)
            yield records["note"], [records[name] for name in names]


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


def count_people(keep: KeepList, earlier: GroupNotes) -> PeopleCounts:
    """Count distinct patients and admissions of the kept notes that earlier shards don't hold in the same split."""
    counts, in_several = np.zeros((len(Named), len(SPLITS)), np.int64), 0
    for _, (groups, named, splits) in _kept_by_hash(keep.scanned, keep.outcomes, "groups", "named", "splits"):
        numbers = numbered(groups) * len(Named) + named
        _, first, person_of = np.unique(numbers, return_index=True, return_inverse=True)
        before = earlier.of(groups[first]) > 0
        now = before.copy()
        now[person_of, splits] = True
        np.add.at(counts, named[first], now & ~before)
        in_several += int(((now.sum(axis=1) > 1) & (before.sum(axis=1) <= 1))[named[first] == Named.PATIENT].sum())
    return PeopleCounts(counts[Named.PATIENT].tolist(), counts[Named.ADMISSION].tolist(), in_several)


def count_notes(keep: KeepList) -> list[int]:
    """Kept notes in each split."""
    notes = np.zeros(len(SPLITS), np.int64)
    for number in range(keep.scanned.parts):
        notes += np.bincount(keep.scanned.column(number, "splits")[keep.kept(number)], minlength=len(SPLITS))
    counted: list[int] = notes.tolist()
    return counted


def count_times(keep: KeepList) -> dict[str, int]:
    """How many kept notes have no time, and how many have something in a time column that can't be read."""
    counts = {"kept_without_time": 0, "kept_unreadable_time": 0}
    for number in range(keep.scanned.parts):
        times, unreadable = keep.scanned.columns(number, "times", "unreadable_times")
        kept = keep.kept(number)
        counts["kept_without_time"] += int((times[kept] == sort_key("")).sum())
        counts["kept_unreadable_time"] += int(unreadable[kept].sum())
    return counts
