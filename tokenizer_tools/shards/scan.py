"""Stage 1, scan: read every note once, and keep its token ids and what decides about it. No text is kept.

For each part: token ids and hashes of the cleaned texts, keyed hashes of the patients, splits, categories and times.
Then notes that name only an admission get the patient that other notes of the admission name.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from enum import IntEnum
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tokenizer_tools.corpus.deduplicate import HASH_DTYPE, text_hash
from tokenizer_tools.corpus.input_files import Input
from tokenizer_tools.corpus.note_parts import Part, notes_of, parts_of
from tokenizer_tools.corpus.placeholders import COUNTED
from tokenizer_tools.corpus.read_notes import Note
from tokenizer_tools.corpus.split_patients import patient_hash, patients_of_admissions, unknown_patient
from tokenizer_tools.corpus.times import sort_key
from tokenizer_tools.errors import UserError
from tokenizer_tools.files import write_json
from tokenizer_tools.progress import Progress
from tokenizer_tools.shards.folder import ShardBuild
from tokenizer_tools.shards.paragraphs import ParagraphTally
from tokenizer_tools.shards.prepared_inputs import prepared_inputs
from tokenizer_tools.shards.settings import BuildOptions
from tokenizer_tools.shards.token_ids import load_ids, tokenise
from tokenizer_tools.shards.workers import Job, Workers


class Outcome(IntEnum):
    """What becomes of a note. The names, in lower case, are those of the manifest's counts."""

    KEPT = 0
    DROPPED_EMPTY = 1
    DROPPED_DUPLICATE = 2
    DROPPED_INVALID_UTF8 = 3
    DROPPED_MALFORMED = 4
    DROPPED_NO_PATIENT = 5
    DROPPED_MARKED_ERROR = 6
    DROPPED_NEAR_DUPLICATE = 7
    DROPPED_FILTERED = 8
    DROPPED_UNLISTED = 9
    DROPPED_COPIED = 10


class Named(IntEnum):
    """Whom a note names."""

    NOBODY = 0
    ADMISSION = 1
    PATIENT = 2


_COLUMNS: dict[str, npt.DTypeLike] = {
    "outcomes": np.uint8,  # Outcome, as far as the note alone decides it
    "hashes": HASH_DTYPE,  # of the cleaned text
    "groups": HASH_DTYPE,  # keyed hash of the patient, else of the admission, else of the text
    "admissions": HASH_DTYPE,  # keyed hash; empty if unknown
    "named": np.uint8,  # Named
    "splits": np.uint8,  # index into SPLITS
    "categories": "S",
    "times": "S",  # from `sort_key`: every note has one
    "unreadable_times": np.bool_,
    "sources": np.int16,  # number of the input, from 0
    "rows": np.int64,  # number of the row in it, from 1
    "placeholders": np.int32,  # (notes, kinds): how many of each kind in COUNTED
}


class ScannedNotes:
    """What the scan has kept, part by part, in the columns of `_COLUMNS`."""

    def __init__(self, build: ShardBuild, parts: int) -> None:
        self.parts = parts
        self._build = build
        self.folder = build.scan_folder
        sizes = (len(self.column(number, "outcomes")) for number in range(parts))
        self.starts = [0, *accumulate(sizes)]
        """(parts + 1,): the number of each part's first note, and of all notes."""

    def notes_of(self, number: int) -> slice:
        """A part's notes, among all notes."""
        return slice(self.starts[number], self.starts[number + 1])

    def column(self, number: int, name: str) -> npt.NDArray[Any]:
        """One column of a part: (notes of the part,)."""
        return self.columns(number, name)[0]

    def columns(self, number: int, *names: str) -> list[npt.NDArray[Any]]:
        """Columns of a part. Without names: all of them."""
        with np.load(self._build.scan_file(number)) as arrays:
            return [np.asarray(arrays[name]) for name in names or _COLUMNS]

    def replace(self, number: int, **columns: npt.NDArray[Any]) -> None:
        """Write other values of some columns of a part."""
        all_columns = dict(zip(_COLUMNS, self.columns(number), strict=True))
        _write(self._build.scan_file(number), all_columns | columns)


def scan(inputs: list[Input], build: ShardBuild, options: BuildOptions, workers: Workers) -> ScannedNotes | None:
    """Scan the parts of the inputs that no earlier build has scanned. None if they are only a share of all.

    Raises:
        UserError: there are no notes, or the patient of one isn't known although the split needs it.
    """
    done = build.scan_folder / "done.json"
    if done.exists():
        return None if options.stage == "scan" else ScannedNotes(build, int(json.loads(done.read_text())["parts"]))
    build.scan_folder.mkdir(exist_ok=True, mode=0o700)
    settings, count = build.settings, 0
    positions = [known.files for known in prepared_inputs(build)]

    def is_missing(number: int) -> bool:
        return options.is_of_share(number) and not build.scan_file(number).exists()

    def jobs() -> Iterator[Job]:
        nonlocal count
        for part in parts_of(inputs, settings.notes_per_part, settings.reading, settings.split, is_missing, positions):
            if part:
                yield partial(scan_part, count, part, build)
            count += 1

    with Progress("reading and tokenising") as progress:
        workers.run(jobs(), progress)
    if options.stage == "scan":
        return None
    if count == 0:
        raise UserError("no notes found in the input; check --notes")
    scanned = ScannedNotes(build, count)
    _resolve_admissions(scanned, inputs, build)
    write_json(done, {"parts": count})
    return scanned


def scan_part(number: int, part: Part, build: ShardBuild) -> None:
    """Write what the keep list, the notes table and stage pack need of one part."""
    settings, rows, texts = build.settings, [], list[str]()
    copied, ends = settings.duplicates.copied == "drop", dict[str, list[int]]()
    for note in notes_of(part, settings.reading, settings.split):
        placeholders = Counter[str]()
        if copied:
            text, own_ends = build.clean_in_paragraphs(note.text, note.person, placeholders)
            ends.setdefault(text, own_ends)
        else:
            text = build.clean(note.text, note.person, placeholders)
        rows.append(_scan_note(note, text, build) | {"placeholders": [placeholders[kind] for kind in COUNTED]})
        texts.append(text)
    columns = {name: np.array([row[name] for row in rows], dtype) for name, dtype in _COLUMNS.items()}
    if settings.duplicates.near != "off" and not build.appends:  # else by token ids: see earlier_notes.py
        build.shingles.write(number, texts)
    tally = ParagraphTally(build, ends) if copied else None
    tokenise(number, texts, build, tally.add if tally else None)
    if tally:
        tally.write(number, load_ids(number, build))
    _write(build.scan_file(number), columns)


def _scan_note(note: Note, text: str, build: ShardBuild) -> dict[str, Any]:
    digest, key, rule = text_hash(text), build.patient_key, build.settings.split
    if note.fault:
        outcome = Outcome[f"DROPPED_{note.fault.upper()}"]
    else:
        outcome = Outcome.KEPT if text.strip() else Outcome.DROPPED_EMPTY
    if note.patient:
        named, group = Named.PATIENT, f"patient {note.patient}"
    elif note.admission:
        named, group = Named.ADMISSION, f"admission {note.admission}"
    else:
        named, group = Named.NOBODY, f"text {digest}"
    return {
        "outcomes": outcome,
        "hashes": digest,
        "groups": patient_hash(key, group),
        "admissions": patient_hash(key, f"admission {note.admission}") if note.admission else "",
        "named": named,
        "splits": rule.split_of(rule.group_of(note.patient, note.admission, digest)),
        "categories": note.category.encode(),
        "times": sort_key(note.time),
        "unreadable_times": note.has_unreadable_time,
        "sources": note.source,
        "rows": note.row,
    }


def _write(path: Path, columns: dict[str, npt.NDArray[Any]]) -> None:
    temporary = path.with_suffix(".tmp")
    with temporary.open("wb") as stream:
        np.savez(stream, **columns)  # type: ignore[arg-type]
    temporary.replace(path)


def _resolve_admissions(scanned: ScannedNotes, inputs: list[Input], build: ShardBuild) -> None:
    """Give notes that name only an admission the patient, and so the split, of the admission's other notes. A second
    call changes nothing more.

    Raises:
        UserError: the split is by patient, and a note's patient isn't known.
    """
    rule = build.settings.split
    named_alone = (scanned.column(number, "named") == Named.ADMISSION for number in range(scanned.parts))
    if not rule.needs_identity or not any(alone.any() for alone in named_alone):
        return

    def pairs() -> Iterator[tuple[tuple[bytes, int] | None, bytes]]:
        for number in range(scanned.parts):
            columns = scanned.columns(number, "named", "groups", "splits", "admissions")
            for named, *patient, admission in zip(*columns, strict=True):
                yield (tuple(patient) if named == Named.PATIENT else None), admission

    known = patients_of_admissions(pairs)
    lost, first_lost, is_contradicted = 0, "", False
    for number in range(scanned.parts):
        columns = dict(zip(_COLUMNS, scanned.columns(number), strict=True))
        # DROPPED_NO_PATIENT may come from this function, before a restart.
        usable = np.isin(columns["outcomes"], (Outcome.KEPT, Outcome.DROPPED_NO_PATIENT))
        admission_only = np.flatnonzero((columns["named"] == Named.ADMISSION) & usable)
        for i in admission_only:
            if patient := known.get(columns["admissions"][i]):
                columns["groups"][i], columns["splits"][i] = patient
                columns["named"][i] = Named.PATIENT
            elif rule.by == "patient":
                columns["outcomes"][i] = Outcome.DROPPED_NO_PATIENT
                lost += 1
                if not first_lost:
                    first_lost = place_of(inputs[columns["sources"][i]], int(columns["rows"][i]))
                    is_contradicted = columns["admissions"][i] in known
        if len(admission_only):
            _write(build.scan_file(number), columns)
    if lost and build.settings.reading.on_bad_row == "fail":
        raise unknown_patient(first_lost, lost, build.appends, is_contradicted)


def place_of(entry: Input, row: int) -> str:
    """Where a note stands, for a message."""
    return f"{entry.path}{', all files' if entry.is_folder else ''}, row {row:,}"
