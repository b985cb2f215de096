"""Read a folder of texts with annotations in brat's standoff format (https://brat.nlplab.org/standoff.html).

`NAME.txt` with `NAME.ann`, whose lines of entities are `T1<tab>Type 10 20;25 30<tab>text`: offsets in the text's
characters, several where the entity is discontinuous. Other lines (events, relations, attributes, notes) aren't read.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

from clinical_pretrain.tasks.readers.common import (
    UNDIVIDED,
    Entities,
    agree,
    by_split,
    entity_task,
    files_of,
    paired,
    read_text,
)
from clinical_pretrain.tasks.records import Document, ReadingReport, Span, TaskData
from tokenizer_tools.errors import UserError

ENTITY = re.compile(r"T\S+\t(\S+) (\d+ \d+(?:;\d+ \d+)*)\t(.*)")
OTHER = "ERAMN#*"
"""First characters of events, relations, attributes (A, M), normalizations, notes and equivalences."""


class Annotation(NamedTuple):
    """An entity's line."""

    type: str
    fragments: tuple[tuple[int, int], ...]
    stated: str
    place: str

    def span(self) -> Span:
        """From the first fragment's start to the last one's end."""
        starts, ends = zip(*self.fragments, strict=True)
        return Span(min(starts), max(ends), self.type)

    def stands_in(self, text: str) -> bool:
        """Whether the fragments, joined with blanks, are the stated text."""
        whole = all(start < end <= len(text) for start, end in self.fragments)
        return whole and agree(" ".join(text[start:end] for start, end in self.fragments), self.stated)


def read_brat(folder: Path) -> TaskData:
    """Read a folder of texts and annotations as the split `train`, or its folders `train`, `dev` and `test`.

    A discontinuous entity becomes the span from its first character to its last, with the gaps. Entities may overlap.
    A text keeps its line ends; where offsets fit only if a Windows line end is one character, it becomes a newline.

    Raises:
        UserError: no texts, a text or annotations alone, or a line that isn't brat's.
    """
    report = ReadingReport()
    folders = by_split(path for path in folder.glob("*") if path.is_dir()) or {UNDIVIDED: folder}
    splits = {}
    for split, path in folders.items():
        pairs = paired(files_of(path, ".txt"), files_of(path, ".ann"))
        splits[split] = [_document(text, annotations, report) for text, annotations in pairs]
    return entity_task(folder, splits, report)


def _document(text_path: Path, annotations_path: Path, report: ReadingReport) -> Document:
    annotations = _annotations(annotations_path)
    text = read_text(text_path)
    if "\r\n" in text:
        newlines = text.replace("\r\n", "\n")
        if sum(one.stands_in(newlines) for one in annotations) > sum(one.stands_in(text) for one in annotations):
            text = newlines
            report.mend("Windows line end read as one character", str(text_path))
    entities = Entities(text, report)
    for one in annotations:
        if len(one.fragments) == 1:
            entities.add_stated(one.span(), one.stated, one.place)
        elif one.stands_in(text):
            gaps = [text[end:start] for (_, end), (start, _) in zip(one.fragments, one.fragments[1:], strict=False)]
            report.mend("gaps filled" if any(gap.strip() for gap in gaps) else "white space filled", one.place)
            entities.add(one.span(), one.place)
        else:
            report.leave_out("stated text isn't at the offset", one.place)
    return Document(id=text_path.stem, text=text, entities=entities.spans)


def _annotations(path: Path) -> list[Annotation]:
    annotations = []
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if not line.strip() or line[0] in OTHER:
            continue
        match = ENTITY.fullmatch(line)
        if match is None:
            raise UserError(f"{path}, line {number}: not a line of brat (T1<tab>Type 10 20<tab>text); export it again")
        fragments = tuple((int(start), int(end)) for start, end in (part.split() for part in match[2].split(";")))
        annotations.append(Annotation(match[1], fragments, match[3], f"{path}, line {number}"))
    return annotations
