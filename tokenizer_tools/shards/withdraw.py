"""Withdraw patients: make shards without their notes, from finished shards alone.

Each shard file is packed anew from the token ids of the notes that are left, by the code that packs a build. It keeps
its borders, so the shard files are byte for byte those of a build whose input has no text in these patients' notes, if
nothing was left out because it stood in one of these.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from tokenizer_tools.corpus.identifier_lists import given_identifier, read_identifiers
from tokenizer_tools.corpus.split_patients import load_key_of, patient_hash
from tokenizer_tools.errors import UserError
from tokenizer_tools.files import copy_files, file_sha256, new_folder
from tokenizer_tools.manifest import (
    NOTES_TABLE_NAME,
    SPLITS,
    TOKENIZER_FOLDER,
    Manifest,
    ShardFile,
    SourceInfo,
    SplitInfo,
    UnknownTokens,
    Withdrawal,
    fingerprint,
)
from tokenizer_tools.progress import Progress
from tokenizer_tools.shard_reading import Lists, columns_of_lists, record_batches, whole_notes
from tokenizer_tools.shards.folder import disk_errors, finish_append
from tokenizer_tools.shards.sequences import pack_sequences
from tokenizer_tools.shards.verify.notes import load_notes_table
from tokenizer_tools.shards.write import write_notes, write_sequences

_NAMED = 5
"""Places that a message names, of patients without a note."""
_COPY = "copy it again from where the shards were built, or build them again"


@dataclass(frozen=True)
class NamedPatient:
    """A patient whom the user named."""

    place: str
    """Where, for messages, which never repeat the identifier."""
    identifier: str = field(repr=False)
    """Normalised as in a build."""


@dataclass(frozen=True)
class WithdrawnShards:
    """Shards that were made without some patients."""

    before: Manifest
    """Of the shards that they were made from."""
    manifest: Manifest
    """Of the new shards."""
    sequences: dict[str, npt.NDArray[np.int64]]
    """By split: (n, 2), each sequence of the earlier shards that holds one of their notes, and whose, by the number
    among the patients that have notes. A sequence may hold notes of several."""
    unknown: int
    """Patients who were named, but have no note in the shards."""

    @property
    def withdrawal(self) -> Withdrawal:
        """What was left out."""
        return self.manifest.withdrawn[-1]


def read_patients(given: Sequence[str], file: Path | None = None) -> list[NamedPatient]:
    """The patients of a command line and of a file with one identifier per line, each once.

    Raises:
        UserError: there is none, an identifier can't be one, or the file can't be read.
    """
    texts = ((f"--patient, number {number}", text) for number, text in enumerate(given, 1))
    named = [(place, given_identifier(text, place)) for place, text in texts]
    if file is not None:
        named += read_identifiers(file, "--patients-file")
    found: dict[str, NamedPatient] = {}
    for place, identifier in named:
        found.setdefault(identifier, NamedPatient(place, identifier))
    if not found:
        raise UserError("no patient is named; give --patient ID, or --patients-file FILE with one per line")
    return list(found.values())


def _check_names_patients(manifest: Manifest, shards: Path) -> None:
    if not any(split.patients for split in manifest.splits.values()):
        raise UserError(
            f"{shards}: the notes of these shards name no patient (split by {manifest.split_by}), so nobody's can be "
            "found; build the shards again from notes without this patient's, and name the patients' column "
            "(--columns.patient), so that the next one can be withdrawn"
        )


def withdraw(
    shards: Path,
    patients: Sequence[NamedPatient],
    out: Path,
    patient_key: Path | None = None,
    ignore_unknown: bool = False,
) -> WithdrawnShards:
    """Make shards without the notes of some patients. The earlier shards are only read.

    Memory: one shard file, as in a build, and a few bytes for each withdrawn note; with pack timeline, also 30 bytes
    for each note.

    Args:
        shards: finished shards.
        patients: from `read_patients`.
        out: the folder to create; it is there whole, or not at all.
        patient_key: the file of the key that the patients of the shards were hashed with. Default: the one that
            build-shards makes.
        ignore_unknown: whether patients without a note in the shards are left out. At least one must have some.

    Raises:
        UserError: a patient has no note in the shards, nothing would be left to train on, the shards are damaged, or
            the key isn't theirs.
    """
    before = Manifest.load(shards)
    if remedy := finish_append(shards):
        raise UserError(f"{shards}: notes are being appended, or were until a stop; {remedy}")
    _check_names_patients(before, shards)
    key = load_key_of(shards, before.patient_key_id, patient_key)
    if out.resolve().is_relative_to(shards.resolve()):
        raise UserError(
            f"{out}: the folder of the shards themselves, or in it, which is only read; choose another --out"
        )
    with disk_errors(out, ""), new_folder(out) as temporary:
        notes = _find_notes(before, shards, patients, key, ignore_unknown)
        temporary.mkdir(parents=True, mode=0o700)
        copy_files(shards / TOKENIZER_FOLDER, temporary / TOKENIZER_FOLDER)
        packing = _Packing(shards, before, notes, temporary)
        with Progress("packing", total=before.counts["kept"]) as progress:
            splits = {name: packing.pack_split(name, progress) for name in SPLITS}
        if not splits["train"].sequences:
            raise UserError(f"{shards}: no other note is in the training split, so there would be nothing to train on")
        write_notes(temporary, _tables_without(shards, notes))
        manifest = _manifest(before, splits, packing)
        manifest.save(temporary)
    return WithdrawnShards(before, manifest, packing.sequences, len(patients) - manifest.withdrawn[-1].patients)


@dataclass(frozen=True)
class _WithdrawnNotes:
    """The notes of the patients, as rows of the notes table."""

    numbers: npt.NDArray[np.int64]
    """(notes,), ascending."""
    patients: npt.NDArray[np.int64]
    """(notes,): whose, by the number among the patients that have notes."""
    inputs: npt.NDArray[np.int64]
    """(notes,): from which input."""

    def find(self, notes: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
        """(n,): which of some notes are among them."""
        return np.isin(notes, self.numbers)

    def patient_of(self, notes: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """(n,): whose they are, of notes that are among them."""
        return self.patients[np.searchsorted(self.numbers, notes)]

    def renumber(self, notes: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """(n,): the rows of other notes once these are gone."""
        return notes - np.searchsorted(self.numbers, notes)


def _find_notes(
    manifest: Manifest, shards: Path, patients: Sequence[NamedPatient], key: bytes, ignore_unknown: bool
) -> _WithdrawnNotes:
    hashes = pa.array([patient_hash(key, f"patient {patient.identifier}") for patient in patients], pa.string())
    numbers, whose, inputs, rows = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)], [np.zeros(0, np.int64)], 0
    for batch in record_batches(shards / NOTES_TABLE_NAME):
        index = pc.index_in(batch.column("patient"), value_set=hashes)
        found = np.flatnonzero(index.is_valid().to_numpy(zero_copy_only=False))
        numbers.append(found + rows)
        inputs.append(batch.column("source").to_numpy()[found].astype(np.int64))
        whose.append(index.drop_null().to_numpy().astype(np.int64))
        rows += batch.num_rows
    if rows != manifest.counts["kept"]:
        raise UserError(f"{shards / NOTES_TABLE_NAME}: not the number of notes in the manifest; {_COPY}")
    found, whose_found = np.unique(np.concatenate(whose), return_inverse=True)
    missing = np.setdiff1d(np.arange(len(patients)), found)
    if len(missing) == len(patients) or (len(missing) and not ignore_unknown):
        raise _no_notes([patients[number].place for number in missing], shards, ignore_unknown)
    return _WithdrawnNotes(np.concatenate(numbers), whose_found, np.concatenate(inputs))


def _no_notes(places: Sequence[str], shards: Path, ignore_unknown: bool) -> UserError:
    """The error for patients without a note, who were named at some places."""
    named = []
    for what, several in groupby((place.rpartition(" ") for place in places[:_NAMED]), key=itemgetter(0)):
        numbers = [number for _, _, number in several]
        named.append(f"{what}{'s' if len(numbers) > 1 else ''} {', '.join(numbers)}")
    more = f" and {len(places) - _NAMED:,} more" if len(places) > _NAMED else ""
    patients, identifiers, them = (
        ("this patient", "identifier", "it") if len(places) == 1 else ("these patients", "identifiers", "them")
    )
    remedy = "" if ignore_unknown else f", or leave {them} out (--ignore-unknown does)"
    return UserError(
        f"{'; '.join(named)}{more}: no note in {shards} is of {patients}; check the {identifiers}{remedy}: either no "
        f"note names {them}, or all that do were dropped when the shards were built"
    )


def _tables_without(shards: Path, notes: _WithdrawnNotes) -> Iterator[Any]:
    """The notes table without the withdrawn notes. Other patients' places in time stay."""
    rows = 0
    for batch in record_batches(shards / NOTES_TABLE_NAME):
        stays = ~notes.find(np.arange(rows, rows + batch.num_rows))
        rows += batch.num_rows
        yield pa.Table.from_batches([batch.filter(pa.array(stays))])


class _Packing:
    """Packs the shard files anew, one after another, and counts."""

    def __init__(self, shards: Path, before: Manifest, notes: _WithdrawnNotes, out: Path) -> None:
        self.shards, self.before, self.notes, self.out = shards, before, notes, out
        self.sequences: dict[str, npt.NDArray[np.int64]] = {}
        """See WithdrawnShards."""
        self.splits_of = np.zeros((notes.patients.max() + 1, len(SPLITS)), dtype=bool)
        """(patients, splits): where each has a note."""
        self.tokens = np.zeros(len(notes.numbers), np.int64)
        """(withdrawn notes,): of each."""
        self.patients = load_notes_table(shards).groups[:, 0].copy() if before.pack == "timeline" else None
        """(notes,): 64 bits of the hash of each note's patient, where sequences mustn't cross patients."""
        self.unknown_tokens = 0
        """In the notes that stay, placeholders included."""

    def pack_split(self, name: str, progress: Progress) -> SplitInfo:
        """Write a split's shard files."""
        info, files, found = self.before.splits[name], [], [np.zeros((0, 2), np.int64)]
        first, left = 0, 0
        for entry in info.files:
            path = self.shards / entry.path
            if not path.is_file() or file_sha256(path) != entry.sha256:
                raise UserError(f"{path}: missing, or not the bytes that the manifest tells of; {_COPY}")
            batches = [columns_of_lists(batch) for batch in record_batches(path)]
            for batch in batches:
                found.append(self._sequences_with(batch, first))
                first += len(batch["input_ids"][0]) - 1
            packed, count = self._pack_file(entry.path, batches, progress)
            files += [packed] if packed else []
            left += count
        self.sequences[name] = np.unique(np.concatenate(found), axis=0)
        patients = np.unique(self.sequences[name][:, 1])
        self.splits_of[patients, SPLITS.index(name)] = True
        return replace(
            info,
            sequences=sum(entry.sequences for entry in files),
            tokens=sum(entry.tokens for entry in files),
            notes=left,
            patients=info.patients - len(patients),
            files=files,
        )

    def _sequences_with(self, batch: dict[str, Lists], first: int) -> npt.NDArray[np.int64]:
        """(n, 2): the batch's sequences that hold withdrawn notes, and whose. Sequences are counted from `first`."""
        offsets, notes = batch["segment_notes"]
        segments = np.flatnonzero(self.notes.find(notes))
        sequences = np.searchsorted(offsets, segments, side="right") - 1
        return np.stack([first + sequences, self.notes.patient_of(notes[segments])], axis=1).astype(np.int64)

    def _pack_file(
        self, path: str, batches: list[dict[str, Lists]], progress: Progress
    ) -> tuple[ShardFile | None, int]:
        """Write a shard file, unless it would be empty. Returns also the number of notes in it."""
        numbers, token_ids = [], []
        for notes in whole_notes(batches):
            gone = self.notes.find(notes.notes)
            for is_gone, (number, ids) in zip(gone.tolist(), notes, strict=True):
                if is_gone:
                    self.tokens[np.searchsorted(self.notes.numbers, number)] = len(ids)
                else:
                    numbers.append(number)
                    token_ids.append(ids)
            progress.advance(len(gone))
        if not numbers:
            return None, 0
        dtype = token_ids[0].dtype
        renumbered = self.notes.renumber(np.array(numbers, np.int64)).tolist()
        patients = None if self.patients is None else self.patients[numbers]
        sequences = pack_sequences(token_ids, renumbered, self.before.sequence_length, dtype, patients)
        write_sequences(self.out / path, sequences, dtype)
        unknown = self.before.tokenizer.unknown_id
        self.unknown_tokens += sum(int(np.count_nonzero(sequence.input_ids == unknown)) for sequence in sequences)
        tokens = sum(len(sequence.input_ids) for sequence in sequences)
        return ShardFile(path, len(sequences), tokens, file_sha256(self.out / path)), len(numbers)


def _manifest(before: Manifest, splits: dict[str, SplitInfo], packing: _Packing) -> Manifest:
    files = [entry for split in splits.values() for entry in split.files]
    tokens, gone = sum(entry.tokens for entry in files), len(packing.notes.numbers)
    unknown = min(before.unknown.tokens, packing.unknown_tokens)
    return replace(
        before,
        splits=splits,
        counts=_counts_without(before.counts, gone),
        patients_in_several_splits=before.patients_in_several_splits - int((packing.splits_of.sum(axis=1) > 1).sum()),
        unknown=UnknownTokens(
            unknown,
            round(unknown / tokens, 6),
            {},  # whose they were isn't known: they may be a withdrawn patient's
            before.unknown.written_as_spaces,
            None if before.unknown.lost_word_starts is None else min(before.unknown.lost_word_starts, unknown),
        ),
        fingerprint=fingerprint(before.tokenizer.sha256, before.sequence_length, files),
        sources=[_source_without(source, packing) for source in before.sources],
        appended=[replace(entry, sequences={}) for entry in before.appended],
        withdrawn=[
            *before.withdrawn,
            Withdrawal(len(packing.splits_of), gone, int(packing.tokens.sum()), before.fingerprint),
        ],
    )


def _source_without(source: SourceInfo, packing: _Packing) -> SourceInfo:
    is_of_it = np.isin(packing.notes.inputs, source.inputs)
    gone, tokens = int(is_of_it.sum()), int(packing.tokens[is_of_it].sum())
    counts = _counts_without(source.counts, gone)
    return replace(source, notes=source.notes - gone, tokens=source.tokens - tokens, counts=counts)


def _counts_without(counts: dict[str, int], gone: int) -> dict[str, int]:
    """Counts of notes when so many of the kept ones are withdrawn."""
    kept = counts["kept"] - gone
    bounded = {name: min(count, kept) if name.startswith("kept") else count for name, count in counts.items()}
    return bounded | {"dropped_withdrawn": counts.get("dropped_withdrawn", 0) + gone}
