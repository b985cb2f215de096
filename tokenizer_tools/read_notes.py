"""Notes from CSV, JSONL and Parquet files and folders of .txt, one at a time, in input order."""

from __future__ import annotations

import csv
import gzip
import io
import json
import re
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

from tokenizer_tools.manifest import UserError

# Lower case; the first that a file has is taken. MIMIC-III's NOTEEVENTS and MIMIC-IV-Note are covered.
KNOWN_COLUMNS = {
    "text": ("text", "note_text"),
    "patient": ("subject_id", "patient_id", "person_id"),
    "admission": ("hadm_id", "admission_id", "visit_occurrence_id"),
    "category": ("category", "note_type"),
    "time": ("charttime", "chartdate", "note_datetime", "note_date"),
}
SUFFIXES = (".csv", ".csv.gz", ".jsonl", ".jsonl.gz", ".parquet")
UNCATEGORISED = "uncategorised"
LONGEST_FIELD = 1 << 28


@dataclass(frozen=True)
class Columns:
    """Column names (JSONL: keys) of the input, where they aren't MIMIC's own."""

    text: str | None = None
    """The note. Known without this option: TEXT, note_text, in upper or lower case."""
    patient: str | None = None
    """Whose note it is, the unit of the split. Known: SUBJECT_ID, patient_id, person_id."""
    admission: str | None = None
    """Stands in for the patient where there is none. Known: HADM_ID, admission_id, visit_occurrence_id."""
    category: str | None = None
    """The kind of note, for validation by category. Known: CATEGORY, note_type."""
    time: str | None = None
    """ISO date or time; orders a patient's notes. Known: CHARTTIME, CHARTDATE, note_datetime, note_date."""


@dataclass(frozen=True)
class Note:
    """One note as it came in."""

    text: str
    """Empty where the bytes weren't valid UTF-8."""
    group: str | None
    """Who must stay in one split: the patient, else the admission, else nobody (None)."""
    category: str
    time: str
    source: int
    """Which of the inputs it came from, counted from 0."""
    place: str
    """File and row, for messages."""
    invalid_utf8: bool = False


def read_notes(
    paths: Sequence[Path],
    columns: Columns | None = None,
    on_invalid_utf8: Literal["fail", "skip"] = "fail",
) -> Iterator[Note]:
    """Yield every note of `paths`, one at a time: memory doesn't grow with the corpus.

    Args:
        paths: CSV(.gz), JSONL(.gz) and Parquet files, and folders of .txt (one note a file, sorted by name).
        columns: names where they aren't MIMIC's.
        on_invalid_utf8: `fail` raises at the first note that isn't UTF-8; `skip` yields it empty and marked.

    Raises:
        UserError: a file is missing, of unknown kind or broken, lacks a column, or isn't UTF-8.
    """
    check_inputs(paths)
    for source, path in enumerate(paths):
        for place, row, columns_found in _rows(path):
            where = place if ".jsonl" in path.name.lower()[-9:] else str(path)  # JSONL: each row has its own keys
            names = _resolve(columns or Columns(), columns_found, where)
            if isinstance(row.get(names["text"]), list | dict):
                raise UserError(f"{place}: {names['text']!r} holds a list or an object; it must hold text")
            values = {role: _text(row.get(name)) for role, name in names.items()}
            invalid = not _is_utf8(values)
            if invalid and on_invalid_utf8 == "fail":
                raise UserError(
                    f"{place}: not valid UTF-8; convert the file (iconv -f LATIN1 -t UTF-8), "
                    "or drop such notes and count them with --on-invalid-utf8 skip"
                )
            if invalid:
                values = {}
            patient, admission = values.get("patient"), values.get("admission")
            yield Note(
                text=values.get("text", ""),
                group=f"patient {patient}" if patient else f"admission {admission}" if admission else None,
                category=values.get("category", "").strip() or UNCATEGORISED,
                time=values.get("time", "").strip(),
                source=source,
                place=place,
                invalid_utf8=invalid,
            )


def check_inputs(paths: Sequence[Path]) -> None:
    """Refuse inputs that don't exist or are of no known kind, before anything is written."""
    if not paths:
        raise UserError("no notes given; name a file or a folder with --notes")
    for path in paths:
        if not path.exists():
            raise UserError(f"{path}: no such file or folder; check --notes")
        if path.is_dir():
            if not any(path.rglob("*.txt")):
                raise UserError(f"{path}: a folder without .txt files; name a file ({', '.join(SUFFIXES)})")
        elif not path.name.lower().endswith(SUFFIXES):
            raise UserError(f"{path}: unknown kind of file; known are {', '.join(SUFFIXES)} and folders of .txt")
        if not _readable(path):
            raise UserError(f"{path}: no permission to read it; ask its owner, or run as a user who may")


def input_files(path: Path) -> list[Path]:
    """The files behind one input: itself, or a folder's .txt files in reading order."""
    return sorted(path.rglob("*.txt")) if path.is_dir() else [path]


def _readable(path: Path) -> bool:
    try:
        if path.is_dir():
            next(path.iterdir(), None)
        else:
            path.open("rb").close()
    except OSError:
        return False
    return True


Row = tuple[str, dict[str, Any], tuple[str, ...]]


def _rows(path: Path) -> Iterator[Row]:
    """(place, row, column names) of one input."""
    name = path.name.lower()
    if path.is_dir():
        yield from _text_files(path)
        return
    if name.endswith(".parquet"):
        yield from _parquet(path)
        return
    try:
        with path.open("rb") as raw, gzip.open(raw) if name.endswith(".gz") else raw as stream:
            yield from (_csv if ".csv" in name[-7:] else _jsonl)(path, stream)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise UserError(f"{path}: broken or cut-off gzip file ({error}); copy it again") from None


def _csv(path: Path, stream: IO[bytes] | gzip.GzipFile) -> Iterator[Row]:
    # Bytes that aren't UTF-8 become lone surrogates, so that the row they stand in can be named.
    text = io.TextIOWrapper(stream, encoding="utf-8-sig", errors="surrogateescape", newline="")
    csv.field_size_limit(LONGEST_FIELD)
    reader = csv.reader(text, strict=True)  # else an unclosed quote swallows the rest of the file
    number = 0
    try:
        header = next(reader, None)
        if header is None:
            raise UserError(f"{path}: empty file; it needs a header line and notes")
        columns = tuple(header)
        for number, values in enumerate(reader, start=1):
            if not values:
                continue
            if len(values) != len(columns):
                raise UserError(
                    f"{path}, row {number}: {len(values)} fields where the header has {len(columns)}; "
                    'quote fields that hold commas or line breaks (")'
                )
            yield f"{path}, row {number}", dict(zip(columns, values, strict=True)), columns
    except csv.Error as error:
        raise UserError(f"{path}, after row {number}: not a CSV file ({error}); look for an unclosed quote") from None


def _jsonl(path: Path, stream: IO[bytes] | gzip.GzipFile) -> Iterator[Row]:
    lines = io.TextIOWrapper(stream, encoding="utf-8-sig", errors="surrogateescape", newline="\n")
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        place = f"{path}, row {number}"
        try:
            row = json.loads(line)
        except ValueError:
            row = None
        if not isinstance(row, dict):
            raise UserError(f"{place}: not a JSON object; every line must hold one")
        yield place, row, tuple(row)


def _parquet(path: Path) -> Iterator[Row]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.ParquetFile(path)
        columns = tuple(table.schema_arrow.names)
        number = 0
        for batch in table.iter_batches(batch_size=1024):
            # Read as bytes: Arrow would raise at the first string that isn't UTF-8, without its row.
            arrays = [
                array.cast(pa.large_binary())
                if pa.types.is_string(array.type) or pa.types.is_large_string(array.type)
                else array
                for array in batch.columns
            ]
            for values in zip(*(array.to_pylist() for array in arrays), strict=True):
                number += 1
                yield f"{path}, row {number}", dict(zip(columns, values, strict=True)), columns
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, OSError) as error:
        kind = type(error).__name__
        raise UserError(f"{path}: cannot be read as Parquet ({kind}); write it again") from None


def _text_files(folder: Path) -> Iterator[Row]:
    for path in input_files(folder):
        yield str(path), {"text": path.read_bytes()}, ("text",)


def _text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bytes):
        return value.decode("utf-8", errors="surrogateescape")
    if isinstance(value, float) and value.is_integer():
        return str(int(value))  # pandas writes an id column with gaps as floats: 123.0 and 123 are one patient
    return str(value)


def _is_utf8(values: dict[str, str]) -> bool:
    try:
        for value in values.values():
            value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _resolve(wanted: Columns, found: tuple[str, ...], where: str) -> dict[str, str]:
    """Role -> column name. A named column that is missing is an error; of the known ones only text must be there."""
    key = (wanted, found)
    if key not in _resolved:
        _resolved.clear()  # one entry: rows come file by file, and JSONL keys seldom change
        _resolved[key] = _find_columns(wanted, found, where)
    return _resolved[key]


_resolved: dict[tuple[Columns, tuple[str, ...]], dict[str, str]] = {}


def _find_columns(wanted: Columns, found: tuple[str, ...], where: str) -> dict[str, str]:
    by_lower_case = {name.strip().lower(): name for name in reversed(found)}
    names: dict[str, str] = {}
    for role, known in KNOWN_COLUMNS.items():
        asked = getattr(wanted, role)
        if asked is not None:
            if asked not in found:
                raise UserError(f"{where}: no column {asked!r} (--columns.{role}); {describe_columns(found)}")
            names[role] = asked
            continue
        match = next((by_lower_case[name] for name in known if name in by_lower_case), None)
        if match is not None:
            names[role] = match
    if "text" not in names:
        raise UserError(f"{where}: no text column; {describe_columns(found)}; name it with --columns.text NAME")
    return names


def describe_columns(found: Iterable[str]) -> str:
    """The columns' names for a message, unless the first row may be data: then not a word of it."""
    names = list(found)
    looks_like_a_header = len(set(names)) == len(names) and all(
        re.fullmatch(r"[A-Za-z_][\w.\-/]*( [\w.\-/]+){0,3}", name) and len(name) <= 40 for name in names
    )
    if not looks_like_a_header:
        commas = ", separated by commas" if len(names) == 1 else ""
        return f"its first row ({len(names)} fields) doesn't look like a header: put the column names there{commas}"
    return f"columns found: {', '.join(names)}"
