"""emrQA: questions about clinical notes, generated from the annotations of i2b2 challenges.

The form of its data.json is read from its generators, panushri25/emrQA `generation/*-answers.py`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from clinical_pretrain.tasks.readers.answers import locate
from clinical_pretrain.tasks.readers.common import UNDIVIDED, check_ids
from clinical_pretrain.tasks.readers.rows import (
    as_object,
    get_list,
    get_number,
    get_text,
    get_texts,
    read_json,
)
from clinical_pretrain.tasks.records import Answer, Document, Question, ReadingReport, TaskData
from tokenizer_tools.errors import UserError

Part = Literal["medication", "relations", "risk"]
Target = Literal["evidence", "text"]
TITLES = {
    "medication": ("medication", "medications"),
    "relations": ("relations",),
    "risk": ("risk", "risk-dataset"),
}
"""The titles under which data.json has a part: two versions of the generators differ."""
STATUS = re.compile(r"(?<=\S) \((improves|worsens|worsens/not improves|not known status|causes|caused)\)$")
"""What the generator of `relations` appends to an answer, and the note doesn't have."""


@dataclass(frozen=True)
class Note:
    """The lines of a note, and the places of their words in its text."""

    lines: tuple[str, ...]
    """Each ends with a line break."""

    @cached_property
    def text(self) -> str:
        return "".join(self.lines)

    @cached_property
    def words(self) -> list[tuple[int, int, str]]:
        """Start, end and lower-case text of each word, separated by white space."""
        return [(match.start(), match.end(), match[0].lower()) for match in re.finditer(r"\S+", self.text)]

    @cached_property
    def first_words(self) -> list[int]:
        """The number of the first word of each line, and the number of words."""
        firsts = [0]
        for line in self.lines:
            firsts.append(firsts[-1] + len(line.split()))
        return firsts

    def answer(self, first: int, count: int) -> Answer:
        """The answer that consists of these words."""
        start, end = self.words[first][0], self.words[first + count - 1][1]
        return Answer(start, self.text[start:end])


def read_emrqa(path: Path, part: Part, target: Target = "evidence", max_words: int | None = None) -> TaskData:
    """Read one part of emrQA's data.json. Each note is a document, each paraphrase of a question a question.

    Nothing is sampled, and the notes aren't divided: emrQA has no splits. Peers divide them by note, 7:1:2.

    Args:
        path: data.json.
        part: `risk` has as documents all notes of a patient, joined.
        target: what the answer is. `evidence` is the line (or lines) with the answer, which CliniRC and the original
            evaluation of Clinical-Longformer predict; `text` is the entity itself.
        max_words: leave out answers of this many words or more: 20 in CliniRC.

    `medication` and `relations` give line (from 1) and word (from 0), and lower-case texts with single blanks. Words
    are compared without regard to case, and the answer is what the note has there. If it isn't at its word, it must
    stand exactly once in its line; evidence that isn't at its line must be at the one before or after.
    `risk` gives offsets of characters, too large by the blanks that its generator stripped from the beginning of each
    note; see `answers.locate`. Answers that can't be placed, complex ones (several entities) and, for `text`, empty
    ones are left out, and so are questions without another answer.

    Raises:
        UserError: the file is missing or not of this form, or it hasn't this part.
    """
    found = [
        dataset
        for value in get_list(read_json(path), "data", str(path))
        if (dataset := as_object(value, str(path))).get("title") in TITLES[part]
    ]
    if len(found) != 1:
        raise UserError(f"{path}: {len(found)} data sets have the title {TITLES[part][0]!r}; is it emrQA's data.json?")
    reader = _Reader(part, target, max_words, ReadingReport())
    documents = [
        reader.document(paragraph, f"{path}, {part}, note {number}")
        for number, paragraph in enumerate(get_list(found[0], "paragraphs", str(path)))
    ]
    return check_ids(TaskData("answers", {UNDIVIDED: documents}, (), reader.report), path)


@dataclass(frozen=True)
class _Reader:
    part: Part
    target: Target
    max_words: int | None
    report: ReadingReport

    def document(self, paragraph: Any, place: str) -> Document:
        identifier = get_text(as_object(paragraph, place), "note_id", place)
        lines = get_texts(paragraph, "context", place)
        note = Note(tuple(line if line.endswith("\n") else line + "\n" for line in lines))
        questions = tuple(
            question
            for number, qa in enumerate(get_list(paragraph, "qas", place))
            for question in self._questions(as_object(qa, place), note, f"{identifier}/{number}", f"{place}, {number}")
        )
        patient = identifier if self.part == "risk" else ""
        return Document(identifier, note.text, patient, questions=questions)

    def _questions(self, qa: dict[str, Any], note: Note, identifier: str, place: str) -> list[Question]:
        """A question in each of its wordings."""
        found = [self._answer(as_object(answer, place), note, place) for answer in get_list(qa, "answers", place)]
        answers = tuple(dict.fromkeys(answer for answer in found if answer))
        if not answers:
            self.report.leave_out("question without an answer that can be used", place)
            return []
        wordings = get_texts(qa, "question", place)
        return [Question(f"{identifier}/{number}", wording, answers) for number, wording in enumerate(wordings)]

    def _answer(self, answer: dict[str, Any], note: Note, place: str) -> Answer | None:
        text, start = answer.get("text"), get_list(answer, "answer_start", place)
        if isinstance(text, list) or answer.get("answer_entity_type") == "complex":
            self.report.leave_out("complex answer: several entities", place)  # such as a medication and its dosage
            return None
        if len(start) != 2:
            raise UserError(f"{place}: 'answer_start' isn't a pair; is it emrQA's data.json?")
        if self.target == "evidence":
            first = get_number(answer.get("evidence_start"), "'evidence_start'", place)
            found = self._evidence(note, get_text(answer, "evidence", place), first, place)
        elif not get_text(answer, "text", place).strip():
            self.report.leave_out("empty answer", place)  # yes, no, or a state: only the line says it
            return None
        else:
            line, word = (get_number(value, "'answer_start'", place) for value in start)
            found = self._entity(note, answer["text"], line, word, place)
        if found and self.max_words is not None and len(found.text.split()) >= self.max_words:
            self.report.leave_out(f"answer of {self.max_words} words or more", place)
            return None
        return found

    def _evidence(self, note: Note, evidence: str, line: int, place: str) -> Answer | None:
        """The lines that hold an answer."""
        if self.part == "risk":
            return locate(note.text, evidence, line, place, self.report)
        count = evidence.rstrip("\n").count("\n") + 1

        def stands(first: int) -> bool:
            lines = note.lines[first : first + count] if first >= 0 else ()
            # The generator of `medication` joins lines by commas.
            return evidence.strip() in ("".join(lines).strip(), ",".join(lines).strip()) and bool(evidence.strip())

        found = [line - 1] if stands(line - 1) else [first for first in (line - 2, line) if stands(first)]
        if len(found) != 1:
            self.report.leave_out("evidence not at its line", place)
            return None
        if found != [line - 1]:
            self.report.mend("evidence one line off", place)
        first, end = note.first_words[found[0]], note.first_words[found[0] + count]
        return note.answer(first, end - first)

    def _entity(self, note: Note, text: str, line: int, word: int, place: str) -> Answer | None:
        """An entity by its line and word, or, in `risk`, by its offset."""
        if self.part == "risk":
            return locate(note.text, text, word, place, self.report)
        bare = STATUS.sub("", text)
        if bare != text:
            self.report.mend("status removed from an answer", place)
        wanted = bare.lower().split()
        if not 1 <= line <= len(note.lines):
            self.report.leave_out("answer outside the note", place)
            return None
        first, last = note.first_words[line - 1], note.first_words[line]

        def stands(at: int) -> bool:
            return [lower for _, _, lower in note.words[at : at + len(wanted)]] == wanted

        if first + word < last and stands(first + word):
            return note.answer(first + word, len(wanted))
        found = [at for at in range(first, last) if stands(at)]
        if len(found) != 1:
            self.report.leave_out("answer not at its line and word", place)
            return None
        # Such as one too many in a line that begins with a blank.
        self.report.mend("word number wrong, answer stands once in its line", place)
        return note.answer(found[0], len(wanted))
