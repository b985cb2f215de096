"""Token ids of all notes, in the private work folder, until they are packed.

They need as much room as the shards will: 2 bytes for each token, 4 with vocabularies over 65,536. Ids of duplicates
within a part are kept once; those of notes that are dropped later, in vain.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from tokenizer_tools.files import write_json
from tokenizer_tools.shards.folder import ShardBuild, other_version
from tokenizer_tools.shards.shingles import save_array
from tokenizer_tools.shards.workers import advance
from tokenizer_tools.tokenizer.fast_ids import IdEncoder
from tokenizer_tools.tokenizer.load import forbidden_ids, note_ids
from tokenizer_tools.tokenizer.unknown_characters import UnknownCount, count_unknown

_BATCH = 500
"""Texts that are tokenised at once."""
BatchHook = Callable[[Sequence[str], Sequence[npt.NDArray[Any]], Sequence[UnknownCount]], None]


@dataclass(frozen=True)
class PartIds:
    """The token ids of a part's notes."""

    ids: npt.NDArray[Any]
    """(tokens,), of its different texts back to back, each with begin and end tokens."""
    starts: npt.NDArray[np.int64]
    """(texts + 1,), where each text's begin, and the end."""
    text_of: npt.NDArray[np.int64]
    """(notes of the part,), the number of a note's text."""
    unknown: dict[int, UnknownCount]
    """Of texts with unknown tokens."""

    def of(self, note: int) -> npt.NDArray[Any]:
        """The ids of a note, by its number in the part: (tokens,)."""
        return self.of_text(self.text_of[note])

    def of_text(self, text: int) -> npt.NDArray[Any]:
        """The ids of a text, by its number: (tokens,)."""
        return self.ids[self.starts[text] : self.starts[text + 1]]

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        """(notes of the part,): the number of each note's tokens."""
        return np.diff(self.starts)[self.text_of]

    def unknown_of(self, notes: npt.NDArray[np.int64]) -> UnknownCount:
        """What the tokenizer can't represent of some notes."""
        counts = (self.unknown[text] for text in self.text_of[notes].tolist() if text in self.unknown)
        return sum(counts, UnknownCount())

    def identity(self, text: int) -> npt.NDArray[np.uint64]:
        """(2,): a hash of a text's ids, and of the characters behind the unknown ones among them."""
        unknown = self.unknown.get(text, UnknownCount())
        digest = hashlib.blake2b(self.of_text(text).tobytes(), digest_size=16)
        digest.update(json.dumps([unknown.tokens, sorted(unknown.characters.items())]).encode())
        return np.frombuffer(digest.digest(), np.uint64)

    def with_texts(self, texts: Mapping[int, tuple[npt.NDArray[Any], UnknownCount]]) -> PartIds:
        """The same part with other ids of some texts, and what is unknown of these."""
        ids = [texts[text][0] if text in texts else self.of_text(text) for text in range(len(self.starts) - 1)]
        unknown = self.unknown | {text: count for text, (_, count) in texts.items()}
        return PartIds(np.concatenate(ids), np.cumsum([0, *map(len, ids)], dtype=np.int64), self.text_of, unknown)


def tokenise(number: int, texts: Sequence[str], build: ShardBuild, each_batch: BatchHook | None = None) -> None:
    """Write the token ids of a part, of all its notes' cleaned texts.

    Args:
        number: of the part.
        texts: of all its notes, cleaned.
        build: the build.
        each_batch: is given some different texts, their ids without begin and end tokens, and what is unknown of them.
    """
    info, (backend, encode) = build.tokenizer, load_encoder(build)
    forbidden = forbidden_ids(backend, info)
    numbers = {text: i for i, text in enumerate(dict.fromkeys(texts))}
    token_ids: list[npt.NDArray[Any]] = []
    unknown: dict[str, dict[str, Any]] = {}
    distinct = list(numbers)
    for start in range(0, len(distinct), _BATCH):
        batch = distinct[start : start + _BATCH]
        encoded, counts = encode(batch), list[UnknownCount]()
        for text, tokens in zip(batch, encoded, strict=True):
            token_ids.append(note_ids(tokens, info, forbidden, build.id_dtype))
            counts.append(count_unknown(backend, [text], [tokens], info.unknown_token, info.unknown_id))
        unknown |= {str(i): vars(count) for i, count in enumerate(counts, start) if count.tokens}
        if each_batch:
            each_batch(batch, encoded, counts)
        advance(len(batch))
    advance(len(texts) - len(distinct))
    build.ids_folder.mkdir(exist_ok=True, mode=0o700)
    save_array(_file(build, number, "ids"), np.concatenate(token_ids))
    save_array(_file(build, number, "starts"), np.cumsum([0, *map(len, token_ids)], dtype=np.int64))
    save_array(_file(build, number, "texts"), np.array([numbers[text] for text in texts], np.int64))
    write_json(_file(build, number, "unknown"), unknown)


def load_ids(number: int, build: ShardBuild, mmap_mode: Literal["r"] | None = None) -> PartIds:
    """Read what `tokenise` has written of a part. `mmap_mode` is NumPy's.

    Raises:
        UserError: another version has.
    """
    ids, starts, text_of = (np.load(_file(build, number, what), mmap_mode) for what in ("ids", "starts", "texts"))
    path = _file(build, number, "unknown")
    try:
        unknown = {int(text): UnknownCount.of(count) for text, count in json.loads(path.read_text()).items()}
    except TypeError:
        raise other_version(path) from None
    return PartIds(ids, starts, text_of, unknown)


def load_text_of(number: int, build: ShardBuild) -> npt.NDArray[np.int64]:
    """(notes of the part,): the number of each note's text."""
    text_of: npt.NDArray[np.int64] = np.load(_file(build, number, "texts"))
    return text_of


def save_rest(number: int, rest: PartIds, build: ShardBuild) -> None:
    """Write a part's token ids without copied paragraphs, for `load_ids_of`."""
    save_array(_file(build, number, "rest_ids"), rest.ids)
    save_array(_file(build, number, "rest_starts"), rest.starts)


def load_ids_of(notes: npt.NDArray[np.integer], starts: Sequence[int], build: ShardBuild) -> list[npt.NDArray[Any]]:
    """The token ids of some notes of any parts, without copied paragraphs if these are left out. Each part is opened
    once, one after another.

    Args:
        notes: (notes,), their numbers among all notes.
        starts: (parts + 1,), the number of each part's first note, and of all notes.
        build: the build.

    Returns:
        For each note (tokens,), in the order of `notes`.
    """
    found: list[npt.NDArray[Any]] = [np.zeros(0, build.id_dtype)] * len(notes)
    names = ("ids", "starts") if build.settings.duplicates.copied == "keep" else ("rest_ids", "rest_starts")
    order = np.argsort(notes)
    parts, firsts = np.unique(np.searchsorted(starts, notes[order], side="right") - 1, return_index=True)
    for part, places in zip(parts.tolist(), np.split(order, firsts[1:]), strict=True):
        ids, begins, text_of = (np.load(_file(build, part, what), mmap_mode="r") for what in (*names, "texts"))
        part_ids = PartIds(ids, begins, text_of, {})
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
