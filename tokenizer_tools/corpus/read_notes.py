"""Make notes of the rows of all inputs, one at a time, in input order: text, patient, category, time, faults.

The file formats are read by rows.py; which files an input consists of, input_files.py finds.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from tokenizer_tools.corpus.columns import Columns, describe_columns, likely_columns, resolve_columns
from tokenizer_tools.corpus.identifiers import LostDigitsError, identifier_of, text_of
from tokenizer_tools.corpus.input_files import Input, Kind, find_inputs
from tokenizer_tools.corpus.rows import BadRowError, Fault, Row, is_utf16, read_rows
from tokenizer_tools.corpus.split_patients import SplitRule
from tokenizer_tools.corpus.times import DateOrder, parse_time
from tokenizer_tools.errors import UserError

UNCATEGORISED = "uncategorised"


@dataclass(frozen=True)
class InputOptions:
    """How notes are read."""

    columns: Columns = field(default_factory=Columns)
    """Column names."""
    files: Kind | None = None
    """In a folder with several kinds of files, the kind to read."""
    patient_folder: int = 0
    """In a folder: the level of subfolders that stand for patients (1: directly below it). 0: none."""
    date_order: DateOrder = "year_first"
    """What 03/04/2101 means in the time columns: day_first, month_first, or year_first, which doesn't guess: such a
    time counts as unreadable."""
    on_bad_row: Literal["fail", "skip"] = "fail"
    """Whether to stop at a row that can't be used (not UTF-8, too many fields, no patient), or to skip and count it."""

    def __post_init__(self) -> None:
        if self.patient_folder < 0:
            raise UserError(f"--patient-folder {self.patient_folder}: must be a level, counted from 1, or 0 for none")
        if self.patient_folder and self.columns.patient:
            raise UserError("--patient-folder and --columns.patient: both say who the patient is; give one of them")


@dataclass(frozen=True)
class Note:
    """One note as it was read."""

    text: str
    """Empty if the row can't be used."""
    patient: str
    """The patient's identifier, normalized; empty if the row has none."""
    admission: str
    """The admission's identifier, likewise."""
    category: str
    time: str
    """`YYYY-MM-DD` or `YYYY-MM-DD HH:MM:SS`, from `parse_time`; empty if the row has none that can be read."""
    source: int
    """Number of its input, counted from 0."""
    row: int
    """Number of its row within the input, counted from 1."""
    place: str
    """File and row, for messages."""
    fault: Fault | None = None
    """Why the row can't be used."""
    has_unreadable_time: bool = False
    """Whether a time column holds something that can't be read as a time."""

    @property
    def person(self) -> str:
        """Whose note it is, as far as its row says: the patient, else the admission, else nobody (empty)."""
        if self.patient:
            return f"patient {self.patient}"
        return f"admission {self.admission}" if self.admission else ""


def read_notes(
    inputs: Sequence[Input | Path], options: InputOptions | None = None, rule: SplitRule | None = None
) -> Iterator[Note]:
    """Yield all notes of the inputs, one at a time, so that memory doesn't grow with the corpus.

    Args:
        inputs: from `find_inputs`, or paths for it.
        options: column names, and what to do with rows that can't be used.
        rule: the split, whose patient or admission each note must name. Default: none.

    Raises:
        UserError: a file is missing, of unknown kind or broken, lacks a column, or a row can't be used.
    """
    options = options or InputOptions()
    found = [find_inputs([entry], options.files)[0] if isinstance(entry, Path) else entry for entry in inputs]
    for source, entry in enumerate(found):
        reader = _Reader(entry, source, options, rule)
        number = 0
        for path in entry.files:
            for note in reader.notes(path, number):
                number = note.row
                yield note


class _Reader:
    """Turns the rows of one input into notes."""

    def __init__(self, entry: Input, source: int, options: InputOptions, rule: SplitRule | None) -> None:
        self.input, self.source, self.options, self.rule = entry, source, options, rule
        self._names: dict[tuple[str, ...], dict[str, list[str]]] = {}

    def notes(self, path: Path, before: int) -> Iterator[Note]:
        """Yield the notes of one file, of which `before` notes of the same input have been read."""
        folder_patient = self._folder_of(path)
        for number, row in enumerate(read_rows(path, self.input.kind, self.options.columns), start=before + 1):
            try:
                yield self._note(row, number, folder_patient)
            except BadRowError as error:
                if self.options.on_bad_row == "fail":
                    raise
                yield Note("", "", "", UNCATEGORISED, "", self.source, number, error.place, error.fault)

    def _note(self, row: Row | BadRowError, number: int, folder_patient: str | None) -> Note:
        if isinstance(row, BadRowError):
            raise row
        names = self._columns(row)
        cells = {role: [row.values.get(name) for name in wanted] for role, wanted in names.items()}
        for role, values in cells.items():
            if any(isinstance(value, list | dict) for value in values):
                kind = "text" if role == "text" else "a single value"
                raise BadRowError(
                    row.place, "malformed", f"{names[role][0]!r} holds a list or an object; it must hold {kind}"
                )
        first = {
            role: next((text for value in values if (text := text_of(value))), "") for role, values in cells.items()
        }
        self._check_encoding(row, list(first.values()))
        if self._is_marked_error(row, names, cells):
            return Note("", "", "", UNCATEGORISED, "", self.source, number, row.place, "marked_error")
        patient, admission = (self._identifier(row, names, cells, role) for role in ("patient", "admission"))
        if folder_patient is not None:
            patient = folder_patient
            if not _is_utf8(patient):
                raise BadRowError(row.place, "invalid_utf8", "the folder's name is not valid UTF-8; rename it")
        needs_identity = self.rule and self.rule.needs_identity and first["text"].strip()
        if needs_identity and not (patient or admission):
            raise self._no_patient(row)
        time, has_unreadable_time = self._time(cells.get("time", []))
        return Note(
            text=first["text"],
            patient=patient,
            admission=admission,
            category=first.get("category", "").strip() or UNCATEGORISED,
            time=time,
            source=self.source,
            row=number,
            place=row.place,
            has_unreadable_time=has_unreadable_time,
        )

    def _check_encoding(self, row: Row, texts: list[str]) -> None:
        """Refuse text that isn't Unicode: bytes that aren't UTF-8, and lone surrogates, which JSON can spell."""
        if self.input.kind == "txt" and is_utf16(row.values["text"][:64]):  # may be valid UTF-8, with zeros
            message = "not valid UTF-8; convert the file (iconv -f UTF-16 -t UTF-8)"
        elif all(map(_is_utf8, texts)):
            return
        elif any("\ud800" <= character < "\udc80" or "\udcff" < character <= "\udfff" for character in "".join(texts)):
            message = r"holds half a character, a lone surrogate such as \ud800; write the row again"
        else:
            message = "not valid UTF-8; convert the file (iconv -f LATIN1 -t UTF-8)"
        raise BadRowError(row.place, "invalid_utf8", message)

    def _is_marked_error(self, row: Row, names: dict[str, list[str]], cells: dict[str, list[Any]]) -> bool:
        """Whether the note was entered in error."""
        value = self._identifier(row, names, cells, "error")
        if value in ("1", "true", "t", "yes", "y"):
            return True
        if value in ("", "0", "false", "f", "no", "n"):
            return False
        raise BadRowError(
            row.place, "malformed", f"{names['error'][0]!r} must be 1 or true for an error, else 0, false or empty"
        )

    def _time(self, values: list[Any]) -> tuple[str, bool]:
        """The first time of a row that can be read, empty if none can; and whether one before it can't."""
        has_unreadable = False
        for text in filter(None, map(text_of, values)):
            time = parse_time(text, self.options.date_order)
            if time is not None:
                return time, has_unreadable
            has_unreadable = True
        return "", has_unreadable

    def _columns(self, row: Row) -> dict[str, list[str]]:
        if row.columns not in self._names:
            try:
                self._names = {row.columns: resolve_columns(self.options.columns, row.columns, row.where)}
            except UserError as error:
                if self.input.kind != "jsonl":  # where each row has its own keys
                    raise
                raise BadRowError(row.place, "malformed", str(error).removeprefix(f"{row.where}: ")) from None
        return self._names[row.columns]

    def _identifier(self, row: Row, names: dict[str, list[str]], cells: dict[str, list[Any]], role: str) -> str:
        try:
            return identifier_of(cells[role][0]) if role in cells else ""
        except LostDigitsError:
            raise BadRowError(
                row.place,
                "no_patient",
                f"{names[role][0]!r} was stored as a number that has lost digits; write the column as text",
            ) from None

    def _folder_of(self, path: Path) -> str | None:
        """The patient that the file's folder stands for."""
        level = self.options.patient_folder
        if not level or not self.input.is_folder:
            return None
        parents = path.relative_to(self.input.path).parts[:-1]
        return identifier_of(parents[level - 1]) if len(parents) >= level else ""

    def _no_patient(self, row: Row) -> UserError:
        """The error for a row that names no patient, with the possible remedies."""
        names, level = self._columns(row), self.options.patient_folder
        if level and self.input.is_folder:
            return BadRowError(row.place, "no_patient", f"lies above the folders of level {level} (--patient-folder)")
        if "patient" in names or "admission" in names:
            named = " and ".join(names[role][0] for role in ("patient", "admission") if role in names)
            return BadRowError(row.place, "no_patient", f"no patient in {named}; fill it in")
        by_note = "split by --split.by note (a patient's notes may then be trained on and held out at once)"
        if self.input.kind == "txt":
            levels = ", ".join(
                f"level {n}: {count:,}" for n, count in enumerate(self.input.folders_by_level(), start=1)
            )
            level_remedy = f"if folders are patients, name their level with --patient-folder ({levels} folders); or "
            return UserError(f"{self.input.path}: no patients are known; {level_remedy * bool(levels)}{by_note}")
        message = f"no patient column; {describe_columns(row.columns)}; {likely_columns(row.columns)}; or {by_note}"
        if self.input.kind == "jsonl":
            return BadRowError(row.place, "no_patient", message)
        return UserError(f"{row.where}: {message}")


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
