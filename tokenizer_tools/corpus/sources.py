"""A source: what is the same for all files of one table or folder of notes, and how it is told from others."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, field
from typing import Any

from tokenizer_tools.corpus.columns import Columns
from tokenizer_tools.corpus.identifiers import spelling_of
from tokenizer_tools.corpus.path_patterns import PathPattern
from tokenizer_tools.corpus.times import DateOrder

_OPTIONS = re.compile(r"--(columns\.[a-z]+|patient-folder|patient-from|date-order|files|notes)\b")
_KEYS = {"files": "format", "notes": "path"}
"""Keys of a source whose options are called otherwise."""


@dataclass(frozen=True)
class Filter:
    """Which rows stay, by one column. Values are compared without case, surrounding blanks, and zeros of numbers."""

    column: str
    values: tuple[str, ...]
    """As `spelling_of` writes them; empty for a missing value."""
    keeps: bool = True
    """Whether rows with one of the values stay, or all others."""

    def admits(self, cell: Any) -> bool:
        """Whether a row with this cell stays."""
        return (spelling_of(cell) in self.values) == self.keeps


@dataclass(frozen=True)
class Source:
    """How the files of a source are read."""

    name: str = ""
    """Of a source in a file of --sources; empty for --notes."""
    columns: Columns = field(default_factory=Columns)
    patient_folder: int = 0
    patient_from: PathPattern | None = None
    date_order: DateOrder = "year_first"
    category: str | None = None
    """Of all its notes, instead of a column."""
    filters: tuple[Filter, ...] = ()

    def compared(self) -> dict[str, Any]:
        """What the shards depend on, as JSON holds it; without the filters, whose values may be identifiers."""
        values = asdict(self) | {"patient_from": self.patient_from.text if self.patient_from else None}
        del values["filters"]
        return values

    def reworded(self, message: str) -> str:
        """A message that names the source, and recommends its keys in place of options."""
        if not self.name:
            return message

        def key(match: re.Match[str]) -> str:
            return _KEYS.get(match[1], match[1].replace("-", "_"))

        return f"{_OPTIONS.sub(key, message)} (source {self.name} of --sources)"
