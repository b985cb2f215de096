"""Verify finished shards from their files alone, without the code that wrote them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from tokenizer_tools.errors import UserError
from tokenizer_tools.manifest import MANIFEST_NAME, NOTES_TABLE_NAME, SPLITS, TOKENIZER_FOLDER, Manifest
from tokenizer_tools.shards.verify.checks import REBUILD, Check, Verification
from tokenizer_tools.shards.verify.folder import (
    check_files,
    check_fingerprint,
    check_manifest,
    check_modes,
    check_sha256,
    check_tokenizer,
)
from tokenizer_tools.shards.verify.notes import (
    check_duplicates,
    check_notes_table,
    check_patients,
    check_unknown,
    compare_placeholders,
    read_notes_table,
)
from tokenizer_tools.shards.verify.sequences import SequenceChecks
from tokenizer_tools.shards.verify.timelines import check_timelines
from tokenizer_tools.tokenizer.load import forbidden_ids

_SPLIT_COUNTS = ("sequences", "tokens", "notes", "patients", "admissions")


def verify_shards(folder: Path) -> Verification:
    """Run all checks. Memory: one record batch, and 130 bytes per note.

    Args:
        folder: a finished shard folder.

    Returns:
        All checks with all their faults. A check that needs a file which can't be read is "not checked".

    Raises:
        UserError: there is no manifest to compare with.
    """
    manifest = _load_manifest(folder)
    files, there = check_files(folder, manifest)
    tokenizer, backend = Check("tokenizer", not_checked=f"not all files of {TOKENIZER_FOLDER}/ are there"), None
    if sum(name.startswith(f"{TOKENIZER_FOLDER}/") for name in there) == 2:
        tokenizer, backend = check_tokenizer(folder, manifest)
    listed = [entry for split in manifest.splits.values() for entry in split.files if entry.path in there]
    checks = [
        files,
        check_modes(folder),
        check_sha256(folder, listed),
        check_fingerprint(manifest),
        check_manifest(manifest),
        tokenizer,
    ]
    reading = SequenceChecks(folder, manifest, _forbidden(manifest, None if tokenizer.faults else backend))
    checks += [reading.format, reading.counts, reading.sequences, reading.token_ids, reading.borders]
    return Verification(str(folder), checks + _check_notes(reading, there))


def _check_notes(reading: SequenceChecks, there: set[str]) -> list[Check]:
    """Read the shard files and the notes table, and run the checks that need all notes."""
    manifest, notes = reading.manifest, reading.read(there)
    table = read_notes_table(reading.folder, reading.format) if NOTES_TABLE_NAME in there else None
    reading.format.found = "Arrow files with the columns and types of build-shards"
    unread = reading.unread or ("" if table else NOTES_TABLE_NAME)
    reason = f"{unread} couldn't be read" if unread else ""
    if reason or table is None:
        names = ["notes table", "patients", "duplicates", "unknown tokens"]
        names += ["timelines"] if manifest.pack == "timeline" else []
        return [Check(name, not_checked=reason) for name in names]
    reading.counts.compare("notes kept", NOTES_TABLE_NAME, len(table.sources), manifest.counts.get("kept"))
    compare_placeholders(reading.counts, reading.placeholder_tokens, manifest)
    if manifest.sources:
        said = sum(source.tokens for source in manifest.sources)
        reading.counts.compare("tokens of all sources", MANIFEST_NAME, reading.tokens, said)
    notes_table, agree = check_notes_table(table, notes, manifest)
    patients, timelines = (
        Check(name, not_checked="the notes table doesn't fit the shard files") for name in ("patients", "timelines")
    )
    if agree:
        patients = check_patients(table, notes, manifest)
    unknown = check_unknown(reading.unknown_tokens, reading.tokens, manifest)
    checks = [notes_table, patients, check_duplicates(notes, manifest), unknown]
    if manifest.pack == "notes":
        return checks
    if agree:
        timelines = check_timelines(table, notes, np.concatenate(reading.begins))
    return [*checks, timelines]


def _load_manifest(folder: Path) -> Manifest:
    """The manifest, if its values are of the right types.

    Raises:
        UserError: they aren't, or it can't be read.
    """
    manifest = Manifest.load(folder)
    if not all(isinstance(each, dict) for each in (manifest.placeholders, manifest.tokenizer.typed_placeholders)):
        raise _damaged(folder)
    entries = [entry for split in manifest.splits.values() for entry in split.files]
    counts = [getattr(split, name) for split in manifest.splits.values() for name in _SPLIT_COUNTS]
    counts += [count for entry in entries for count in (entry.sequences, entry.tokens)]
    counts += [count for entry in manifest.withdrawn for count in (entry.patients, entry.notes, entry.tokens)]
    counts += [count for entry in manifest.appended for count in (entry.inputs, entry.read, entry.notes, entry.tokens)]
    counts += [entry.sequences.get(name, 0) for entry in manifest.appended for name in entry.sequences and SPLITS]
    info = manifest.tokenizer
    counts += [manifest.sequence_length, manifest.unknown.tokens, manifest.unknown.lost_word_starts or 0]
    counts += [info.vocab_size, info.begin_id, info.end_id]
    counts += [
        *manifest.counts.values(),
        *manifest.placeholders.values(),
        manifest.patients_in_several_splits,
        info.unknown_id,
    ]
    texts = [text for entry in entries for text in (entry.path, entry.sha256)] + [info.sha256]
    counts += [count for source in manifest.sources for count in (source.notes, source.tokens)]
    if copied := manifest.copied:
        counts += [copied.paragraphs, copied.tokens, copied.notes, copied.cannot_be_cut]
        counts += copied.placeholder_tokens.values()
    rule = manifest.split_rule
    sound = (
        tuple(manifest.splits) == SPLITS
        and all(isinstance(count, int) and count >= 0 for count in counts)
        and all(isinstance(text, str) for text in texts)
        and all(isinstance(source.inputs, list) and isinstance(source.name, str) for source in manifest.sources)
        and all(isinstance(number, int) for source in manifest.sources for number in source.inputs)
        and rule.get("by") in ("patient", "admission", "note")
        and all(isinstance(rule.get(share), int | float) for share in ("validation", "test"))
        and isinstance(manifest.unknown.share, int | float)
        and isinstance(manifest.settings, dict)
        and isinstance(manifest.settings.get("inputs"), list)
        and manifest.pack in ("notes", "timeline")
        and isinstance(manifest.settings.get("split"), dict)
        and isinstance(manifest.settings.get("duplicates", {}), dict)
    )
    if not sound:
        raise _damaged(folder)
    return manifest


def _damaged(folder: Path) -> UserError:
    return UserError(f"{folder / MANIFEST_NAME}: damaged, with values that build-shards doesn't write; {REBUILD}")


def _forbidden(manifest: Manifest, backend: Tokenizer | None) -> npt.NDArray[np.bool_]:
    """(vocabulary,): True for the special tokens that may stand only at a note's begin and end, or nowhere."""
    info = manifest.tokenizer
    special = {info.begin_id, info.end_id}
    if backend is not None:
        special |= set(np.flatnonzero(forbidden_ids(backend, info)).tolist())
    forbidden = np.zeros(info.vocab_size, dtype=bool)
    forbidden[
        [token for token in special - {info.unknown_id, *info.placeholder_ids.values()} if token < len(forbidden)]
    ] = True
    return forbidden
