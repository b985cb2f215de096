"""Read the de-identification task of i2b2 2006: discharge summaries with tags around protected health information.

Source of the format: the data set's files, as read by n2c2_2006_deid.py of bigscience-workshop/biomedical. The texts
keep their tokenization, and their last line, `[ report_end ]`.
"""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree.ElementTree import Element

from clinical_pretrain.tasks.readers.common import Entities, entity_task, find_one, read_bytes
from clinical_pretrain.tasks.records import Document, ReadingReport, Span, TaskData
from tokenizer_tools.errors import UserError
from tokenizer_tools.xml_files import parse_xml

FILES = {
    "train": "deid_surrogate_train_all_version2.xml",
    "test": "deid_surrogate_test_all_groundtruth_version2.xml",
}
BROKEN_LINE = 25722
"""In this line of the training file as distributed, a second opening tag stands for a closing one."""
OPENED_TWICE = re.compile(rb"(<PHI [^<>]*>[^<]*)<PHI [^<>]*>")


def read_i2b2_2006(folder: Path) -> TaskData:
    """Read both files from a folder or from below it. The set names no patients.

    Raises:
        UserError: a file is missing, or malformed in another place than the known one.
    """
    report = ReadingReport()
    splits = {split: _read(find_one(folder, name), split, report) for split, name in FILES.items()}
    return entity_task(folder, splits, report)


def _read(path: Path, split: str, report: ReadingReport) -> list[Document]:
    content = read_bytes(path)
    while match := OPENED_TWICE.search(content):
        line = content.count(b"\n", 0, match.end()) + 1
        if (split, line) != ("train", BROKEN_LINE):
            raise UserError(f"{path}, line {line}: a PHI tag before the last one is closed; copy the data set again")
        content = content[: match.end(1)] + b"</PHI>" + content[match.end() :]
        report.mend("PHI tag closed", f"{path}, line {line}")
    root, lines = parse_xml(content, path)
    documents = []
    for record in root:
        texts = record.findall("TEXT")
        if record.tag != "RECORD" or "ID" not in record.attrib or len(texts) != 1:
            raise UserError(
                f"{path}, line {lines[record]}: not a RECORD with an ID and one TEXT; copy the data set again"
            )
        text, entities = _text_of(texts[0], path, lines)
        found = Entities(text, report)
        for entity, line in entities:
            found.add(entity, f"{path}, line {line}")
        documents.append(Document(id=f"{split}/{record.attrib['ID']}", text=text, entities=found.spans))
    return documents


def _text_of(element: Element, path: Path, lines: dict[Element, int]) -> tuple[str, list[tuple[Span, int]]]:
    """A record's text without its tags, and what they enclose, each with its line."""
    text, entities = element.text or "", []
    for tag in element:
        if tag.tag != "PHI" or "TYPE" not in tag.attrib or len(tag):
            raise UserError(
                f"{path}, line {lines[tag]}: not a PHI tag with a TYPE around text; copy the data set again"
            )
        start = len(text)
        text += tag.text or ""
        entities.append((Span(start, len(text), tag.attrib["TYPE"]), lines[tag]))
        text += tag.tail or ""
    return text, entities
