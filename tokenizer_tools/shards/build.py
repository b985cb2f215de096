"""Build shards: scan, keep list, pack, finish. A build can be killed at any moment and started again.

1. Scan: read and tokenise the notes, in parts of a fixed number in input order; keep token ids, hashes, splits,
   categories and times.
2. Keep list: decide over all parts which notes stay, and where they stand in the notes table.
3. Pack: write each part's shard files from the token ids of the notes that stay.
4. Finish: write `notes.arrow`, then `manifest.json`, delete the work folder, and write the report.

A finished file is never written again, so a second start does only what is missing. Parts are independent, so the bytes
depend neither on the number of workers nor on how often the build was stopped.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import platform
import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tokenizer_tools.corpus.input_files import Input
from tokenizer_tools.corpus.input_options import find_sources
from tokenizer_tools.corpus.placeholders import sorted_counts
from tokenizer_tools.corpus.read_notes import read_notes
from tokenizer_tools.corpus.split_patients import key_id, load_patient_key, patient_hash
from tokenizer_tools.errors import UserError
from tokenizer_tools.files import file_sha256
from tokenizer_tools.manifest import (
    FORMAT_VERSION,
    SPLITS,
    TOKENIZER_FOLDER,
    CopiedParagraphs,
    Manifest,
    ShardFile,
    SplitInfo,
    UnknownTokens,
    fingerprint,
)
from tokenizer_tools.progress import say
from tokenizer_tools.shards.apply_lists import apply_lists, describe_lists, listed_counts
from tokenizer_tools.shards.count_sources import count_sources
from tokenizer_tools.shards.describe.describe import add_missing_report
from tokenizer_tools.shards.folder import ShardBuild, disk_errors, is_prepared, lock, prepare_folder
from tokenizer_tools.shards.keep_list import KeepList, count_people, count_times, make_keep_list
from tokenizer_tools.shards.near_duplicates import count_crowded
from tokenizer_tools.shards.pack import PackedPart, pack
from tokenizer_tools.shards.scan import Outcome, scan
from tokenizer_tools.shards.settings import BuildOptions, ShardSettings
from tokenizer_tools.shards.write import write_notes_table
from tokenizer_tools.tokenizer.load import describe_tokenizer, load_tokenizer, save_tokenizer
from tokenizer_tools.tokenizer.paragraph_ids import divides_at
from tokenizer_tools.tokenizer.unknown_characters import UnknownCount, unknown_tokens, unknown_whitespace

_UNSET_MAX_LENGTH = 1 << 24
"""A model_max_length above this is transformers' way of saying that it isn't set."""


def build_shards(
    notes: Sequence[Path],
    tokenizer: str,
    out: Path,
    settings: ShardSettings | None = None,
    options: BuildOptions | None = None,
) -> Manifest | None:
    """Turn clinical notes into shards of token ids for pretraining.

    Run again after a crash, the same call does only what is missing. No note's text is written anywhere.

    Args:
        notes: CSV, JSONL or Parquet files, also as .gz or .zst, or folders of files of one kind (.txt, .xml: a note in
            each). None if `settings.reading.sources` names a file that describes them.
        tokenizer: a folder or a Hub id, usually the base model's own.
        out: the shard folder to create.
        settings: what the shards depend on.
        options: how the build runs.

    Returns:
        The manifest; None after the stages prepare and scan.

    Raises:
        UserError: bad input, a folder that holds something else, or a full disk.
    """
    settings, options = settings or ShardSettings(), options or BuildOptions()
    inputs = find_sources(notes, settings.reading)
    for entry in inputs:
        next(read_notes([entry], settings.reading, settings.split), None)  # most mistakes show in the first note
    for entry in inputs:
        say(entry.describe())
    loaded = load_tokenizer(tokenizer)
    key = load_patient_key(Path(settings.patient_key) if settings.patient_key else None)
    info = describe_tokenizer(loaded, tokenizer, settings.placeholder)
    if settings.duplicates.copied == "drop" and not divides_at(loaded.backend_tokenizer):
        raise UserError(
            f"{tokenizer}: whether this tokenizer divides text at white space isn't known, so paragraphs can't be left "
            "out of token ids; take a byte-level BPE or BigBird's, or leave out --duplicates.copied"
        )
    whitespace = unknown_whitespace(loaded.backend_tokenizer, info.unknown_id)
    build = ShardBuild(out, settings, info, whitespace, key)
    plan = _plan(build, inputs)
    with disk_errors(out):
        if options.stage == "scan" and not is_prepared(build, plan):
            raise UserError(f"{out}: not prepared for these settings; first run the same command with --stage prepare")
        finished = prepare_folder(build, plan)
        if finished is not None:
            add_missing_report(out)
            return finished
        with lock(build.work, shared=options.stage == "scan"):
            _save_tokenizer(loaded, build)
            if options.stage == "prepare":
                return None
            scanned = scan(inputs, build, options)
            if scanned is None:
                return None
            apply_lists(scanned, inputs, build)
            keep = make_keep_list(scanned, build, options.workers)
            packed = pack(keep, build, options.workers)
            return _finish(packed, keep, build, plan)


def _plan(build: ShardBuild, inputs: list[Input]) -> dict[str, Any]:
    """Everything that the shards depend on."""
    plan = build.settings.compared()
    if build.settings.split.lists.files():
        plan["split"]["lists"] = describe_lists(build)
    return {
        "format_version": FORMAT_VERSION,
        "inputs": [_describe_input(entry, build.patient_key) for entry in inputs],
        "tokenizer": build.tokenizer.identity(),
        **plan,
        "patient_key_id": key_id(build.patient_key),
    }


def _describe_input(entry: Input, key: bytes) -> dict[str, Any]:
    described: dict[str, Any] = {
        "name": os.fsencode(entry.path.name).decode(errors="replace"),
        "sha256": _input_sha256(entry),
    }
    if entry.source and entry.source.name:
        filters = [  # their values may be identifiers
            {"column": each.column, "keeps": each.keeps, "values": len(each.values),
             "hash": patient_hash(key, "\n".join(["filter", *each.values]))} for each in entry.source.filters
        ]  # fmt: skip
        described["source"] = entry.source.compared() | {"filters": filters}
    return described


def _input_sha256(entry: Input) -> str:
    if not entry.is_folder:
        return file_sha256(entry.path)
    lines = [f"{file.relative_to(entry.path)} {file_sha256(file)}" for file in entry.files]
    return hashlib.sha256(os.fsencode("\n".join(lines))).hexdigest()  # names need not be UTF-8


def _save_tokenizer(loaded: Any, build: ShardBuild) -> None:
    """Save the tokenizer in the shard folder."""
    if build.tokenizer_folder.exists():
        return
    temporary = build.work / TOKENIZER_FOLDER
    shutil.rmtree(temporary, ignore_errors=True)
    length, longest = build.settings.sequence_length, loaded.model_max_length
    save_tokenizer(loaded, temporary, longest if length <= longest <= _UNSET_MAX_LENGTH else length)
    temporary.replace(build.tokenizer_folder)


def _finish(packed: list[PackedPart], keep: KeepList, build: ShardBuild, plan: dict[str, Any]) -> Manifest:
    """Write the notes table and the manifest, and delete the work folder."""
    notes = write_notes_table(build.out, keep)
    people = count_people(keep)
    splits = {}
    for index, name in enumerate(SPLITS):
        files = [part.files[name] for part in packed if name in part.files]
        splits[name] = SplitInfo(
            sequences=sum(entry.sequences for entry in files),
            tokens=sum(entry.tokens for entry in files),
            notes=notes[index],
            patients=people.patients[index],
            admissions=people.admissions[index],
            files=files,
        )
    if not splits["train"].sequences:
        raise UserError(
            "no note is in the training split; lower --split.validation and --split.test, or check --split.lists"
        )
    settings, all_files = build.settings, [entry for split in splits.values() for entry in split.files]
    manifest = Manifest(
        sequence_length=settings.sequence_length,
        tokenizer=build.tokenizer,
        splits=splits,
        counts=_counts(keep, build),
        split_rule={"hash": "sha256", **plan["split"]},
        patients_in_several_splits=people.patients_in_several_splits,
        sources=count_sources(keep, plan["inputs"], [part.tokens_by_input for part in packed]),
        unknown=_unknown(packed, all_files, build.unknown_whitespace),
        cleaning_rules=settings.cleaning.names(),
        notes_per_part=settings.notes_per_part,
        settings=plan,
        patient_key_id=plan["patient_key_id"],
        versions={"python": platform.python_version()}
        | {
            name: importlib.metadata.version(name)
            for name in (
                "clinical-pretrain",
                "datasets",
                *(["ftfy"] if "mojibake" in settings.cleaning.names() else []),
                "tiktoken",
                "tokenizers",
            )
        },
        fingerprint=fingerprint(build.tokenizer.sha256, settings.sequence_length, all_files),
        placeholders=sorted_counts(sum((Counter(part.placeholders) for part in packed), Counter[str]())),
        copied=sum((part.copied for part in packed), CopiedParagraphs())
        if settings.duplicates.copied == "drop"
        else None,
    )
    manifest.save(build.out)
    shutil.rmtree(build.work)
    add_missing_report(build.out)
    return manifest


def _counts(keep: KeepList, build: ShardBuild) -> dict[str, int]:
    """Notes read, kept, and dropped by reason; and kept ones whose time isn't known, or whose near-duplicates."""
    counts = {outcome.name.lower(): int((keep.outcomes == outcome).sum()) for outcome in Outcome}
    if build.settings.duplicates.near != "off":
        counts["kept_not_fully_compared"] = count_crowded(build.shingles)
    return {"read": len(keep.outcomes), **counts, **count_times(keep), **listed_counts(build)}


def _unknown(packed: list[PackedPart], files: list[ShardFile], written_as_spaces: str) -> UnknownTokens:
    count = sum((part.unknown for part in packed), UnknownCount())
    return unknown_tokens(count, sum(entry.tokens for entry in files), written_as_spaces)
