"""The file formats: read the rows of a CSV, JSONL, Parquet, text or XML file, each with its place for messages.

Another format is a reader here, and its file endings in input_files.py.
"""

from __future__ import annotations

import csv
import io
import itertools
import json
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal

from tokenizer_tools.corpus.columns import KNOWN_COLUMNS, Columns, find_column, refuse_repeated, resolve_columns
from tokenizer_tools.corpus.compressed_files import open_file
from tokenizer_tools.corpus.input_files import Kind
from tokenizer_tools.errors import UserError
from tokenizer_tools.files import unique_keys
from tokenizer_tools.xml_files import parse_xml

LONGEST_FIELD = 1 << 28
_NOT_TO_BE_SKIPPED = "--on-bad-row skip can't skip it, as the lines after it could be of the same note"
Fault = Literal["invalid_utf8", "malformed", "no_patient", "marked_error", "filtered"]


class BadRowError(UserError):
    """A row that can't be used. With `on_bad_row: skip` it becomes a note with a `fault`."""

    def __init__(self, place: str, fault: Fault, message: str) -> None:
        super().__init__(f"{place}: {message}; or drop and count such rows with --on-bad-row skip")
        self.place, self.fault, self.message = place, fault, message

    def __reduce__(self) -> tuple[type[BadRowError], tuple[str, Fault, str]]:
        return type(self), (self.place, self.fault, self.message)  # so that worker processes can hand it on


@dataclass(frozen=True)
class Row:
    """One row of a file."""

    place: str
    where: str
    """Where its columns come from, for messages: the file, or the row if each row has its own keys (JSONL)."""
    values: dict[str, Any]
    columns: tuple[str, ...]


@dataclass(frozen=True)
class Wanted:
    """Which columns are read."""

    columns: Columns
    """Those that the user has named by their role."""
    filters: tuple[str, ...] = ()
    """Those by whose values rows stay."""

    def resolve(self, found: tuple[str, ...], where: str) -> tuple[dict[str, list[str]], list[str]]:
        """The columns of each role, and those of the filters.

        Raises:
            UserError: see `resolve_columns`; or there is no column for a filter.
        """
        filters = [find_column(name, found, f"{where}: no column {name!r} (filters)") for name in self.filters]
        for name in filters:
            refuse_repeated(name, found, where)
        return resolve_columns(self.columns, found, where), filters


@dataclass(frozen=True)
class Block:
    """Whole records of a CSV or JSONL file, as they stand in it: a part of a file that can be read alone."""

    header: bytes
    """What stands before the first row: of a CSV file its header, of JSONL nothing."""
    content: bytes
    before: int
    """Rows of a CSV file, or lines of JSONL, that stand before these."""
    records: int
    """Number of rows, without empty lines."""

    def __len__(self) -> int:
        return self.records


def read_rows(path: Path, kind: Kind, wanted: Wanted, block: Block | None = None) -> Iterator[Row | BadRowError]:
    """Yield the rows of a file, or of a block of it, and errors for rows that can't be used but can be skipped.

    Raises:
        UserError: the file is damaged, lacks a column, or its rows can't be told apart.
    """
    if kind == "parquet":
        yield from _parquet(path, wanted)
        return
    with _open(path, block) as stream:
        before = block.before if block else 0
        if kind == "txt":
            yield Row(str(path), str(path), {"text": stream.read()}, ("text",))
        elif kind == "xml":
            yield _xml(path, stream.read())
        elif kind == "csv":
            yield from _csv(path, _decoded(path, stream, newline=""), wanted, before)
        else:
            yield from _jsonl(path, _decoded(path, stream, newline="\n"), before)


def _open(path: Path, block: Block | None) -> AbstractContextManager[BinaryIO]:
    if block is None:
        return open_file(path)
    return io.BufferedReader(io.BytesIO(block.header + block.content))


def _xml(path: Path, content: bytes) -> Row | BadRowError:
    """The text of a note of i2b2 and n2c2: the one <TEXT>, which holds no other elements."""
    try:
        root, _ = parse_xml(content, path)
    except UserError as error:
        line, _, message = str(error).removeprefix(str(path)).partition(": ")
        return BadRowError(f"{path}{line}", "malformed", message)
    texts = [element for element in root.iter() if element.tag in ("TEXT", "text")]
    if len(texts) != 1:
        return BadRowError(str(path), "malformed", f"holds {len(texts)} <TEXT>, not one; make a file of each note")
    if len(texts[0]):
        return BadRowError(str(path), "malformed", "has elements within <TEXT>; write its text alone, as CDATA")
    return Row(str(path), str(path), {"text": texts[0].text}, ("text",))


def _decoded(path: Path, stream: Any, newline: str) -> io.TextIOWrapper:
    """Decode a stream. Bytes that aren't UTF-8 become lone surrogates, so that their row can be named."""
    if is_utf16(stream.peek(64)[:64]):
        raise UserError(f"{path}: UTF-16, not UTF-8; convert it (iconv -f UTF-16 -t UTF-8)")
    return io.TextIOWrapper(stream, encoding="utf-8-sig", errors="surrogateescape", newline=newline)


def is_utf16(start: bytes) -> bool:
    """Whether a file that starts like this is UTF-16: by its byte-order mark, or if every other byte is zero."""
    return start[:2] in (b"\xff\xfe", b"\xfe\xff") or any(
        len(start) > 3 and not any(start[first : len(start) // 2 * 2 : 2]) for first in (0, 1)
    )


def _csv(path: Path, text: io.TextIOWrapper, wanted: Wanted, before: int) -> Iterator[Row | BadRowError]:
    csv.field_size_limit(LONGEST_FIELD)
    header = text.readline()
    separator = separator_of(header, wanted.columns)
    lines = itertools.chain([header], text)
    reader = csv.reader(lines, delimiter=separator, strict=True)  # otherwise an unclosed quote takes in the rest
    columns: tuple[str, ...] = ()
    for number in itertools.count(before):  # of the header, and then of the rows
        place = f"{path}, row {number}"
        try:
            values = next((values for values in reader if values), None)  # without empty lines
        except csv.Error as error:
            raise UserError(
                f"{path}, after row {max(0, number - 1)}: not a CSV file ({error}); look for an unclosed quote, or a "
                f'stray one: within a field a quote is written twice (""); {_NOT_TO_BE_SKIPPED}'
            ) from None
        if values is None:
            break
        if not columns:
            columns = tuple(values)
            wanted.resolve(columns, str(path))
        elif len(values) < len(columns):
            # A line break without quotes.
            raise UserError(
                f"{place}: {len(values)} fields where the header has {len(columns)}; quote fields that hold line "
                f'breaks ("), or complete the row; {_NOT_TO_BE_SKIPPED}'
            )
        elif len(values) > len(columns):
            yield BadRowError(
                place,
                "malformed",
                f'{len(values)} fields where the header has {len(columns)}; quote fields that hold separators (")',
            )
        elif len(columns) > 1 and all(_bare(value) == _bare(name) for value, name in zip(values, columns, strict=True)):
            yield BadRowError(place, "malformed", "repeats the header; delete this line")
        else:
            yield Row(place, str(path), dict(zip(columns, values, strict=True)), columns)
    if not columns:
        raise UserError(f"{path}: empty file; it needs a header line and notes")


def _bare(name: str) -> str:
    """A column's name without what differs between joined files: case, blanks, byte-order marks."""
    return name.strip("\ufeff \t").lower()


def separator_of(header: str, wanted: Columns) -> str:
    """The separator (comma, tab, semicolon or bar) with which the header has a text column. If none has, the only one
    that the header holds, so that a message can name its columns."""
    known = set(KNOWN_COLUMNS["text"])
    for separator in ",\t;|":
        names = next(csv.reader([header], delimiter=separator), [])
        if _bare(wanted.text) in map(_bare, names) if wanted.text else known & set(map(_bare, names)):
            return separator
    there = [separator for separator in ",\t;|" if separator in header]
    return there[0] if len(there) == 1 else ","


def _jsonl(path: Path, lines: io.TextIOWrapper, before: int) -> Iterator[Row | BadRowError]:
    is_first = before == 0
    for number, line in enumerate(lines, start=before + 1):
        if not line.strip():
            continue
        if is_first and (line.lstrip().startswith("[") or line.strip() == "{"):
            raise UserError(
                f"{path}: JSON over several lines or in a list, not an object on each line; convert it (jq -c '.[]', "
                "or, if it holds no list, jq -c .)"
            )
        is_first = False
        place = f"{path}, row {number}"
        try:
            row = json.loads(line, object_pairs_hook=unique_keys)
        except (ValueError, RecursionError):
            row = None
        if isinstance(row, dict):
            yield Row(place, place, row, tuple(row))
        else:
            yield BadRowError(place, "malformed", "not a JSON object with each key once; every line must hold one")


def count_parquet(path: Path) -> int:
    """The number of rows in a Parquet file.

    Raises:
        UserError: it can't be read.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return int(pq.read_metadata(path).num_rows)
    except (pa.ArrowException, OSError) as error:
        raise _unreadable(path, error) from None


def _unreadable(path: Path, error: Exception) -> UserError:
    return UserError(f"{path}: cannot be read as Parquet ({type(error).__name__}); write it again")


def _parquet(path: Path, wanted: Wanted) -> Iterator[Row]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    encoded: list[str] = []
    try:
        table = pq.ParquetFile(path)
        columns = tuple(table.schema_arrow.names)
        roles, filters = wanted.resolve(columns, str(path))
        needed = list(dict.fromkeys([*itertools.chain(*roles.values()), *filters]))
        encoded = [name for name in needed if pa.types.is_dictionary(table.schema_arrow.field(name).type)]
        number = 0
        for batch in table.iter_batches(batch_size=1024, columns=needed):
            arrays = [_cells(array) for array in batch.columns]
            for values in zip(*arrays, strict=True):
                number += 1
                yield Row(
                    f"{path}, row {number}", str(path), dict(zip(batch.schema.names, values, strict=True)), columns
                )
    except (pa.ArrowException, OSError) as error:
        if encoded and "UTF8" in str(error):  # which Arrow checks before it gives us the rows
            names = " or ".join(map(repr, encoded))
            raise UserError(f"{path}: not valid UTF-8 in {names}, a categorical column; write it as strings") from None
        raise _unreadable(path, error) from None


def _cells(array: Any) -> list[Any]:
    """Convert a column to Python values.

    Strings stay bytes, because Arrow would raise at the first one that isn't UTF-8 without naming its row. Dates become
    text, because Python has no years after 9999; Arrow keeps times with a zone in UTC. Floats of 16 and 32 bits keep
    their type, because it decides how many digits they hold.
    """
    import pyarrow as pa

    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    if isinstance(array, pa.ExtensionArray) and pa.types.is_string(array.type.storage_type):  # such as JSON
        array = array.storage
    if pa.types.is_timestamp(array.type) and array.type.tz:
        array = array.cast(pa.timestamp(array.type.unit, "UTC"))  # this machine may not know the zone
    if pa.types.is_temporal(array.type):
        array = array.cast(pa.string())
    if pa.types.is_string_view(array.type):
        array = array.cast(pa.binary_view())
    if pa.types.is_string(array.type) or pa.types.is_large_string(array.type):
        array = array.cast(pa.large_binary())
    if pa.types.is_float16(array.type) or pa.types.is_float32(array.type):
        return list(array.to_numpy(zero_copy_only=False))
    return list(array.to_pylist())
