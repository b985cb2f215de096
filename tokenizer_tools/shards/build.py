"""The pipeline: read, clean, split, drop duplicates, tokenise, pack, write. It can be killed and started again.

1. Scan. The notes are read once, in parts of a fixed number in input order; of each note its text's hash, its
   patient's keyed hash, split, category and time are kept in `work/scan/`. Then notes that name an admission alone
   are given the patient that other notes of the admission name.
2. Keep list. Over all parts: which notes stay, and their place in the notes table (`work/keep.npy`).
3. Pack. The notes are read again; each part is tokenised and packed alone and written to `SPLIT/part-N.arrow`.
4. Finish. `notes.arrow`, then `manifest.json`, then `work/` is deleted.

Every file is written under a temporary name and renamed, so what is there is whole; a second start skips it. Parts
are independent, so the bytes depend neither on the number of workers nor on how often the build was stopped.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import importlib.metadata
import itertools
import json
import os
import platform
import shutil
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, field, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from tokenizer_tools.corpus.clean_notes import CleaningRules, clean
from tokenizer_tools.corpus.deduplicate import HASH_DTYPE, first_occurrences, ranks_within, text_hash
from tokenizer_tools.corpus.input_files import Input, find_inputs
from tokenizer_tools.corpus.read_notes import InputOptions, Note, read_notes
from tokenizer_tools.corpus.split_patients import (
    SplitRule,
    key_id,
    load_patient_key,
    patient_hash,
    patients_of_admissions,
)
from tokenizer_tools.errors import UserError
from tokenizer_tools.files import file_sha256, write_json
from tokenizer_tools.manifest import (
    FORMAT_VERSION,
    MANIFEST_NAME,
    NOTES_TABLE_NAME,
    SPLITS,
    TOKENIZER_FOLDER,
    Manifest,
    ShardFile,
    SplitInfo,
    TokenizerInfo,
    fingerprint,
)
from tokenizer_tools.progress import Progress, say
from tokenizer_tools.shards.pack import PackedRow, pack_rows
from tokenizer_tools.tokenizer.load import describe_tokenizer, encode, load_tokenizer, save_tokenizer, special_ids
from tokenizer_tools.tokenizer.unknown_characters import (
    NAMED_CHARACTERS,
    count_unknown,
    describe_unknown,
    unseen_blanks,
)

OUTCOMES = (
    "kept",
    "dropped_empty",
    "dropped_duplicate",
    "dropped_invalid_utf8",
    "dropped_malformed",
    "dropped_no_patient",
    "dropped_marked_error",
)
KEPT, EMPTY, DUPLICATE = range(3)
NOBODY, ADMISSION, PATIENT = range(3)
"""What a note names."""
# Notes whose hashes are sorted at once while duplicates are looked for: 60 bytes each.
NOTES_IN_MEMORY = 4_000_000
_FULL_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@dataclass(frozen=True)
class ShardSettings:
    """All that a worker needs to know, and all that the bytes depend on beside the notes."""

    out: Path
    tokenizer: TokenizerInfo
    sequence_length: int
    cleaning: CleaningRules
    split: SplitRule
    notes_per_part: int
    on_bad_row: Literal["fail", "skip"]
    unseen_blanks: str
    """White space that the tokenizer doesn't know."""
    patient_key: bytes = field(repr=False)

    def cleaned(self, text: str) -> str:
        """A note's text as it is hashed and tokenised."""
        return clean(text, self.cleaning, self.tokenizer.placeholder, self.unseen_blanks)

    @property
    def work(self) -> Path:
        """The private folder for what is unfinished."""
        return self.out / "work"

    @property
    def id_dtype(self) -> np.dtype[Any]:
        """16-bit ids where the vocabulary fits."""
        return np.dtype(np.uint16 if self.tokenizer.vocab_size <= 1 << 16 else np.int32)


def build_shards(
    notes: list[Path],
    tokenizer: str,
    out: Path,
    sequence_length: int = 4096,
    reading: InputOptions | None = None,
    cleaning: CleaningRules | None = None,
    placeholder: str = "unk",
    split: SplitRule | None = None,
    patient_key: Path | None = None,
    notes_per_part: int = 10_000,
    workers: int | None = None,
    stage: Literal["all", "scan", "pack"] = "all",
    share: tuple[int, int] = (0, 1),
) -> Manifest | None:
    """Turn clinical notes into shards of token ids for pretraining.

    Started again after a crash, the same command does only what is missing. No note's text is written anywhere.

    Args:
        notes: CSV, JSONL or Parquet files, gzipped or not, or folders of files of one kind (.txt: a note in each).
        tokenizer: a folder or a Hub id, usually the base model's own.
        out: the shard folder to make.
        sequence_length: tokens per row.
        reading: column names, where they aren't MIMIC's; what to read of a folder; what to do with bad rows.
        cleaning: the cleaning rules to switch on or off.
        placeholder: what [**...**] and ___ become: 'unk' (the tokenizer's unknown token), 'none' (they go), or a
            token of the vocabulary.
        split: shares of the patients held out, or what else to split by.
        patient_key: file with the secret behind the patient hashes; made if missing. Default
            ~/.config/clinical-pretrain/patient_key.
        notes_per_part: notes per file and unit of work; part of what the bytes depend on.
        workers: processes; default all cores.
        stage: scan stops before anything is packed, pack does only that: for machines that share the work. After them
            all, which does what is missing, finishes.
        share: (k, n): pack only parts k, k + n, k + 2n, …

    Returns:
        The manifest; None after the stages scan and pack.

    Raises:
        UserError: bad input, a folder that holds something else, or a full disk.
    """
    reading = reading or InputOptions()
    inputs = find_inputs(notes, reading.files)
    if sequence_length < 8 or notes_per_part < 1 or (workers is not None and workers < 1):
        raise UserError("sequence_length must be at least 8, notes_per_part and workers at least 1")
    split = split or SplitRule()
    for entry in inputs:
        next(read_notes([entry], reading, split), None)  # the commonest mistakes show at once
    for entry in inputs:
        say(entry.describe())
    loaded = load_tokenizer(tokenizer)
    key = load_patient_key(patient_key)
    info = describe_tokenizer(loaded, tokenizer, placeholder)
    settings = ShardSettings(
        out=out,
        tokenizer=info,
        sequence_length=sequence_length,
        cleaning=cleaning or CleaningRules(),
        split=split,
        notes_per_part=notes_per_part,
        on_bad_row=reading.on_bad_row,
        unseen_blanks=unseen_blanks(loaded.backend_tokenizer, info.unknown_id),
        patient_key=key,
    )
    plan = {
        "format_version": FORMAT_VERSION,
        "inputs": [{"name": entry.path.name, "sha256": _input_sha256(entry)} for entry in inputs],
        "reading": asdict(reading),
        "tokenizer": {k: v for k, v in asdict(settings.tokenizer).items() if k != "name"},
        "sequence_length": sequence_length,
        "cleaning": settings.cleaning.names(),
        "split": asdict(settings.split),
        "notes_per_part": notes_per_part,
        "patient_key_id": key_id(key),
    }
    with _disk_errors(out):
        finished = _prepare_folder(settings, plan)
        if finished is not None:
            return finished
        if stage == "pack" and not (settings.work / "outcome.npy").exists():
            raise UserError(f"{out}: nothing to pack yet; first the same command with --stage scan")
        with _lock(settings.work, shared=stage == "pack"):
            _save_tokenizer(loaded, settings)

            def read() -> Iterator[tuple[int, list[Note]]]:
                return _parts(read_notes(inputs, reading, split), notes_per_part)

            parts = _scan(read, inputs, settings, workers)
            keep = _keep_list(parts, settings)
            if stage == "scan":
                return None
            files = _pack(read, keep, settings, workers, share)
            if stage == "pack":
                return None
            return _finish(files, keep, plan, settings)


def _prepare_folder(settings: ShardSettings, plan: dict[str, Any]) -> Manifest | None:
    """Make the folder ready. Returns the manifest where the same shards are already there."""
    out, work = settings.out, settings.work
    if out.exists() and not out.is_dir():
        raise UserError(f"{out}: a file; --out takes a folder")
    if (out / MANIFEST_NAME).exists():
        manifest = Manifest.load(out)
        _refuse_other(out, manifest.settings, plan, "finished shards")
        shutil.rmtree(work, ignore_errors=True)
        return manifest
    if (work / "plan.json").exists():
        old = json.loads((work / "plan.json").read_text())
        if (work / "packed").exists():
            _refuse_other(out, old, plan, "an unfinished build")
            return None
        if old == json.loads(json.dumps(plan)):
            return None
        # Nothing is packed yet, and the settings may be what the user has just put right.
        shutil.rmtree(work)
        shutil.rmtree(out / TOKENIZER_FOLDER, ignore_errors=True)
    unfinished = {"lock", "plan.json.tmp"}  # of a build that was killed at once
    strangers = [path for path in work.iterdir() if path.name not in unfinished] if work.is_dir() else []
    if out.exists() and (strangers or any(path != work for path in out.iterdir())):
        raise UserError(f"{out}: not empty, and holds no shards; choose another --out")
    out.mkdir(parents=True, exist_ok=True, mode=0o700)
    work.mkdir(exist_ok=True, mode=0o700)
    write_json(work / "plan.json", plan)
    return None


def _refuse_other(out: Path, old: dict[str, Any], new: dict[str, Any], what: str) -> None:
    old, new = json.loads(json.dumps(old)), json.loads(json.dumps(new))
    differing = sorted(key for key in old.keys() | new.keys() if old.get(key) != new.get(key))
    if differing:
        raise UserError(
            f"{out}: holds {what} with other settings ({', '.join(differing)}); choose another --out, or delete it"
        )


def _save_tokenizer(loaded: Any, settings: ShardSettings) -> None:
    """Put the tokenizer into the shard folder."""
    folder = settings.out / TOKENIZER_FOLDER
    if folder.exists():
        return
    temporary = settings.work / TOKENIZER_FOLDER
    shutil.rmtree(temporary, ignore_errors=True)
    longest = loaded.model_max_length
    # A huge one is transformers' way of saying "not set".
    known = settings.sequence_length <= longest <= 1 << 24
    save_tokenizer(loaded, temporary, longest if known else settings.sequence_length)
    temporary.replace(folder)


# 1. Scan ----------------------------------------------------------------------------------------------------------


def _scan(
    read: Callable[[], Iterator[tuple[int, list[Note]]]],
    inputs: list[Input],
    settings: ShardSettings,
    workers: int | None,
) -> int:
    """Hash every note, and find whose it is. Returns the number of parts."""
    done = settings.work / "scan" / "done.json"
    if done.exists():
        return int(json.loads(done.read_text())["parts"])
    done.parent.mkdir(exist_ok=True, mode=0o700)
    parts = 0

    def jobs() -> Iterator[tuple[Any, ...]]:
        nonlocal parts
        for number, part in read():
            parts = number + 1
            if not _scan_file(settings, number).exists():
                yield scan_part, number, part, settings

    with Progress("reading and hashing notes") as progress:
        _run(jobs(), workers, settings, progress)
    if parts == 0:
        raise UserError("no notes found in the input; check --notes")
    _resolve_admissions(parts, inputs, settings)
    write_json(done, {"parts": parts})
    return parts


def scan_part(number: int, notes: list[Note], settings: ShardSettings) -> int:
    """Write what the keep list and the notes table need of one part. Returns its number of notes."""
    rows = []
    for note in notes:
        _advance(1)
        text = settings.cleaned(note.text)
        digest, key, rule = text_hash(text), settings.patient_key, settings.split
        status = OUTCOMES.index(f"dropped_{note.fault}") if note.fault else KEPT if text.strip() else EMPTY
        group = f"patient {note.patient}" if note.patient else f"admission {note.admission}"
        rows.append(
            {
                "status": status,
                "hashes": digest,
                # Notes of nobody have the order and the place in the notes table of their text.
                "groups": patient_hash(key, group if note.patient or note.admission else f"text {digest}"),
                "admissions": patient_hash(key, f"admission {note.admission}") if note.admission else "",
                "named": PATIENT if note.patient else ADMISSION if note.admission else NOBODY,
                "splits": rule.split_of(rule.group_of(note.patient, note.admission, digest)),
                "categories": note.category.encode(),
                "times": note.time[:32].encode(),
                "sources": note.source,
                "rows": note.row,
            }
        )
    _write_scan(settings, number, {name: np.array([row[name] for row in rows], _SCANNED[name]) for name in _SCANNED})
    return len(notes)


_SCANNED: dict[str, npt.DTypeLike] = {"status": np.uint8, "hashes": HASH_DTYPE, "groups": HASH_DTYPE,
    "admissions": HASH_DTYPE, "named": np.uint8, "splits": np.uint8, "categories": "S", "times": "S",
    "sources": np.int16, "rows": np.int64}  # fmt: skip


def _write_scan(settings: ShardSettings, number: int, columns: dict[str, npt.NDArray[Any]]) -> None:
    path = _scan_file(settings, number)
    with (temporary := path.with_suffix(".tmp")).open("wb") as stream:
        np.savez(stream, **columns)  # type: ignore[arg-type]
    temporary.replace(path)


def _resolve_admissions(parts: int, inputs: list[Input], settings: ShardSettings) -> None:
    """Give notes that name an admission alone the patient, and so the split, of the admission's other notes. Done
    twice, it changes nothing more.

    Raises:
        UserError: the split is by patient, and nobody knows whose note one is.
    """
    if not settings.split.needs_identity:
        return

    def pairs() -> Iterator[tuple[tuple[bytes, int] | None, bytes]]:
        for number in range(parts):
            names = ("named", "groups", "splits", "admissions")
            for named, *patient, admission in zip(*_columns(settings, number, *names), strict=True):
                yield (tuple(patient) if named == PATIENT else None), admission

    known, lost, first, no_patient = patients_of_admissions(pairs), 0, "", OUTCOMES.index("dropped_no_patient")
    for number in range(parts):
        with np.load(_scan_file(settings, number)) as arrays:
            columns = dict(arrays)
        usable = np.isin(columns["status"], (KEPT, no_patient))  # also one that was marked before a restart
        alone = np.flatnonzero((columns["named"] == ADMISSION) & usable)
        for i in alone:
            if patient := known.get(columns["admissions"][i]):
                columns["groups"][i], columns["splits"][i] = patient
                columns["named"][i] = PATIENT
            elif settings.split.by == "patient":
                columns["status"][i] = no_patient
                entry, row = inputs[columns["sources"][i]], int(columns["rows"][i])
                lost, first = lost + 1, first or f"{entry.path}{', all files' * entry.is_folder}, row {row:,}"
        if len(alone):
            _write_scan(settings, number, columns)
    if lost and settings.on_bad_row == "fail":
        raise UserError(
            f"{first}: no patient, and no other note says whose admission it is ({lost:,} such notes); name the "
            "patient's column with --columns.patient, let admissions stand for patients with --split.by admission (a "
            "patient's admissions may then be trained on and held out at once), or drop and count such notes with "
            "--on-bad-row skip"
        )


def _scan_file(settings: ShardSettings, number: int) -> Path:
    return settings.work / "scan" / f"part-{number:05d}.npz"


def _column(settings: ShardSettings, number: int, name: str) -> npt.NDArray[Any]:
    return _columns(settings, number, name)[0]


def _columns(settings: ShardSettings, number: int, *names: str) -> list[npt.NDArray[Any]]:
    with np.load(_scan_file(settings, number)) as arrays:
        return [np.asarray(arrays[name]) for name in names]


# 2. Keep list -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class KeepList:
    """What becomes of each note, over all parts, memory-mapped."""

    outcome: npt.NDArray[np.uint8]
    """(notes read,): what became of each, an index into OUTCOMES."""
    time_order: npt.NDArray[np.int32]
    """(notes read,): the note's rank among its patient's kept notes, by time."""
    begins: list[int]
    """(parts + 1,): where each part begins in the two."""

    def of_part(self, number: int) -> slice:
        """A part's place."""
        return slice(self.begins[number], self.begins[number + 1])


def _keep_list(parts: int, settings: ShardSettings) -> KeepList:
    """Decide over the whole corpus which notes stay.

    Hashes are taken in as many rounds as keep one round's share in memory, so memory doesn't grow with the corpus.
    """
    statuses = [_column(settings, number, "status") for number in range(parts)]
    begins = [0, *itertools.accumulate(len(status) for status in statuses)]
    total = begins[-1]
    paths = [settings.work / "outcome.npy", settings.work / "time_order.npy"]
    if not all(path.exists() for path in paths):
        outcome = np.concatenate(statuses)
        time_order = np.zeros(total, np.int32)
        rounds = -(-total // NOTES_IN_MEMORY)
        for this in range(rounds):
            index, hashes = _share(parts, settings, begins, outcome, "hashes", this, rounds)
            outcome[index[~first_occurrences(hashes[:, 0])]] = DUPLICATE
        for this in range(rounds):
            index, rows = _share(parts, settings, begins, outcome, "groups", this, rounds, "times")
            time_order[index] = ranks_within(rows[:, 0], rows[:, 1])
        for path, array in zip(paths, (outcome, time_order), strict=True):
            with (temporary := path.with_suffix(".tmp")).open("wb") as stream:
                np.save(stream, array)
            temporary.replace(path)
    keep = KeepList(np.load(paths[0], mmap_mode="r"), np.load(paths[1], mmap_mode="r"), begins)
    if not (keep.outcome == KEPT).any():
        raise UserError(f"no note with text in the input ({total:,} read); check --notes and --columns.text")
    return keep


def _share(
    parts: int,
    settings: ShardSettings,
    begins: list[int],
    outcome: npt.NDArray[np.uint8],
    key: str,
    this: int,
    rounds: int,
    *others: str,
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bytes_]]:
    """Of the notes still kept, those whose `key` hash falls to this round: index and columns."""
    indices, rows = [], []
    for number in range(parts):
        keys = _column(settings, number, key)
        buckets = np.array([int(digest[:8], 16) % rounds for digest in keys]) if rounds > 1 else np.zeros(len(keys))
        mine = (outcome[begins[number] : begins[number + 1]] == KEPT) & (buckets == this)
        indices.append(np.flatnonzero(mine) + begins[number])
        columns = [keys[mine], *(_column(settings, number, name)[mine] for name in others)]
        rows.append(np.stack([column.astype(HASH_DTYPE) for column in columns], axis=1))
    return np.concatenate(indices), np.concatenate(rows)


# 3. Pack ----------------------------------------------------------------------------------------------------------


def _pack(
    read: Callable[[], Iterator[tuple[int, list[Note]]]],
    keep: KeepList,
    settings: ShardSettings,
    workers: int | None,
    share: tuple[int, int],
) -> list[dict[str, Any]]:
    """Tokenise and write every part of a share that isn't there yet. Returns each part's account of itself."""
    (settings.work / "packed").mkdir(exist_ok=True, mode=0o700)
    parts = len(keep.begins) - 1
    mine = range(share[0], parts, share[1])
    missing = [number for number in mine if not _packed_file(settings, number).exists()]
    kept_before = [
        0,
        *itertools.accumulate(int((keep.outcome[keep.of_part(n)] == KEPT).sum()) for n in range(parts)),
    ]

    def jobs() -> Iterator[tuple[Any, ...]]:
        wanted = set(missing)
        for number, part in read() if wanted else ():
            if number in wanted:
                kept = np.asarray(keep.outcome[keep.of_part(number)]) == KEPT
                texts = [note.text for note, stays in zip(part, kept, strict=True) if stays]
                yield pack_part, number, texts, kept, kept_before[number], settings

    def notes_of(numbers: Iterable[int]) -> int:
        return sum(keep.begins[n + 1] - keep.begins[n] for n in numbers)

    with Progress("tokenising and packing", total=notes_of(mine)) as progress:
        progress.advance(notes_of(mine) - notes_of(missing))
        _run(jobs(), workers, settings, progress)
    return [json.loads(_packed_file(settings, number).read_text()) for number in mine]


def pack_part(
    number: int, texts: list[str], kept: npt.NDArray[np.bool_], first_note: int, settings: ShardSettings
) -> int:
    """Write one part's Arrow files, one per split, and then its account of them. Returns its number of notes read.

    Args:
        number: of the part.
        texts: of the kept notes.
        kept: (notes of the part,), which were kept.
        first_note: the notes table's row of the part's first kept note.
        settings: of the build.
    """
    info = settings.tokenizer
    backend = _backend(settings.out / TOKENIZER_FOLDER / "tokenizer.json")
    special = special_ids(backend)
    if info.placeholder_id is not None:
        special[info.placeholder_id] = False
    ids: list[npt.NDArray[Any]] = []
    unknown, characters = 0, Counter[str]()
    for start in range(0, len(texts), 1000):
        batch = [settings.cleaned(text) for text in texts[start : start + 1000]]
        encoded = encode(backend, batch)
        count, behind = count_unknown(backend, batch, encoded, info.unknown_token, info.unknown_id)
        unknown, characters = unknown + count, characters + behind
        _advance(len(batch))
        for tokens in encoded:
            array = np.array([info.begin_id, *tokens, info.end_id], dtype=settings.id_dtype)
            # A note that spells out a special token ("<mask>", "[SEP]") must not steer the model with it.
            inner = array[1:-1]
            inner[special[inner]] = info.unknown_id
            ids.append(array)
    _advance(len(kept) - len(texts))
    splits = _column(settings, number, "splits")[kept]
    files: dict[str, dict[str, Any]] = {}
    for split, name in enumerate(SPLITS):
        mine = np.flatnonzero(splits == split)
        rows = pack_rows(
            [ids[i] for i in mine],
            [first_note + int(i) for i in mine],
            settings.sequence_length,
            settings.id_dtype,
        )
        if rows:
            path = f"{name}/part-{number:05d}.arrow"
            write_rows(settings.out / path, rows, settings.id_dtype)
            count = sum(len(row.input_ids) for row in rows)
            files[name] = asdict(ShardFile(path, len(rows), count, file_sha256(settings.out / path)))
    write_json(_packed_file(settings, number), {"files": files, "unknown": unknown, "characters": characters})
    return len(kept)


def write_rows(path: Path, rows: list[PackedRow], id_dtype: np.dtype[Any]) -> None:
    """Write rows as an Arrow stream, the format of `datasets`, whose `Dataset.from_file` reads it.

    Columns: input_ids (list<uint16>, or int32 for vocabularies over 65,536), segment_starts (list<int32>) and
    segment_notes (list<int64>, rows of the notes table).
    """
    import pyarrow as pa
    from datasets import Features, List, Value

    def lists(arrays: list[npt.NDArray[Any]]) -> pa.ListArray:
        offsets = np.concatenate([[0], np.cumsum([len(array) for array in arrays])]).astype(np.int32)
        return pa.ListArray.from_arrays(pa.array(offsets), pa.array(np.concatenate(arrays)))

    features = Features(
        {
            "input_ids": List(Value(id_dtype.name)),
            "segment_starts": List(Value("int32")),
            "segment_notes": List(Value("int64")),
        }
    )
    batches = (rows[start : start + 1000] for start in range(0, len(rows), 1000))
    tables = (pa.table({name: lists([getattr(row, name) for row in batch]) for name in features}) for batch in batches)
    _write_arrow(path, features, tables)


def _write_arrow(path: Path, features: Any, tables: Iterable[Any]) -> None:
    from datasets.arrow_writer import ArrowWriter

    path.parent.mkdir(exist_ok=True, mode=0o700)
    temporary = path.with_suffix(".tmp")
    with temporary.open("wb") as stream:
        with ArrowWriter(features=features, stream=stream) as writer:
            for table in tables:
                writer.write_table(table)
            writer.finalize(close_stream=False)
        stream.flush()
        os.fsync(stream.fileno())
    temporary.replace(path)


def _packed_file(settings: ShardSettings, number: int) -> Path:
    return settings.work / "packed" / f"part-{number:05d}.json"


_backends: dict[Path, Tokenizer] = {}


def _backend(path: Path) -> Tokenizer:
    """One tokenizer per process."""
    if path not in _backends:
        _backends[path] = Tokenizer.from_file(str(path))
    return _backends[path]


# 4. Finish --------------------------------------------------------------------------------------------------------


def _finish(packed: list[dict[str, Any]], keep: KeepList, plan: dict[str, Any], settings: ShardSettings) -> Manifest:
    """Write the notes table and the manifest, then delete the work folder."""
    notes = _write_notes_table(keep, settings)
    patients, admissions, in_several = _count_people(keep, settings)
    splits = {}
    for index, name in enumerate(SPLITS):
        files = [ShardFile(**part["files"][name]) for part in packed if name in part["files"]]
        splits[name] = SplitInfo(
            rows=sum(entry.rows for entry in files),
            tokens=sum(entry.tokens for entry in files),
            notes=notes[index],
            patients=patients[index],
            admissions=admissions[index],
            files=files,
        )
    if not splits["train"].rows:
        raise UserError("no note fell into the training split; lower --split.validation and --split.test")
    counts = {"read": len(keep.outcome)}
    counts |= {name: int((keep.outcome == code).sum()) for code, name in enumerate(OUTCOMES)}
    info = settings.tokenizer
    manifest = Manifest(
        sequence_length=settings.sequence_length,
        tokenizer=info,
        splits=splits,
        counts=counts,
        split_rule={"hash": "sha256", **asdict(settings.split)},
        patients_in_several_splits=in_several,
        unknown=_unknown(packed, sum(split.tokens for split in splits.values()), settings.unseen_blanks),
        cleaning_rules=settings.cleaning.names(),
        notes_per_part=settings.notes_per_part,
        settings=plan,
        patient_key_id=plan["patient_key_id"],
        versions={"python": platform.python_version()}
        | {name: importlib.metadata.version(name) for name in ("clinical-pretrain", "datasets", "tokenizers")},
        fingerprint=fingerprint(
            info.sha256,
            settings.sequence_length,
            [entry for split in splits.values() for entry in split.files],
        ),
    )
    manifest.save(settings.out)
    shutil.rmtree(settings.work)
    return manifest


def _count_people(keep: KeepList, settings: ShardSettings) -> tuple[list[int], list[int], int]:
    """Distinct patients, and admissions of notes without one, of the kept notes in each split; and how many patients
    are in several splits."""
    counts, in_several = {PATIENT: [0] * len(SPLITS), ADMISSION: [0] * len(SPLITS)}, 0
    rounds = -(-len(keep.outcome) // NOTES_IN_MEMORY)
    for this in range(rounds):
        parts = len(keep.begins) - 1
        _, rows = _share(parts, settings, keep.begins, keep.outcome, "groups", this, rounds, "named", "splits")
        distinct = np.unique(rows, axis=0)
        for kind, by_split in counts.items():
            mine = distinct[distinct[:, 1] == str(kind).encode()]
            for split in range(len(SPLITS)):
                by_split[split] += int((mine[:, 2] == str(split).encode()).sum())
            if kind == PATIENT:
                in_several += int((np.unique(mine[:, 0], return_counts=True)[1] > 1).sum())
    return counts[PATIENT], counts[ADMISSION], in_several


def _unknown(packed: list[dict[str, Any]], tokens: int, blanks: str) -> dict[str, Any]:
    """The manifest's account of what the tokenizer can't see."""
    count, characters = sum(part["unknown"] for part in packed), Counter[str]()
    for part in packed:
        characters.update(part["characters"])
    most = dict(sorted(characters.items(), key=lambda item: (-item[1], item[0]))[:NAMED_CHARACTERS])
    share = round(count / tokens, 6) if tokens else 0.0
    return {"tokens": count, "share": share, "characters": most, "written_as_blanks": blanks}


def _write_notes_table(keep: KeepList, settings: ShardSettings) -> list[int]:
    """Write `notes.arrow`, a row per kept note, in input order. Returns notes per split."""
    import pyarrow as pa
    from datasets import Features, Value

    features = Features(
        {
            "patient": Value("string"),
            "category": Value("string"),
            "source": Value("int16"),
            "time_order": Value("int32"),
        }
    )
    notes = [0] * len(SPLITS)

    def tables() -> Iterator[Any]:
        for number in range(len(keep.begins) - 1):
            kept = np.asarray(keep.outcome[keep.of_part(number)]) == KEPT
            order = np.asarray(keep.time_order[keep.of_part(number)])[kept]
            splits = _column(settings, number, "splits")[kept]
            for split in range(len(SPLITS)):
                notes[split] += int((splits == split).sum())
            yield pa.table(
                {
                    "patient": pa.array([p.decode() for p in _column(settings, number, "groups")[kept]], pa.string()),
                    "category": pa.array(
                        [c.decode() for c in _column(settings, number, "categories")[kept]], pa.string()
                    ),
                    "source": pa.array(_column(settings, number, "sources")[kept]),
                    "time_order": pa.array(order),
                }
            )

    _write_arrow(settings.out / NOTES_TABLE_NAME, features, tables())
    return notes


# Processes, files -------------------------------------------------------------------------------------------------


def _parts(notes: Iterator[Note], size: int) -> Iterator[tuple[int, list[Note]]]:
    for number in itertools.count():
        part = list(itertools.islice(notes, size))
        if not part:
            return
        yield number, part


def _run(jobs: Iterator[tuple[Any, ...]], workers: int | None, settings: ShardSettings, progress: Progress) -> None:
    """Run jobs (function, arguments…) over processes, with at most two per worker waiting: memory stays flat."""
    workers = workers or int(os.environ.get("SLURM_CPUS_PER_TASK") or len(os.sched_getaffinity(0)))
    first = list(itertools.islice(jobs, 2))
    if workers == 1 or len(first) < 2:  # one part: the tokenizer's own threads use the cores
        with _counted(progress):
            for function, *arguments in itertools.chain(first, jobs):
                function(*arguments)
        return
    with _counted(progress) as counter:
        _run_in_pool(itertools.chain(first, jobs), workers, settings, counter)


def _run_in_pool(jobs: Iterable[tuple[Any, ...]], workers: int, settings: ShardSettings, counter: Any) -> None:
    pool = ProcessPoolExecutor(workers, get_context("spawn"), _start_worker, (os.getpid(), counter))
    try:
        waiting: set[Future[int]] = set()
        for function, *arguments in jobs:
            with _interrupts_held():  # workers start here, and inherit it: Ctrl-C is for this process alone
                waiting.add(pool.submit(_in_worker, settings.out, function, *arguments))
            if len(waiting) >= 2 * workers:
                finished, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                for future in finished:
                    future.result()
        for future in waiting:
            future.result()
    except BrokenProcessPool:
        raise UserError(
            "a worker process was killed, perhaps for want of memory; run the same command again, with --workers "
            f"{max(1, workers // 2)}: what is done stays done"
        ) from None
    except KeyboardInterrupt:
        for process in list(pool._processes.values()):
            process.kill()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


_counter: Any = None
"""Notes that jobs have done, in this process and its workers: a bar that waited for whole parts would stand still."""


def _advance(count: int) -> None:
    with _counter.get_lock():
        _counter.value += count


@contextlib.contextmanager
def _counted(progress: Progress) -> Iterator[Any]:
    """Shows what jobs say by `_advance`, several times a second."""
    global _counter
    _counter, shown, ended = get_context("spawn").Value("q", 0), 0, threading.Event()

    def show() -> None:
        nonlocal shown
        is_last = False
        while not is_last:
            is_last = ended.wait(0.2)
            count = _counter.value
            progress.advance(count - shown)
            shown = count

    thread = threading.Thread(target=show, daemon=True)
    thread.start()
    try:
        yield _counter
    finally:
        ended.set()
        thread.join()


@contextlib.contextmanager
def _interrupts_held() -> Iterator[None]:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _start_worker(parent: int, counter: Any) -> None:
    global _counter
    _counter = counter
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    os.umask(0o077)

    def watch() -> None:  # a killed parent can't stop its workers, and they would wait for ever
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _in_worker(out: Path, function: Callable[..., int], *arguments: Any) -> int:
    with _disk_errors(out):
        return function(*arguments)


@contextlib.contextmanager
def _disk_errors(out: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in _FULL_DISK:
            raise UserError(
                f"{out}: the disk is full ({os.strerror(error.errno)}); free some space and run the same command "
                "again: finished parts are kept"
            ) from None
        if error.filename is None:
            raise
        raise UserError(f"{error.filename}: {error.strerror}; choose another --out, or mend this") from None


@contextlib.contextmanager
def _lock(work: Path, shared: bool) -> Iterator[None]:
    with (work / "lock").open("w+") as stream:
        try:
            fcntl.flock(stream, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"{work.parent}: another build is writing here; wait for it, or choose another --out"
            ) from None
        except OSError:  # a network disk that knows no locks
            pass
        yield


def _input_sha256(entry: Input) -> str:
    if not entry.is_folder:
        return file_sha256(entry.path)
    lines = [f"{file.relative_to(entry.path)} {file_sha256(file)}" for file in entry.files]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def describe(manifest: Manifest, out: Path, was_there: bool) -> list[str]:
    """What shards hold, for a reader."""
    counts = manifest.counts
    dropped = [f"{n:,} {name.removeprefix('dropped_').replace('_', ' ')}" for name, n in counts.items() if n][2:]
    built = "already built" if was_there else "built"
    lines = [f"{out}: {built}, {counts['kept']:,} of {counts['read']:,} notes kept"]
    lines[0] += f" (dropped: {', '.join(dropped)})" if dropped else ""
    patients, admissions = (
        sum(getattr(split, people) for split in manifest.splits.values()) for people in ("patients", "admissions")
    )
    for name, split in manifest.splits.items():
        people = f" · {split.patients:>7,} patients" if patients else ""
        people += f" · {split.admissions:>7,} admissions without a patient" if admissions else ""
        lines.append(
            f"  {name:<10} {split.rows:>9,} rows of {manifest.sequence_length:,} · {split.tokens:>13,} tokens · "
            f"{split.notes:>9,} notes{people}"
        )
    if manifest.split_by != "patient":
        known = f"{manifest.patients_in_several_splits:,} patients are in several splits"
        lines.append(f"  split by {manifest.split_by}: {known if patients else 'no patient is known'}")
    elif patients == counts["kept"] > 1:
        lines.append("  each note has a patient of its own: if that can't be, --columns.patient names another column")
    lines.append(f"  {describe_unknown(manifest.unknown)}")
    return lines


def summarise(manifest: Manifest) -> dict[str, Any]:
    """A manifest's figures, flat, for --json."""
    flat: dict[str, Any] = {"fingerprint": manifest.fingerprint, "sequence_length": manifest.sequence_length}
    flat |= {"split_by": manifest.split_by, "patients_in_several_splits": manifest.patients_in_several_splits}
    flat |= {"unknown_tokens": manifest.unknown["tokens"], "unknown_share": manifest.unknown["share"]}
    flat |= {f"notes_{name}": count for name, count in manifest.counts.items()}
    for name, split in manifest.splits.items():
        flat |= {f"{name}_{key}": value for key, value in asdict(replace(split, files=[])).items() if key != "files"}
    return flat
