"""Stage 3, pack: write the token ids of the notes that stay as shard files of sequences."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
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
from tokenizer_tools.shards.token_ids import delete_ids, load_ids
from tokenizer_tools.shards.workers import advance, run_jobs
from tokenizer_tools.shards.write import write_sequences
from tokenizer_tools.tokenizer.unknown_characters import UnknownCount


@dataclass(frozen=True)
class PackedPart:
    """What became of one part."""

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


def pack(keep: KeepList, build: ShardBuild, workers: int | None) -> list[PackedPart]:
    """Pack the parts that aren't packed yet. Returns all parts."""
    (build.work / "packed").mkdir(exist_ok=True, mode=0o700)
    scanned = keep.scanned
    paths = [build.packed_file(number) for number in range(scanned.parts)]
    packed = {number: PackedPart.load(path) for number, path in enumerate(paths) if path.exists()}
    missing = [number for number in range(scanned.parts) if number not in packed]
    kept_before = [0, *accumulate(int(keep.kept(number).sum()) for number in range(scanned.parts))]
    jobs = (partial(pack_part, number, keep.kept(number), kept_before[number], build) for number in missing)

    with Progress("packing", total=scanned.starts[-1]) as progress:
        progress.advance(scanned.starts[-1] - sum(len(keep.kept(number)) for number in missing))
        run_jobs(jobs, workers, progress)
    packed |= {number: PackedPart.load(paths[number]) for number in missing}
    return [packed[number] for number in range(scanned.parts)]


def pack_part(number: int, kept: npt.NDArray[np.bool_], first_note: int, build: ShardBuild) -> None:
    """Write one part's shard files, one per split, and then its `PackedPart`. Its token ids are then deleted.

    Args:
        number: of the part.
        kept: (notes of the part,), which notes stay.
        first_note: the notes table's row of the part's first kept note.
        build: the build.
    """
    part_ids, notes, copied = load_ids(number, build), np.flatnonzero(kept), CopiedParagraphs()
    if build.settings.duplicates.copied == "drop":
        whole, part_ids = part_ids, without_copies(number, part_ids, build)
        copied = count_copied(number, notes, whole, part_ids, build)
    with np.load(build.scan_file(number)) as scanned:
        splits, inputs = scanned["splits"][kept], scanned["sources"][kept]
        placeholders = dict(zip(COUNTED, scanned["placeholders"][kept].sum(axis=0).tolist(), strict=True))
    files = {}
    for split, name in enumerate(SPLITS):
        chosen = np.flatnonzero(splits == split)
        sequences = pack_sequences(
            [part_ids.of(note) for note in notes[chosen].tolist()],
            (first_note + chosen).tolist(),
            build.settings.sequence_length,
            build.id_dtype,
        )
        if sequences:
            path = build.shard_path(name, number)
            write_sequences(build.out / path, sequences, build.id_dtype)
            tokens = sum(len(sequence.input_ids) for sequence in sequences)
            files[name] = ShardFile(path, len(sequences), tokens, file_sha256(build.out / path))
    by_input = np.bincount(inputs, weights=part_ids.lengths[notes]).astype(int).tolist()
    part = PackedPart(files, part_ids.unknown_of(notes), placeholders, by_input, copied)
    write_json(build.packed_file(number), part.to_json())
    delete_ids(number, build)
    advance(len(kept))
