"""What the readers of task data give: documents with entities, questions or labels, and what reading had to mend.

Offsets are of characters (Python's), from 0, half-open. Texts are as in the files, but for the rules that a reader
states; a rule that changes or drops something counts each case in the report, by file and line.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

Kind = Literal["entities", "answers", "class", "labels"]
"""What is predicted of a document: its entities, the answers to its questions, one class, or any number of labels."""
PLACES = 20
"""Number of places that a report names per rule."""


class Span(NamedTuple):
    """An entity."""

    start: int
    end: int
    type: str


class Answer(NamedTuple):
    """An answer that stands in the document's text."""

    start: int
    text: str


@dataclass(frozen=True)
class Question:
    """A question about a document."""

    id: str
    text: str
    answers: tuple[Answer, ...]
    """All that are right; empty: the document has none."""


@dataclass(frozen=True)
class Document:
    """One text of a task, with what is to be predicted of it."""

    id: str
    """Unique in its task."""
    text: str
    patient: str = ""
    """The patient's identifier as in the data set; empty where it names none."""
    second_text: str | None = None
    """The second text of a pair, such as a hypothesis."""
    entities: tuple[Span, ...] = ()
    questions: tuple[Question, ...] = ()
    labels: tuple[str, ...] = ()
    """Those that hold; for the kind `class` exactly one."""
    unknown_labels: tuple[str, ...] = ()
    """Labels that the data set leaves open for this document: neither trained on nor scored."""


@dataclass
class ReadingReport:
    """What reading mended, and what it left out, by rule."""

    mended: Counter[str] = field(default_factory=Counter)
    """Number of cases that a rule has changed, by the rule's name, such as `offset moved by one`."""
    left_out: Counter[str] = field(default_factory=Counter)
    """Number of entities, answers or documents that can't be used."""
    places: dict[str, list[str]] = field(default_factory=dict)
    """The first places of each rule: file, and line or record. Never a text."""

    def mend(self, rule: str, place: str) -> None:
        """Count a case that was changed."""
        self.mended[rule] += 1
        self._remember(rule, place)

    def leave_out(self, rule: str, place: str) -> None:
        """Count a case that can't be used."""
        self.left_out[rule] += 1
        self._remember(rule, place)

    def _remember(self, rule: str, place: str) -> None:
        places = self.places.setdefault(rule, [])
        if len(places) < PLACES:
            places.append(place)


@dataclass(frozen=True)
class TaskData:
    """A task's documents."""

    kind: Kind
    splits: dict[str, list[Document]]
    """By split: `train`, `development`, `test`; those that the data set itself has."""
    labels: tuple[str, ...]
    """Types of entities, classes or labels, in a fixed order; empty for the kind `answers`."""
    report: ReadingReport = field(default_factory=ReadingReport)
