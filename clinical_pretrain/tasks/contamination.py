"""Contamination: how many patients and texts of a test split were in the shards that a model was pretrained on.

Texts are compared by their tokens. A test text is cleaned and tokenised as build-shards did it for these very shards,
whose manifest and tokenizer say how, and looked up among the notes of the training split. So shards need no hashes of
texts, and what is compared is what the model has seen: texts that differ only in what cleaning removes are the same.
Only whole texts are compared; a sentence of a note, or several notes joined, isn't found.

Patients are compared by the keyed hashes of the shards' notes table. The same identifier is the same person only if the
data set and the notes number patients alike, as two extracts of MIMIC-III do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from clinical_pretrain.data.shards import Split, note_patients
from clinical_pretrain.tasks.records import Document
from clinical_pretrain.tasks.splits import patient_of
from tokenizer_tools.corpus.clean_notes import CleaningRules, clean
from tokenizer_tools.corpus.placeholders import Replacement
from tokenizer_tools.corpus.split_patients import load_key_of, patient_hash
from tokenizer_tools.errors import UserError
from tokenizer_tools.manifest import TOKENIZER_FOLDER, Manifest
from tokenizer_tools.tokenizer.load import encode, forbidden_ids, note_ids

SEEN_SPLIT = "train"
"""The only split of the shards that changes a model's weights."""


@dataclass(frozen=True)
class Contamination:
    """What of a test split was in the pretraining shards."""

    texts: int
    """Number of different texts of the test split, after cleaning; both texts of a pair."""
    texts_seen: int
    """How many of them are a note of the shards' training split."""
    patients: int
    """Number of different patients that the test split names."""
    patients_seen: int | None
    """How many of them have a note in the shards' training split; None if they can't be compared."""
    patients_not_compared: str | None
    """Why not."""
    notes: int
    """Number of notes in the shards' training split."""
    fingerprint: str
    """Of the shards, as in their manifest."""

    def line(self) -> str:
        """One line to print beside a score."""
        people = "" if self.patients_seen is None else f"{self.patients_seen:,} of {self.patients:,} test patients and "
        line = (
            f"contamination: {people}{self.texts_seen:,} of {self.texts:,} test texts were in the pretraining shards "
            f"(training split, {self.notes:,} notes; texts compared whole)"
        )
        if self.patients_seen is None:
            return f"{line}; patients can't be compared: {self.patients_not_compared}"
        if self.patients_seen:
            line += "; the same identifier is the same patient only if data set and notes number patients alike"
        return line


def describe(found: dict[str, Any]) -> str:
    """The line of a Contamination that was stored as JSON."""
    return Contamination(**found).line()


def count_contamination(documents: Sequence[Document], shards: Path, patient_key: Path | None = None) -> Contamination:
    """Count how many patients and texts of a test split are in the training split of pretraining shards.

    Args:
        documents: of the test split.
        shards: the shard folder.
        patient_key: the file of the secret key that the shards' patients were hashed with. Default: the one that
            build-shards makes, if it is there and is that key. No key is made.

    Raises:
        UserError: the shards can't be read, or the patient key isn't theirs.
    """
    manifest = Manifest.load(shards)
    wanted = _as_packed(documents, shards, manifest)
    lengths = {len(ids) // _DTYPE.itemsize for ids in wanted}
    notes, seen = [], set()
    for note, ids in Split(shards, manifest, SEEN_SPLIT).notes():
        notes.append(note)
        if len(ids) in lengths and (packed := ids.astype(_DTYPE).tobytes()) in wanted:
            seen.add(packed)
    patients = {identifier for document in documents if (identifier := patient_of(document))}
    key, obstacle = _key(patients, shards, manifest, patient_key)
    patients_seen = None
    if key is not None:
        hashes = {patient_hash(key, f"patient {patient}") for patient in patients}
        patients_seen = len(hashes & note_patients(shards, np.array(notes, dtype=np.int64)))
    return Contamination(
        len(wanted), len(seen), len(patients), patients_seen, obstacle, len(notes), manifest.fingerprint
    )


_DTYPE = np.dtype(np.int32)
"""In which token ids are compared; shards have 16 or 32 bits."""


def _as_packed(documents: Sequence[Document], shards: Path, manifest: Manifest) -> set[bytes]:
    """The token ids of texts as build-shards would have packed them; none of texts that it would have dropped."""
    path, info = shards / TOKENIZER_FOLDER / "tokenizer.json", manifest.tokenizer
    try:
        backend = Tokenizer.from_file(str(path))
    except Exception:  # tokenizers has no class of its own for errors
        raise UserError(f"{path}: missing or damaged; build or copy the shards again") from None
    rules, spaces = CleaningRules.named(manifest.cleaning_rules), manifest.unknown.written_as_spaces
    choice, seed = manifest.settings.get("placeholder", ""), manifest.settings.get("surrogate_seed", 0)
    replacement, cleaned = Replacement.chosen(choice, info.placeholder, seed), []
    for document in documents:
        patient = patient_of(document)
        for text in filter(None, (document.text, document.second_text)):
            cleaned.append(clean(text, rules, replacement, spaces, f"patient {patient}" if patient else ""))
    forbidden = forbidden_ids(backend, info)
    encoded = encode(backend, [text for text in dict.fromkeys(cleaned) if text.strip()])
    return {note_ids(tokens, info, forbidden, _DTYPE).tobytes() for tokens in encoded}


def _key(
    patients: set[str], shards: Path, manifest: Manifest, path: Path | None
) -> tuple[bytes, None] | tuple[None, str]:
    """The key that the shards' patients were hashed with, or why patients can't be compared."""
    if not patients:
        return None, "the data set names none"
    if not manifest.splits[SEEN_SPLIT].patients:
        return None, "the shards name none"
    try:
        return load_key_of(shards, manifest.patient_key_id, path), None
    except UserError as error:
        if path is not None:
            raise
        return None, str(error)
