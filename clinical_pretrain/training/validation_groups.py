"""What validation breaks its figures down by: note category, position in the sequence, section, words of a list."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from clinical_pretrain.data.masking import Vocabulary
from clinical_pretrain.data.shards import PackedSequence, note_categories
from clinical_pretrain.data.terms import TermFinder

FIRST_RANGE = 512
"""Tokens of the first range of positions: what BERT sees. Each further range ends at twice the last one."""
SECTIONS = (
    "allergies", "assessment", "assessment and plan", "brief hospital course", "chief complaint", "discharge condition",
    "discharge diagnosis", "discharge instructions", "discharge medications", "family history", "findings",
    "history of present illness", "hospital course", "impression", "indication", "medications",
    "medications on admission", "past medical history", "past surgical history", "pertinent results",
    "physical exam", "physical examination", "plan", "procedure", "review of systems", "social history", "technique",
)  # fmt: skip
"""Headers that are found where a colon follows them."""


class Groups(Protocol):
    """Groups of predicted tokens."""

    @property
    def names(self) -> list[str]:
        """Of the groups."""

    def of(self, sequence: PackedSequence, positions: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """(predicted,): index of each predicted token's group, -1 for none.

        Args:
            sequence: the sequence, unmasked.
            positions: (predicted,) int64, of the predicted tokens in it.
        """


class Categories:
    """Categories of notes.

    Args:
        folder: of the shards.
    """

    def __init__(self, folder: Path) -> None:
        self.note_category, self.names = note_categories(folder)

    def of(self, sequence: PackedSequence, positions: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """See Groups."""
        segment = np.searchsorted(sequence.segment_starts, positions, side="right") - 1
        return self.note_category[sequence.segment_notes[segment]].astype(np.int64)


class Positions:
    """Ranges of positions in the sequence.

    Args:
        length: tokens of a sequence.
    """

    def __init__(self, length: int) -> None:
        ends = [FIRST_RANGE]
        while ends[-1] < length:
            ends.append(2 * ends[-1])
        self._ends = [*ends[:-1], length]
        starts = [0, *self._ends]
        self.names = [f"{start}-{end - 1}" for start, end in zip(starts, self._ends, strict=False)]

    def of(self, sequence: PackedSequence, positions: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """See Groups."""
        return np.searchsorted(self._ends, positions, side="right")


class Words:
    """Words of lists.

    Args:
        lists: words or phrases by name, such as `{"negations": ["denies", "no"]}`.
        tokenizer_json: of the shards.
        vocabulary: of the shards.
    """

    def __init__(self, lists: dict[str, list[str]], tokenizer_json: Path, vocabulary: Vocabulary) -> None:
        self.names = list(lists)
        terms = {term: number for number, words in enumerate(lists.values()) for term in words}
        self._finder = TermFinder(terms, tokenizer_json, vocabulary)

    def of(self, sequence: PackedSequence, positions: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """See Groups."""
        group = np.full(len(sequence.input_ids), -1)
        for match in self._finder.find(sequence.input_ids):
            group[match.start : match.end] = match.group
        return group[positions]


class Sections:
    """Sections of notes, where headers are found: a section begins with its header, and ends at the next one or at the
    note's end.

    Args:
        tokenizer_json: of the shards.
        vocabulary: of the shards.
    """

    def __init__(self, tokenizer_json: Path, vocabulary: Vocabulary) -> None:
        self.names = list(SECTIONS)
        terms = {f"{header}:": number for number, header in enumerate(SECTIONS)}
        self._finder = TermFinder(terms, tokenizer_json, vocabulary)

    def of(self, sequence: PackedSequence, positions: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """See Groups."""
        matches = self._finder.find(sequence.input_ids)
        starts = [*sequence.segment_starts, *(match.start for match in matches)]
        groups = [*[-1] * len(sequence.segment_starts), *(match.group for match in matches)]
        order = np.argsort(starts, kind="stable")
        begun = np.searchsorted(np.array(starts)[order], positions, side="right") - 1
        return np.array(groups)[order][begun]
