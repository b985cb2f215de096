"""Read the file of --sources: a YAML file with a list of sources, each a small record.

    sources:
      - name: mimic3
        path: NOTEEVENTS.csv.gz
        filters:
          CATEGORY: [Discharge summary, Nursing]

Values are read as text, so an identifier or a filter's 01 stays what the user wrote.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, get_args

from tokenizer_tools.corpus.columns import Columns
from tokenizer_tools.corpus.identifiers import spelling_of
from tokenizer_tools.corpus.input_files import Kind
from tokenizer_tools.corpus.path_patterns import PathPattern
from tokenizer_tools.corpus.sources import Filter, Source
from tokenizer_tools.corpus.times import DateOrder
from tokenizer_tools.errors import UserError
from tokenizer_tools.yaml_files import read_yaml

KEYS = ("name", "path", "format", "columns", "patient_folder", "patient_from", "date_order", "category", "filters")
_REFUSED = {
    "weight": "sources have no weights: every note that stays is read once. To take less of a source, give it filters; "
    "to leave it out, delete it here",
    "on_bad_row": "it holds for all sources; give --on-bad-row to the command",
    "split": "it holds for all sources; see --split.by and --split.lists.train of the command",
    "cleaning": "it holds for all sources; see --cleaning.profile of the command",
}
"""Keys that one could expect, and what to do instead."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")


@dataclass(frozen=True)
class SourceRecord:
    """One source, and where its files are."""

    source: Source
    paths: list[Path]
    format: Kind | None
    """None: by the files' names."""


def read_source_file(path: Path) -> list[SourceRecord]:
    """Read the records. Paths in it are relative to its own folder.

    Raises:
        UserError: it can't be read, or a key is unknown, missing or wrong.
    """
    content = read_yaml(path, "sources: [{name: mimic3, path: NOTEEVENTS.csv.gz}]")
    _refuse_unknown(content, ("sources",), str(path))
    entries = content.get("sources")
    if not isinstance(entries, list) or not entries:
        raise UserError(f"{path}: sources must be a list of records, each beginning with '- name: NAME'")
    records = [_Record(entry, path, number).read() for number, entry in enumerate(entries, start=1)]
    names = [record.source.name for record in records]
    if repeated := next((name for name in names if names.count(name) > 1), None):
        raise UserError(f"{path}: two sources are called {repeated}; rename one of them")
    return records


def _refuse_unknown(given: Iterable[Any], valid: Sequence[str], place: str) -> None:
    for key in given:
        if key in valid:
            continue
        if key in _REFUSED:
            raise UserError(f"{place}: {key}: {_REFUSED[key]}")
        near = difflib.get_close_matches(str(key).lower(), valid, n=1, cutoff=0.6)
        hint = f"did you mean {near[0]}?" if near else f"choose from {', '.join(valid)}"
        raise UserError(f"{place}: unknown key {key!r} ({hint})")


class _Record:
    """Reads one record, and knows its place for messages."""

    def __init__(self, entry: Any, path: Path, number: int) -> None:
        self.path, self.place = path, f"{path}, source {number}"
        if not isinstance(entry, dict):
            raise self.error("must be a record with keys such as name and path")
        self.entry: dict[Any, Any] = entry
        if isinstance(name := entry.get("name"), str):
            self.place += f" ({name})"

    def error(self, message: str) -> UserError:
        return UserError(f"{self.place}: {message}")

    def read(self) -> SourceRecord:
        _refuse_unknown(self.entry, KEYS, self.place)
        name = self._text("name")
        if name is None or not _NAME.fullmatch(name):
            raise self.error("name must be 1 to 64 letters, digits, or _ . - after the first of them")
        columns, patient_folder, patient_from = self._columns(), self._level(), self._text("patient_from")
        patients = {"patient_folder": patient_folder, "patient_from": patient_from, "columns.patient": columns.patient}
        if len(given := [key for key, value in patients.items() if value]) > 1:
            raise self.error(f"{' and '.join(given)} both say who the patient is; give one of them")
        category = self._text("category")
        if category and columns.category:
            raise self.error("category and columns.category both say what kind of note it is; give one of them")
        source = Source(
            name=name,
            columns=columns,
            patient_folder=patient_folder,
            patient_from=self._pattern(patient_from),
            date_order=self._choice("date_order", get_args(DateOrder)) or "year_first",
            category=category,
            filters=tuple(self._filter(column, value) for column, value in self._section("filters").items()),
        )
        return SourceRecord(source, self._paths(), self._choice("format", get_args(Kind)))

    def _text(self, key: str) -> str | None:
        """A value that must be text and not empty, if the key is given."""
        if key not in self.entry:
            return None
        value = self.entry[key]
        if not isinstance(value, str) or not value.strip():
            raise self.error(f"{key} must be text; leave the key out if there is none")
        return value.strip()

    def _choice(self, key: str, choices: tuple[Any, ...]) -> Any:
        value = self._text(key)
        if value is not None and value not in choices:
            raise self.error(f"{key} is {value}, must be one of {', '.join(choices)}")
        return value

    def _level(self) -> int:
        value = self._text("patient_folder") or "0"
        if not re.fullmatch(r"[0-9]{1,3}", value):
            raise self.error(f"patient_folder is {value}, must be a level of folders, counted from 1, or 0 for none")
        return int(value)

    def _pattern(self, text: str | None) -> PathPattern | None:
        try:
            return PathPattern(text) if text is not None else None
        except UserError as error:
            raise self.error(str(error).replace("--patient-from", "patient_from")) from None

    def _section(self, key: str) -> dict[str, Any]:
        """Keys and values below a key; none if it isn't given."""
        section = self.entry.get(key, {})
        if not isinstance(section, dict) or (not section and key in self.entry):
            raise self.error(f"{key} must hold names and values, such as '{key}: {{NAME: VALUE}}'")
        return {str(name): value for name, value in section.items()}

    def _paths(self) -> list[Path]:
        value = self.entry.get("path")
        given = value if isinstance(value, list) else [value]
        texts = [text.strip() for text in given if isinstance(text, str)]
        if not all(texts) or not texts or len(texts) < len(given):
            raise self.error("path must be a file or a folder, or a list of them")
        try:
            return [self.path.parent / Path(text).expanduser() for text in texts]
        except RuntimeError:
            raise self.error("path begins with ~, but the home folder isn't known; write it out") from None

    def _columns(self) -> Columns:
        given = self._section("columns")
        _refuse_unknown(given, [entry.name for entry in fields(Columns)], f"{self.place}, columns")
        for role, value in given.items():
            several = role == "time" and isinstance(value, list) and value
            if not all(isinstance(name, str) and name.strip() for name in (value if several else [value])):
                raise self.error(f"columns.{role} must be the name of a column{' or of several' * (role == 'time')}")
        return Columns(**{role: ",".join(name) if isinstance(name, list) else name for role, name in given.items()})

    def _filter(self, column: str, value: Any) -> Filter:
        """`value`, `[values]` and `{is: …}` keep rows, `not value` and `{not: …}` drop them."""
        keeps = True
        if isinstance(value, dict):
            if len(value) != 1 or next(iter(value)) not in ("is", "not"):
                raise self.error(
                    f"filters.{column} must be a value, a list of values, {{not: [values]}} or {{is: [values]}}"
                )
            ((word, value),) = value.items()
            keeps = word == "is"
        elif isinstance(value, str) and value.startswith("not "):
            value, keeps = value.removeprefix("not "), False
        elif isinstance(value, list) and any(isinstance(each, str) and each.startswith("not ") for each in value):
            raise self.error(
                f"filters.{column}: 'not' within a list; write {{not: [values]}}, or {{is: [values]}} for such values"
            )
        values = value if isinstance(value, list) else [value]
        if not values or not all(each is None or isinstance(each, str) for each in values):
            raise self.error(f"filters.{column} must hold texts or numbers; null stands for an empty cell")
        return Filter(column, tuple(sorted({spelling_of(each) for each in values})), keeps)
