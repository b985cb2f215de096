"""Split notes into train, validation and test, by patient unless asked otherwise; and hash patients with a secret key.

A patient's split is a function of the patient alone, not of the rest of the corpus, its order or its size. So a corpus
can grow without moving a held-out patient into training.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeVar

from tokenizer_tools.corpus.split_lists import SplitLists
from tokenizer_tools.errors import UserError
from tokenizer_tools.manifest import SPLITS
from tokenizer_tools.wording import counted

Admission = TypeVar("Admission", bound=Hashable)
Patient = TypeVar("Patient")


@dataclass(frozen=True)
class SplitRule:
    """What is held out, and what stays together."""

    validation: float = 0.05
    """Share of patients whose notes measure the loss during training."""
    test: float = 0.05
    """Share of patients in the test split."""
    seed: int = 0
    """Another seed gives another split."""
    by: Literal["patient", "admission", "note"] = "patient"
    """patient: each note needs a patient, or an admission whose patient another note names. admission: a note without a
    patient is split by its admission. note: each note by itself, so that a patient may be in several splits."""
    lists: SplitLists = field(default_factory=SplitLists)
    """The user's own split."""

    def __post_init__(self) -> None:
        if not (self.validation >= 0 and self.test >= 0 and self.validation + self.test < 1):
            raise UserError(
                f"split: validation {self.validation} and test {self.test} must be shares of 0 or more "
                "that leave something to train on"
            )

    @property
    def needs_identity(self) -> bool:
        """Whether each note must name a patient or an admission: not if split by note, nor if nothing is held out."""
        return self.by != "note" and (self.validation + self.test > 0 or bool(self.lists.files()))

    def group_of(self, patient: str, admission: str, text_digest: str) -> str:
        """The group that a note stays with: all notes of the patient, else of the admission, else of the same text."""
        if self.by != "note" and patient:
            return f"patient {patient}"
        return f"admission {admission}" if self.by != "note" and admission else f"text {text_digest}"

    def split_of(self, group: str) -> int:
        """The split of a group from `group_of`, as an index into SPLITS."""
        digest = hashlib.sha256(f"{self.seed}:{group}".encode()).digest()
        draw = int.from_bytes(digest[:8], "big") / 2**64
        if draw < self.validation:
            return SPLITS.index("validation")
        return SPLITS.index("test") if draw < self.validation + self.test else SPLITS.index("train")


def patients_of_admissions(
    pairs: Callable[[], Iterable[tuple[Patient | None, Admission | None]]],
) -> dict[Admission, Patient | None]:
    """Find the patients of admissions that some notes name without a patient and other notes name with one; None for an
    admission that is named with two patients, as its patient isn't known.

    Args:
        pairs: returns (patient, admission) of all notes, each time it is called; both may be missing (falsy).
    """
    alone = {admission for patient, admission in pairs() if admission and not patient}
    found: dict[Admission, Patient | None] = {}
    for patient, admission in pairs() if alone else ():
        if patient and admission in alone and found.setdefault(admission, patient) != patient:
            found[admission] = None
    return found


def unknown_patient(place: str, notes: int, is_appended: bool = False, is_contradicted: bool = False) -> UserError:
    """The error for notes that name only an admission whose patient isn't known.

    Args:
        place: of the first of them.
        notes: how many there are; 0 if they weren't counted.
        is_appended: whether they are appended to shards, which know no patients of admissions.
        is_contradicted: whether other notes give the admission of the first of them to several patients.
    """
    count = f" ({counted(notes, 'such note')})" if notes else ""
    if is_contradicted:
        return UserError(
            f"{place}: no patient, and other notes give its admission to several patients{count}; correct these, or "
            "drop and count notes without a patient with --on-bad-row skip"
        )
    if is_appended:
        return UserError(
            f"{place}: no patient, and no other of the new notes says whose admission it is{count}, which the earlier "
            "shards don't know; name the patient's column with --columns.patient, or drop and count such notes with "
            "--on-bad-row skip"
        )
    return UserError(
        f"{place}: no patient, and no other note says whose admission it is{count}; name the patient's column with "
        "--columns.patient, let admissions stand for patients with --split.by admission (a patient's admissions may "
        "then be trained on and held out at once), or drop and count such notes with --on-bad-row skip"
    )


def default_key_path() -> Path:
    """`~/.config/clinical-pretrain/patient_key`, or under XDG_CONFIG_HOME."""
    try:
        base = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    except RuntimeError:
        raise UserError("no home folder is known for the patient key; name its file with --patient-key") from None
    return Path(base) / "clinical-pretrain" / "patient_key"


def load_patient_key(path: Path | None) -> bytes:
    """Load the secret key of the patient hashes, or create it (32 random bytes, hex, readable only by its owner).

    A plain hash of a record number can be undone by trying all record numbers; a keyed hash needs this file, too. Keep
    it apart from the shards, and for as long as a patient's notes may have to be found again.

    Raises:
        UserError: the file can't be read or made, or isn't such a key.
    """
    path = path or default_key_path()
    try:
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(handle, "w") as stream:
                stream.write(secrets.token_hex(32) + "\n")
            print(f"created {path}, the secret key of the patient hashes; keep it apart from the shards")
        key = bytes.fromhex(path.read_text().strip())
    except FileExistsError:
        return load_patient_key(path)  # another build has just created it
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a key"
        raise UserError(f"{path}: patient key: {reason}; name another file with --patient-key") from None
    if len(key) < 16:
        raise UserError(f"{path}: patient key: shorter than 16 bytes; name another file with --patient-key")
    return key


def load_key_of(shards: Path, patient_key_id: str, path: Path | None = None) -> bytes:
    """Load the key that the patients of shards were hashed with; none is made.

    Args:
        shards: their folder, for messages.
        patient_key_id: theirs.
        path: the key's file. Default: the one that `load_patient_key` makes.

    Raises:
        UserError: the file is missing, can't be read, or holds another key.
    """
    file = path or default_key_path()
    if not file.exists():
        if path is None:
            raise UserError("there is no patient key; name the one that the shards were built with as --patient-key")
        raise UserError(f"{path}: no such file; name the key that the shards were built with as --patient-key")
    key = load_patient_key(file)
    if key_id(key) != patient_key_id:
        if path is None:
            raise UserError("the shards were built with another patient key; name it as --patient-key")
        raise UserError(f"{path}: not the key that the patients in {shards} were hashed with; name that --patient-key")
    return key


def key_id(key: bytes) -> str:
    """A name for a key that doesn't reveal it."""
    return hashlib.sha256(b"clinical-pretrain patient key" + key).hexdigest()[:16]


def patient_hash(key: bytes, group: str) -> str:
    """Keyed hash (HMAC-SHA256, first 128 bits, hex) of a patient."""
    return hmac.digest(key, group.encode(), "sha256").hex()[:32]
