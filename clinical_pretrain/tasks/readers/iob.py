"""Read entities from token tags in columns (CoNLL): the token first, its tag last, blank lines between sentences.

Tags may be IOB1, IOB2 (BIO) or BIOES. The texts are rebuilt, as the original spacing is lost: tokens are joined with a
blank, sentences with a newline. Source of the decoding: conlleval (Tjong Kim Sang and Buchholz, CoNLL-2000).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from clinical_pretrain.tasks.readers.common import Entities, by_split, entity_task, read_text
from clinical_pretrain.tasks.records import Document, ReadingReport, Span, TaskData
from tokenizer_tools.errors import UserError

SUFFIXES = (".bio", ".conll", ".iob", ".iob2", ".tsv", ".txt")
TAG = re.compile(r"O|([BIES])-(\S+)")


class Token(NamedTuple):
    """A token and its tag."""

    text: str
    prefix: str
    """`B`, `I`, `E`, `S` or `O`."""
    type: str
    line: int


Sentence = list[Token]


def read_iob(folder: Path) -> TaskData:
    """Read the files of a folder that are named after a split: `train.tsv`, `devel.tsv`, `test.tsv`.

    A document begins at a line `-DOCSTART-`; in a file without such lines each sentence is a document. An entity that
    doesn't begin or end as its scheme says is kept and counted as mended.

    Raises:
        UserError: no such files, or a line without a token and a tag.
    """
    report = ReadingReport()
    files = by_split(path for path in folder.glob("*") if path.suffix in SUFFIXES)
    if not files:
        raise UserError(
            f"{folder}: no files of splits, such as train.tsv and test.tsv; name the folder that holds them"
        )
    return entity_task(folder, {split: _documents(path, split, report) for split, path in files.items()}, report)


def _documents(path: Path, split: str, report: ReadingReport) -> list[Document]:
    read = _sentences(path)
    scheme = _scheme([sentence for document in read for sentence in document])
    documents = []
    for number, sentences in enumerate(read, start=1):
        text = "\n".join(" ".join(token.text for token in sentence) for sentence in sentences)
        entities, start = Entities(text, report), 0
        for sentence in sentences:
            starts = []
            for token in sentence:
                starts.append(start)
                start += len(token.text) + 1
            for first, last in _decode(sentence):
                place = f"{path}, line {sentence[first].line}"
                if scheme != "IOB1" and sentence[first].prefix in "IE":
                    report.mend("entity without its first tag", place)
                if scheme == "BIOES" and sentence[last].prefix in "BI":
                    report.mend("entity without its last tag", place)
                end = starts[last] + len(sentence[last].text)
                entities.add(Span(starts[first], end, sentence[first].type), place)
        documents.append(Document(id=f"{split}-{number}", text=text, entities=entities.spans))
    return documents


def _sentences(path: Path) -> list[list[Sentence]]:
    """A file's documents, each a list of sentences."""
    documents: list[list[Sentence]] = [[]]
    sentence: Sentence = []
    marked = False
    for number, line in enumerate(read_text(path, "utf-8-sig").split("\n"), start=1):
        columns = re.split("\t" if "\t" in line else " +", line.strip(" \r"))
        starts_document = columns[0] == "-DOCSTART-"
        if sentence and (not line.strip() or starts_document):
            documents[-1].append(sentence)
            sentence = []
        if starts_document:
            marked = True
            documents.append([])
        elif line.strip():
            sentence.append(_token(columns, f"{path}, line {number}", number))
    if sentence:
        documents[-1].append(sentence)
    if not marked:
        return [[sentence] for sentence in documents[0]]
    return [document for document in documents if document]


def _token(columns: list[str], place: str, line: int) -> Token:
    tag = TAG.fullmatch(columns[-1].strip())
    if len(columns) < 2 or not columns[0].strip() or tag is None:
        raise UserError(f"{place}: not a token and a tag (O, B-TYPE, I-TYPE, E-TYPE or S-TYPE); mend the line")
    return Token(columns[0], tag[1] or "O", tag[2] or "", line)


def _decode(sentence: Sentence) -> Iterator[tuple[int, int]]:
    """The first and last token of each entity."""
    first: int | None = None
    for number, token in enumerate(sentence):
        if first is not None and not (token.prefix in "IE" and token.type == sentence[first].type):
            yield first, number - 1
            first = None
        if first is None and token.prefix != "O":
            first = number
        if first is not None and token.prefix in "ES":
            yield first, number
            first = None
    if first is not None:
        yield first, len(sentence) - 1


def _scheme(sentences: list[Sentence]) -> str:
    """The scheme of a file: `BIOES` if E or S occurs; `IOB1` if B only separates entities of a type; else `IOB2`."""
    pairs = [
        (before, token) for sentence in sentences for before, token in zip([None, *sentence], sentence, strict=False)
    ]
    if any(token.prefix in "ES" for _, token in pairs):
        return "BIOES"
    if all(before and before.type == token.type for before, token in pairs if token.prefix == "B"):
        return "IOB1"
    return "IOB2"
