"""Token ids of all notes, in the private work folder, until they are packed.

They need as much room as the shards will: 2 bytes for each token, 4 with vocabularies over 65,536. Ids of duplicates
within a part are kept once; those of notes that are dropped later, in vain.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from tokenizer_tools.files import write_json
from tokenizer_tools.shards.folder import ShardBuild
from tokenizer_tools.shards.shingles import save_array
from tokenizer_tools.shards.workers import advance
from tokenizer_tools.tokenizer.fast_ids import IdEncoder
from tokenizer_tools.tokenizer.load import forbidden_ids, note_ids
from tokenizer_tools.tokenizer.unknown_characters import count_unknown

_BATCH = 500
"""Texts that are tokenised at once."""


@dataclass(frozen=True)
class PartIds:
    """The token ids of a part's notes."""

    ids: npt.NDArray[Any]
    """(tokens,), of its different texts back to back, each with begin and end tokens."""
    starts: npt.NDArray[np.int64]
    """(texts + 1,), where each text's begin, and the end."""
    text_of: npt.NDArray[np.int64]
    """(notes of the part,), the number of a note's text."""
    unknown_file: Path
    """Of texts with unknown tokens: the number of these, and the characters behind them."""

    def of(self, note: int) -> npt.NDArray[Any]:
        """The ids of a note, by its number in the part: (tokens,)."""
        text = self.text_of[note]
        return self.ids[self.starts[text] : self.starts[text + 1]]

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        """(notes of the part,): the number of each note's tokens."""
        return np.diff(self.starts)[self.text_of]

    def unknown_of(self, notes: npt.NDArray[np.int64]) -> tuple[int, Counter[str]]:
        """The number of unknown tokens of some notes, and the characters behind them."""
        unknown: dict[str, tuple[int, dict[str, int]]] = json.loads(self.unknown_file.read_text())
        tokens, characters = 0, Counter[str]()
        for text in map(str, self.text_of[notes].tolist()):
            if text in unknown:
                tokens += unknown[text][0]
                characters.update(unknown[text][1])
        return tokens, characters


def tokenise(number: int, texts: Sequence[str], build: ShardBuild) -> None:
    """Write the token ids of a part, of all its notes' cleaned texts."""
    info, (backend, encode) = build.tokenizer, load_encoder(build)
    forbidden = forbidden_ids(backend, info)
    numbers = {text: i for i, text in enumerate(dict.fromkeys(texts))}
    token_ids: list[npt.NDArray[Any]] = []
    unknown: dict[str, tuple[int, dict[str, int]]] = {}
    distinct = list(numbers)
    for start in range(0, len(distinct), _BATCH):
        batch = distinct[start : start + _BATCH]
        encoded = encode(batch)
        for i, (text, tokens) in enumerate(zip(batch, encoded, strict=True), start=start):
            token_ids.append(note_ids(tokens, info, forbidden, build.id_dtype))
            count, characters = count_unknown(backend, [text], [tokens], info.unknown_token, info.unknown_id)
            if count:
                unknown[str(i)] = count, dict(characters)
        advance(len(batch))
    advance(len(texts) - len(distinct))
    build.ids_folder.mkdir(exist_ok=True, mode=0o700)
    save_array(_file(build, number, "ids"), np.concatenate(token_ids))
    save_array(_file(build, number, "starts"), np.cumsum([0, *map(len, token_ids)], dtype=np.int64))
    save_array(_file(build, number, "texts"), np.array([numbers[text] for text in texts], np.int64))
    write_json(_file(build, number, "unknown"), unknown)


def load_ids(number: int, build: ShardBuild, mmap_mode: Literal["r"] | None = None) -> PartIds:
    """Read what `tokenise` has written of a part. `mmap_mode` is NumPy's."""
    ids, starts, text_of = (np.load(_file(build, number, what), mmap_mode) for what in ("ids", "starts", "texts"))
    return PartIds(ids, starts, text_of, _file(build, number, "unknown"))


def load_ids_of(notes: npt.NDArray[np.integer], starts: Sequence[int], build: ShardBuild) -> list[npt.NDArray[Any]]:
    """The token ids of some notes of any parts. Each part is opened once, one after another.

    Args:
        notes: (notes,), their numbers among all notes.
        starts: (parts + 1,), the number of each part's first note, and of all notes.
        build: the build.

    Returns:
        For each note (tokens,), in the order of `notes`.
    """
    found: list[npt.NDArray[Any]] = [np.zeros(0, build.id_dtype)] * len(notes)
    order = np.argsort(notes)
    parts, firsts = np.unique(np.searchsorted(starts, notes[order], side="right") - 1, return_index=True)
    for part, places in zip(parts.tolist(), np.split(order, firsts[1:]), strict=True):
        part_ids = load_ids(part, build, mmap_mode="r")
        for place in places.tolist():
            found[place] = np.array(part_ids.of(int(notes[place]) - starts[part]))
    return found


def delete_ids(number: int, build: ShardBuild) -> None:
    """Delete what `tokenise` has written of a part."""
    for what in ("ids", "starts", "texts", "unknown"):
        _file(build, number, what).unlink(missing_ok=True)


def _file(build: ShardBuild, number: int, what: str) -> Path:
    return build.ids_folder / f"part-{number:05d}.{what}.{'json' if what == 'unknown' else 'npy'}"


def load_encoder(build: ShardBuild) -> tuple[Tokenizer, IdEncoder]:
    """The tokenizer, loaded once per process, and what encodes by it."""
    return _loaded(build.tokenizer_folder / "tokenizer.json", tuple(build.tokenizer.placeholder_ids))


@cache
def _loaded(path: Path, placeholders: tuple[str, ...]) -> tuple[Tokenizer, IdEncoder]:
    backend = Tokenizer.from_file(str(path))
    return backend, IdEncoder(backend, placeholders)
