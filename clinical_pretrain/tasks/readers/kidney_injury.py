"""MIMIC-III: will a patient have an acute kidney injury on the second or third day in intensive care?

No code of this task was published; this is our definition, with the creatinine part of KDIGO as MIT-LCP/mimic-code
computes it (mimic-iv/concepts/organfailure/kdigo_creatinine.sql and kdigo_stages.sql).

- Stays: the first stay in intensive care of each patient who is 18 or older at its beginning (INTIME).
- Input: the notes of that admission with CHARTTIME in hours 0 to 24 of the stay, in the order of CHARTTIME.
- Label: `injury`, if a creatinine in hours 24 to 72 reaches KDIGO stage 1 or higher; otherwise no label.
- Left out: patients with an injury in hours 0 to 24, and those without a creatinine in one of the two windows, because
  their label is unknown; urine output, dialysis and earlier kidney disease are not looked at.
- Not used as input, because they could tell the outcome: notes without CHARTTIME (discharge summaries, and others that
  have a date alone), and notes with a STORETIME after hour 24. Nor notes that are marked as an error.

A window includes its beginning and excludes its end.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import NamedTuple

from clinical_pretrain.tasks.readers.common import UNDIVIDED
from clinical_pretrain.tasks.readers.rows import read_csv
from clinical_pretrain.tasks.records import Document, ReadingReport, TaskData
from tokenizer_tools.errors import UserError

INJURY = "injury"
"""The only label."""
ADULT_YEARS = 18
CREATININE = "50912"
"""ITEMID of creatinine in blood."""
HIGHEST_CREATININE = 150
"""In mg/dl; higher values are errors, as in mimic-code."""
PREDICTION = timedelta(hours=24)
"""When the prediction is made, after the stay's beginning."""
OUTCOME_END = timedelta(hours=72)


class Creatinine(NamedTuple):
    """A measurement."""

    time: datetime
    mg_per_dl: Decimal


@dataclass
class Stay:
    """A stay in intensive care."""

    id: str
    patient: str
    admission: str
    start: datetime
    creatinine: list[Creatinine] = field(default_factory=list)

    @property
    def prediction(self) -> datetime:
        """When the prediction is made."""
        return self.start + PREDICTION

    @property
    def end(self) -> datetime:
        """When the outcome is known."""
        return self.start + OUTCOME_END


def reaches_stage_1(value: Creatinine, earlier: Sequence[Creatinine]) -> bool:
    """Whether a creatinine reaches KDIGO stage 1.

    It does at 0.3 mg/dl more than the lowest of the 48 hours before, or at 1.5 times the lowest of the 7 days before.
    The earliest value reaches no stage: there is nothing to compare it with.
    """
    past_48_hours = [other.mg_per_dl for other in earlier if is_within(value.time - other.time, timedelta(hours=48))]
    past_7_days = [other.mg_per_dl for other in earlier if is_within(value.time - other.time, timedelta(days=7))]
    risen = bool(past_48_hours) and value.mg_per_dl >= min(past_48_hours) + Decimal("0.3")
    return risen or (bool(past_7_days) and value.mg_per_dl >= min(past_7_days) * Decimal("1.5"))


def is_within(before: timedelta, window: timedelta) -> bool:
    """Whether something lies this long before, but no longer than the window."""
    return timedelta(0) < before <= window


def has_injury(values: Sequence[Creatinine], start: datetime, end: datetime) -> bool | None:
    """Whether any creatinine of a window reaches stage 1; None if the window has no creatinine."""
    found = [reaches_stage_1(value, values) for value in values if start <= value.time < end]
    return any(found) if found else None


def mean_by_time(values: Sequence[Creatinine]) -> list[Creatinine]:
    """Replace the values of one time by their mean, as mimic-code does, in the order of time."""
    times: dict[datetime, list[Decimal]] = {}
    for value in values:
        times.setdefault(value.time, []).append(value.mg_per_dl)
    return [Creatinine(time, sum(times[time], Decimal(0)) / len(times[time])) for time in sorted(times)]


def years_between(birth: datetime, day: datetime) -> int:
    """Age in years. MIMIC-III makes patients over 89 some 300 years old."""
    return day.year - birth.year - ((day.month, day.day) < (birth.month, birth.day))


def read_kidney_injury(folder: Path) -> TaskData:
    """Read MIMIC-III's tables ICUSTAYS, PATIENTS, LABEVENTS and NOTEEVENTS, each `.csv` or `.csv.gz`.

    A document is a stay: its identifier is the ICUSTAY_ID, its text the notes, joined by empty lines. The definition
    is at the top of this module. MIMIC-III has no splits.

    Raises:
        UserError: a table is missing, isn't a CSV file, or has a time that can't be read.
    """
    report = ReadingReport()
    stays = _first_stays(folder, report)
    _leave_out_children(folder, stays, report)
    _add_creatinine(folder, stays, report)
    labels = _labels(stays, report)
    notes = _notes(folder, {patient: stay for patient, stay in stays.items() if stay.id in labels}, report)
    documents = []
    for stay in stays.values():
        if stay.id not in labels:
            continue
        if not (found := sorted(notes.get(stay.id, []))):
            report.leave_out("stay without a note in hours 0 to 24", _place(stay))
            continue
        text = "\n\n".join(text for _, _, text in found)
        documents.append(Document(stay.id, text, stay.patient, labels=labels[stay.id]))
    return TaskData("labels", {UNDIVIDED: documents}, (INJURY,), report)


def _place(stay: Stay) -> str:
    return f"ICUSTAY_ID {stay.id}"


def _rows(folder: Path, table: str, columns: Sequence[str]) -> Iterator[tuple[str, dict[str, str]]]:
    names = [f"{name}.csv{ending}" for name in (table, table.lower()) for ending in ("", ".gz")]
    for name in names:
        if (folder / name).exists():
            return read_csv(folder / name, columns)
    raise UserError(f"{folder}: holds neither {names[0]} nor {names[1]}; it needs MIMIC-III's tables")


def _time(value: str, column: str, place: str) -> datetime:
    try:
        return datetime.fromisoformat(value)
    except ValueError:
        raise UserError(f"{place}: {column} isn't a time like 2101-10-20 19:08:00; copy the table again") from None


def _first_stays(folder: Path, report: ReadingReport) -> dict[str, Stay]:
    """The first stay of each patient, by patient."""
    first: dict[str, Stay] = {}
    for place, row in _rows(folder, "ICUSTAYS", ("SUBJECT_ID", "HADM_ID", "ICUSTAY_ID", "INTIME")):
        stay = Stay(row["ICUSTAY_ID"], row["SUBJECT_ID"], row["HADM_ID"], _time(row["INTIME"], "INTIME", place))
        other = first.setdefault(stay.patient, stay)
        if other is not stay:
            early, late = sorted((other, stay), key=lambda stay: (stay.start, stay.id))
            first[stay.patient] = early
            report.leave_out("not the patient's first stay", _place(late))
    return first


def _leave_out_children(folder: Path, stays: dict[str, Stay], report: ReadingReport) -> None:
    """Remove the stays of patients under 18."""
    births = {
        row["SUBJECT_ID"]: _time(row["DOB"], "DOB", place)
        for place, row in _rows(folder, "PATIENTS", ("SUBJECT_ID", "DOB"))
        if row["SUBJECT_ID"] in stays
    }
    for patient, stay in list(stays.items()):
        if patient not in births:
            raise UserError(f"{folder}: PATIENTS lacks the patient of {_place(stay)}; the tables must be whole")
        if years_between(births[patient], stay.start) < ADULT_YEARS:
            report.leave_out("patient under 18", _place(stay))
            del stays[patient]


def _add_creatinine(folder: Path, stays: dict[str, Stay], report: ReadingReport) -> None:
    """Add to each stay the creatinine from 7 days before its beginning to the end of its outcome."""
    columns = ("SUBJECT_ID", "ITEMID", "CHARTTIME", "VALUENUM", "VALUEUOM")
    for place, row in _rows(folder, "LABEVENTS", columns):
        stay = stays.get(row["SUBJECT_ID"])
        if row["ITEMID"] != CREATININE or not stay:
            continue
        time = _time(row["CHARTTIME"], "CHARTTIME", place)
        if not stay.start - timedelta(days=7) <= time < stay.end:
            continue
        try:
            value = Decimal(row["VALUENUM"])
            plausible = 0 < value <= HIGHEST_CREATININE
        except InvalidOperation:
            report.leave_out("creatinine without a number", place)
            continue
        if not plausible:
            report.leave_out(f"creatinine not between 0 and {HIGHEST_CREATININE} mg/dl", place)
        elif row["VALUEUOM"].strip().lower() not in ("mg/dl", ""):
            report.leave_out("creatinine in another unit than mg/dl", place)
        else:
            stay.creatinine.append(Creatinine(time, value))


def _labels(stays: dict[str, Stay], report: ReadingReport) -> dict[str, tuple[str, ...]]:
    """The labels of each stay that the task has."""
    labels: dict[str, tuple[str, ...]] = {}
    for stay in stays.values():
        values = mean_by_time(stay.creatinine)
        before = has_injury(values, stay.start, stay.prediction)
        after = has_injury(values, stay.prediction, stay.end)
        if before is None:
            report.leave_out("no creatinine in hours 0 to 24", _place(stay))
        elif before:
            report.leave_out("injury in hours 0 to 24", _place(stay))
        elif after is None:
            report.leave_out("no creatinine in hours 24 to 72", _place(stay))
        else:
            labels[stay.id] = (INJURY,) if after else ()
    return labels


def _notes(folder: Path, stays: dict[str, Stay], report: ReadingReport) -> dict[str, list[tuple[datetime, int, str]]]:
    """Time, row number and text of the notes that each stay has as input, by stay."""
    notes: dict[str, list[tuple[datetime, int, str]]] = {}
    columns = ("SUBJECT_ID", "HADM_ID", "CHARTTIME", "STORETIME", "ISERROR", "TEXT")
    for number, (place, row) in enumerate(_rows(folder, "NOTEEVENTS", columns)):
        stay = stays.get(row["SUBJECT_ID"])
        if not stay or row["HADM_ID"] != stay.admission:
            continue
        if not row["CHARTTIME"]:
            report.leave_out("note without CHARTTIME", place)
            continue
        time = _time(row["CHARTTIME"], "CHARTTIME", place)
        if not stay.start <= time < stay.prediction or not row["TEXT"].strip():
            continue
        if row["ISERROR"] not in ("", "0"):
            report.leave_out("note marked as an error", place)
        elif row["STORETIME"] and _time(row["STORETIME"], "STORETIME", place) >= stay.prediction:
            report.leave_out("note stored after hour 24", place)
        else:
            notes.setdefault(stay.id, []).append((time, number, row["TEXT"]))
    return notes
