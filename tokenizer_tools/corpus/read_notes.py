"""Make notes of the rows of all inputs, one at a time, in input order: text, patient, category, time, faults.

The file formats are read by rows.py; which files an input consists of, input_files.py finds.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizer_tools.command_line import typed
from tokenizer_tools.corpus.columns import MissingColumnError, describe_columns, likely_columns, other_patients
from tokenizer_tools.corpus.identifiers import LostDigitsError, identifier_of, text_of
from tokenizer_tools.corpus.input_files import ONE_NOTE, Input
from tokenizer_tools.corpus.input_options import InputOptions, find_sources
from tokenizer_tools.corpus.rows import BadRowError, Block, Fault, Row, Wanted, is_utf16, read_rows
from tokenizer_tools.corpus.split_patients import SplitRule
from tokenizer_tools.corpus.times import parse_time
from tokenizer_tools.errors import UserError

UNCATEGORISED = "uncategorised"
_SEVERAL = (list, dict)
"""What a cell of JSONL or Parquet may hold instead of one value."""
BY_NOTE = "; or split by --split.by note (a patient's notes may then be trained on and held out at once)"
"""A remedy where no patients are known, which isn't one for notes that are appended to shards."""


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
        inputs: from `find_sources`, or paths for it.
        options: how paths are read, and what to do with rows that can't be used.
        rule: the split, whose patient or admission each note must name. Default: none.

    Raises:
        UserError: a file is missing, of unknown kind or broken, lacks a column, or a row can't be used.
    """
    options = options or InputOptions()
    found = [find_sources([entry], options)[0] if isinstance(entry, Path) else entry for entry in inputs]
    for source, entry in enumerate(found):
        reader = NoteReader(entry, source, options, rule)
        number = 0
        for path in entry.files:
            for note in reader.notes(path, number):
                number = note.row
                yield note


def check_first_notes(inputs: Sequence[Input], options: InputOptions, rule: SplitRule | None = None) -> None:
    """Read the first note of each input, in which most mistakes show.

    Raises:
        UserError: see `read_notes`.
    """
    for entry in inputs:
        try:
            next(read_notes([entry], options, rule), None)
        except MissingColumnError as error:
            if len(inputs) == 1:
                raise
            raise UserError(
                f"{error}; if the inputs have different columns, describe each with --sources ('{typed()} sources "
                f"{entry.kind}' prints an example)"
            ) from None


class NoteReader:
    """Turns the rows of one input into notes.

    Args:
        entry: the input.
        source: its number, counted from 0.
        options: see `read_notes`, as of all others.
        rule: likewise.
    """

    def __init__(self, entry: Input, number: int, options: InputOptions, rule: SplitRule | None) -> None:
        self.input, self.number, self.options, self.rule = entry, number, options, rule
        self.source = entry.source or options.source
        self._wanted = Wanted(self.source.columns, tuple(each.column for each in self.source.filters))
        self._resolved: dict[tuple[str, ...], tuple[dict[str, list[str]], list[str]]] = {}

    def notes(self, path: Path, before: int, block: Block | None = None) -> Iterator[Note]:
        """Yield the notes of one file, or of a block of it, before which stand so many notes of the same input."""
        rows = read_rows(path, self.input.kind, self._wanted, block)
        try:
            for number, row in enumerate(rows, start=before + 1):
                try:
                    yield self._note(row, number, path)
                except BadRowError as error:
                    if self.options.on_bad_row == "fail":
                        raise
                    yield self._without_text(number, error.place, error.fault)
        except UserError as error:
            if not self.source.name:
                raise
            raise UserError(self.source.reworded(str(error))) from None

    def _without_text(self, number: int, place: str, fault: Fault) -> Note:
        return Note("", "", "", UNCATEGORISED, "", self.number, number, place, fault)

    def _note(self, row: Row | BadRowError, number: int, path: Path) -> Note:
        if isinstance(row, BadRowError):
            raise row
        names, filtered = self._columns(row, number)
        if not self._is_admitted(row, filtered):
            return self._without_text(number, row.place, "filtered")
        cells = {role: [row.values.get(name) for name in wanted] for role, wanted in names.items()}
        for role, values in cells.items():
            if any(isinstance(value, _SEVERAL) for value in values):
                kind = "text" if role == "text" else "a single value"
                raise _holds_several(row, names[role][0], kind)
        first = {
            role: next((text for value in values if (text := text_of(value))), "") for role, values in cells.items()
        }
        self._check_encoding(row, list(first.values()))
        if self._is_marked_error(row, names, cells):
            return self._without_text(number, row.place, "marked_error")
        patient, admission = (self._identifier(row, names, cells, role) for role in ("patient", "admission"))
        in_path = self._named_by_path(path, row.place)
        if both := sorted(in_path.keys() & names.keys()):
            raise UserError(
                f"{row.where}: the column {names[both[0]][0]!r} and the path both say who the {both[0]} is; rename the "
                "column, or leave out --patient-from and --patient-folder"
            )
        patient, admission = in_path.get("patient", patient), in_path.get("admission", admission)
        needs_identity = self.rule and self.rule.needs_identity and first["text"].strip()
        if needs_identity and not (patient or admission):
            raise self._no_patient(row, number)
        time, has_unreadable_time = self._time(cells.get("time", []))
        return Note(
            text=first["text"],
            patient=patient,
            admission=admission,
            category=self.source.category or first.get("category", "").strip() or UNCATEGORISED,
            time=time,
            source=self.number,
            row=number,
            place=row.place,
            has_unreadable_time=has_unreadable_time,
        )

    def _is_admitted(self, row: Row, filtered: list[str]) -> bool:
        """Whether a row passes the source's filters, whose columns are given."""
        for each, name in zip(self.source.filters, filtered, strict=True):
            cell = row.values.get(name)
            if isinstance(cell, _SEVERAL):
                raise _holds_several(row, name, "a single value")
            if not each.admits(cell):
                return False
        return True

    def _check_encoding(self, row: Row, texts: list[str]) -> None:
        """Refuse text that isn't Unicode: bytes that aren't UTF-8, and lone surrogates, which JSON can spell."""
        if self.input.kind == "txt" and is_utf16(row.values["text"][:64]):  # may be valid UTF-8, with zeros
            message = "not valid UTF-8; convert the file (iconv -f UTF-16 -t UTF-8)"
        elif all(map(_is_utf8, texts)):
            return
        elif any("\ud800" <= character < "\udc80" or "\udcff" < character <= "\udfff" for character in "".join(texts)):
            message = r"holds half a character, a lone surrogate such as \ud800; write the row again"
        else:
            message = "not valid UTF-8; convert the file (iconv -f WINDOWS-1252 -t UTF-8)"
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
            time = parse_time(text, self.source.date_order)
            if time is not None:
                return time, has_unreadable
            has_unreadable = True
        return "", has_unreadable

    def _can_be_skipped(self, number: int) -> bool:
        """Whether a row without a column may be skipped: not where all rows have the same columns, nor if the first
        one already lacks it, unless the user asks for that."""
        return self.input.kind == "jsonl" and (number > 1 or self.options.on_bad_row == "skip")

    def _columns(self, row: Row, number: int) -> tuple[dict[str, list[str]], list[str]]:
        """The columns of each role, and those of the filters."""
        if row.columns not in self._resolved:
            try:
                names, filtered = self._wanted.resolve(row.columns, row.where)
                self._refuse_admissions_alone(row, names)
                self._resolved = {row.columns: (names, filtered)}
            except UserError as error:
                if not self._can_be_skipped(number):
                    raise
                raise BadRowError(row.place, "malformed", str(error).removeprefix(f"{row.where}: ")) from None
        return self._resolved[row.columns]

    def _refuse_admissions_alone(self, row: Row, names: dict[str, list[str]]) -> None:
        """Refuse to split by admissions beside a column that may be the patient's, under a name that isn't known."""
        source = self.source
        in_path = source.patient_folder or source.patient_from
        if in_path or "patient" in names or "admission" not in names or not (self.rule and self.rule.needs_identity):
            return
        if others := other_patients(row.columns, source.columns):
            listed = " and ".join(map(repr, others))
            raise MissingColumnError(
                f"{row.where}: no patient column, but {listed} may be one; {likely_columns(row.columns)}, or rename it "
                "if it says something else"
            )

    def _identifier(self, row: Row, names: dict[str, list[str]], cells: dict[str, list[Any]], role: str) -> str:
        try:
            return identifier_of(cells[role][0]) if role in cells else ""
        except LostDigitsError:
            raise BadRowError(
                row.place,
                "no_patient",
                f"{names[role][0]!r} was stored as a number that has lost digits; write the column as text",
            ) from None

    def _named_by_path(self, path: Path, place: str) -> dict[str, str]:
        """The patient, and perhaps the admission, that a file's path names; empty if paths aren't asked."""
        level, pattern = self.source.patient_folder, self.source.patient_from
        if not level and not pattern:
            return {}
        below = path.relative_to(self.input.path) if self.input.is_folder else Path(path.name)
        found: dict[str, str] = {}
        if level and self.input.is_folder:
            found = {"patient": below.parts[level - 1] if len(below.parts) > level else ""}
        elif pattern:
            try:
                matched = pattern.find(below)
            except ValueError:
                raise BadRowError(
                    place,
                    "no_patient",
                    f"can be read in two ways by --patient-from {pattern.text}; write a longer pattern",
                ) from None
            if matched is None:
                raise BadRowError(place, "no_patient", f"its path doesn't match --patient-from {pattern.text}")
            found = matched
        if not all(map(_is_utf8, found.values())):
            raise BadRowError(place, "invalid_utf8", "the folder's name is not valid UTF-8; rename it")
        try:
            return {name: identifier_of(text) for name, text in found.items()}
        except LostDigitsError:
            raise BadRowError(place, "no_patient", "an identifier in its path has lost digits; rename it") from None

    def _no_patient(self, row: Row, number: int) -> UserError:
        """The error for a row that names no patient, with the possible remedies."""
        (names, _), level = self._columns(row, number), self.source.patient_folder
        if level and self.input.is_folder:
            return BadRowError(row.place, "no_patient", f"lies above the folders of level {level} (--patient-folder)")
        if self.source.patient_from:
            return BadRowError(row.place, "no_patient", "its path names nobody (--patient-from); rename it")
        if "patient" in names or "admission" in names:
            named = " and ".join(names[role][0] for role in ("patient", "admission") if role in names)
            return BadRowError(row.place, "no_patient", f"no patient in {named}; fill it in")
        if self.input.kind in ONE_NOTE:
            counts = enumerate(self.input.folders_by_level(), start=1)
            levels = ", ".join(f"level {level}: {count:,}" for level, count in counts)
            folders = f"if folders are patients, name their level with --patient-folder ({levels} folders); "
            files = "if files are named by patients, say how with --patient-from, such as '{patient}-*.txt'"
            return UserError(f"{self.input.path}: no patients are known; {folders if levels else ''}{files}{BY_NOTE}")
        message = f"no patient column; {describe_columns(row.columns)}; {likely_columns(row.columns)}{BY_NOTE}"
        if self._can_be_skipped(number):
            return BadRowError(row.place, "no_patient", message)
        return MissingColumnError(f"{row.where}: {message}")


def _holds_several(row: Row, name: str, kind: str) -> BadRowError:
    return BadRowError(row.place, "malformed", f"{name!r} holds a list or an object; it must hold {kind}")


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
