"""Read i2b2 2012 (clinical events) and 2014 (protected health information): one XML file per note, tags by offset.

Offsets count from 0 to behind the end, in the TEXT's characters; a newline after `<![CDATA[` is one of them, and an
escape in a text, such as `&apos;`, is as many as it is long. Source of both formats and of their faults: the
preprocessing of EmilyAlsentzer/clinicalBERT (i2b2_2012 and i2b2_2014_deid_hf_risk, Reformat.ipynb) and the readers of
bigscience-workshop/biomedical.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple
from xml.etree.ElementTree import Element

from clinical_pretrain.tasks.readers.common import Entities, entity_task, files_of, find_one, read_bytes
from clinical_pretrain.tasks.records import Document, ReadingReport, Span, TaskData
from tokenizer_tools.errors import UserError
from tokenizer_tools.xml_files import parse_xml

EVENT_TYPES = ("CLINICAL_DEPT", "EVIDENTIAL", "OCCURRENCE", "PROBLEM", "TEST", "TREATMENT")
NOT_AN_ESCAPE = re.compile(rb"<!\[CDATA\[.*?\]\]>|&(?!(?:amp|lt|gt|apos|quot|#\d+|#x[0-9A-Fa-f]+);)", re.DOTALL)


class Format(NamedTuple):
    """What differs between the two sets."""

    tag: str | None
    """Tags that are entities; None: all."""
    type_attribute: str
    types: tuple[str, ...] = ()


def read_i2b2_2012(folder: Path) -> TaskData:
    """Read the events of i2b2 2012. Time expressions and relations aren't read. The set names no patients.

    14 files are malformed by an `&` that isn't escaped: it is escaped, and counted. Events without a type are left out.
    The test set is the one without relations (2012-08-08) if it is there, else the one with them (2012-08-23).

    Raises:
        UserError: a folder is missing, or a file is malformed.
    """
    report = ReadingReport()
    folders = {
        "train": [find_one(folder, "2012-07-15.original-annotation.release")],
        "test": [find_one(folder, "2012-08-08.test-data.event-timex-groundtruth/xml", "ground_truth/merged_xml")],
    }
    splits = _read(folders, Format("EVENT", "type", EVENT_TYPES), report)
    return entity_task(folder, splits, report, labels=EVENT_TYPES)


def read_i2b2_2014(folder: Path) -> TaskData:
    """Read the protected health information of i2b2 2014. A file's name is its patient and record: `220-01.xml`.

    Raises:
        UserError: a folder is missing, or a file is malformed.
    """
    report = ReadingReport()
    folders = {
        "train": [find_one(folder, "training-PHI-Gold-Set1"), find_one(folder, "training-PHI-Gold-Set2")],
        "test": [find_one(folder, "testing-PHI-Gold-fixed")],
    }
    return entity_task(folder, _read(folders, Format(None, "TYPE"), report), report)


def _read(folders: dict[str, list[Path]], form: Format, report: ReadingReport) -> dict[str, list[Document]]:
    return {
        split: [_document(path, form, report) for folder in several for path in files_of(folder, ".xml")]
        for split, several in folders.items()
    }


def _document(path: Path, form: Format, report: ReadingReport) -> Document:
    root, lines = parse_xml(_escaped(read_bytes(path), path, report), path)
    texts, tags = root.findall("TEXT"), root.findall("TAGS")
    if len(texts) != 1 or len(tags) != 1 or len(texts[0]):
        raise UserError(f"{path}: not one TEXT without tags in it and one TAGS; copy the data set again")
    entities = Entities(texts[0].text or "", report, form.types)
    for tag in tags[0].iterfind(form.tag or "*"):
        place = f"{path}, line {lines[tag]}"
        entities.add_stated(_span(tag, form.type_attribute, place), tag.attrib["text"], place)
    patient, _, record = path.stem.partition("-")
    return Document(id=path.stem, text=entities.text, patient=patient if record else "", entities=entities.spans)


def _span(tag: Element, type_attribute: str, place: str) -> Span:
    missing = [name for name in ("start", "end", "text", type_attribute) if name not in tag.attrib]
    if missing:
        raise UserError(
            f"{place}: tag without {' and '.join(missing)}; name the folder with the task's own annotations"
        )
    try:
        return Span(int(tag.attrib["start"]), int(tag.attrib["end"]), tag.attrib[type_attribute])
    except ValueError:
        raise UserError(f"{place}: start or end isn't a whole number; copy the data set again") from None


def _escaped(content: bytes, path: Path, report: ReadingReport) -> bytes:
    """Escape each `&` outside of CDATA that doesn't begin an escape."""

    def escape(match: re.Match[bytes]) -> bytes:
        if match[0] != b"&":
            return match[0]
        line = content.count(b"\n", 0, match.start()) + 1
        report.mend("ampersand escaped", f"{path}, line {line}")
        return b"&amp;"

    return NOT_AN_ESCAPE.sub(escape, content)
