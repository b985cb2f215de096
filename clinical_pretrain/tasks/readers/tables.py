"""Classes or labels of texts in a CSV or JSONL file."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

from clinical_pretrain.tasks.readers.common import SPLIT_OF, UNDIVIDED, check_ids
from clinical_pretrain.tasks.readers.rows import read_csv, read_jsonl
from clinical_pretrain.tasks.records import Document, ReadingReport, TaskData
from tokenizer_tools.errors import UserError


@dataclass(frozen=True)
class TableColumns:
    """The columns of a table, or keys of its JSON objects. Empty: it has none."""

    text: str
    labels: str
    """One label, several with a separator, or, in JSONL, a list."""
    id: str = ""
    """The document's identifier. Without it, its row number."""
    second_text: str = ""
    patient: str = ""
    split: str = ""
    """train, dev (or development, val, valid, validation) or test. Without it all rows are `train`."""


@dataclass(frozen=True)
class LabelRule:
    """How the cells of the label column are read."""

    kind: Literal["class", "labels"] = "class"
    """`class`: rows with no label, or more than one, are left out. `labels`: any number holds."""
    separator: str = ""
    """Between the labels of a cell. Empty: a cell is one label."""
    only: tuple[str, ...] = ()
    """Labels that the task has, in their order; others don't count. Empty: those that occur, sorted."""


def read_table(path: Path, columns: TableColumns, rule: LabelRule | None = None) -> TaskData:
    """Read a table of texts: `.csv` with commas, or `.jsonl`; either may be gzipped (`.gz`).

    Blanks around a label are stripped. Rows without a text are left out.

    Raises:
        UserError: the file is missing, of another form, or lacks a column; a cell isn't a text or a list of texts; a
            split isn't known; two rows have one identifier; no label is left.
    """
    rule, report = rule or LabelRule(), ReadingReport()
    splits: dict[str, list[Document]] = {}
    for number, (place, row) in enumerate(_rows(path, columns), start=1):
        found = _labels(row[columns.labels], rule.separator, place)
        labels = tuple(label for label in found if label in rule.only) if rule.only else found
        text = _cell(row, columns.text, place)
        if not text.strip():
            report.leave_out("row without a text", place)
        elif rule.kind == "class" and len(labels) != 1:
            several = "row with several labels" if labels else "row whose label isn't one of the task's"
            report.leave_out(several if found else "row without a label", place)
        else:
            document = Document(
                _cell(row, columns.id, place) or str(number),
                text,
                _cell(row, columns.patient, place),
                _cell(row, columns.second_text, place) if columns.second_text else None,
                labels=labels,
            )
            split = _split(_cell(row, columns.split, place), place) if columns.split else UNDIVIDED
            splits.setdefault(split, []).append(document)
    occurring = {label for documents in splits.values() for document in documents for label in document.labels}
    if not occurring:
        what = f"has one of the labels {', '.join(rule.only)} (case counts)" if rule.only else "has a label"
        raise UserError(f"{path}: no row {what}; check the column {columns.labels!r}")
    return check_ids(TaskData(rule.kind, splits, rule.only or tuple(sorted(occurring)), report), path)


def _rows(path: Path, columns: TableColumns) -> Iterator[tuple[str, dict[str, Any]]]:
    names = [name for field in fields(columns) if (name := getattr(columns, field.name))]
    if path.name.endswith((".csv", ".csv.gz")):
        yield from read_csv(path, names)
    elif path.name.endswith((".jsonl", ".jsonl.gz")):
        for place, row in read_jsonl(path):
            if missing := [name for name in names if name not in row]:
                raise UserError(f"{place}: no key {missing[0]!r}; it has: {', '.join(sorted(row))}")
            yield place, row
    else:
        raise UserError(f"{path}: neither .csv nor .jsonl, with or without .gz; convert it")


def _cell(row: dict[str, Any], column: str, place: str) -> str:
    """A cell's text. Numbers are written out; a missing value is empty."""
    value = row[column] if column else ""
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if value is not None and not isinstance(value, str):
        raise UserError(f"{place}: {column!r} isn't a text; convert the file")
    return value or ""


def _labels(value: Any, separator: str, place: str) -> tuple[str, ...]:
    """The labels of a cell, each once."""
    if isinstance(value, list):
        cells = value
    else:
        cell = _cell({"labels": value}, "labels", place)
        cells = cell.split(separator) if separator else [cell]
    if not all(isinstance(cell, str) for cell in cells):
        raise UserError(f"{place}: its labels aren't texts; convert the file")
    return tuple(dict.fromkeys(cell.strip() for cell in cells if cell.strip()))


def _split(value: str, place: str) -> str:
    if value.strip().lower() not in SPLIT_OF:
        raise UserError(f"{place}: its split is none of {', '.join(SPLIT_OF)}; correct it")
    return SPLIT_OF[value.strip().lower()]
