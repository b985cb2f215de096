"""Where the two halves meet: the shard folder and its manifest.

A shard folder holds `manifest.json`, `tokenizer/`, `notes.arrow` (one row per kept note) and one Arrow file per
split and part. Whoever reads it needs this module and pyarrow, nothing else.
"""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tokenizer_tools.command_line import typed
from tokenizer_tools.errors import UserError
from tokenizer_tools.files import read_json, write_json

FORMAT_VERSION = 3
SPLITS = ("train", "validation", "test")
MANIFEST_NAME = "manifest.json"
NOTES_TABLE_NAME = "notes.arrow"
TOKENIZER_FOLDER = "tokenizer"


@dataclass(frozen=True)
class ShardFile:
    """One Arrow file: its path inside the shard folder, its number of sequences and tokens, and its sha256."""

    path: str
    sequences: int
    tokens: int
    sha256: str


@dataclass(frozen=True)
class SplitInfo:
    """Counts of one split."""

    sequences: int
    tokens: int
    notes: int
    patients: int
    """Distinct patients that are named; 0 where none is."""
    admissions: int
    """Distinct admissions of notes without a patient."""
    files: list[ShardFile] = field(default_factory=list)


@dataclass(frozen=True)
class TokenizerInfo:
    """The tokenizer's identity, and the ids that training needs of it."""

    name: str
    sha256: str
    vocab_sha256: str
    vocab_size: int
    begin_id: int
    end_id: int
    pad_id: int
    mask_id: int
    unknown_token: str
    unknown_id: int
    """What a special token that a note spells out becomes."""
    placeholder: str | None
    placeholder_id: int | None


@dataclass(frozen=True)
class Manifest:
    """What a shard folder says of itself. Never a note's text, never a raw identifier."""

    sequence_length: int
    tokenizer: TokenizerInfo
    splits: dict[str, SplitInfo]
    counts: dict[str, int]
    """Notes read, kept, and dropped by reason."""
    split_rule: dict[str, Any]
    """What was split by (patient, admission or note), the shares, the seed and the hash."""
    patients_in_several_splits: int
    """0 where the split is by patient."""
    unknown: dict[str, Any]
    """What the tokenizer can't see: `tokens`, their `share`, the most frequent `characters` behind them, and the white
    space that is `written_as_blanks`."""
    cleaning_rules: list[str]
    notes_per_part: int
    settings: dict[str, Any]
    """Everything the bytes depend on, inputs' hashes included: a second build compares itself with it."""
    patient_key_id: str
    versions: dict[str, str]
    fingerprint: str
    """sha256 over the tokenizer and every shard's bytes: one value that names the data and their order."""
    format_version: int = FORMAT_VERSION

    @property
    def split_by(self) -> str:
        """What stays together: patient, admission or note."""
        return str(self.split_rule["by"])

    def save(self, folder: Path) -> None:
        """Write `manifest.json`, atomically: it is the last file of a finished shard folder."""
        write_json(folder / MANIFEST_NAME, asdict(self))

    @classmethod
    def load(cls, folder: Path | str) -> Manifest:
        """Read `manifest.json`.

        Raises:
            UserError: the folder isn't a finished shard folder, or is of another format version.
        """
        path = Path(folder) / MANIFEST_NAME
        if not path.exists():
            raise UserError(
                f"{folder}: no {MANIFEST_NAME}, so this is not a finished shard folder; "
                f"make one with '{typed()} build-shards --notes FILE --tokenizer DIR --out {folder}'"
            )
        raw = read_json(path, FORMAT_VERSION, "build the shards again")
        try:
            raw["tokenizer"] = TokenizerInfo(**raw["tokenizer"])
            raw["splits"] = {
                name: SplitInfo(**{**split, "files": [ShardFile(**entry) for entry in split["files"]]})
                for name, split in raw["splits"].items()
            }
            return cls(**raw)
        except (TypeError, KeyError, AttributeError) as error:
            raise UserError(
                f"{path}: not a manifest of format {FORMAT_VERSION} ({error}); build the shards again"
            ) from None


def held_out(split_by: str) -> str:
    """What a loss on the held-out rows was measured on, in words."""
    return {
        "patient": "held-out patients",
        "admission": "held-out admissions, whose patients may have been trained on",
        "note": "held-out notes, whose patients may have been trained on",
    }[split_by]


def fingerprint(tokenizer_sha256: str, sequence_length: int, files: list[ShardFile]) -> str:
    """sha256 that names a corpus and its order: format, tokenizer, length, and every shard's path and hash."""
    lines = [f"format {FORMAT_VERSION}", f"tokenizer {tokenizer_sha256}", f"length {sequence_length}"]
    lines += [f"{entry.path} {entry.sha256}" for entry in files]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
