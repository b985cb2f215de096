"""Stage 3, pack: read the notes again, tokenise those that stay, and write them as shard files of sequences."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from functools import cache, partial
from itertools import accumulate, islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from tokenizer_tools.files import file_sha256, write_json
from tokenizer_tools.manifest import SPLITS, ShardFile
from tokenizer_tools.progress import Progress
from tokenizer_tools.shards.folder import ShardBuild
from tokenizer_tools.shards.keep_list import KeepList
from tokenizer_tools.shards.scan import NoteParts
from tokenizer_tools.shards.sequences import pack_sequences
from tokenizer_tools.shards.settings import BuildOptions
from tokenizer_tools.shards.workers import Job, advance, run_jobs
from tokenizer_tools.shards.write import write_sequences
from tokenizer_tools.tokenizer.fast_ids import IdEncoder
from tokenizer_tools.tokenizer.load import forbidden_ids, note_ids
from tokenizer_tools.tokenizer.unknown_characters import count_unknown

_BATCH = 1000
"""Notes that are tokenised at once."""


@dataclass(frozen=True)
class PackedPart:
    """What became of one part."""

    files: dict[str, ShardFile]
    """The shard file of each split, unless it would be empty."""
    unknown_tokens: int
    unknown_characters: dict[str, int]
    """The characters behind the unknown tokens, and how often each occurs."""
    placeholders: dict[str, int]
    """By kind."""
    tokens_by_input: list[int]
    """Tokens of each input's notes, by the input's number; inputs after the last one with notes are left out."""

    @classmethod
    def load(cls, path: Path) -> PackedPart:
        """Read what `pack_part` has written."""
        raw = json.loads(path.read_text())
        return cls(**raw | {"files": {split: ShardFile(**entry) for split, entry in raw["files"].items()}})


def pack(parts: NoteParts, keep: KeepList, build: ShardBuild, options: BuildOptions) -> list[PackedPart]:
    """Pack the parts of a share that aren't packed yet. Returns all parts of the share."""
    (build.work / "packed").mkdir(exist_ok=True, mode=0o700)
    scanned = keep.scanned
    share = options.parts_of_share(scanned.parts)
    missing = {number for number in share if not build.packed_file(number).exists()}
    kept_before = [0, *accumulate(int(keep.kept(number).sum()) for number in range(scanned.parts))]

    def jobs() -> Iterator[Job]:
        for number, notes in parts if missing else ():
            if number in missing:
                kept = keep.kept(number)
                texts = [(note.text, note.person) for note, stays in zip(notes, kept, strict=True) if stays]
                yield partial(pack_part, number, texts, kept, kept_before[number], build)

    def notes_of(numbers: Iterable[int]) -> int:
        return sum(scanned.starts[number + 1] - scanned.starts[number] for number in numbers)

    with Progress("tokenising and packing", total=notes_of(share)) as progress:
        progress.advance(notes_of(share) - notes_of(missing))
        run_jobs(jobs(), options.workers, progress)
    return [PackedPart.load(build.packed_file(number)) for number in share]


def pack_part(
    number: int, texts: list[tuple[str, str]], kept: npt.NDArray[np.bool_], first_note: int, build: ShardBuild
) -> None:
    """Write one part's shard files, one per split, and then its `PackedPart`.

    Args:
        number: of the part.
        texts: of the kept notes, not cleaned, and whose they are, from `Note.person`.
        kept: (notes of the part,), which notes stay.
        first_note: the notes table's row of the part's first kept note.
        build: the build.
    """
    placeholders = Counter[str]()
    cleaned = (build.clean(text, person, placeholders) for text, person in texts)
    token_ids, unknown_tokens, unknown_characters = _tokenise(cleaned, build)
    advance(len(kept) - len(texts))
    with np.load(build.scan_file(number)) as scanned:
        splits, inputs = scanned["splits"][kept], scanned["sources"][kept]
    files = {}
    for split, name in enumerate(SPLITS):
        chosen = np.flatnonzero(splits == split)
        sequences = pack_sequences(
            [token_ids[i] for i in chosen],
            [first_note + int(i) for i in chosen],
            build.settings.sequence_length,
            build.id_dtype,
        )
        if sequences:
            path = build.shard_path(name, number)
            write_sequences(build.out / path, sequences, build.id_dtype)
            tokens = sum(len(sequence.input_ids) for sequence in sequences)
            files[name] = ShardFile(path, len(sequences), tokens, file_sha256(build.out / path))
    by_input = np.bincount(inputs, weights=[len(ids) for ids in token_ids]).astype(int).tolist()
    counts = dict(unknown_characters), dict(placeholders)  # asdict() breaks a Counter
    part = PackedPart(files, unknown_tokens, *counts, by_input)
    write_json(build.packed_file(number), asdict(part))


def _tokenise(texts: Iterator[str], build: ShardBuild) -> tuple[list[npt.NDArray[Any]], int, Counter[str]]:
    """Token ids of each text, begin and end tokens included; the number of unknown tokens, and the characters behind
    them."""
    info, (backend, encode) = build.tokenizer, _encoder(build)
    forbidden = forbidden_ids(backend, info)
    token_ids: list[npt.NDArray[Any]] = []
    unknown_tokens, unknown_characters = 0, Counter[str]()
    while batch := list(islice(texts, _BATCH)):
        encoded = encode(batch)
        count, characters = count_unknown(backend, batch, encoded, info.unknown_token, info.unknown_id)
        unknown_tokens, unknown_characters = unknown_tokens + count, unknown_characters + characters
        token_ids += [note_ids(tokens, info, forbidden, build.id_dtype) for tokens in encoded]
        advance(len(batch))
    return token_ids, unknown_tokens, unknown_characters


def _encoder(build: ShardBuild) -> tuple[Tokenizer, IdEncoder]:
    """The tokenizer, loaded once per process, and what encodes by it."""
    return _loaded(build.tokenizer_folder / "tokenizer.json", tuple(build.tokenizer.placeholder_ids))


@cache
def _loaded(path: Path, placeholders: tuple[str, ...]) -> tuple[Tokenizer, IdEncoder]:
    backend = Tokenizer.from_file(str(path))
    return backend, IdEncoder(backend, placeholders)
