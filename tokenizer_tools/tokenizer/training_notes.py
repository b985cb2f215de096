"""The notes that a vocabulary may be learned from: those of the training split, read as build-shards reads them."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tokenizer_tools.corpus.clean_notes import CleaningRules, clean
from tokenizer_tools.corpus.deduplicate import text_hash
from tokenizer_tools.corpus.input_files import Input
from tokenizer_tools.corpus.input_options import InputOptions, find_sources
from tokenizer_tools.corpus.placeholders import Replacement
from tokenizer_tools.corpus.read_notes import check_first_notes, read_notes
from tokenizer_tools.corpus.split_lists import ListedSplits
from tokenizer_tools.corpus.split_patients import SplitRule, patients_of_admissions, unknown_patient
from tokenizer_tools.errors import UserError
from tokenizer_tools.manifest import SPLITS
from tokenizer_tools.progress import Progress

_BATCH = 1000
"""Notes that are tokenised at once."""


@dataclass(frozen=True)
class TrainingNote:
    """A note of the training split, with text."""

    raw: str
    """As it was read."""
    text: str
    """Cleaned."""
    digest: str
    """Hash of the cleaned text."""
    group: str
    """The patient, else the admission, else the text: what the split keeps together."""
    category: str


@dataclass
class TrainingNotes:
    """The training split of some notes. Each iteration reads the files again."""

    inputs: Sequence[Input]
    reading: InputOptions
    split: SplitRule
    cleaning: CleaningRules
    replacement: Replacement
    """What replaces a de-identification placeholder."""
    unknown_whitespace: str = ""
    """White space that the tokenizer doesn't know, each replaced by a space."""
    rows_skipped: int = field(default=0, init=False)
    """Rows that can't be used, in the last iteration."""

    def __iter__(self) -> Iterator[TrainingNote]:
        rule, self.rows_skipped = self.split, 0
        known = patients_of_admissions(self._pairs) if rule.needs_identity else {}
        listed = self._listed(known)
        with Progress("reading notes") as progress:
            for note in read_notes(self.inputs, self.reading, rule):
                progress.advance(1)
                patient = note.patient or known.get(note.admission) or ""
                text = clean(note.text, self.cleaning, self.replacement, self.unknown_whitespace, note.person)
                digest = text_hash(text)
                is_dropped = rule.needs_identity and rule.by == "patient" and not patient
                if text and is_dropped and self.reading.on_bad_row == "fail":
                    raise unknown_patient(note.place, 0, is_contradicted=note.admission in known)
                self.rows_skipped += note.fault not in (None, "marked_error", "filtered") or bool(text and is_dropped)
                group = rule.group_of(patient, note.admission, digest)
                split: int | None = rule.split_of(group)
                if split is not None and listed is not None:
                    split = listed.split_of(patient, note.admission, split)
                if text and not is_dropped and split == SPLITS.index("train"):
                    yield TrainingNote(note.text, text, digest, group, note.category)

    def batches(self) -> Iterator[list[TrainingNote]]:
        """In lists, without exact duplicates, which build-shards drops."""
        notes = self._unique()
        while batch := list(itertools.islice(notes, _BATCH)):
            yield batch

    def _unique(self) -> Iterator[TrainingNote]:
        seen = set[int]()
        for note in self:
            key = int(note.digest[:16], 16)
            if key not in seen:
                seen.add(key)
                yield note

    def _listed(self, known: dict[str, str | None]) -> ListedSplits[str] | None:
        """The user's own split, if there is one. `known` says whose an admission is."""
        lists = self.split.lists
        if not lists.files():
            return None
        listed = ListedSplits(lists, lists.read(), self.split.by)
        for note in read_notes(self.inputs, self.reading, self.split):
            listed.see(note.patient or known.get(note.admission) or "", note.admission, note.place)
        listed.check()
        return listed

    def _pairs(self) -> Iterator[tuple[str, str]]:
        for note in read_notes(self.inputs, self.reading, self.split):
            yield note.patient, note.admission


def find_notes(notes: Sequence[Path], reading: InputOptions, split: SplitRule) -> list[Input]:
    """Find the input files, and read the first note of each: most mistakes show there.

    Raises:
        UserError: a file is missing, of unknown kind or broken, or its first row can't be used.
    """
    inputs = find_sources(notes, reading)
    check_first_notes(inputs, reading, split)
    return inputs


def no_training_notes() -> UserError:
    """The error for notes of which none can be learned from."""
    return UserError("no note with text in the training split; check --notes and --columns.text")
