"""Find out which column of an input is the text, the patient, and so on."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from tokenizer_tools.errors import UserError

# Lower case. MIMIC-III's NOTEEVENTS and MIMIC-IV-Note are covered.
KNOWN_COLUMNS = {
    "text": ("text", "note_text"),
    "patient": ("subject_id", "patient_id", "person_id"),
    "admission": ("hadm_id", "admission_id", "visit_occurrence_id"),
    "category": ("category", "note_type"),
    "time": ("charttime", "chartdate", "note_datetime", "note_date"),
    "error": ("iserror",),
}
# Matched against a name's letters and digits. Only for messages: the patient column is never guessed.
_LIKELY_PATIENT = re.compile(
    r"(patient|pat|pt|person|subject|member)(id|num|number|no|key|identifier)?|(patient|pat|pt)?mrn(id|um|umber|no)?|"
    r"empi(id)?|mpi|(unique)?pid|nhs(number|no)|medicalrecord(number|num|no|id)"
)
_LIKELY_ADMISSION = re.compile(
    r"(encounter|visit|stay|icustay|admission|episode|account|patientunitstay|hospitalization)(id|num|number|no|key)?|csn"
)
# Names of other columns, by which a header is told from data.
_COMMON = re.compile(r"(row|note|doc|document|report)?(id|text|body|date|time|type|title)|content|label|index")


class MissingColumnError(UserError):
    """An input lacks a column that is needed. Another input may have it."""


@dataclass(frozen=True)
class Columns:
    """Column names (JSONL: keys) of the input, if they aren't those of MIMIC."""

    text: str | None = None
    """The note. Known without this option, in upper or lower case: TEXT, note_text."""
    patient: str | None = None
    """The patient, the unit of the split. Known: SUBJECT_ID, patient_id, person_id."""
    admission: str | None = None
    """The admission, which leads to the patient through another note of the same admission. Known: HADM_ID,
    admission_id, visit_occurrence_id."""
    category: str | None = None
    """The kind of note, for validation by category. Known: CATEGORY, note_type."""
    time: str | None = None
    """The note's date or time, which orders a patient's notes. Several stand with commas between them: each row takes
    the first that can be read. Known: CHARTTIME, CHARTDATE, note_datetime, note_date."""
    error: str | None = None
    """Marks notes entered in error by 1 or true, others by 0, false or nothing: the former are dropped. Known:
    ISERROR."""


def resolve_columns(wanted: Columns, found: tuple[str, ...], where: str) -> dict[str, list[str]]:
    """Map each role (text, patient, …) to its columns, of which the first that isn't empty is taken.

    Args:
        wanted: columns that the user has named.
        found: columns of the input.
        where: the file or row, for messages.

    Raises:
        MissingColumnError: a named column is missing, or there is no text column.
        UserError: several columns could be meant.
    """
    names = {role: _columns_of_role(role, wanted, found, where) for role in KNOWN_COLUMNS}
    names = {role: columns for role, columns in names.items() if columns}
    if "text" not in names:
        raise MissingColumnError(
            f"{where}: no text column; {describe_columns(found)}; name it with --columns.text NAME"
        )
    return names


def _columns_of_role(role: str, wanted: Columns, found: tuple[str, ...], where: str) -> list[str]:
    asked = getattr(wanted, role)
    if asked is not None:
        several = role == "time" and asked not in found
        matches = [
            find_column(name, found, f"{where}: no column {name!r} (--columns.{role})")
            for name in (asked.split(",") if several else [asked])
        ]
    else:
        by_lower_case = {name.strip().lower(): name for name in reversed(found)}
        matches = [by_lower_case[name] for name in KNOWN_COLUMNS[role] if name in by_lower_case]
        candidates = matches + (other_patients(found, wanted) if role == "patient" and matches else [])
        if len(candidates) > 1 and role in ("text", "patient", "admission"):
            raise UserError(
                f"{where}: both {' and '.join(map(repr, candidates))} could be the {role}; choose one with "
                f"--columns.{role} NAME"
            )
    for name in matches:
        refuse_repeated(name, found, where)
    return matches


def refuse_repeated(name: str, found: Iterable[str], where: str) -> None:
    """Refuse a column whose name another one has, too, whatever its case.

    Raises:
        UserError: there is another one.
    """
    if sum(name.strip().lower() == other.strip().lower() for other in found) > 1:
        raise UserError(f"{where}: column {name!r} occurs more than once; rename one of them")


def find_column(asked: str, found: tuple[str, ...], fault: str) -> str:
    """The column that a user means: spelt like it, but for blanks around it and, if there is no such one, for case.

    Raises:
        MissingColumnError: there is none; the message begins with `fault`.
    """
    for spelt in (str, str.strip, lambda name: name.strip().lower()):
        for name in found:
            if spelt(name) == spelt(asked):
                return name
    raise MissingColumnError(f"{fault}; {describe_columns(found)}")


def other_patients(found: Iterable[str], wanted: Columns) -> list[str]:
    """Columns that look like a patient's, but are neither known nor named by the user as something else. Next to a
    known one, such as MRN next to a subject_id that numbers the notes, it isn't clear which one to split by."""
    named = set(vars(wanted).values())
    return [
        name
        for name in found
        if _LIKELY_PATIENT.fullmatch(_letters_and_digits(name))
        and name.strip().lower() not in KNOWN_COLUMNS["patient"]
        and name not in named
    ]


def describe_columns(found: Iterable[str]) -> str:
    """List the columns for a message. If the first row may be data, nothing of it is shown. A header has distinct short
    names, at least one of which is known or written_like_this."""
    names = list(found)
    are_names = len(set(names)) == len(names) and all(_is_name(name) for name in names)
    if not are_names or not any("_" in name or _is_known(name) for name in names):
        commas = ", separated by commas, tabs or semicolons" if len(names) == 1 else ""
        return f"its first row ({len(names)} fields) doesn't look like a header: put the column names there{commas}"
    return f"columns found: {', '.join(names)}"


def _is_name(name: str) -> bool:
    return len(name) <= 40 and bool(re.fullmatch(r"[A-Za-z_][\w.\-/]*( [\w.\-/]+){0,3}", name.strip()))


def _is_known(name: str) -> bool:
    letters = _letters_and_digits(name)
    known = any(letters in map(_letters_and_digits, names) for names in KNOWN_COLUMNS.values())
    return bool(known or _COMMON.fullmatch(letters) or _LIKELY_PATIENT.fullmatch(letters)
                or _LIKELY_ADMISSION.fullmatch(letters))  # fmt: skip


def likely_columns(columns: tuple[str, ...]) -> str:
    """Suggest options that name the columns which look like the patient, or else the admission."""
    columns = tuple(filter(_is_name, columns))
    patients = [name for name in columns if _LIKELY_PATIENT.fullmatch(_letters_and_digits(name))]
    admissions = [name for name in columns if _LIKELY_ADMISSION.fullmatch(_letters_and_digits(name))]
    if patients:
        return f"name it with {' or '.join(f'--columns.patient {_quoted(name)}' for name in patients)}"
    remedy = "name it with --columns.patient NAME"
    if admissions:
        remedy += f"; if there is none, --columns.admission {_quoted(admissions[0])} --split.by admission"
    return remedy


def _letters_and_digits(name: str) -> str:
    """A column's name in lower case, without anything else."""
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _quoted(name: str) -> str:
    return f"'{name}'" if " " in name else name
