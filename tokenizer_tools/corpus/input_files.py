"""Find the files of an input. A folder holds files of one kind, or the user says which kind to read."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tokenizer_tools.corpus.compressed_files import COMPRESSIONS, open_file
from tokenizer_tools.corpus.sources import Source
from tokenizer_tools.errors import UserError
from tokenizer_tools.wording import byte_count

Kind = Literal["csv", "jsonl", "parquet", "txt", "xml"]
SUFFIXES: dict[Kind, tuple[str, ...]] = {
    "csv": (".csv", ".tsv"),
    "jsonl": (".jsonl", ".ndjson", ".json"),  # Spark writes JSONL as .json
    "parquet": (".parquet",),
    "txt": (".txt",),
    "xml": (".xml",),
}
"""What file names end in; COMPRESSIONS may follow, but for Parquet, which is compressed within."""
ONE_NOTE: tuple[Kind, ...] = ("txt", "xml")
"""Kinds of which each file is a note."""
_NOT_PLAIN = {
    "_temporary": "a Spark job writes here, or was stopped; run it to its end",
    "_delta_log": "a Delta table, whose files also hold deleted rows; export its rows to a plain folder",
    ".hoodie": "a Hudi table, whose files also hold deleted rows; export its rows to a plain folder",
}
"""Folders by which it is seen that the files beside them aren't the data, or not yet."""
_TABLES = [suffix for kind, suffixes in SUFFIXES.items() if kind not in ONE_NOTE for suffix in suffixes]
_LARGEST_EMPTY = 512
"""Bytes of a compressed file without data: a header with a long file name."""


@dataclass(frozen=True)
class Input:
    """One input: a file with many notes, or a folder of files."""

    path: Path
    kind: Kind
    files: list[Path]
    """In reading order: sorted by path."""
    skipped: dict[str, int]
    """Number of files in the folder that are not read, by kind or reason."""
    source: Source | None = None
    """How it is read; None: as the options of --notes say."""

    @property
    def is_folder(self) -> bool:
        """Whether it is a folder."""
        return self.path.is_dir()

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(path.stat().st_size for path in self.files)

    def describe(self) -> str:
        """Say in one line what is read, and what isn't."""
        files = f": {len(self.files):,} {self.kind} file{'s' * (len(self.files) != 1)}" if self.is_folder else ""
        skipped = f"; not read: {_listed(self.skipped)}" if self.skipped else ""
        name = f"source {self.source.name}: " if self.source and self.source.name else ""
        return f"reading {name}{self.path}{files} ({byte_count(self.size)}){skipped}"

    def folders_by_level(self) -> list[int]:
        """Number of folders that hold the files, at each level below the input."""
        parents = [path.relative_to(self.path).parts[:-1] for path in self.files]
        depth = max(map(len, parents), default=0)
        return [len({parts[:level] for parts in parents if len(parts) >= level}) for level in range(1, depth + 1)]


def find_inputs(paths: Sequence[Path], kind: Kind | None = None) -> list[Input]:
    """Find the files of each input. In folders, hidden files (`.name`, `_name`) and linked folders are never read.

    Args:
        paths: files, and folders of files of one kind.
        kind: the kind to read, if a folder holds several.

    Raises:
        UserError: an input doesn't exist, can't be read, is of an unknown kind, or a folder holds several kinds.
    """
    if not paths:
        raise UserError(
            "no notes given; name a file or a folder with --notes, or describe sources with --sources FILE.yaml"
        )
    return [_find(path, kind) for path in paths]


def kind_of(path: Path) -> Kind | None:
    """A file's kind, from its name."""
    name = path.name.lower()
    unpacked = next((name.removesuffix(ending) for ending in COMPRESSIONS if name.endswith(ending)), name)
    kind = next((kind for kind, suffixes in SUFFIXES.items() if unpacked.endswith(suffixes)), None)
    return None if kind == "parquet" and unpacked != name else kind


def _find(path: Path, wanted: Kind | None) -> Input:
    if not path.exists():
        raise UserError(f"{path}: no such file or folder; check --notes")
    if path.is_dir():
        return _folder(path, wanted)
    kind = kind_of(path)
    if kind is None or kind in ONE_NOTE:
        raise UserError(
            f"{path}: unknown kind of file; known are {', '.join(_TABLES)}, the text ones also with "
            f"{' or '.join(COMPRESSIONS)}, and folders of .txt or .xml with a note in each"
        )
    _check_readable(path)
    return Input(path, kind, [path], {})


def _folder(path: Path, wanted: Kind | None) -> Input:
    files, linked = _walk(path)
    hidden = [file for file in files if any(part[0] in "._" for part in file.relative_to(path).parts)]
    for name, reason in _NOT_PLAIN.items():
        if (path / name).exists() or any(name in file.relative_to(path).parts for file in hidden):
            raise UserError(f"{path}: holds {name}: {reason}")
    visible = sorted(set(files) - set(hidden))
    found = Counter(kind_of(file) or f"other ({file.suffix.lower() or 'no suffix'})" for file in visible)
    kinds = [kind for kind in SUFFIXES if found[kind]]
    if wanted is None and (not kinds or len(found) > 1):
        choice = " or ".join(f"--files {kind}" for kind in kinds)
        remedy = f"choose with {choice}, or name one file" if kinds else f"name a file ({', '.join(_TABLES)})"
        held = _listed(found) if found else "no visible file"
        raise UserError(f"{path}: a folder of {'several kinds' if kinds else 'no known kind'} ({held}); {remedy}")
    kind = wanted or kinds[0]
    chosen = [file for file in visible if kind_of(file) == kind]
    if not chosen:
        raise UserError(f"{path}: holds no {kind} file ({_listed(found)}); choose another --files")
    for file in chosen:
        _check_readable(file)
    filled = [file for file in chosen if kind not in ("csv", "jsonl") or not _is_empty(file)]
    if not filled:
        raise UserError(f"{path}: all its {kind} files are empty; check --notes")
    skipped = {name: count for name, count in found.items() if name != kind}
    others = {"hidden": len(hidden), "linked folders": linked, f"empty {kind}": len(chosen) - len(filled)}
    skipped |= {name: count for name, count in others.items() if count}
    return Input(path, kind, filled, skipped)


def _walk(folder: Path) -> tuple[list[Path], int]:
    """All files below a folder, and the number of linked folders that were not entered."""

    def refuse(error: OSError) -> None:
        raise UserError(f"{error.filename}: {error.strerror}; ask its owner, or name another folder with --notes")

    files, linked = [], 0
    for root, folders, names in os.walk(folder, onerror=refuse):
        linked += sum((Path(root) / name).is_symlink() for name in folders)
        files += [Path(root) / name for name in names]
    return files, linked


def _check_readable(path: Path) -> None:
    try:
        path.open("rb").close()
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; ask its owner, or run as a user who may read it") from None


def _is_empty(path: Path) -> bool:
    """Whether a file holds nothing, as Spark writes it for a partition without rows."""
    size = path.stat().st_size
    if size > _LARGEST_EMPTY or not path.name.lower().endswith(COMPRESSIONS):
        return size == 0
    try:
        with open_file(path) as stream:
            return not stream.read(1)
    except (OSError, UserError):  # broken, which is reported when it is read
        return size == 0


def _listed(counts: dict[str, int]) -> str:
    return ", ".join(f"{count:,} {name}" for name, count in sorted(counts.items()))
