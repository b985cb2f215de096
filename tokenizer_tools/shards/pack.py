"""Stage 3, pack: write the token ids of the notes that stay as shard files of sequences, by part or by patient."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tokenizer_tools.corpus.placeholders import COUNTED
from tokenizer_tools.files import file_sha256, write_json
from tokenizer_tools.manifest import SPLITS, CopiedParagraphs, ShardFile
from tokenizer_tools.progress import Progress
from tokenizer_tools.shards.copied import count_copied, without_copies
from tokenizer_tools.shards.folder import ShardBuild, other_version
from tokenizer_tools.shards.keep_list import KeepList
from tokenizer_tools.shards.sequences import pack_sequences
from tokenizer_tools.shards.timelines import Timelines, order_timelines
from tokenizer_tools.shards.token_ids import PartIds, delete_ids, load_ids, load_ids_of, save_rest
from tokenizer_tools.shards.workers import Job, Workers, advance
from tokenizer_tools.shards.write import write_sequences
from tokenizer_tools.tokenizer.unknown_characters import UnknownCount


@dataclass(frozen=True)
class PackedPart:
    """What became of one part. With pack timeline a part has no shard files, and shard files of patients no counts."""

    files: dict[str, ShardFile]
    """The shard file of each split, unless it would be empty."""
    unknown: UnknownCount
    placeholders: dict[str, int]
    """By kind."""
    tokens_by_input: list[int]
    """Tokens of each input's notes, by the input's number; inputs after the last one with notes are left out."""
    copied: CopiedParagraphs
    """What was left out of its kept notes."""

    def to_json(self) -> dict[str, Any]:
        """Its fields; `asdict` breaks a Counter."""
        files = {split: vars(entry) for split, entry in self.files.items()}
        return vars(self) | {"files": files, "unknown": vars(self.unknown), "copied": vars(self.copied)}

    @classmethod
    def load(cls, path: Path) -> PackedPart:
        """Read what `pack_part` has written.

        Raises:
            UserError: another version has.
        """
        raw = json.loads(path.read_text())
        try:
            files = {split: ShardFile(**entry) for split, entry in raw["files"].items()}
            copied = CopiedParagraphs(**raw["copied"])
            return cls(**raw | {"files": files, "unknown": UnknownCount.of(raw["unknown"]), "copied": copied})
        except (KeyError, TypeError):
            raise other_version(path) from None


def pack(keep: KeepList, build: ShardBuild, workers: Workers) -> list[PackedPart]:
    """Pack what isn't packed yet.

    Returns:
        What became of all parts; with pack timeline, the parts' counts, and then the shard files.
    """
    (build.work / "packed").mkdir(exist_ok=True, mode=0o700)
    by_patient = build.settings.pack == "timeline"
    counts = list(_count_jobs(keep, build)) if by_patient else []
    jobs = list(_timeline_jobs(keep, build) if by_patient else _part_jobs(keep, build))
    with Progress("packing", total=sum(each.notes for each in jobs)) as progress:
        progress.advance(sum(each.notes for each in jobs if each.path.exists()))
        for some in (counts, jobs):
            workers.run((each.job for each in some if not each.path.exists()), progress)
    if by_patient:  # until now any shard file could need those of any part
        shutil.rmtree(build.ids_folder, ignore_errors=True)
    return [PackedPart.load(each.path) for each in counts + jobs]


@dataclass(frozen=True)
class _PackJob:
    path: Path
    """Of the `PackedPart` that it writes."""
    notes: int
    """By which it advances the progress."""
    job: Job


def _part_jobs(keep: KeepList, build: ShardBuild) -> Iterator[_PackJob]:
    first_note = build.start.note
    for number in range(keep.scanned.parts):
        kept = keep.kept(number)
        yield _PackJob(build.packed_file(number), len(kept), partial(pack_part, number, kept, first_note, build))
        first_note += int(kept.sum())


def _count_jobs(keep: KeepList, build: ShardBuild) -> Iterator[_PackJob]:
    for number in range(keep.scanned.parts):
        yield _PackJob(build.packed_file(number), 0, partial(count_part, number, keep.kept(number), build))


def _timeline_jobs(keep: KeepList, build: ShardBuild) -> Iterator[_PackJob]:
    for some in order_timelines(keep, build):
        path = build.timelines_file(some.number)
        yield _PackJob(path, len(some.notes), partial(pack_timelines, some, keep.scanned.starts, build))


def pack_part(number: int, kept: npt.NDArray[np.bool_], first_note: int, build: ShardBuild) -> None:
    """Write one part's shard files, one per split, and then its `PackedPart`. Its token ids are then deleted.

    Args:
        number: of the part.
        kept: (notes of the part,), which notes stay.
        first_note: the notes table's row of the part's first kept note.
        build: the build.
    """
    part_ids, copied = _rest(number, kept, load_ids(number, build), build)
    notes = np.flatnonzero(kept)
    with np.load(build.scan_file(number)) as scanned:
        splits = scanned["splits"][kept]
    files = _write_files(
        number, splits, [part_ids.of(note) for note in notes.tolist()], first_note + np.arange(len(notes)), None, build
    )
    _write_counts(number, kept, part_ids, copied, files, build)
    delete_ids(number, build)
    advance(len(kept))


def count_part(number: int, kept: npt.NDArray[np.bool_], build: ShardBuild) -> None:
    """Write the `PackedPart` of a part whose notes are packed by patient: its counts, and no shard file. If copied
    paragraphs are left out, write its token ids without them first."""
    whole = load_ids(number, build, mmap_mode="r")
    part_ids, copied = _rest(number, kept, whole, build)
    if part_ids is not whole:
        save_rest(number, part_ids, build)
    _write_counts(number, kept, part_ids, copied, {}, build)


def pack_timelines(timelines: Timelines, starts: Sequence[int], build: ShardBuild) -> None:
    """Write the shard files of some patients, one per split, and then a `PackedPart` that names them.

    Args:
        timelines: their notes.
        starts: (parts + 1,), the number of each part's first note, and of all notes.
        build: the build.
    """
    token_ids = load_ids_of(timelines.notes, starts, build)
    files = _write_files(timelines.number, timelines.splits, token_ids, timelines.rows, timelines.patients, build)
    part = PackedPart(files, UnknownCount(), {}, [], CopiedParagraphs())
    write_json(build.timelines_file(timelines.number), part.to_json())
    advance(len(timelines.notes))


def _write_files(
    number: int,
    splits: npt.NDArray[np.uint8],
    token_ids: Sequence[npt.NDArray[Any]],
    rows: npt.NDArray[np.integer],
    patients: npt.NDArray[np.integer] | None,
    build: ShardBuild,
) -> dict[str, ShardFile]:
    """Write notes, each (tokens,), as the shard file of this number in each split. The others are columns of the notes;
    for `patients` see `pack_sequences`."""
    files, length, dtype = {}, build.settings.sequence_length, build.id_dtype
    for split, name in enumerate(SPLITS):
        chosen = np.flatnonzero(splits == split)
        whose = None if patients is None else patients[chosen]
        sequences = pack_sequences([token_ids[i] for i in chosen.tolist()], rows[chosen].tolist(), length, dtype, whose)
        if sequences:
            path = build.shard_path(name, number)
            write_sequences(build.out / path, sequences, dtype)
            tokens = sum(len(sequence.input_ids) for sequence in sequences)
            files[name] = ShardFile(path, len(sequences), tokens, file_sha256(build.out / path))
    return files


def _rest(
    number: int, kept: npt.NDArray[np.bool_], whole: PartIds, build: ShardBuild
) -> tuple[PartIds, CopiedParagraphs]:
    """A part's token ids without copied paragraphs, and what was left out, if they are to be."""
    if build.settings.duplicates.copied == "keep":
        return whole, CopiedParagraphs()
    rest = without_copies(number, whole, build)
    return rest, count_copied(number, np.flatnonzero(kept), whole, rest, build)


def _write_counts(
    number: int,
    kept: npt.NDArray[np.bool_],
    part_ids: PartIds,
    copied: CopiedParagraphs,
    files: dict[str, ShardFile],
    build: ShardBuild,
) -> None:
    """Write the `PackedPart` of a part."""
    notes = np.flatnonzero(kept)
    with np.load(build.scan_file(number)) as scanned:
        inputs = scanned["sources"][kept]
        placeholders = dict(zip(COUNTED, scanned["placeholders"][kept].sum(axis=0).tolist(), strict=True))
    by_input = np.bincount(inputs, weights=part_ids.lengths[notes]).astype(int).tolist()
    part = PackedPart(files, part_ids.unknown_of(notes), placeholders, by_input, copied)
    write_json(build.packed_file(number), part.to_json())
