"""A user's own task: a YAML file, and no code.

    name: diagnosis
    reader: table
    data: notes.csv
    kind: class
    columns:
      text: note
      labels: diagnosis
      patient: patient_id

docs/how-to/evaluate.md has an example for each reader.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from clinical_pretrain.config.fields import PathText, Pattern, keys_of, range_faults, type_faults
from clinical_pretrain.config.other_names import refuse_unknown
from clinical_pretrain.config.reading import build, flatten
from clinical_pretrain.tasks.readers.brat import read_brat
from clinical_pretrain.tasks.readers.iob import read_iob
from clinical_pretrain.tasks.readers.squad import read_squad
from clinical_pretrain.tasks.readers.tables import LabelRule, TableColumns, read_table
from clinical_pretrain.tasks.records import Kind, TaskData
from clinical_pretrain.tasks.splits import SplitShares
from clinical_pretrain.tasks.task import Task
from clinical_pretrain.tasks.task_list import TASKS
from tokenizer_tools.errors import UserError
from tokenizer_tools.yaml_files import read_yaml

Reader = Literal["brat", "iob", "squad", "table"]
KINDS: dict[Reader, tuple[Kind, ...]] = {
    "brat": ("entities",),
    "iob": ("entities",),
    "squad": ("answers",),
    "table": ("class", "labels"),
}
"""What each reader can give; the first is the default."""
METRICS: dict[Kind, tuple[str, ...]] = {
    "entities": ("f1", "precision", "recall"),
    "answers": ("f1", "exact_match"),
    "class": ("accuracy", "auc", "f1"),
    "labels": ("auc", "f1"),
}
"""The measures of each kind that can be the main one; the first is the default."""
NAME = "letters, digits, or _ . - after the first of them"
NEEDED = {
    "name": "it names the task in results, and its folder under --data-root",
    "reader": f"choose {', '.join(get_args(Reader)[:-1])} or {get_args(Reader)[-1]}",
}
NEEDED_BY_TABLES = {
    "data": "name the .csv or .jsonl file",
    "columns.text": "name the column of the texts",
    "columns.labels": "name the column of the labels",
}
OF_TABLES = ("columns", "labels", "separator")
"""Keys that only the reader `table` has."""


@dataclass(frozen=True)
class TaskFile:
    """The keys of the file."""

    name: Annotated[str, Pattern(r"[A-Za-z0-9][A-Za-z0-9_.-]*", NAME)] = ""
    """What the results are called, and the folder of the data under --data-root."""
    reader: Reader = "table"
    """brat: texts with .ann files. iob: columns of tokens and tags. squad: SQuAD's JSON. table: CSV or JSONL."""
    data: Annotated[str, PathText()] = "."
    """The file or folder that the reader is given, relative to the task's folder of data."""
    title: str = ""
    """One line for lists."""
    kind: Kind | None = None
    """table: class (one label holds) or labels (any number)."""
    metric: str | None = None
    """The main measure. entities: f1, precision or recall; answers: f1 or exact_match; class: accuracy; labels: auc or
    f1."""
    columns: TableColumns = field(default_factory=lambda: TableColumns("", ""))
    """table: the names of its columns or keys."""
    separator: str = ""
    """table: what stands between the labels of a cell; empty: a cell is one label."""
    split: SplitShares = field(default_factory=SplitShares)
    """What is taken out of train for splits that the data doesn't have."""


@dataclass(frozen=True)
class FileReader:
    """Reads the data of a user's own task. Equal for equal files."""

    keys: TaskFile
    kind: Kind
    labels: tuple[str, ...]

    def __call__(self, folder: Path) -> TaskData:
        """Read the data from the task's folder."""
        path = folder / self.keys.data
        if self.keys.reader == "table":
            assert self.kind in ("class", "labels")
            return read_table(path, self.keys.columns, LabelRule(self.kind, self.keys.separator, self.labels))
        return {"brat": read_brat, "iob": read_iob, "squad": read_squad}[self.keys.reader](path)


def read_task_file(path: Path) -> Task:
    """Read a task from a YAML file.

    Raises:
        UserError: it can't be read, or a key is unknown, missing or wrong.
    """
    flat = flatten(read_yaml(path))
    refuse_unknown(flat, [*keys_of(TaskFile), "labels"], file=str(path))
    labels = _labels(flat.pop("labels", []), path)
    if faults := _missing(flat):
        raise UserError(f"{path}: {'; '.join(faults)}")
    keys = build(TaskFile, {"columns.text": "", "columns.labels": ""} | flat)
    if faults := type_faults(keys) or range_faults(keys) or _contradictions(keys, set(flat), labels):
        raise UserError(f"{path}: {'; '.join(faults)}")
    kind = keys.kind or KINDS[keys.reader][0]
    return Task(
        keys.name,
        keys.title or f"a task of your own ({path.name})",
        kind=kind,
        metric=keys.metric or METRICS[kind][0],
        read=FileReader(keys, kind, labels),
        source=str(path),
        files=() if keys.data == "." else (keys.data,),
        shares=keys.split,
    )


def _labels(value: Any, path: Path) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(label, str) and label for label in value):
        raise UserError(f"{path}: labels must be a list of texts, such as [yes, no]")
    if repeated := [label for label in value if value.count(label) > 1]:
        raise UserError(f"{path}: labels has {repeated[0]} twice; delete one of them")
    return tuple(value)


def _missing(flat: dict[str, Any]) -> list[str]:
    needed = NEEDED | (NEEDED_BY_TABLES if flat.get("reader") == "table" else {})
    return [f"{key} is missing; {what}" for key, what in needed.items() if not flat.get(key)]


def _contradictions(keys: TaskFile, given: set[str], labels: tuple[str, ...]) -> list[str]:
    """What is wrong with values that are right each by itself."""
    kinds = KINDS[keys.reader]
    kind = keys.kind or kinds[0]
    if keys.kind and keys.kind not in kinds:
        return [f"kind is {keys.kind}, but the reader {keys.reader} gives {' or '.join(kinds)}"]
    faults = []
    if keys.metric and keys.metric not in METRICS[kind]:
        faults.append(f"metric is {keys.metric}, must be {' or '.join(METRICS[kind])} for the kind {kind}")
    sections = {key.split(".")[0] for key in given} | ({"labels"} if labels else set())
    if keys.reader != "table" and (others := [key for key in OF_TABLES if key in sections]):
        faults.append(f"{', '.join(others)}: only for the reader table; delete it")
    if keys.name in TASKS:
        faults.append(f"name is {keys.name}, which is a task of the catalogue; choose another")
    return faults
