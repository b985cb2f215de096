"""What a user can set of how notes are read, for all commands that read notes; and the inputs that follow from it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from tokenizer_tools.corpus.columns import Columns
from tokenizer_tools.corpus.input_files import Input, Kind, find_inputs
from tokenizer_tools.corpus.path_patterns import PathPattern
from tokenizer_tools.corpus.source_file import read_source_file
from tokenizer_tools.corpus.sources import Source
from tokenizer_tools.corpus.times import DateOrder
from tokenizer_tools.errors import UserError


@dataclass(frozen=True)
class InputOptions:
    """How notes are read."""

    columns: Columns = field(default_factory=Columns)
    """Column names."""
    files: Kind | None = None
    """In a folder with several kinds of files, the kind to read."""
    patient_folder: int = 0
    """In a folder: the level of subfolders that stand for patients (1: directly below it). 0: none."""
    patient_from: str | None = None
    """Where the patient stands in the end of a file's path: a pattern such as '{patient}-*.xml' or '{patient}/s*.txt',
    or path, for the folder that a file lies in."""
    date_order: DateOrder = "year_first"
    """What 03/04/2101 means in the time columns: day_first, month_first, or year_first, which doesn't guess: such a
    time counts as unreadable."""
    on_bad_row: Literal["fail", "skip"] = "fail"
    """Whether to stop at a row that can't be used (not UTF-8, too many fields, no patient), or to skip and count it."""
    sources: str | None = None
    """Instead of --notes: a YAML file that describes sources, each with its own files, columns and filters. The
    command `sources` prints ready ones."""

    def __post_init__(self) -> None:
        if self.patient_folder < 0:
            raise UserError(f"--patient-folder {self.patient_folder}: must be a level, counted from 1, or 0 for none")
        patients = {
            "--patient-folder": self.patient_folder,
            "--patient-from": self.patient_from,
            "--columns.patient": self.columns.patient,
        }
        if len(given := [name for name, value in patients.items() if value]) > 1:
            raise UserError(f"{' and '.join(given)}: both say who the patient is; give one of them")
        described = self.source  # refuses a wrong pattern
        if self.sources is not None and described != Source():
            raise UserError(
                "--columns, --patient-folder, --patient-from and --date-order: with --sources each source says this in "
                f"{self.sources}"
            )
        if self.sources is not None and self.files:
            raise UserError(f"--files: with --sources each source says its format in {self.sources}")

    @property
    def source(self) -> Source:
        """How all inputs of --notes are read."""
        pattern = PathPattern(self.patient_from) if self.patient_from is not None else None
        return Source("", self.columns, self.patient_folder, pattern, self.date_order)


def find_sources(notes: Sequence[Path], options: InputOptions) -> list[Input]:
    """Find the files of --notes, or of the sources in --sources, each with how it is read.

    Raises:
        UserError: both are given or none, the file of --sources is wrong, or see `find_inputs`.
    """
    if options.sources is None:
        return [replace(entry, source=options.source) for entry in find_inputs(notes, options.files)]
    if notes:
        raise UserError("--notes and --sources: give one of them; a source names its files itself")
    inputs = []
    for record in read_source_file(Path(options.sources)):
        try:
            found = find_inputs(record.paths, record.format)
            if other := [entry for entry in found if record.format not in (None, entry.kind)]:
                raise UserError(f"{other[0].path}: a {other[0].kind} file by its name, not {record.format} (--files)")
        except UserError as error:
            raise UserError(record.source.reworded(str(error))) from None
        inputs += [replace(entry, source=record.source) for entry in found]
    return inputs
