"""Append notes to finished shards, in place: the earlier shard files stay as they are.

The new notes are built in `append/`, by the stages of a build: scan, keep list, pack. Their parts, notes and inputs are
numbered behind the earlier ones. When that build has the manifest of all notes, all is made, and what is left is to
move it: shard files, notes table, and last the manifest, by which they begin to count. A start after a kill goes on
where the last one was. Until the manifest is replaced, the shards are those of before; only for the moment between the
last two renames the notes table has rows at its end that no shard file names yet. Training reads such a table; `verify`
and `withdraw` ask for the same command again.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import pyarrow as pa
from tokenizers import Tokenizer

from tokenizer_tools.corpus.input_files import Input
from tokenizer_tools.corpus.read_notes import BY_NOTE
from tokenizer_tools.corpus.split_patients import load_key_of
from tokenizer_tools.errors import UserError
from tokenizer_tools.files import copy_files, file_sha256, flush_folder
from tokenizer_tools.garbage import collected_seldom
from tokenizer_tools.manifest import (
    APPEND_FOLDER,
    MANIFEST_NAME,
    NOTES_TABLE_NAME,
    REPORT_NAMES,
    SPLITS,
    TOKENIZER_FOLDER,
    Manifest,
)
from tokenizer_tools.progress import say
from tokenizer_tools.shard_reading import record_batches
from tokenizer_tools.shards.append.joined import join
from tokenizer_tools.shards.append.sides import check_lists, check_sides, groups_of, listed_before
from tokenizer_tools.shards.apply_lists import apply_lists, hash_lists
from tokenizer_tools.shards.build import make_manifest, make_plan, open_inputs
from tokenizer_tools.shards.describe.describe import add_missing_report
from tokenizer_tools.shards.earlier_notes import EarlierNotes, next_part
from tokenizer_tools.shards.folder import ShardBuild, Start, disk_errors, lock, prepare_folder
from tokenizer_tools.shards.keep_list import make_keep_list
from tokenizer_tools.shards.pack import pack
from tokenizer_tools.shards.prepared_inputs import hash_inputs
from tokenizer_tools.shards.scan import scan
from tokenizer_tools.shards.settings import BuildOptions, ShardSettings
from tokenizer_tools.shards.summary import withdrawn_before
from tokenizer_tools.shards.workers import LostWorkerError, Workers
from tokenizer_tools.shards.write import notes_tables, write_notes
from tokenizer_tools.tokenizer.identity import tokenizer_sha256
from tokenizer_tools.tokenizer.load import load_tokenizer

_BUILD = "shards"
"""In APPEND_FOLDER: the build of the new notes."""
_DONE = "done"
"""The same when it isn't needed any more, and is being deleted."""


def append_notes(
    notes: Sequence[Path],
    shards: Path,
    settings: ShardSettings,
    options: BuildOptions | None = None,
    tokenizer: str | None = None,
) -> Manifest:
    """Append notes to finished shards. Texts that they hold already are dropped. Every patient stays in its split.

    Memory: as for a build of the new notes, and 2 bytes for each earlier note; with near-duplicates 30 bytes.

    Args:
        notes: as for `build_shards`.
        shards: the folder of finished shards, which is changed.
        settings: from `settings_of`.
        options: how the build runs; no other stage than all.
        tokenizer: a folder or a Hub id, to be compared with the shards' own.

    Returns:
        The manifest of all notes.

    Raises:
        UserError: bad input; the shards don't fit the settings, or are damaged; a patient would be in another split
            than before; or nothing is left to append.
    """
    options = options or BuildOptions()
    if options.stage != "all":
        raise UserError("--append: one machine appends notes; leave out --stage and --share")
    Manifest.load(shards)  # else it isn't a folder of shards
    folder = shards / APPEND_FOLDER
    with disk_errors(shards):
        folder.mkdir(exist_ok=True, mode=0o700)
        with lock(folder, shared=False):
            shutil.rmtree(folder / _DONE, ignore_errors=True)
            try:
                before = Manifest.load(shards)
                _check_tokenizer(before, shards, tokenizer)
                with collected_seldom(), Workers(options.workers) as workers:
                    return _append(notes, shards, before, settings, workers)
            finally:
                if not (folder / _BUILD).exists():
                    shutil.rmtree(folder)


def _append(
    notes: Sequence[Path], shards: Path, before: Manifest, settings: ShardSettings, workers: Workers
) -> Manifest:
    if before.withdrawn:
        say(f"{withdrawn_before(before)}, which don't say who: keep their notes out of what you append")
    try:
        inputs = open_inputs(notes, settings)
    except UserError as error:
        raise UserError(str(error).replace(BY_NOTE, "")) from None
    for entry in inputs:
        say(entry.describe())
    key = load_key_of(shards, before.patient_key_id, Path(settings.patient_key) if settings.patient_key else None)
    start = Start(next_part(before), before.counts["kept"], len(before.settings["inputs"]))
    whitespace = before.unknown.written_as_spaces
    build = ShardBuild(shards / APPEND_FOLDER / _BUILD, settings, before.tokenizer, whitespace, key, start)
    listed = settings.split.lists.read()
    plan = make_plan(build, inputs, hash_inputs(build, inputs, BuildOptions()), listed)
    if (staged := _staged(build)) and staged.fingerprint == before.fingerprint:  # killed behind the last rename
        _finish(build, shards, workers)
    if before.appended and before.settings["inputs"][-before.appended[-1].inputs :] == plan["inputs"]:
        say(f"{shards}: these notes were appended before; nothing is left to do")
        add_missing_report(shards, workers)
        return before
    check_lists(before, settings.split.lists, shards)
    known = {entry["sha256"] for entry in before.settings["inputs"]}
    for entry, described in zip(inputs, plan["inputs"], strict=True):
        if described["sha256"] in known:
            raise UserError(f"{entry.path}: already in {shards}, byte for byte; leave it out")
    prepare_folder(build, plan | {"appended_to": before.fingerprint})
    if not _staged(build):
        try:
            _stage(build, before, plan, inputs, workers, hash_lists(build, listed))
        except LostWorkerError:
            raise
        except UserError:
            if not (build.work / "packed").exists():  # another start would say the same
                shutil.rmtree(build.out)
            raise
    return _install(build, shards, workers)


def _stage(
    build: ShardBuild,
    before: Manifest,
    plan: dict[str, Any],
    inputs: list[Input],
    workers: Workers,
    listed: dict[bytes, int],
) -> None:
    """Make all that is to be moved into the shard folder. The user's lists are those of `hash_lists`."""
    shards = build.out.parents[1]
    if not build.tokenizer_folder.exists():
        copy = build.work / TOKENIZER_FOLDER
        shutil.rmtree(copy, ignore_errors=True)
        copy_files(shards / TOKENIZER_FOLDER, copy)
        copy.replace(build.tokenizer_folder)
    scanned = scan(inputs, build, BuildOptions(), workers)
    assert scanned is not None, "only a share of the notes was scanned"
    earlier = EarlierNotes.read(shards, before, scanned, build, workers)
    if listed:
        apply_lists(scanned, inputs, build, listed, listed_before(earlier, listed, shards))
    keep = make_keep_list(scanned, build, workers, earlier)
    rule = build.settings.split
    groups = earlier.count_groups(groups_of(keep, rule.by == "admission"))
    if rule.needs_identity or listed:
        check_sides(keep, groups, before, inputs, rule)
    packed = pack(keep, build, workers)
    tables = (pa.Table.from_batches([batch]) for batch in record_batches(shards / NOTES_TABLE_NAME))
    write_notes(build.out, chain(tables, notes_tables(keep, build.start.input, groups)))
    settings = before.settings | {"inputs": [*before.settings["inputs"], *plan["inputs"]], "split": plan["split"]}
    new = make_manifest(packed, keep, build, settings, groups)
    join(before, new, plan["reading"]).save(build.work)


def _staged(build: ShardBuild) -> Manifest | None:
    """The manifest of all notes, if nothing is left to do but to move files."""
    return Manifest.load(build.work) if (build.work / MANIFEST_NAME).exists() else None


def _install(build: ShardBuild, shards: Path, workers: Workers) -> Manifest:
    """Move what was made into the shard folder. Again after a kill, it moves what is left.

    Raises:
        UserError: a file that was moved before isn't there any more.
    """
    manifest = Manifest.load(build.work)
    known = {entry.path for split in Manifest.load(shards).splits.values() for entry in split.files}
    for split in SPLITS:
        made = sorted((build.out / split).glob("*.arrow"))
        if made:
            (shards / split).mkdir(exist_ok=True, mode=0o700)
        for path in made:
            path.replace(shards / split / path.name)
        if made:
            flush_folder(shards / split)
    for entry in (entry for split in manifest.splits.values() for entry in split.files if entry.path not in known):
        if not (shards / entry.path).is_file() or file_sha256(shards / entry.path) != entry.sha256:
            is_early = (build.out / NOTES_TABLE_NAME).exists()
            remedy = (
                f"delete {shards / APPEND_FOLDER}, and append again"
                if is_early
                else "build the shards again from all notes"
            )
            raise UserError(f"{shards / entry.path}: made by this appending, but gone or changed since; {remedy}")
    for name in REPORT_NAMES:
        (shards / name).unlink(missing_ok=True)
    if (build.out / NOTES_TABLE_NAME).exists():
        (build.out / NOTES_TABLE_NAME).replace(shards / NOTES_TABLE_NAME)
    manifest.save(shards)
    _finish(build, shards, workers)
    return manifest


def _finish(build: ShardBuild, shards: Path, workers: Workers) -> None:
    """Write the report, and delete what isn't needed any more."""
    add_missing_report(shards, workers)
    done = build.out.with_name(_DONE)
    build.out.replace(done)
    shutil.rmtree(done)


def _check_tokenizer(manifest: Manifest, shards: Path, tokenizer: str | None) -> None:
    """Refuse a damaged tokenizer, and another one."""
    try:
        own = tokenizer_sha256(Tokenizer.from_file(str(shards / TOKENIZER_FOLDER / "tokenizer.json")))
    except Exception:  # tokenizers has no class of its own for errors
        own = ""
    if own != manifest.tokenizer.sha256:
        raise UserError(f"{shards / TOKENIZER_FOLDER}: missing, or not that of the manifest; copy the shards again")
    if tokenizer is not None and tokenizer_sha256(load_tokenizer(tokenizer).backend_tokenizer) != own:
        raise UserError(f"--tokenizer {tokenizer}: not the one of {shards}; leave it out to append with theirs")
