"""Signatures and shingles of all notes, in the private work folder. They go with it when the build is finished."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from tokenizer_tools.corpus.near_duplicates import DuplicateRules, minhash, shingle_hashes

_BATCH = 500
"""Notes hashed at once: few enough for the processor's cache."""
_NOTES_IN_MEMORY = 20_000
"""Notes whose sorted shingles are remembered, 8 bytes for each word."""
_OPEN_PARTS = 100


@dataclass(frozen=True)
class ShingleStore:
    """The files that near-duplicates are found by."""

    folder: Path
    rules: DuplicateRules

    def _file(self, number: int, what: str) -> Path:
        return self.folder / f"part-{number:05d}.{what}.npy"

    def verdict_file(self, number: int) -> Path:
        """What a job decided."""
        return self.folder / f"job-{number:05d}.npy"

    def write(self, number: int, texts: Sequence[str]) -> None:
        """Write the signatures and shingles of a part, of all its notes' cleaned texts."""
        hashes, lengths, signatures = [], [np.zeros(1, np.int64)], []
        for start in range(0, len(texts), _BATCH):
            batch, starts = shingle_hashes(texts[start : start + _BATCH], self.rules.ngram)
            hashes.append(batch)
            lengths.append(np.diff(starts))
            signatures.append(minhash(batch, starts, self.rules.permutations))
        self.folder.mkdir(exist_ok=True, mode=0o700)
        save_array(self._file(number, "starts"), np.cumsum(np.concatenate(lengths)))
        _write(self._file(number, "shingles"), np.concatenate(hashes).data)
        save_array(self._file(number, "signatures"), np.concatenate(signatures, axis=1))

    def signatures(self, number: int) -> npt.NDArray[np.uint32]:
        """(permutations, notes of the part), memory-mapped."""
        signatures: npt.NDArray[np.uint32] = np.load(self._file(number, "signatures"), mmap_mode="r")
        return signatures

    def open(self, number: int) -> tuple[BinaryIO, npt.NDArray[np.int64]]:
        """The file of a part's shingles, back to back, and where each note's begin. Not memory-mapped, as pages that
        were read once would count as memory of this process."""
        return self._file(number, "shingles").open("rb", buffering=0), np.load(self._file(number, "starts"))


class Shingles:
    """Reads signatures and shingles of single notes.

    Args:
        store: where they are.
        starts: (parts + 1,), the number of each part's first note among all notes, and of all notes.
    """

    def __init__(self, store: ShingleStore, starts: Sequence[int]) -> None:
        self._store, self._starts = store, np.array(starts)
        read = partial(_read, lru_cache(_OPEN_PARTS)(store.open), self._starts)
        self.of: Callable[[int], npt.NDArray[np.uint64]] = lru_cache(_NOTES_IN_MEMORY)(read)
        """Gives the shingles of a note, by its number among all: sorted, each once."""

    def signatures(self, notes: npt.NDArray[np.int64]) -> npt.NDArray[np.uint32]:
        """(notes, permutations): of notes by their numbers among all."""
        parts = np.searchsorted(self._starts, notes, side="right") - 1
        signatures = np.empty((len(notes), self._store.rules.permutations), np.uint32)
        for part in np.unique(parts):
            chosen = parts == part
            signatures[chosen] = self._store.signatures(part)[:, notes[chosen] - self._starts[part]].T
        return signatures


def _read(
    open_part: Callable[[int], tuple[BinaryIO, npt.NDArray[np.int64]]],
    starts_of_parts: npt.NDArray[np.int64],
    note: int,
) -> npt.NDArray[np.uint64]:
    part = int(np.searchsorted(starts_of_parts, note, side="right")) - 1
    file, starts = open_part(part)
    first, end = starts[note - starts_of_parts[part] :][:2].tolist()
    shingles = np.frombuffer(os.pread(file.fileno(), 8 * (end - first), 8 * first), np.uint64)
    shingles = np.sort(shingles)
    return shingles[np.append(True, shingles[1:] != shingles[:-1])]


def save_array(path: Path, array: npt.NDArray[Any]) -> None:
    """Write an array as `.npy`, so that a file that exists is complete."""
    header = io.BytesIO()
    array = np.ascontiguousarray(array)
    np.lib.format.write_array_header_1_0(header, np.lib.format.header_data_from_array_1_0(array))
    _write(path, header.getvalue(), array.data)


def _write(path: Path, *contents: bytes | memoryview) -> None:
    """NumPy's own writers don't say that the disk is full."""
    temporary = path.with_suffix(".tmp")
    with temporary.open("wb") as stream:
        for content in contents:
            stream.write(content)
    temporary.replace(path)
