"""Find near-duplicates: notes that share most of their runs of words.

A note's shingles are its runs of `ngram` words; two notes are near-duplicates if the Jaccard similarity of their sets
of shingles (shared / all) reaches a threshold. MinHash with locality-sensitive hashing proposes pairs (Broder, "On the
resemblance and containment of documents", 1997; Leskovec, Rajaraman and Ullman, "Mining of Massive Datasets", chapter
3), and the similarity itself decides about each pair. So a pair may be overlooked, but none is reported wrongly.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt

from tokenizer_tools.ranges import Range, check_ranges

_RECALL = 0.99
"""Share of the pairs exactly at the threshold that shared bands must propose, at least."""
_MARGIN = 3.0
"""Standard deviations by which signatures may underestimate a similarity."""
MAX_COMPARED = 200
"""Kept notes with which a note is compared for each band that it shares with them."""
_WORDS_REMEMBERED = 200_000
_PADDING = ""
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)
_MIX = np.uint64(0xBF58476D1CE4E5B9)


@dataclass(frozen=True)
class DuplicateRules:
    """What becomes of near-duplicates, and of copied paragraphs. Of exact duplicates the first in input order stays,
    always."""

    near: Literal["off", "keep", "drop"] = "off"
    """drop: of near-duplicates the first in input order stays. keep: only those of another split are dropped: from
    validation what is near to a training note, from test what is near to a note of the other two. off: they aren't
    looked for."""
    threshold: Annotated[float, Range(0.5, 1)] = 0.8
    """Two notes are near-duplicates if so large a share of their runs of words, at least, stands in both."""
    ngram: Annotated[int, Range(1, 100)] = 5
    """Words per run."""
    permutations: Annotated[int, Range(16, 1024)] = 96
    """MinHash values per note. More of them overlook fewer pairs, and take longer."""
    copied: Literal["keep", "drop"] = "keep"
    """drop: a paragraph that stands word for word in an earlier note of the same patient is left out."""
    copied_words: Annotated[int, Range(1, 100_000)] = 20
    """Shorter paragraphs stay. What is as short as 'No known drug allergies' recurs because it is still so, and the
    note would be less without it; a text of 20 words, about two sentences, was hardly written twice."""

    def __post_init__(self) -> None:
        check_ranges(self, "--duplicates.")

    def compared(self) -> dict[str, Any]:
        """The rules that another build of the same shards must share: those of what isn't looked for are left out."""
        values = asdict(self)
        copied = {name: values.pop(name) for name in ("copied", "copied_words")}
        near = values if self.near != "off" else {}
        return near | (copied if self.copied == "drop" else {})

    @cached_property
    def rows(self) -> int:
        """Values per band: the most with which the bands overlook no more than 1 % of the pairs at the threshold."""
        for rows in range(self.permutations, 1, -1):
            if 1 - (1 - self.threshold**rows) ** (self.permutations // rows) >= _RECALL:
                return rows
        return 1

    @property
    def bands(self) -> int:
        """Bands of `rows` values. Two notes are compared if they share all values of one band."""
        return self.permutations // self.rows

    def band(self, number: int) -> slice:
        """Which values of a signature make a band."""
        return slice(number * self.rows, (number + 1) * self.rows)


class _WordHashes(dict[str, int]):
    """64-bit hashes of words, each computed once; 0 for `_PADDING`."""

    def __missing__(self, word: str) -> int:
        if len(self) >= _WORDS_REMEMBERED:
            self.clear()
        digest = hashlib.blake2b(word.encode(), digest_size=8).digest()
        value = self[word] = int.from_bytes(digest, "little") if word != _PADDING else 0
        return value


_word_hashes = _WordHashes()


def shingle_hashes(texts: Iterable[str], ngram: int) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.int64]]:
    """Hash the shingles of texts, each as often as it occurs. Words are what white space separates, in lower case. A
    text of fewer words than `ngram` has one shingle.

    Returns:
        (shingles,): the hashes of all texts, back to back; (texts + 1,): where each text begins, and the end.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    # Arrow's white space is Python's, and a text of nothing else gives one empty word.
    lists = pc.utf8_split_whitespace(pa.array([text.lower().strip() for text in texts], pa.large_string()))
    words, ends = lists.flatten().dictionary_encode(), lists.offsets.to_numpy()[1:]
    different = words.dictionary.to_pylist()
    values = np.fromiter(map(_word_hashes.__getitem__, different), np.uint64, len(different))[words.indices.to_numpy()]
    missing = np.maximum(ngram - np.diff(ends, prepend=0), 0)
    if missing.any():
        values = np.insert(values, np.repeat(ends, missing), _word_hashes[_PADDING])
        ends = ends + np.cumsum(missing)
    runs = max(len(values) - ngram + 1, 0)
    shingles = np.zeros(runs, np.uint64)
    for place in range(ngram):
        shingles *= _MULTIPLIER
        shingles += values[place : place + runs]
    inside = np.ones(runs, dtype=bool)
    for place in range(1, ngram):
        inside[ends[:-1] - place] = False  # runs into the next text
    return _mixed(shingles[inside]), np.concatenate([[0], ends - np.arange(1, len(ends) + 1) * (ngram - 1)])


def _mixed(values: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Spread every bit over the upper ones (the first half of splitmix64)."""
    values = values ^ (values >> np.uint64(30))
    values *= _MIX
    return values ^ (values >> np.uint64(27))


def minhash(hashes: npt.NDArray[np.uint64], starts: npt.NDArray[np.int64], permutations: int) -> npt.NDArray[np.uint32]:
    """MinHash signatures: (permutations, texts).

    Args:
        hashes, starts: from `shingle_hashes`.
        permutations: of the 32-bit numbers, each x -> factor * x + shift with an odd factor.
    """
    values = (hashes >> np.uint64(32)).astype(np.uint32)
    permuted = np.empty_like(values)
    result = np.empty((permutations, len(starts) - 1), np.uint32)
    for number in range(permutations):
        factor, shift = np.frombuffer(hashlib.sha256(f"permutation {number}".encode()).digest()[:8], "<u4")
        np.multiply(values, factor | np.uint32(1), out=permuted)
        permuted += shift
        np.minimum.reduceat(permuted, starts[:-1], out=result[number])
    return result


def band_hashes(values: npt.NDArray[np.uint32], band: int) -> npt.NDArray[np.uint64]:
    """(notes,): hashes of one band of signatures, (rows, notes)."""
    hashes = np.full(values.shape[1], band, np.uint64)
    for row in values:
        hashes = _mixed((hashes + row) * _MULTIPLIER)
    return hashes


def jaccard(shingles: npt.NDArray[np.uint64], others: list[npt.NDArray[np.uint64]]) -> npt.NDArray[np.float64]:
    """(others,): the similarity of a note to some others. All shingles sorted, each once."""
    together = np.concatenate(others)
    sizes = np.array([len(other) for other in others])
    places = np.minimum(shingles.searchsorted(together), len(shingles) - 1)
    starts = np.cumsum(sizes) - sizes
    shared = np.add.reduceat((shingles[places] == together).astype(np.int64), starts)
    return np.asarray(shared / (len(shingles) + sizes - shared))


@dataclass(frozen=True)
class Verdict:
    """What becomes of notes that were compared with each other."""

    near_to: npt.NDArray[np.int64]
    """(notes,): for a note that is dropped, a note before it that stays and that it is a near-duplicate of; else -1."""
    crowded: npt.NDArray[np.bool_]
    """(notes,): notes that stay, and that share a band with over `MAX_COMPARED` notes before them that stay. Not all
    of these were compared."""


def find_near_duplicates(
    signatures: npt.NDArray[np.uint32],
    shingles_of: Callable[[int], npt.NDArray[np.uint64]],
    splits: npt.NDArray[np.uint8] | None,
    rules: DuplicateRules,
    first_new: int = 0,
) -> Verdict:
    """Go through notes in order, and drop each that is a near-duplicate of an earlier one that stays.

    So of a chain of notes, each near to the next, only those go that are near to one that stays.

    Args:
        signatures: (notes, permutations).
        shingles_of: gives the shingles of a note by its number, sorted, each once.
        splits: (notes,); only notes of different splits are compared. None: all.
        rules: of the near-duplicates.
        first_new: the notes before this one stay, whatever they are like.
    """
    notes = len(signatures)
    buckets, sizes = _buckets(signatures, rules)
    margin = _MARGIN * math.sqrt(rules.threshold * (1 - rules.threshold) / rules.permutations)
    fewest = (rules.threshold - margin) * rules.permutations
    remembered: dict[int, list[int]] = {}
    verdict = Verdict(np.full(notes, -1, np.int64), np.zeros(notes, dtype=bool))
    for note in range(notes):
        shared = [bucket for bucket in buckets[note].tolist() if sizes[bucket] > 1]
        near = shared if note >= first_new else []
        others = np.array(sorted(set().union(*(remembered.get(bucket, ()) for bucket in near))), np.int64)
        if splits is not None:
            others = others[splits[others] != splits[note]]
        if len(others):
            others = others[(signatures[others] == signatures[note]).sum(axis=1) >= fewest]
        if len(others):
            similarities = jaccard(shingles_of(note), [shingles_of(other) for other in others.tolist()])
            if similarities.max() >= rules.threshold:
                verdict.near_to[note] = others[similarities.argmax()]
                continue
        for bucket in shared:
            members = remembered.setdefault(bucket, [])
            if len(members) < MAX_COMPARED:
                members.append(note)
            else:
                verdict.crowded[note] = note >= first_new
    return verdict


def _buckets(
    signatures: npt.NDArray[np.uint32], rules: DuplicateRules
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int64]]:
    """(notes, bands): the same number for notes that share a band; and how many notes have each number."""
    bands = np.stack([band_hashes(signatures.T[rules.band(band)], band) for band in range(rules.bands)], axis=1)
    _, numbers, sizes = np.unique(bands, return_inverse=True, return_counts=True)
    return numbers.reshape(bands.shape).astype(np.int32), sizes
