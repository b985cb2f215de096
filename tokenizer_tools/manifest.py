"""The manifest of a shard folder, through which training knows the notes.

A shard folder holds `manifest.json`, `tokenizer/`, `notes.arrow` (one row per kept note) and the shard files: Arrow
files, one per split and part of the notes, or the notes of some patients. Reading it needs this module and pyarrow,
nothing else.
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
PLAN_NAME = "work/plan.json"
"""In the folder of an unfinished build: what the shards will depend on."""
APPEND_FOLDER = "append"
"""In shards: everything unfinished of notes that are being appended. See `finish_append`."""
REPORT_NAMES = ("report.html", "report.svg", "report.json")
"""Files that describe the shards. Nothing depends on them."""


@dataclass(frozen=True)
class ShardFile:
    """A shard file: its path within the folder, its number of sequences and tokens, and its sha256."""

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
    """Distinct patients, of the notes that name one."""
    admissions: int
    """Distinct admissions of notes without a patient."""
    files: list[ShardFile] = field(default_factory=list)


@dataclass(frozen=True)
class TokenizerInfo:
    """A tokenizer's identity, and the ids that training needs."""

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
    """Also replaces a special token that a note spells out."""
    placeholder: str | None
    """Stands for a de-identification placeholder, or for one of unknown kind."""
    placeholder_id: int | None
    typed_placeholders: dict[str, int] = field(default_factory=dict)
    """Ids of the tokens that stand for placeholders of each kind, `placeholder` among them; empty if there is only
    that."""

    @property
    def placeholder_ids(self) -> dict[str, int]:
        """Ids of all tokens that may stand for a placeholder. Training never predicts them."""
        one = {} if self.placeholder is None or self.placeholder_id is None else {self.placeholder: self.placeholder_id}
        return one | self.typed_placeholders

    def identity(self) -> dict[str, Any]:
        """What two builds must share: all but the name. Without what earlier versions had no field for."""
        values = asdict(self)
        del values["name"]
        if not self.typed_placeholders:
            del values["typed_placeholders"]
        return values


@dataclass(frozen=True)
class UnknownTokens:
    """What the tokenizer can't represent. A placeholder that became the unknown token isn't counted."""

    tokens: int
    """Unknown tokens in all splits."""
    share: float
    """Their share of all tokens."""
    characters: dict[str, int]
    """The most frequent characters behind them, and how often each occurs."""
    written_as_spaces: str
    """White space that the tokenizer doesn't know, and that became spaces."""
    lost_word_starts: int | None = None
    """Words right after an unknown character, which lack the mark of a word's start. None in shards of builds that
    didn't count them."""


@dataclass(frozen=True)
class SourceInfo:
    """What came of one source: of a record in the file of --sources, or of one path of --notes."""

    name: str
    inputs: list[int]
    """Numbers of its inputs, from 0: those in the column `source` of `notes.arrow`, and in `settings["inputs"]`."""
    notes: int
    """Kept notes."""
    tokens: int
    counts: dict[str, int]
    """Notes read, kept, and dropped by reason, as in the manifest's own counts."""


@dataclass(frozen=True)
class CopiedParagraphs:
    """What was left out of notes that are kept, because it stands in an earlier note of the patient."""

    paragraphs: int = 0
    tokens: int = 0
    notes: int = 0
    """Kept notes that something was left out of."""
    cannot_be_cut: int = 0
    """Copied paragraphs of kept notes that stay, as the tokenizer's ids without them can't be told."""
    placeholder_tokens: dict[str, int] = field(default_factory=dict)
    """Of the tokens, those that may stand for a placeholder. `Manifest.placeholders` counts them, too."""

    def __add__(self, other: CopiedParagraphs) -> CopiedParagraphs:
        tokens = {
            token: self.placeholder_tokens.get(token, 0) + other.placeholder_tokens.get(token, 0)
            for token in {**self.placeholder_tokens, **other.placeholder_tokens}
        }
        return CopiedParagraphs(
            self.paragraphs + other.paragraphs,
            self.tokens + other.tokens,
            self.notes + other.notes,
            self.cannot_be_cut + other.cannot_be_cut,
            tokens,
        )


@dataclass(frozen=True)
class Withdrawal:
    """What `withdraw` left out. Figures alone: nothing says whose the notes were."""

    patients: int
    notes: int
    tokens: int
    fingerprint: str
    """Of the shards that these were made from."""


@dataclass(frozen=True)
class Appending:
    """What `build-shards --append` added."""

    inputs: int
    """Number of inputs, which stand behind the earlier ones in `settings["inputs"]`."""
    read: int
    """Notes read."""
    notes: int
    """Notes kept."""
    tokens: int
    reading: dict[str, Any]
    """How the inputs were read, unless they say so themselves."""
    versions: dict[str, str]
    """Of the software."""
    fingerprint: str
    """Of the shards before."""
    sequences: dict[str, int]
    """Of the shards before, by split. They are the first ones of each split. Empty after a withdrawal, which packs
    sequences anew."""
    dropped: dict[str, int] = field(default_factory=dict)
    """Notes dropped, by reason, as in `Manifest.counts`. Empty also if none was."""


@dataclass(frozen=True)
class Manifest:
    """What is in a shard folder. Holds no text of a note and no raw identifier."""

    sequence_length: int
    tokenizer: TokenizerInfo
    splits: dict[str, SplitInfo]
    counts: dict[str, int]
    """Notes read, kept, and dropped by reason. Of the kept ones: without a time, and with one that can't be read (both
    absent in shards of version 0.1)."""
    split_rule: dict[str, Any]
    """What the split is by (patient, admission or note), the shares, the seed and the hash function."""
    patients_in_several_splits: int
    """0 if the split is by patient."""
    unknown: UnknownTokens
    cleaning_rules: list[str]
    notes_per_part: int
    settings: dict[str, Any]
    """Everything that the shards depend on, hashes of the inputs included. A second build compares its own with it."""
    patient_key_id: str
    versions: dict[str, str]
    fingerprint: str
    """sha256 over the tokenizer and all shard files: identifies the data and their order."""
    sources: list[SourceInfo] = field(default_factory=list)
    """What came of each source. Empty in shards of builds before there were any."""
    placeholders: dict[str, int] = field(default_factory=dict)
    """De-identification placeholders in the kept notes that the rule `placeholders` has found, by kind; `underscores`
    are `___`. With surrogates also those `without_surrogate`, and `notes_without_patient`. Empty in shards of version
    0.1."""
    withdrawn: list[Withdrawal] = field(default_factory=list)
    """Withdrawals of patients, in order. After one, `unknown`, `placeholders` and kept notes with something about their
    time are upper bounds where the shards can't tell how many there were."""
    appended: list[Appending] = field(default_factory=list)
    """What was appended, in order. The most frequent unknown characters are then those of each part alone, added."""
    copied: CopiedParagraphs | None = None
    """None if no copied paragraphs were left out. Upper bounds after a withdrawal, which doesn't change it."""
    format_version: int = FORMAT_VERSION

    @property
    def split_by(self) -> str:
        """What the split keeps together: patient, admission or note."""
        return str(self.split_rule["by"])

    @property
    def names_each_person(self) -> bool:
        """Whether each note had to name a patient or an admission: see `SplitRule.needs_identity`."""
        rule = self.split_rule
        return self.split_by != "note" and (rule["validation"] + rule["test"] > 0 or "lists" in rule)

    @property
    def names_each_patient(self) -> bool:
        """Whether each note had to name a patient, or an admission whose patient is known."""
        return self.split_by == "patient" and self.names_each_person

    @property
    def pack(self) -> str:
        """What a sequence holds: `notes` of whichever patients, or the `timeline` of one. See ShardSettings."""
        return str(self.settings.get("pack", "notes"))

    @property
    def padding_share(self) -> float:
        """Share of the positions of all sequences that have no token, and are padded in training."""
        positions = self.sequence_length * sum(split.sequences for split in self.splits.values())
        tokens = sum(split.tokens for split in self.splits.values())
        return round(1 - tokens / positions, 6) if positions else 0.0

    def save(self, folder: Path) -> None:
        """Write `manifest.json`. It is the last file to be written, so a folder that has it is complete."""
        facts = asdict(self)
        for name in ("withdrawn", "appended", "copied"):
            if not facts[name]:
                del facts[name]  # as in shards of builds without this field
        write_json(folder / MANIFEST_NAME, facts)

    @classmethod
    def load(cls, folder: Path | str) -> Manifest:
        """Read `manifest.json`.

        Raises:
            UserError: the folder isn't a finished shard folder, or is of another format version.
        """
        path = Path(folder) / MANIFEST_NAME
        if not Path(folder).exists():
            raise UserError(f"{folder}: no such folder; shards are made with '{typed()} build-shards'")
        if not path.exists() and (Path(folder) / PLAN_NAME).exists():
            raise UserError(f"{folder}: an unfinished build; the same build-shards command resumes it")
        if not path.exists():
            raise UserError(
                f"{folder}: no {MANIFEST_NAME}, so this is not a finished shard folder; "
                f"make one with '{typed()} build-shards --notes FILE --tokenizer DIR --out {folder}'"
            )
        raw = read_json(path, FORMAT_VERSION, "build the shards again")
        try:
            raw["tokenizer"] = TokenizerInfo(**raw["tokenizer"])
            raw["unknown"] = UnknownTokens(**raw["unknown"])
            raw["sources"] = [SourceInfo(**entry) for entry in raw.get("sources", [])]
            raw["splits"] = {
                name: SplitInfo(**{**split, "files": [ShardFile(**entry) for entry in split["files"]]})
                for name, split in raw["splits"].items()
            }
            raw["withdrawn"] = [Withdrawal(**entry) for entry in raw.get("withdrawn", [])]
            raw["appended"] = [Appending(**entry) for entry in raw.get("appended", [])]
            raw["copied"] = CopiedParagraphs(**raw["copied"]) if raw.get("copied") else None
            return cls(**raw)
        except (TypeError, KeyError, AttributeError) as error:
            raise UserError(
                f"{path}: not a manifest of format {FORMAT_VERSION} ({error}); build the shards again"
            ) from None


def held_out(split_by: str) -> str:
    """Say what a loss on held-out sequences was measured on.

    Args:
        split_by: patient, admission or note.
    """
    return {
        "patient": "held-out patients",
        "admission": "held-out admissions, whose patients may have been trained on",
        "note": "held-out notes, whose patients may have been trained on",
    }[split_by]


def fingerprint(tokenizer_sha256: str, sequence_length: int, files: list[ShardFile]) -> str:
    """sha256 that identifies the data and their order: of format, tokenizer, length and shard files."""
    lines = [f"format {FORMAT_VERSION}", f"tokenizer {tokenizer_sha256}", f"length {sequence_length}"]
    lines += [f"{entry.path} {entry.sha256}" for entry in files]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
