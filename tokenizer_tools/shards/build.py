"""Build shards: scan, keep list, pack, finish. A build can be killed at any moment and started again.

1. Scan: read and tokenise the notes, in parts of a fixed number in input order; keep token ids, hashes, splits,
   categories and times.
2. Keep list: decide over all parts which notes stay, and where they stand in the notes table.
3. Pack: write shard files from the token ids of the notes that stay, part by part, or some patients at a time.
4. Finish: write `notes.arrow`, then `manifest.json`, delete the work folder, and write the report.

A finished file is never written again, so a second start does only what is missing. Parts are independent, so the bytes
depend neither on the number of workers nor on how often the build was stopped.
"""

from __future__ import annotations

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
from tokenizer_tools.corpus.read_notes import check_first_notes
from tokenizer_tools.corpus.split_patients import key_id, load_patient_key, patient_hash
from tokenizer_tools.errors import UserError
from tokenizer_tools.garbage import collected_seldom
from tokenizer_tools.manifest import (
    FORMAT_VERSION,
    MANIFEST_NAME,
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
from tokenizer_tools.shards.apply_lists import apply_lists, describe_lists, hash_lists, listed_counts
from tokenizer_tools.shards.count_sources import count_sources
from tokenizer_tools.shards.describe.describe import add_missing_report
from tokenizer_tools.shards.earlier_notes import GroupNotes
from tokenizer_tools.shards.folder import ShardBuild, disk_errors, is_prepared, lock, prepare_folder
from tokenizer_tools.shards.keep_list import KeepList, count_notes, count_people, count_times, make_keep_list
from tokenizer_tools.shards.near_duplicates import count_crowded
from tokenizer_tools.shards.pack import PackedPart, pack
from tokenizer_tools.shards.prepared_inputs import hash_inputs, prepare_inputs, state_of
from tokenizer_tools.shards.scan import Outcome, scan
from tokenizer_tools.shards.settings import BuildOptions, ShardSettings
from tokenizer_tools.shards.workers import Workers
from tokenizer_tools.shards.write import load_libraries, notes_tables, write_notes
from tokenizer_tools.tokenizer.load import describe_tokenizer, load_tokenizer, save_tokenizer
from tokenizer_tools.tokenizer.paragraph_ids import divides_at
from tokenizer_tools.tokenizer.unknown_characters import UnknownCount, unknown_tokens, unknown_whitespace

_LARGE = 32_000_000
"""Bytes of input from which worker processes start before the tokenizer is loaded, which takes seconds."""
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
    inputs = open_inputs(notes, settings)
    for entry in inputs:
        say(entry.describe())
    with collected_seldom(), Workers(options.workers) as workers:
        is_large = sum(entry.size for entry in inputs) >= _LARGE
        if is_large and options.stage != "prepare" and not (out / MANIFEST_NAME).exists():
            workers.start(load_libraries)
        return _build(inputs, tokenizer, out, settings, options, workers)


def _build(
    inputs: list[Input], tokenizer: str, out: Path, settings: ShardSettings, options: BuildOptions, workers: Workers
) -> Manifest | None:
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
    listed = settings.split.lists.read()
    states = [state_of(entry) for entry in inputs]
    plan = make_plan(build, inputs, hash_inputs(build, inputs, options), listed)
    with disk_errors(out):
        if options.stage == "scan" and not is_prepared(build, plan):
            raise UserError(f"{out}: not prepared for these settings; first run the same command with --stage prepare")
        finished = prepare_folder(build, plan)
        if finished is not None:
            add_missing_report(out)
            return finished
        with lock(build.work, shared=options.stage == "scan"):
            if options.stage == "prepare":
                prepare_inputs(build, inputs, [entry["sha256"] for entry in plan["inputs"]], states)
            _save_tokenizer(loaded, build)
            if options.stage == "prepare":
                return None
            scanned = scan(inputs, build, options, workers)
            if scanned is None:
                return None
            apply_lists(scanned, inputs, build, hash_lists(build, listed))
            keep = make_keep_list(scanned, build, workers)
            packed = pack(keep, build, workers)
            return _finish(packed, keep, build, plan, workers)


def open_inputs(notes: Sequence[Path], settings: ShardSettings) -> list[Input]:
    """Find the inputs, and read the first note of each, in which most mistakes show.

    Raises:
        UserError: see `find_sources` and `read_notes`.
    """
    inputs = find_sources(notes, settings.reading)
    check_first_notes(inputs, settings.reading, settings.split)
    return inputs


def make_plan(build: ShardBuild, inputs: list[Input], hashes: list[str], listed: dict[str, int]) -> dict[str, Any]:
    """Everything that the shards depend on.

    Args:
        build: the build.
        inputs: its notes.
        hashes: the sha256 of each, from `hash_inputs`.
        listed: from `SplitLists.read`.
    """
    plan = build.settings.compared()
    if listed:
        plan["split"]["lists"] = describe_lists(build, listed)
    return {
        "format_version": FORMAT_VERSION,
        "inputs": [_describe_input(*each, build.patient_key) for each in zip(inputs, hashes, strict=True)],
        "tokenizer": build.tokenizer.identity(),
        **plan,
        "patient_key_id": key_id(build.patient_key),
    }


def _describe_input(entry: Input, sha256: str, key: bytes) -> dict[str, Any]:
    described: dict[str, Any] = {
        "name": os.fsencode(entry.path.name).decode(errors="replace"),
        "sha256": sha256,
    }
    if entry.source and entry.source.name:
        filters = [  # their values may be identifiers
            {"column": each.column, "keeps": each.keeps, "values": len(each.values),
             "hash": patient_hash(key, "\n".join(["filter", *each.values]))} for each in entry.source.filters
        ]  # fmt: skip
        described["source"] = entry.source.compared() | {"filters": filters}
    return described


def _save_tokenizer(loaded: Any, build: ShardBuild) -> None:
    """Save the tokenizer in the shard folder."""
    if build.tokenizer_folder.exists():
        return
    temporary = build.work / TOKENIZER_FOLDER
    shutil.rmtree(temporary, ignore_errors=True)
    length, longest = build.settings.sequence_length, loaded.model_max_length
    save_tokenizer(loaded, temporary, longest if length <= longest <= _UNSET_MAX_LENGTH else length)
    temporary.replace(build.tokenizer_folder)


def _finish(
    packed: list[PackedPart], keep: KeepList, build: ShardBuild, plan: dict[str, Any], workers: Workers
) -> Manifest:
    """Write the notes table and the manifest, and delete the work folder."""
    nobody = GroupNotes.none()
    write_notes(build.out, notes_tables(keep, 0, nobody))
    manifest = make_manifest(packed, keep, build, plan, nobody)
    if not manifest.splits["train"].sequences:
        raise UserError(
            "no note is in the training split; lower --split.validation and --split.test, or check --split.lists"
        )
    manifest.save(build.out)
    shutil.rmtree(build.work)
    add_missing_report(build.out, workers)
    return manifest


def make_manifest(
    packed: list[PackedPart], keep: KeepList, build: ShardBuild, plan: dict[str, Any], earlier: GroupNotes
) -> Manifest:
    """Count what was packed.

    Args:
        packed: all parts.
        keep: what became of each note.
        build: the build.
        plan: from `make_plan`; with the inputs of earlier shards, if the notes are appended to these.
        earlier: what these hold. Their notes aren't counted.
    """
    people, notes, splits = count_people(keep, earlier), count_notes(keep), {}
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
    settings, all_files = build.settings, [entry for split in splits.values() for entry in split.files]
    return Manifest(
        sequence_length=settings.sequence_length,
        tokenizer=build.tokenizer,
        splits=splits,
        counts=_counts(keep, build),
        split_rule={"hash": "sha256", **plan["split"]},
        patients_in_several_splits=people.patients_in_several_splits,
        sources=count_sources(keep, plan["inputs"], [part.tokens_by_input for part in packed], build.start.input),
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


def _counts(keep: KeepList, build: ShardBuild) -> dict[str, int]:
    """Notes read, kept, and dropped by reason; and kept ones whose time isn't known, or whose near-duplicates."""
    counts = {outcome.name.lower(): int((keep.outcomes == outcome).sum()) for outcome in Outcome}
    if build.settings.duplicates.near != "off":
        counts["kept_not_fully_compared"] = count_crowded(build.shingles)
    return {"read": len(keep.outcomes), **counts, **count_times(keep), **listed_counts(build)}


def _unknown(packed: list[PackedPart], files: list[ShardFile], written_as_spaces: str) -> UnknownTokens:
    count = sum((part.unknown for part in packed), UnknownCount())
    return unknown_tokens(count, sum(entry.tokens for entry in files), written_as_spaces)
