"""Which column of an input is the text, the patient, and so on."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from tokenizer_tools.manifest import UserError

# Lower case. MIMIC-III's NOTEEVENTS and MIMIC-IV-Note are covered.
KNOWN_COLUMNS = {
    "text": ("text", "note_text"),
    "patient": ("subject_id", "patient_id", "person_id"),
    "admission": ("hadm_id", "admission_id", "visit_occurrence_id"),
    "category": ("category", "note_type"),
    "time": ("charttime", "chartdate", "note_datetime", "note_date"),
    "error": ("iserror",),
}
# Of a name's letters and digits alone. Named in messages, never taken: who is a patient isn't guessed.
_LIKELY_PATIENT = re.compile(
    r"(patient|pat|pt|person|subject|member)(id|num|number|no|key|identifier)?|(patient|pat|pt)?mrn(id|um|umber|no)?|"
    r"empi(id)?|mpi|(unique)?pid|nhs(number|no)|medicalrecord(number|num|no|id)"
)
_LIKELY_ADMISSION = re.compile(
    r"(encounter|visit|stay|icustay|admission|episode|account|patientunitstay|hospitalization)(id|num|number|no|key)?|csn"
)


_COMMON = re.compile(r"(row|note|doc|document|report)?(id|text|body|date|time|type|title)|content|label|index")


@dataclass(frozen=True)
class Columns:
    """Column names (JSONL: keys) of the input, where they aren't MIMIC's own."""

    text: str | None = None
    """The note. Known without this option: TEXT, note_text, in upper or lower case."""
    patient: str | None = None
    """Whose note it is, the unit of the split. Known: SUBJECT_ID, patient_id, person_id."""
    admission: str | None = None
    """Leads to the patient through another note of the same admission. Known: HADM_ID, admission_id,
    visit_occurrence_id."""
    category: str | None = None
    """The kind of note, for validation by category. Known: CATEGORY, note_type."""
    time: str | None = None
    """ISO date or time; orders a patient's notes. Known: CHARTTIME, CHARTDATE, note_datetime, note_date, the first that
    isn't empty."""
    error: str | None = None
    """Marks notes entered in error by 1 or true: they are dropped. Known: ISERROR."""


def resolve_columns(wanted: Columns, found: tuple[str, ...], where: str) -> dict[str, list[str]]:
    """Role -> column names, of which the first that isn't empty counts.

    Raises:
        UserError: a named column is missing, there is no text column, or it isn't clear which one is meant.
    """
    by_lower_case = {name.strip().lower(): name for name in reversed(found)}
    named = {name for name in vars(wanted).values() if name is not None}
    names: dict[str, list[str]] = {}
    for role, known in KNOWN_COLUMNS.items():
        asked = getattr(wanted, role)
        if asked is not None and asked not in found:
            raise UserError(f"{where}: no column {asked!r} (--columns.{role}); {describe_columns(found)}")
        matches = [asked] if asked is not None else [by_lower_case[name] for name in known if name in by_lower_case]
        others = _other_patients(found, named) if role == "patient" and asked is None and matches else []
        if len(matches + others) > 1 and role in ("text", "patient", "admission"):
            raise UserError(
                f"{where}: both {' and '.join(map(repr, matches + others))} could be the {role}; choose one with "
                f"--columns.{role} NAME"
            )
        for name in matches:
            if sum(name.strip().lower() == other.strip().lower() for other in found) > 1:
                raise UserError(f"{where}: column {name!r} occurs more than once; rename one of them")
        if matches:
            names[role] = matches
    if "text" not in names:
        raise UserError(f"{where}: no text column; {describe_columns(found)}; name it with --columns.text NAME")
    return names


def _other_patients(found: Iterable[str], named: set[str]) -> list[str]:
    """Columns that look like a patient's but aren't known: beside one that is, such as MRN beside a subject_id that
    numbers the notes, it isn't clear which one to split by. Not those that the user has named as something else."""
    known = KNOWN_COLUMNS["patient"]
    return [name for name in found if _LIKELY_PATIENT.fullmatch(_squeezed(name))
            and name.strip().lower() not in known and name not in named]  # fmt: skip


def describe_columns(found: Iterable[str]) -> str:
    """The columns' names for a message, unless the first row may be data: then not a word of it. A header has distinct
    short names, of which one at least is known or written_like_this."""
    names = list(found)
    are_names = len(set(names)) == len(names) and all(
        len(name) <= 40 and re.fullmatch(r"[A-Za-z_][\w.\-/]*( [\w.\-/]+){0,3}", name.strip()) for name in names
    )
    if not are_names or not any("_" in name or _is_known(name) for name in names):
        commas = ", separated by commas, tabs or semicolons" if len(names) == 1 else ""
        return f"its first row ({len(names)} fields) doesn't look like a header: put the column names there{commas}"
    return f"columns found: {', '.join(names)}"


def _is_known(name: str) -> bool:
    squeezed = _squeezed(name)
    known = any(squeezed in map(_squeezed, names) for names in KNOWN_COLUMNS.values())
    return bool(known or _COMMON.fullmatch(squeezed) or _LIKELY_PATIENT.fullmatch(squeezed)
                or _LIKELY_ADMISSION.fullmatch(squeezed))  # fmt: skip


def likely_columns(columns: tuple[str, ...]) -> str:
    """The options that would name the columns which look like a patient's, or else an admission's."""
    patients = [name for name in columns if _LIKELY_PATIENT.fullmatch(_squeezed(name))]
    admissions = [name for name in columns if _LIKELY_ADMISSION.fullmatch(_squeezed(name))]
    if patients:
        return f"name it with {' or '.join(f'--columns.patient {_quoted(name)}' for name in patients)}"
    remedy = "name it with --columns.patient NAME"
    if admissions:
        remedy += f"; if there is none, --columns.admission {_quoted(admissions[0])} --split.by admission"
    return remedy


def _squeezed(name: str) -> str:
    """Letters and digits of a column's name, in lower case."""
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _quoted(name: str) -> str:
    return f"'{name}'" if " " in name else name
