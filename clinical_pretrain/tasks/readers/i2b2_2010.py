"""Read the concepts of i2b2/VA 2010: problems, tests and treatments, by line and token.

`c="chest pain" 12:3 12:4||t="problem"`: the lower-cased text, its first and last token (line from 1, token from 0) and
its type. Source of the format: n2c2_2010.py of bigscience-workshop/biomedical; of the shift at a leading blank: the
preprocessing of EmilyAlsentzer/clinicalBERT (i2b2_2010_relations/Reformat.ipynb).
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

from clinical_pretrain.tasks.readers.common import Entities, entity_task, files_of, find_one, paired, read_text
from clinical_pretrain.tasks.records import Document, ReadingReport, Span, TaskData
from tokenizer_tools.errors import UserError

TYPES = ("problem", "test", "treatment")
CONCEPT = re.compile(r'c="(.+)" (\d+):(\d+) (\d+):(\d+)\|\|t="(.*)"')
TOKEN = re.compile(r"[^ \r\n]+")


class Line(NamedTuple):
    """A line of a text."""

    tokens: list[tuple[int, int]]
    """Start and end of each token in the text."""
    leading_blank: bool


def read_i2b2_2010(folder: Path) -> TaskData:
    """Read the training set (of two hospitals) and the test set from their folders in or below `folder`.

    A concept's text must be the one at its tokens, but for case and white space. In a line that begins with a blank the
    indices may be greater by one: this is mended. A concept that doesn't match either way is left out. The set names no
    patients.

    Raises:
        UserError: a folder or file is missing, or a line isn't a concept.
    """
    report = ReadingReport()
    folders = {
        "beth": ("beth/txt", "beth/concept"),
        "partners": ("partners/txt", "partners/concept"),
        "test": ("test_data", "reference_standard_for_test_data/concepts"),
    }
    documents: dict[str, list[Document]] = {}
    for name, (texts, concepts) in folders.items():
        pairs = paired(files_of(find_one(folder, texts), ".txt"), files_of(find_one(folder, concepts), ".con"))
        documents[name] = [_document(f"{name}/{text.stem}", text, concept, report) for text, concept in pairs]
    splits = {"train": documents["beth"] + documents["partners"], "test": documents["test"]}
    return entity_task(folder, splits, report, labels=TYPES)


def _document(name: str, text_path: Path, concepts_path: Path, report: ReadingReport) -> Document:
    text = read_text(text_path, "utf-8-sig")
    lines = _lines(text)
    entities = Entities(text, report, TYPES)
    for number, row in enumerate(read_text(concepts_path, "utf-8-sig").split("\n"), start=1):
        if not row.strip():
            continue
        place = f"{concepts_path}, line {number}"
        match = CONCEPT.fullmatch(row.strip())
        if match is None:
            raise UserError(f'{place}: not of the form c="text" 12:3 12:4||t="type"; copy the data set again')
        first, last = (int(match[2]), int(match[3])), (int(match[4]), int(match[5]))
        for shift in (1, 0):  # the shifted index first: a line can hold the same word twice
            offsets = _offsets(lines, first, last, shift)
            if offsets and _squeezed(text[slice(*offsets)]) == _squeezed(match[1]):
                if shift:
                    report.mend("token index counts a leading blank", place)
                entities.add(Span(*offsets, match[6]), place)
                break
        else:
            report.leave_out("stated text isn't at the offset", place)
    return Document(id=name, text=text, entities=entities.spans)


def _lines(text: str) -> list[Line]:
    lines, start = [], 0
    for line in text.split("\n"):
        tokens = [(start + match.start(), start + match.end()) for match in TOKEN.finditer(line)]
        lines.append(Line(tokens, line.startswith(" ")))
        start += len(line) + 1
    return lines


def _offsets(lines: list[Line], first: tuple[int, int], last: tuple[int, int], shift: int) -> tuple[int, int] | None:
    """Characters from a first to a last token, given as (line, token).

    None if there are no such tokens; with a shift also if none of their lines begins with a blank.
    """
    if not all(1 <= line <= len(lines) for line, _ in (first, last)):
        return None
    shifts = [shift if lines[line - 1].leading_blank else 0 for line, _ in (first, last)]
    if shift and not any(shifts):
        return None
    places = []
    for (line, token), moved in zip((first, last), shifts, strict=True):
        if not 0 <= token - moved < len(lines[line - 1].tokens):
            return None
        places.append(lines[line - 1].tokens[token - moved])
    return (places[0][0], places[1][1])


def _squeezed(text: str) -> str:
    return "".join(text.lower().split())
