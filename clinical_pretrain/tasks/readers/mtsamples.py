"""MTSamples: which specialties is a transcribed note filed under?

Most notes are filed under several specialties: of 2,357 different notes, 209 have exactly one. The table on Kaggle has
a row for each note and specialty, so half of its rows repeat the text of another row with another label: a class per
row can't be learned, and equal texts would be in train and test. So the task is of labels, and a text is one document.

Labels are the specialties of at least 100 notes; a rarer one would have too few in the test split to be measured. Three
of them are kinds of note rather than specialties, such as Discharge Summary. Notes with none of these labels stay.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from clinical_pretrain.tasks.readers.common import UNDIVIDED
from clinical_pretrain.tasks.readers.rows import get_text, get_texts, read_csv, read_jsonl
from clinical_pretrain.tasks.records import Document, ReadingReport, TaskData
from tokenizer_tools.errors import UserError

LABELS = (
    "Cardiovascular / Pulmonary",
    "Consult - History and Phy.",
    "Discharge Summary",
    "Gastroenterology",
    "General Medicine",
    "Neurology",
    "Obstetrics / Gynecology",
    "Orthopedic",
    "Radiology",
    "SOAP / Chart / Progress Notes",
    "Surgery",
    "Urology",
)
FILES = ("mtsamples.csv", "mtsamples_unique.jsonl.gz", "mtsamples_unique.jsonl")
REPEATED = "row with the text of an earlier one"


def read_mtsamples(folder: Path) -> TaskData:
    """Read Kaggle's mtsamples.csv (columns `transcription` and `medical_specialty`), or a file mtsamples_unique.jsonl
    or .jsonl.gz with a text and a list `specialties` in each line.

    A document's identifier is a hash of its text, so both files are divided in the same way. There are no splits.

    Raises:
        UserError: there is no such file, or it hasn't this form.
    """
    report = ReadingReport()
    specialties: dict[str, set[str]] = {}
    path = next((folder / name for name in FILES if (folder / name).exists()), None)
    if path is None:
        raise UserError(f"{folder}: holds none of {', '.join(FILES)}")
    for place, text, found in _csv_rows(path) if path.suffix == ".csv" else _jsonl_rows(path):
        if not text:
            report.leave_out("row without a text", place)
        else:
            if text in specialties:
                report.mend(REPEATED, place)
            specialties.setdefault(text, set()).update(found)
    documents = [
        Document(
            hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:16],
            text,
            labels=tuple(name for name in LABELS if name in found),
        )
        for text, found in specialties.items()
    ]
    return TaskData("labels", {UNDIVIDED: documents}, LABELS, report)


def _csv_rows(path: Path) -> list[tuple[str, str, list[str]]]:
    rows = read_csv(path, ("transcription", "medical_specialty"))
    return [(place, row["transcription"].strip(), [row["medical_specialty"].strip()]) for place, row in rows]


def _jsonl_rows(path: Path) -> list[tuple[str, str, list[str]]]:
    return [
        (place, get_text(row, "text", place).strip(), [name.strip() for name in get_texts(row, "specialties", place)])
        for place, row in read_jsonl(path)
    ]
