"""Synthetic notes in the form of MIMIC-III's NOTEEVENTS, for the demo and the tests. They describe nobody.

All of a patient's notes agree on conditions, drugs and values, so that a model has something to learn, within a note
and across notes.
"""

from __future__ import annotations

import csv
import datetime
import gzip
import io
from collections.abc import Iterator
from pathlib import Path

from tokenizer_tools.corpus.synthetic_patients import Patient
from tokenizer_tools.corpus.synthetic_texts import CATEGORIES, DISCHARGE
from tokenizer_tools.errors import UserError

COLUMNS = (
    "ROW_ID", "SUBJECT_ID", "HADM_ID", "CHARTDATE", "CHARTTIME", "STORETIME",
    "CATEGORY", "DESCRIPTION", "CGID", "ISERROR", "TEXT",
)  # fmt: skip


def notes_of(patients: int, seed: int) -> Iterator[tuple[str, ...]]:
    """Rows of NOTEEVENTS, patient by patient: about 1 % exact copies of an earlier note, and a few empty ones."""
    row, previous = 0, ""
    weighted = [name for name, category in CATEGORIES.items() for _ in range(category.weight)]
    for number in range(patients):
        p = Patient(seed, number)
        rng = p.rng
        for _ in range(rng.choice((1, 1, 1, 2, 2, 3))):
            admission = rng.randrange(100_000, 200_000)
            day = datetime.datetime(rng.randrange(2101, 2199), rng.randrange(1, 13), rng.randrange(1, 29), 8)
            names = [rng.choice(weighted) for _ in range(rng.randrange(3, 8))] + [DISCHARGE]
            for name in names:
                row += 1
                day += datetime.timedelta(minutes=rng.randrange(60, 1500))
                category = CATEGORIES[name]
                text = category.write(p)
                draw = rng.random()
                if draw < 0.01 and previous:
                    text = previous
                elif draw < 0.013:
                    text = ""
                previous = text or previous
                time = "" if name == DISCHARGE else day.isoformat(" ")
                yield (str(row), str(p.subject), str(admission), day.date().isoformat(), time, time, name,
                       category.description, "", "", text)  # fmt: skip


def make_notes(out: Path, *, patients: int = 400, seed: int = 0) -> dict[str, int]:
    """Write synthetic notes to a CSV or CSV.GZ file; the same arguments give the same bytes.

    Args:
        out: the file; its ending says which.
        patients: how many; 400 give about 4 MB.
        seed: another seed gives other notes.

    Returns:
        Counts: patients, notes, characters.

    Raises:
        UserError: the ending is another one, or there are no patients.
    """
    if not out.name.endswith((".csv", ".csv.gz")):
        raise UserError(f"{out}: the file's name must end in .csv or .csv.gz")
    if patients < 1:
        raise UserError(f"--patients {patients}: must be at least 1")
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = out.with_name(out.name + ".tmp")
    notes = characters = 0
    with temporary.open("wb") as raw:
        packed = gzip.GzipFile("", "wb", fileobj=raw, mtime=0) if out.name.endswith(".gz") else raw
        with io.TextIOWrapper(packed, encoding="utf-8", newline="") as stream:
            writer = csv.writer(stream)
            writer.writerow(COLUMNS)
            for row in notes_of(patients, seed):
                writer.writerow(row)
                notes, characters = notes + 1, characters + len(row[-1])
    temporary.replace(out)
    return {"patients": patients, "notes": notes, "characters": characters}
