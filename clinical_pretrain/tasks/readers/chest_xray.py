"""Findings in reports of chest X-rays: MIMIC-CXR to train on, OpenI (Indiana University) to test on.

The labels are the seven findings that both data sets have, as in luoyuanlab/Clinical-Longformer `classification/`.

- MIMIC-CXR has them from the CheXpert labeler: 1 is present, 0 absent, -1 uncertain. A blank cell is a finding that the
  report doesn't mention; it is taken as absent. Uncertain findings are `unknown_labels`. Both are counted.
- OpenI's reports were indexed by hand. A MeSH heading like `Pleural Effusion/right/small` is present; which headings
  count is in `HEADINGS`, and no other ones do, such as `Cardiac Shadow/enlarged` or `Infiltrate`. Headings that were
  assigned automatically are not used. Reports that weren't indexed (`No Indexing`, or no heading) are left out.

Both give the findings and the impression of a report, without indication and comparison. Neither has splits.
"""

from __future__ import annotations

import re
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple
from xml.etree.ElementTree import Element

from clinical_pretrain.tasks.readers.common import UNDIVIDED, check_ids, read_bytes, read_text
from clinical_pretrain.tasks.readers.rows import read_csv
from clinical_pretrain.tasks.records import Document, ReadingReport, TaskData
from tokenizer_tools.errors import UserError
from tokenizer_tools.xml_files import parse_xml

FINDINGS = (
    "Cardiomegaly",
    "Edema",
    "Consolidation",
    "Pneumonia",
    "Atelectasis",
    "Pneumothorax",
    "Pleural Effusion",
)
HEADINGS = {finding.lower(): finding for finding in FINDINGS} | {
    "pulmonary edema": "Edema",
    "pulmonary atelectasis": "Atelectasis",
}
"""Finding by the first part of OpenI's heading, in lower case."""
NOT_INDEXED = "no indexing"
SECTIONS = ("FINDINGS", "IMPRESSION")
SECTION_START = re.compile(r"^[ \t]*[A-Z /&()]*\b(?:FINDINGS|IMPRESSION)\b[A-Z /&()]*:", re.MULTILINE)
LABELS_FILE = "mimic-cxr-2.0.0-chexpert.csv"


class OpeniReport(NamedTuple):
    """A report of OpenI, as its XML or CSV file has it."""

    place: str
    id: str
    headings: list[str]
    sections: dict[str, str]


def read_chest_xray(mimic_cxr: Path, openi: Path) -> TaskData:
    """Read the task as its authors divide it: MIMIC-CXR is `train`, OpenI `test`.

    The arguments are those of `read_mimic_cxr` and `read_openi`, and so are the errors.
    """
    report = ReadingReport()
    splits = {"train": _mimic_documents(mimic_cxr, report), "test": _openi_documents(openi, report)}
    return check_ids(TaskData("labels", splits, FINDINGS, report), openi)


def read_openi(path: Path) -> TaskData:
    """Read OpenI's reports.

    Args:
        path: NLMCXR_reports.tgz, the folder that it unpacks to (with `ecgen-radiology`), or the CSV form that Kaggle
            has (indiana_reports.csv).

    Raises:
        UserError: the file is missing, damaged or not of this form, or two reports have one identifier.
    """
    report = ReadingReport()
    return check_ids(TaskData("labels", {UNDIVIDED: _openi_documents(path, report)}, FINDINGS, report), path)


def read_mimic_cxr(folder: Path) -> TaskData:
    """Read MIMIC-CXR's reports with the labels of MIMIC-CXR-JPG.

    A document's text is the report from its first heading FINDINGS or IMPRESSION on; a report without them is taken
    whole, and counted.

    Args:
        folder: holds mimic-cxr-2.0.0-chexpert.csv or .csv.gz, and the reports: files/p10/p10000032/s50414267.txt.

    Raises:
        UserError: the table or all reports are missing, a value isn't 1, 0, -1 or blank, or a study occurs twice.
    """
    report = ReadingReport()
    return check_ids(TaskData("labels", {UNDIVIDED: _mimic_documents(folder, report)}, FINDINGS, report), folder)


def _openi_documents(path: Path, report: ReadingReport) -> list[Document]:
    documents = []
    for found in _openi_reports(path):
        heads = {heading.split("/")[0].strip().lower() for heading in found.headings} - {""}
        text = "\n\n".join(f"{name}: {found.sections[name]}" for name in SECTIONS if found.sections.get(name))
        if not text:
            report.leave_out("report without findings and impression", found.place)
        elif not heads or NOT_INDEXED in heads:
            report.leave_out("report that wasn't indexed", found.place)
        else:
            present = {HEADINGS[head] for head in heads if head in HEADINGS}
            documents.append(Document(found.id, text, labels=tuple(name for name in FINDINGS if name in present)))
    return documents


def _openi_reports(path: Path) -> Iterator[OpeniReport]:
    if path.name.endswith((".csv", ".csv.gz")):
        for place, row in read_csv(path, ("uid", "MeSH", "findings", "impression")):
            sections = {name: row[name.lower()].strip() for name in SECTIONS}
            yield OpeniReport(place, f"CXR{row['uid']}", row["MeSH"].split(";"), sections)
        return
    empty = True
    for file, content in _archive(path) if path.is_file() else _folder(path):
        empty = False
        yield _openi_report(parse_xml(content, file)[0], file)
    if empty:
        raise UserError(f"{path}: holds no ecgen-radiology/N.xml; give NLMCXR_reports.tgz, or the folder it unpacks to")


def _folder(path: Path) -> Iterator[tuple[Path, bytes]]:
    inner = path / "ecgen-radiology"
    files = (file for file in (inner if inner.is_dir() else path).glob("*.xml") if file.stem.isdecimal())
    for file in sorted(files, key=lambda file: int(file.stem)):
        yield file, read_bytes(file)


def _archive(path: Path) -> Iterator[tuple[Path, bytes]]:
    """The XML files of an archive, in its order. Nothing is unpacked to disk."""
    try:
        with tarfile.open(path, "r:gz") as archive:
            for member in archive:
                if re.search(r"(^|/)ecgen-radiology/\d+\.xml$", member.name) and (
                    stream := archive.extractfile(member)
                ):
                    yield path / member.name, stream.read()
    except (tarfile.TarError, EOFError, OSError, zlib.error):
        raise UserError(f"{path}: broken or cut-off .tgz file; copy it again") from None


def _openi_report(root: Element, file: Path) -> OpeniReport:
    if (identity := root.find("uId")) is None or not (identifier := identity.get("id")):
        raise UserError(f"{file}: has no <uId id=...>; is it a report of OpenI?")
    sections = {
        str(element.get("Label")).upper(): "".join(element.itertext()).strip() for element in root.iter("AbstractText")
    }
    headings = ["".join(element.itertext()) for element in root.iterfind(".//MeSH/major")]
    return OpeniReport(str(file), identifier, headings, sections)


def _mimic_documents(folder: Path, report: ReadingReport) -> list[Document]:
    table = folder / LABELS_FILE
    table = table if table.exists() else folder / f"{LABELS_FILE}.gz"
    reports = folder / "files" if (folder / "files").is_dir() else folder
    documents = []
    for place, row in read_csv(table, ("subject_id", "study_id", *FINDINGS)):
        patient, study = row["subject_id"], row["study_id"]
        file = reports / f"p{patient[:2]}" / f"p{patient}" / f"s{study}.txt"
        if not file.exists():
            report.leave_out("study without a report", place)
            continue
        text = _mimic_text(read_text(file), str(file), report)
        if not text:
            report.leave_out("report without text", str(file))
            continue
        values = {finding: _chexpert_value(row[finding], place, report) for finding in FINDINGS}
        present = tuple(finding for finding, value in values.items() if value)
        unknown = tuple(finding for finding, value in values.items() if value is None)
        documents.append(Document(f"s{study}", text, patient, labels=present, unknown_labels=unknown))
    if not documents:
        raise UserError(f"{reports}: holds no report like p10/p10000032/s50414267.txt of a study in {table.name}")
    return documents


def _mimic_text(text: str, place: str, report: ReadingReport) -> str:
    if start := SECTION_START.search(text):
        return text[start.start() :].strip()
    if text.strip():
        report.mend("report without the heading FINDINGS or IMPRESSION taken whole", place)
    return text.strip()


def _chexpert_value(value: str, place: str, report: ReadingReport) -> bool | None:
    """Whether a finding is present; None if that is uncertain."""
    if not value:
        report.mend("finding that isn't mentioned taken as absent", place)
        return False
    if value in ("-1.0", "-1"):
        report.leave_out("uncertain finding", place)
        return None
    if value not in ("1.0", "1", "0.0", "0"):
        raise UserError(f"{place}: a finding is none of 1, 0, -1 and blank; is it MIMIC-CXR-JPG's table?")
    return value in ("1.0", "1")
