"""Count what shards hold, from the notes table and the token ids. The counts are exact; `content.py` hides small ones.

Memory: one record batch, and 70 bytes per note.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tokenizer_tools.manifest import NOTES_TABLE_NAME, SPLITS, Manifest
from tokenizer_tools.progress import Progress
from tokenizer_tools.shard_reading import Lists, columns_of_lists, record_batches, whole_notes
from tokenizer_tools.shards.describe.pieces import WordFinder, word_finder
from tokenizer_tools.shards.verify.notes import load_notes_table

Integers = npt.NDArray[np.int64]


@dataclass
class Group:
    """The notes of a split, a category or a source, or of several rare ones together."""

    name: str
    patients: int = 0
    """Distinct patients; of notes that name none, distinct admissions, else the notes themselves."""
    merged: int = 0
    """Number of rare groups that were put together here; 0 in a group of its own."""
    notes: int = 0
    tokens: int = 0
    words: int = 0
    word_tokens: int = 0
    broken_words: int = 0
    """Words in `MANY_PIECES` or more."""

    def add(self, figures: Integers) -> None:
        """Add notes, tokens, words, their tokens, and broken words: (5,)."""
        notes, tokens, words, word_tokens, broken_words = figures.tolist()
        self.notes, self.tokens, self.words = self.notes + notes, self.tokens + tokens, self.words + words
        self.word_tokens, self.broken_words = self.word_tokens + word_tokens, self.broken_words + broken_words


@dataclass(frozen=True)
class Grouping:
    """Groups, and which of them each note belongs to."""

    groups: list[Group]
    of_note: npt.NDArray[np.int32]
    """(notes,)"""

    def add(self, numbers: Integers, figures: Integers) -> None:
        """Add notes to their groups.

        Args:
            numbers: (notes,), rows of the notes table.
            figures: (notes, 5), as for `Group.add`.
        """
        groups = self.of_note[numbers]
        columns = [np.bincount(groups, column, len(self.groups)) for column in figures.T]
        for group, sums in zip(self.groups, np.stack(columns, axis=1).astype(np.int64), strict=True):
            group.add(sums)

    def by_size(self) -> list[Group]:
        """Groups with notes, the largest first, rare ones last."""
        found = [group for group in self.groups if group.notes]
        return sorted(found, key=lambda group: (group.merged, -group.tokens, group.name))


@dataclass
class ShardCounts:
    """What was counted."""

    kind: str | None
    """How the tokenizer divides words; None if words can't be counted."""
    total: Group
    splits: list[Group]
    categories: list[Group]
    sources: list[Group]
    lengths: Integers = field(default_factory=lambda: np.zeros(0, np.int64))
    """(longest note + 1,): number of notes with so many tokens."""
    sequences: int = 0
    segments: int = 0
    """Parts of notes in sequences."""


def count_shards(folder: Path, manifest: Manifest, min_patients: int, max_groups: int) -> ShardCounts:
    """Read the shards once.

    Args:
        folder: of finished shards.
        manifest: theirs.
        min_patients: categories and sources with fewer patients are counted together.
        max_groups: largest number of categories, and of sources; the smaller ones are counted together, too.

    Raises:
        UserError: a file is missing or damaged.
    """
    finder = word_finder(folder, manifest.tokenizer.vocab_size)
    patients, categories, sources = _read_notes(folder, source_names(manifest), (min_patients, max_groups))
    splits = Grouping([Group(name) for name in SPLITS], np.zeros(len(patients), np.int32))
    total = Group("all", len(np.unique(patients)))
    counts = ShardCounts(finder.kind if finder else None, total, splits.groups, [], [])
    with Progress("describing", total=len(patients)) as progress:
        for split, name in enumerate(SPLITS):
            for entry in manifest.splits[name].files:
                for numbers, figures in _notes_of(folder / entry.path, finder, counts):
                    splits.of_note[numbers] = split
                    total.add(figures.sum(axis=0))
                    for grouping in (splits, categories, sources):
                        grouping.add(numbers, figures)
                    progress.advance(len(numbers))
    for group, found in zip(splits.groups, _distinct(splits.of_note, patients, len(SPLITS)), strict=True):
        group.patients = found
    counts.categories, counts.sources = categories.by_size(), sources.by_size()
    return counts


def source_names(manifest: Manifest) -> tuple[list[str], npt.NDArray[np.int32]]:
    """The names of the sources, and the source of each input, (inputs,): by its number in the notes table.

    In a manifest of an earlier version each input is a source.
    """
    inputs = manifest.settings["inputs"]
    if manifest.sources:
        of_input = np.zeros(len(inputs), np.int32)
        for number, source in enumerate(manifest.sources):
            of_input[source.inputs] = number
        return [source.name for source in manifest.sources], of_input
    return [str(entry["name"]) for entry in inputs], np.arange(len(inputs), dtype=np.int32)


def _notes_of(path: Path, finder: WordFinder | None, counts: ShardCounts) -> Iterator[tuple[Integers, Integers]]:
    """The notes of a shard file: rows of the notes table, and (notes, 5) as for `Group.add`. Adds to lengths, sequences
    and segments of `counts`."""

    def batches() -> Iterator[dict[str, Lists]]:
        for batch in record_batches(path):
            columns = columns_of_lists(batch)
            counts.sequences += batch.num_rows
            counts.segments += len(columns["segment_notes"][1])
            yield columns

    for notes in whole_notes(batches()):
        lengths = np.diff(np.append(notes.starts, len(notes.ids)))
        words = finder.count(notes) if finder else np.zeros((len(lengths), 3), np.int64)
        here = np.bincount(lengths, minlength=len(counts.lengths))
        here[: len(counts.lengths)] += counts.lengths
        counts.lengths = here
        yield notes.notes, np.column_stack([np.ones(len(lengths), np.int64), lengths, words])


def _read_notes(
    folder: Path, sources: tuple[list[str], npt.NDArray[np.int32]], limits: tuple[int, int]
) -> tuple[npt.NDArray[np.int32], Grouping, Grouping]:
    """Each note's patient as a number, (notes,); categories; sources.

    Raises:
        UserError: the notes table is missing or damaged.
    """
    table = load_notes_table(folder)
    column = pa.Table.from_batches(record_batches(folder / NOTES_TABLE_NAME)).column("category")
    encoded = column.combine_chunks().dictionary_encode()
    names, of_note = encoded.dictionary.to_pylist(), encoded.indices.to_numpy().astype(np.int32)
    patients = np.unique(table.groups[:, 0], return_inverse=True)[1].astype(np.int32)  # 64 bits of the hash do
    source_of_note = sources[1][table.sources]
    return (
        patients,
        _group(names, of_note, patients, limits),
        _group(sources[0], source_of_note, patients, limits),
    )


def _group(
    names: list[str], of_note: npt.NDArray[np.int32], patients: npt.NDArray[np.int32], limits: tuple[int, int]
) -> Grouping:
    """Put rare groups together.

    Args:
        names: of the groups.
        of_note: (notes,), each note's group.
        patients: (notes,), each note's patient as a number.
        limits: the smallest number of patients, and the largest of groups.
    """
    found = _distinct(of_note, patients, len(names))
    order = sorted(range(len(names)), key=lambda i: (-found[i], names[i]))
    stay = [i for i in order[: limits[1]] if found[i] >= limits[0]]
    rare = [i for i in order if found[i] and i not in stay]
    new = np.full(len(names), len(stay), np.int32)
    new[stay] = np.arange(len(stay))
    of_note = new[of_note]
    groups = [Group(names[i], found[i]) for i in stay]
    if rare:
        groups.append(Group("other", _distinct(of_note, patients, len(stay) + 1)[-1], merged=len(rare)))
    return Grouping(groups, of_note)


def _distinct(of_note: npt.NDArray[np.int32], patients: npt.NDArray[np.int32], groups: int) -> list[int]:
    """The number of distinct patients of each group."""
    pairs = np.unique(of_note.astype(np.int64) << 32 | patients)
    return [int(count) for count in np.bincount(pairs >> 32, minlength=groups)]
