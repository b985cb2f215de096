"""Train, validation or test: by patient unless asked otherwise, and a function of the patient alone.

A patient's split doesn't depend on the rest of the corpus, its order or its size, so that a corpus can grow without
a held-out patient ever moving into training.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

from tokenizer_tools.errors import UserError
from tokenizer_tools.manifest import SPLITS

Admission = TypeVar("Admission", bound=Hashable)
Patient = TypeVar("Patient")


@dataclass(frozen=True)
class SplitRule:
    """What is held out, and what stays together."""

    validation: float = 0.05
    """Share of patients whose notes measure the loss during training."""
    test: float = 0.05
    """Share of patients set aside."""
    seed: int = 0
    """Another seed gives another split."""
    by: Literal["patient", "admission", "note"] = "patient"
    """patient: each note needs a patient, or an admission that another note gives a patient; admission: where there is
    no patient, the admission stands for it; note: each note by itself, so that a patient may be on both sides."""

    def __post_init__(self) -> None:
        if not (self.validation >= 0 and self.test >= 0 and self.validation + self.test < 1):
            raise UserError(
                f"split: validation {self.validation} and test {self.test} must be shares of 0 or more "
                "that leave something to train on"
            )

    @property
    def needs_identity(self) -> bool:
        """Whether each note must say whose it is: not by note, nor where nothing is held out."""
        return self.by != "note" and self.validation + self.test > 0

    def group_of(self, patient: str, admission: str, text_digest: str) -> str:
        """What a note stays together with: all notes of the patient, else of the admission, else of the same text."""
        if self.by != "note" and patient:
            return f"patient {patient}"
        return f"admission {admission}" if self.by != "note" and admission else f"text {text_digest}"

    def split_of(self, group: str) -> int:
        """Index into SPLITS for what `group_of` gives."""
        digest = hashlib.sha256(f"{self.seed}:{group}".encode()).digest()
        draw = int.from_bytes(digest[:8], "big") / 2**64
        if draw < self.validation:
            return SPLITS.index("validation")
        return SPLITS.index("test") if draw < self.validation + self.test else SPLITS.index("train")


def patients_of_admissions(
    pairs: Callable[[], Iterable[tuple[Patient | None, Admission | None]]],
) -> dict[Admission, Patient]:
    """Patients of the admissions that some notes name without a patient, where other notes name both.

    An admission that is named with two patients is left out: it doesn't tell whose it is.

    Args:
        pairs: gives (patient, admission) of all notes, each time it is called; both may be missing (falsy).
    """
    alone = {admission for patient, admission in pairs() if admission and not patient}
    found: dict[Admission, Patient] = {}
    ambiguous: set[Admission] = set()
    for patient, admission in pairs() if alone else ():
        if patient and admission in alone and found.setdefault(admission, patient) != patient:
            ambiguous.add(admission)
    return {admission: patient for admission, patient in found.items() if admission not in ambiguous}


def default_key_path() -> Path:
    """`~/.config/clinical-pretrain/patient_key`, or under XDG_CONFIG_HOME."""
    try:
        base = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    except RuntimeError:
        raise UserError("no home folder is known for the patient key; name its file with --patient-key") from None
    return Path(base) / "clinical-pretrain" / "patient_key"


def load_patient_key(path: Path | None) -> bytes:
    """The secret behind the patient hashes, made on first use (32 random bytes, hex, readable by its owner alone).

    A plain hash of a record number is undone by trying all record numbers; a keyed one needs this file. Keep it
    apart from the shards, and as long as a patient's notes may have to be found again.

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
        key = bytes.fromhex(path.read_text().strip())
    except FileExistsError:
        return load_patient_key(path)  # another build made it in this very moment
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a key"
        raise UserError(f"{path}: patient key: {reason}; name another file with --patient-key") from None
    if len(key) < 16:
        raise UserError(f"{path}: patient key: shorter than 16 bytes; name another file with --patient-key")
    return key


def key_id(key: bytes) -> str:
    """A name for a key that doesn't give it away."""
    return hashlib.sha256(b"clinical-pretrain patient key" + key).hexdigest()[:16]


def patient_hash(key: bytes, group: str) -> str:
    """Keyed hash (HMAC-SHA256, first 128 bits, hex) of a patient."""
    return hmac.new(key, group.encode(), hashlib.sha256).hexdigest()[:32]
