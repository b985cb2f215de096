"""Read the files of task data: CSV, JSONL and JSON, plain or gzipped, each row with its place for messages."""

from __future__ import annotations

import csv
import gzip
import io
import json
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from clinical_pretrain.tasks.readers.common import read_text
from tokenizer_tools.errors import UserError
from tokenizer_tools.files import unique_keys

LONGEST_FIELD = 1 << 28


@contextmanager
def open_text(path: Path) -> Iterator[TextIO]:
    """Open a UTF-8 file, gunzipped where its name ends in `.gz`. Line ends stay as they are.

    Raises:
        UserError: the file is missing or unreadable, or, while it is read, not gzip.
    """
    try:
        with path.open("rb") as raw, gzip.open(raw) if path.name.endswith(".gz") else raw as stream:
            yield io.TextIOWrapper(stream, encoding="utf-8-sig", newline="")
    except (EOFError, gzip.BadGzipFile, zlib.error):
        raise UserError(f"{path}: broken or cut-off gzip file; copy it again") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None


def read_csv(path: Path, columns: Sequence[str]) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield the rows of a CSV file with a header: their place, and the values of these columns.

    Column names match in any case: MIMIC-III comes with upper-case and with lower-case ones.

    Raises:
        UserError: not a CSV file, not UTF-8, a column is missing or ambiguous, or a row has another number of fields.
    """
    csv.field_size_limit(LONGEST_FIELD)
    number = 0
    with open_text(path) as stream:
        reader = csv.reader(stream, strict=True)  # otherwise an unclosed quote takes in the rest
        try:
            header = next(reader, [])
            positions = _positions(path, header, columns)
            for number, values in enumerate(filter(None, reader), start=1):
                if len(values) != len(header):
                    raise UserError(
                        f"{path}, row {number}: {len(values)} fields where the header has {len(header)}; quote fields "
                        'that hold separators or line breaks (")'
                    )
                yield f"{path}, row {number}", {name: values[at] for name, at in positions.items()}
        except UnicodeDecodeError:
            raise UserError(f"{path}, after row {number}: not UTF-8; convert the file") from None
        except csv.Error as error:
            raise UserError(f"{path}, after row {number}: not a CSV file ({error}); look for a stray quote") from None


def _positions(path: Path, header: list[str], columns: Sequence[str]) -> dict[str, int]:
    if not header:
        raise UserError(f"{path}: is empty; copy the file again")
    names = [name.strip().lower() for name in header]
    found = {column: names.index(column.lower()) for column in columns if names.count(column.lower()) == 1}
    if missing := [column for column in columns if column not in found]:
        raise UserError(f"{path}: its header doesn't have exactly one column {missing[0]}; is it the right file?")
    return found


def read_jsonl(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the objects of a JSONL file, each with its place.

    Raises:
        UserError: not UTF-8, or a line doesn't hold one JSON object with each key once.
    """
    number = 0
    with open_text(path) as stream:
        try:
            for number, line in enumerate(stream, start=1):
                if line.strip():
                    place = f"{path}:{number}"
                    yield place, as_object(_parsed(line, place), place)
        except UnicodeDecodeError:
            raise UserError(f"{path}, after line {number}: not UTF-8; convert the file") from None


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON file that holds one object.

    Raises:
        UserError: it can't be read, or holds something else.
    """
    return as_object(_parsed(read_text(path, "utf-8-sig"), str(path)), str(path))


def _parsed(text: str, place: str) -> Any:
    try:
        return json.loads(text, object_pairs_hook=unique_keys)
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise UserError(f"{place}: not JSON ({error.msg} at {where}); copy the file again") from None
    except (ValueError, RecursionError):
        raise UserError(f"{place}: not JSON with each key once in an object; copy the file again") from None


def as_object(value: Any, place: str) -> dict[str, Any]:
    """The value itself, if it is a JSON object; otherwise a UserError."""
    if not isinstance(value, dict):
        raise UserError(f"{place}: not a JSON object; is it the right file?")
    return value


def get_list(record: dict[str, Any], key: str, place: str) -> list[Any]:
    """The list under a key; otherwise a UserError."""
    if not isinstance(value := record.get(key), list):
        raise UserError(f"{place}: no list {key!r}; is it the right file?")
    return value


def get_text(record: dict[str, Any], key: str, place: str) -> str:
    """The text under a key; otherwise a UserError."""
    if not isinstance(value := record.get(key), str):
        raise UserError(f"{place}: no text {key!r}; is it the right file?")
    return value


def get_texts(record: dict[str, Any], key: str, place: str) -> list[str]:
    """The list of texts under a key; otherwise a UserError."""
    values = get_list(record, key, place)
    if not all(isinstance(value, str) for value in values):
        raise UserError(f"{place}: {key!r} isn't a list of texts; is it the right file?")
    return values


def get_number(value: Any, name: str, place: str) -> int:
    """The value itself, if it is a whole number from 0; otherwise a UserError."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise UserError(f"{place}: {name} must be a whole number from 0; correct the file")
    return value
