"""What finished shards hold, for notes that are appended: which notes they have, and on which side patients are.

Shards keep neither texts nor their hashes, but token ids. So notes are compared by their ids, new ones and earlier ones
alike, and near-duplicates by the words that the tokenizer makes of the ids again. Each shard file is read once.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tokenizer_tools.corpus.deduplicate import HASH_DTYPE
from tokenizer_tools.errors import UserError
from tokenizer_tools.files import file_sha256
from tokenizer_tools.manifest import NOTES_TABLE_NAME, SPLITS, Manifest, ShardFile
from tokenizer_tools.progress import Progress
from tokenizer_tools.shard_reading import columns_of_lists, patient_hashes, record_batches, whole_notes
from tokenizer_tools.shards.folder import ShardBuild
from tokenizer_tools.shards.scan import ScannedNotes
from tokenizer_tools.shards.shingles import save_array
from tokenizer_tools.shards.token_ids import load_encoder, load_ids
from tokenizer_tools.shards.workers import Job, Workers, advance

_IDS_HASH = np.dtype("S16")
"""128 bits of the sha256 of a note's token ids."""
_NOTES_IN_MEMORY = 4_000_000
"""New notes that are compared at once, 50 bytes each."""
_BATCH = 500
"""Notes whose token ids are decoded at once."""
_COPY = "copy it again from where the shards were built, or build them again"


@dataclass(frozen=True)
class GroupNotes:
    """How many notes earlier shards hold of some patients (or of admissions, where no patient is known)."""

    groups: npt.NDArray[np.bytes_]
    """(groups,): their keyed hashes, sorted, each once."""
    notes: npt.NDArray[np.int64]
    """(groups, splits)"""

    @classmethod
    def none(cls) -> GroupNotes:
        """For a build that appends to nothing."""
        return cls(np.zeros(0, HASH_DTYPE), np.zeros((0, len(SPLITS)), np.int64))

    def of(self, groups: npt.NDArray[np.bytes_]) -> npt.NDArray[np.int64]:
        """(n, splits): the notes of each group; 0 of an unknown one."""
        found = np.zeros((len(groups), len(SPLITS)), np.int64)
        if len(self.groups):
            places = np.minimum(np.searchsorted(self.groups, groups), len(self.groups) - 1)
            known = self.groups[places] == groups
            found[known] = self.notes[places[known]]
        return found


@dataclass(frozen=True)
class EarlierNotes:
    """The notes of finished shards, in the order of their files: split by split."""

    folder: Path
    """The shards."""
    manifest: Manifest
    scanned: ScannedNotes
    """The new notes."""
    build: ShardBuild
    """Of the new notes."""
    starts: list[int]
    """(files + 1,): the number of each file's first note, and of all notes."""
    splits: npt.NDArray[np.uint8]
    """(notes,): of each note, as an index into SPLITS."""

    @classmethod
    def read(
        cls, folder: Path, manifest: Manifest, scanned: ScannedNotes, build: ShardBuild, workers: Workers
    ) -> EarlierNotes:
        """Read the shard files, and the token ids of the new notes, unless an earlier start has.

        Raises:
            UserError: a shard file is missing or damaged.
        """
        _folder(build).mkdir(exist_ok=True, mode=0o700)
        files = _files(manifest)

        def jobs() -> Iterator[Job]:
            for number, entry in enumerate(files):
                if not _earlier_file(build, number).exists():
                    yield partial(_read_file, number, folder / entry.path, entry.sha256, build)
            for number in range(scanned.parts):
                if not _new_file(build, number).exists():
                    yield partial(_read_part, number, len(files), build)

        with Progress("comparing with the earlier notes", total=manifest.counts["kept"] + scanned.starts[-1]) as shown:
            workers.run(jobs(), shown)
        sizes = [len(np.load(_earlier_file(build, number), mmap_mode="r")) for number in range(len(files))]
        split_of_file = [SPLITS.index(entry.path.split("/")[0]) for entry in files]
        splits = np.repeat(np.array(split_of_file, np.uint8), sizes)
        return cls(folder, manifest, scanned, build, list(accumulate(sizes, initial=0)), splits)

    def known(self, candidates: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
        """(new notes,): which of the candidates have the token ids of an earlier note."""
        known = np.zeros(len(candidates), dtype=bool)
        buckets = -(-len(candidates) // _NOTES_IN_MEMORY)
        for bucket in range(buckets):
            hashes, notes = [], []
            for number in range(self.scanned.parts):
                part = np.load(_new_file(self.build, number))
                chosen = candidates[self.scanned.notes_of(number)] & (_bucket_of(part, buckets) == bucket)
                hashes.append(part[chosen])
                notes.append(np.flatnonzero(chosen) + self.scanned.starts[number])
            wanted, numbers = np.concatenate(hashes), np.concatenate(notes)
            for number in range(len(self.starts) - 1):
                known[numbers[np.isin(wanted, _load(self.build, number)[1])]] = True
        return known

    def count_groups(self, groups: npt.NDArray[np.bytes_]) -> GroupNotes:
        """Count the notes of some patients or admissions, given sorted, each once.

        Raises:
            UserError: the notes table isn't that of the shard files.
        """
        table = self.folder / NOTES_TABLE_NAME
        splits = np.full(self.manifest.counts["kept"], len(SPLITS), np.uint8)  # of each row of the notes table
        for number in range(len(self.starts) - 1):
            rows = _load(self.build, number)[0]
            if len(rows) and rows.max() >= len(splits):
                raise UserError(f"{table}: not the number of notes in the manifest; {_COPY}")
            splits[rows] = self.splits[self.starts[number] : self.starts[number + 1]]
        notes, row = np.zeros((len(groups), len(SPLITS) + 1), np.int64), 0
        for batch in record_batches(table):
            found = splits[row : row + batch.num_rows]
            row += batch.num_rows
            if len(found) != batch.num_rows or (found == len(SPLITS)).any():
                raise UserError(f"{table}: not the number of notes in the manifest; {_COPY}")
            try:
                hashes = patient_hashes(batch.column("patient"))
            except ValueError:
                message = f"{table}: damaged, holds something else than hashes of patients; {_COPY}"
                raise UserError(message) from None
            places = np.minimum(np.searchsorted(groups, hashes), len(groups) - 1)
            known = groups[places] == hashes
            np.add.at(notes, (places[known], found[known]), 1)
        if row != len(splits):
            raise UserError(f"{table}: not the number of notes in the manifest; {_COPY}")
        return GroupNotes(groups, notes[:, : len(SPLITS)])


def next_part(manifest: Manifest) -> int:
    """The number behind that of the last shard file."""
    return 1 + max(int(Path(entry.path).stem.removeprefix("part-")) for entry in _files(manifest))


def _files(manifest: Manifest) -> list[ShardFile]:
    return [entry for split in SPLITS for entry in manifest.splits[split].files]


def _folder(build: ShardBuild) -> Path:
    return build.work / "earlier"


def _earlier_file(build: ShardBuild, number: int) -> Path:
    """Of each note of a shard file: its row in the notes table, and the hash of its token ids."""
    return _folder(build) / f"file-{number:05d}.npy"


def _new_file(build: ShardBuild, number: int) -> Path:
    """Of each note of a new part the hash of its token ids."""
    return _folder(build) / f"part-{number:05d}.npy"


def _load(build: ShardBuild, number: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bytes_]]:
    notes = np.load(_earlier_file(build, number))
    return notes["row"], notes["hash"]


def _read_file(number: int, path: Path, sha256: str, build: ShardBuild) -> None:
    """Write what is compared of a shard file's notes."""
    if not path.is_file() or file_sha256(path) != sha256:
        raise UserError(f"{path}: missing, or not the bytes that the manifest tells of; {_COPY}")

    def notes() -> Iterator[tuple[int, npt.NDArray[Any]]]:
        for several in whole_notes(columns_of_lists(batch) for batch in record_batches(path)):
            yield from several

    found: list[tuple[int, bytes]] = []

    def ids_of_notes() -> Iterator[npt.NDArray[Any]]:
        for row, ids in notes():
            found.append((row, _hash(ids)))
            advance(1)
            yield ids

    _write_shingles(number, ids_of_notes(), build)
    save_array(_earlier_file(build, number), np.array(found, [("row", np.int64), ("hash", _IDS_HASH)]))


def _read_part(number: int, files: int, build: ShardBuild) -> None:
    """Write the same of a new part, behind so many shard files."""
    part = load_ids(number, build)
    hashes = [_hash(part.ids[start:stop]) for start, stop in zip(part.starts[:-1], part.starts[1:], strict=True)]
    _write_shingles(files + number, (part.of(note) for note in range(len(part.text_of))), build)
    advance(len(part.text_of))
    save_array(_new_file(build, number), np.array(hashes, _IDS_HASH)[part.text_of])


def _write_shingles(number: int, notes: Iterable[npt.NDArray[Any]], build: ShardBuild) -> None:
    """Write signatures and shingles of notes by what their token ids say, if near-duplicates are looked for."""
    if build.settings.duplicates.near == "off":
        for _ in notes:
            pass
        return
    build.shingles.write(number, list(_decoded(notes, load_encoder(build)[0].decode_batch)))


def _decoded(notes: Iterable[npt.NDArray[Any]], decode: Callable[..., list[str]]) -> Iterator[str]:
    batch: list[Sequence[int]] = []
    for ids in notes:
        batch.append(ids[1:-1].tolist())  # without begin and end tokens
        if len(batch) == _BATCH:
            yield from decode(batch, skip_special_tokens=False)
            batch = []
    yield from decode(batch, skip_special_tokens=False)


def _hash(ids: npt.NDArray[Any]) -> bytes:
    return hashlib.sha256(np.ascontiguousarray(ids).data).digest()[: _IDS_HASH.itemsize]


def _bucket_of(hashes: npt.NDArray[np.bytes_], buckets: int) -> npt.NDArray[np.uint64]:
    """(notes,): a number below `buckets` that equal hashes share."""
    first_bytes = np.ascontiguousarray(hashes).view(np.uint64)[::2]
    return first_bytes % np.uint64(buckets)
