"""Checks of the shard files' contents: sequences, segments, token ids and note borders, one record batch at a time.

Of each note a hash of its token ids stays, in numpy arrays; `notes.py` compares these over all files.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tokenizer_tools.errors import UserError
from tokenizer_tools.manifest import SPLITS, Manifest, ShardFile
from tokenizer_tools.progress import Progress
from tokenizer_tools.shard_reading import Lists, WholeNotes, columns_of_lists, record_batches, whole_notes
from tokenizer_tools.shards.verify.checks import COPY, Check

WITHIN, AFTER_FULL, AFTER_SHORT = range(3)
"""Where a note begins: within a sequence; with one, after one of full length; or after a shorter one, or none."""


@dataclass
class FoundNotes:
    """The notes of the shard files, in the order of the manifest."""

    numbers: npt.NDArray[np.int64]
    """(notes,): rows of the notes table."""
    splits: npt.NDArray[np.int8]
    """(notes,): index into SPLITS."""
    hashes: npt.NDArray[np.uint64]
    """(notes, 2): 128 bits of the sha256 of the token ids."""
    has_unknown: npt.NDArray[np.bool_]
    """(notes,): whether one of its tokens is the unknown token."""
    is_empty: npt.NDArray[np.bool_]
    """(notes,): whether it has no token but those that begin and end it."""


class _FaultyFileError(Exception):
    """The rest of a file can't be read; its fault is recorded."""


@dataclass
class SequenceChecks:
    """Reads the shard files and checks what can be checked batch by batch.

    Args:
        folder: of the shards.
        manifest: theirs.
        forbidden: (vocabulary,), True for the token ids that no note may contain.
    """

    folder: Path
    manifest: Manifest
    forbidden: npt.NDArray[np.bool_]
    format: Check = field(default_factory=lambda: Check("format"))
    counts: Check = field(default_factory=lambda: Check("counts"))
    sequences: Check = field(default_factory=lambda: Check("sequences"))
    token_ids: Check = field(default_factory=lambda: Check("token ids"))
    borders: Check = field(default_factory=lambda: Check("note borders"))
    unread: str = ""
    """The first file that couldn't be read to its end; empty if all could."""
    unknown_tokens: int = 0
    placeholder_tokens: Counter[str] = field(default_factory=Counter)
    """By token: how often each stands in the notes."""
    tokens: int = 0
    highest_id: int = 0
    begins: list[npt.NDArray[np.int8]] = field(default_factory=lambda: [np.zeros(0, np.int8)])
    """With pack timeline, of each note in order: WITHIN, AFTER_FULL or AFTER_SHORT."""

    def read(self, there: set[str]) -> FoundNotes:
        """Read the shard files that are there."""
        parts: list[FoundNotes] = []
        kept = self.manifest.counts.get("kept")
        with Progress("verifying", total=kept) as progress:
            for split, name in enumerate(SPLITS):
                sums = {"sequences": 0, "tokens": 0, "notes": 0}
                for entry in self.manifest.splits[name].files:
                    file = _File(self, entry)
                    try:
                        if entry.path not in there:
                            raise _FaultyFileError
                        for notes in file.notes():
                            parts.append(self._found(notes, split))
                            sums["notes"] += len(notes.notes)
                            progress.advance(len(notes.notes))
                        file.compare_counts()
                    except _FaultyFileError:
                        self.unread = self.unread or entry.path
                    sums["sequences"] += file.count
                    sums["tokens"] += file.tokens
                self.tokens += sums["tokens"]
                self._compare_sums(name, sums)
        self.sequences.found = f"{self.tokens:,} tokens in sequences of {self.manifest.sequence_length:,}"
        self.token_ids.found = f"up to {self.highest_id:,}, of {len(self.forbidden):,} in the vocabulary"
        found = _joined(parts)
        self.borders.found = f"{len(found.numbers):,} notes"
        return found

    def _compare_sums(self, split: str, sums: dict[str, int]) -> None:
        if self.unread:
            self.counts.not_checked = f"{self.unread} couldn't be read"
            return
        said = self.manifest.splits[split]
        for what, found in sums.items():
            self.counts.compare(f"{what} of the split", split, found, getattr(said, what))
        self.counts.found += f"{', ' if self.counts.found else ''}{split} {sums['notes']:,} notes"

    def _found(self, notes: WholeNotes, split: int) -> FoundNotes:
        stops = np.append(notes.starts[1:], len(notes.ids))
        unknown = np.flatnonzero(notes.ids == self.manifest.tokenizer.unknown_id)
        self.unknown_tokens += len(unknown)
        for token, token_id in self.manifest.tokenizer.placeholder_ids.items():
            self.placeholder_tokens[token] += int(np.count_nonzero(notes.ids == token_id))
        has_unknown = np.zeros(len(notes.notes), dtype=bool)
        has_unknown[np.searchsorted(notes.starts, unknown, side="right") - 1] = True
        digests = b"".join(hashlib.sha256(ids.data).digest()[:16] for _, ids in notes)
        return FoundNotes(
            notes.notes,
            np.full(len(notes.notes), split, np.int8),
            np.frombuffer(digests, np.uint64).reshape(-1, 2),
            has_unknown,
            stops - notes.starts <= 2,
        )


class _File:
    """One shard file while it is read."""

    def __init__(self, checks: SequenceChecks, entry: ShardFile) -> None:
        self.checks, self.entry = checks, entry
        self.count = 0
        """Sequences so far."""
        self.tokens = 0
        self.short: int | None = None
        """A sequence with fewer tokens than the others, which must be the file's last."""
        self.last_note: int | None = None
        """Of the sequence before, with pack timeline."""
        self.is_last_short = True
        """Whether that sequence isn't full, or there is none."""

    def notes(self) -> Iterator[WholeNotes]:
        """Yield the file's notes, after the checks of their sequences and borders."""
        for notes in whole_notes(self._batches()):
            self._check_borders(notes)
            yield notes

    def compare_counts(self) -> None:
        """Compare with what the manifest says of this file."""
        for what, found in (("sequences", self.count), ("tokens", self.tokens)):
            self.checks.counts.compare(f"{what} of the file", self.entry.path, found, getattr(self.entry, what), COPY)

    def _batches(self) -> Iterator[dict[str, Lists]]:
        try:
            for batch in record_batches(self.checks.folder / self.entry.path):
                if not batch.num_rows:
                    continue
                self._check_format(batch)
                columns = columns_of_lists(batch)
                self._check_sequences(columns)
                self._check_ids(columns)
                self.count += batch.num_rows
                self.tokens += len(columns["input_ids"][1])
                yield columns
        except UserError:
            self.checks.format.fault("damaged, not a whole Arrow file", self.entry.path, COPY)
            raise _FaultyFileError from None

    def _check_format(self, batch: Any) -> None:
        try:
            batch.validate(full=True)
        except pa.ArrowInvalid:
            self.checks.format.fault("damaged, no valid Arrow columns", self.entry.path, COPY)
            raise _FaultyFileError from None
        id_type = pa.uint16() if self.checks.manifest.tokenizer.vocab_size <= 1 << 16 else pa.int32()
        expected = {"input_ids": id_type, "segment_starts": pa.int32(), "segment_notes": pa.int64()}
        types = {name: pa.list_(value) for name, value in expected.items()}
        if dict(zip(batch.schema.names, batch.schema.types, strict=True)) != types:
            named = ", ".join(f"{name} {kind}" for name, kind in types.items())
            self.checks.format.fault(f"other columns or types than {named}", self.entry.path)
            raise _FaultyFileError
        for column in batch.columns:
            offsets = column.offsets.to_numpy()
            if column.null_count or column.values.null_count or offsets[0] or offsets[-1] != len(column.values):
                self.checks.format.fault("missing values, or values in no sequence", self.entry.path)
                raise _FaultyFileError

    def _check_sequences(self, columns: dict[str, Lists]) -> None:
        """Check the lengths of sequences, and that segments are in order within each."""
        length, check = self.checks.manifest.sequence_length, self.checks.sequences
        lengths = np.diff(columns["input_ids"][0])
        self._fault(check, "no tokens, or more than the sequence length", (lengths < 1) | (lengths > length))
        if self.checks.manifest.pack == "notes":
            self._check_only_last_is_short((lengths > 0) & (lengths < length))
        (offsets, starts), (note_offsets, notes) = columns["segment_starts"], columns["segment_notes"]
        segments = np.diff(offsets)
        unequal = (segments < 1) | (segments != np.diff(note_offsets))
        if self._fault(check, "no segments, or not as many segment_starts as segment_notes", unequal):
            raise _FaultyFileError
        sequence = np.repeat(np.arange(len(segments)), segments)
        is_first = np.zeros(len(starts), dtype=bool)
        is_first[offsets[:-1]] = True
        wrong = np.where(is_first, starts != 0, np.diff(starts, prepend=0) <= 0) | (starts >= lengths[sequence])
        wrong_sequences = np.zeros(len(segments), dtype=bool)
        wrong_sequences[sequence[wrong]] = True
        if self._fault(check, "segment_starts don't ascend from 0 within the sequence", wrong_sequences):
            raise _FaultyFileError
        again = np.zeros(len(segments), dtype=bool)
        again[sequence[~is_first & (np.diff(notes, prepend=-1) == 0)]] = True
        self._fault(check, "a note's tokens within a sequence are two segments", again)
        if self.checks.manifest.pack == "timeline":
            self._find_begins(sequence, is_first, notes, lengths < length)

    def _check_only_last_is_short(self, is_short: npt.NDArray[np.bool_]) -> None:
        check, what = self.checks.sequences, "shorter than the others, and not the last of its file"
        if self.short is not None:
            check.fault(what, self._place(self.short - self.count))
            self.short = None
        self._fault(check, what, is_short[:-1])
        if is_short[-1]:
            self.short = self.count + len(is_short) - 1

    def _find_begins(
        self,
        sequence: npt.NDArray[np.int64],
        is_first: npt.NDArray[np.bool_],
        notes: npt.NDArray[np.int64],
        is_short: npt.NDArray[np.bool_],
    ) -> None:
        """Find where notes begin, and check that no note is cut where there is room.

        Args:
            sequence: (segments,), in which sequence of the batch each is.
            is_first: (segments,), whether it begins the sequence.
            notes: (segments,)
            is_short: (sequences,)
        """
        goes_on = np.append(notes[0] == self.last_note, notes[1:] == notes[:-1])
        after_short = is_first & np.append(self.is_last_short, is_short[:-1])[sequence]
        cut = np.zeros(len(is_short), dtype=bool)
        cut[sequence[goes_on & after_short]] = True
        self._fault(self.checks.sequences, "begins with the rest of a note, after a sequence that isn't full", cut)
        where = np.where(after_short, AFTER_SHORT, np.where(is_first, AFTER_FULL, WITHIN))
        self.checks.begins.append(where[~goes_on].astype(np.int8))
        self.last_note, self.is_last_short = int(notes[-1]), bool(is_short[-1])

    def _check_ids(self, columns: dict[str, Lists]) -> None:
        offsets, ids = columns["input_ids"]
        if not len(ids):
            return
        outside = np.flatnonzero(_unsigned(ids) >= len(self.checks.forbidden))
        if len(outside):
            place = self._place(int(np.searchsorted(offsets, outside[0], side="right")) - 1)
            self.checks.token_ids.fault("token ids outside the vocabulary", place, count=len(outside))
        self.checks.highest_id = max(self.checks.highest_id, int(ids.max()))

    def _check_borders(self, notes: WholeNotes) -> None:
        check, info, ids = self.checks.borders, self.checks.manifest.tokenizer, notes.ids
        ends = np.append(notes.starts[1:], len(ids)) - 1
        special = np.take(np.append(self.checks.forbidden, False), _unsigned(ids), mode="clip")
        special[notes.starts], special[ends] = False, False
        within = np.zeros(len(ends), dtype=bool)
        within[np.searchsorted(notes.starts, np.flatnonzero(special), side="right") - 1] = True
        faults = {
            "doesn't begin with the begin token": ids[notes.starts] != info.begin_id,
            "doesn't end with the end token": (ids[ends] != info.end_id) | (ends == notes.starts),
            "has a special token within": within,
        }
        for what, wrong in faults.items():
            if wrong.any():
                place = f"{self.entry.path}, note {notes.notes[wrong][0]:,}"
                check.fault(what, place, count=int(wrong.sum()))

    def _fault(self, check: Check, what: str, wrong: npt.NDArray[np.bool_]) -> bool:
        """Record a fault of those sequences of the batch where `wrong` is true. Returns whether there is one."""
        if not wrong.any():
            return False
        check.fault(what, self._place(int(np.argmax(wrong))), count=int(wrong.sum()))
        return True

    def _place(self, sequence: int) -> str:
        """Where a sequence of the batch stands."""
        return f"{self.entry.path}, sequence {self.count + sequence:,}"


def _unsigned(ids: npt.NDArray[Any]) -> npt.NDArray[np.unsignedinteger[Any]]:
    """Negative ids as very large ones."""
    return ids.view(f"u{ids.itemsize}")


def _joined(parts: list[FoundNotes]) -> FoundNotes:
    empty = FoundNotes(
        np.zeros(0, np.int64), np.zeros(0, np.int8), np.zeros((0, 2), np.uint64), np.zeros(0, bool), np.zeros(0, bool)
    )
    names = ("numbers", "splits", "hashes", "has_unknown", "is_empty")
    return FoundNotes(*(np.concatenate([getattr(part, name) for part in [empty, *parts]]) for name in names))
