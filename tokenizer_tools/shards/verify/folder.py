"""Checks of the shard folder as files: what lies there, who may read it, hashes, manifest and tokenizer."""

from __future__ import annotations

import json
import re
import stat
from itertools import accumulate
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from tokenizer_tools.files import file_sha256
from tokenizer_tools.manifest import (
    APPEND_FOLDER,
    MANIFEST_NAME,
    NOTES_TABLE_NAME,
    REPORT_NAMES,
    TOKENIZER_FOLDER,
    Manifest,
    ShardFile,
    SplitInfo,
    fingerprint,
)
from tokenizer_tools.shards.folder import finish_append
from tokenizer_tools.shards.verify.checks import COPY, REBUILD, Check
from tokenizer_tools.tokenizer.identity import tokenizer_sha256, vocab_sha256
from tokenizer_tools.wording import byte_count

_TOKENIZER_FILES = [f"{TOKENIZER_FOLDER}/{name}" for name in ("tokenizer.json", "tokenizer_config.json")]
_ROLES = {
    "mask_id": ("mask_token",),
    "pad_id": ("pad_token",),
    "unknown_id": ("unk_token",),
    "begin_id": ("cls_token", "bos_token"),
    "end_id": ("sep_token", "eos_token"),
}
"""Ids of the manifest, and the names of their tokens in tokenizer_config.json; the first that is there counts."""


def check_files(folder: Path, manifest: Manifest) -> tuple[Check, set[str]]:
    """Compare the files with those that a build writes. Returns also the files that are there, of those."""
    check, expected = Check("files"), {MANIFEST_NAME, NOTES_TABLE_NAME, *REPORT_NAMES, *_TOKENIZER_FILES}
    for split, info in manifest.splits.items():
        before = -1
        for entry in info.files:
            number = re.fullmatch(rf"{split}/part-(\d{{5,9}})\.arrow", entry.path)
            if number is None or int(number[1]) <= before:
                check.fault("not the next shard file of its split, by its name", f"{MANIFEST_NAME}, {entry.path!r}")
                continue
            before = int(number[1])
            expected.add(entry.path)
    there, foreign, size = set[str](), set[str](), 0
    folders = {str(Path(name).parent) for name in expected}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if name in expected and path.is_file():
            there.add(name)
            size += path.stat().st_size
        elif name in folders and path.is_dir() and not path.is_symlink():
            continue
        elif (folder / APPEND_FOLDER).exists() and path.match("*/part-*.arrow"):
            continue  # its own, or moved from there
        elif not any(name.startswith(f"{above}/") for above in foreign):
            foreign.add(name)
            if name == APPEND_FOLDER:
                check.fault("an unfinished appending", f"{APPEND_FOLDER}/", finish_append(folder) or "")
            elif name == "work":
                check.fault("left over by a build", "work/", "run the same build-shards command again: it deletes this")
            else:
                check.fault("not a file of these shards", name, "move it elsewhere, or delete it")
    for name in sorted(expected - there - set(REPORT_NAMES)):
        check.fault("missing", name, COPY)
    check.found = f"{len(there):,} files, {byte_count(size)}"
    return check, there


def check_modes(folder: Path) -> Check:
    """Nobody but the owner may read, write or enter anything, as build-shards leaves it."""
    check, opened = Check("modes"), dict[str, list[str]]()
    for path in (folder, *sorted(folder.rglob("*"))):
        place = "the folder" if path == folder else path.relative_to(folder).as_posix()
        if path != folder and path.is_symlink():
            check.fault("a link: what it leads to isn't checked", place, "put the file itself here")
        elif mode := stat.S_IMODE(path.stat().st_mode) & 0o077:
            who = "the group" if not mode & 0o007 else "other users"
            opened.setdefault(who, []).append(f"{place} (mode {stat.S_IMODE(path.stat().st_mode):o})")
    for who, places in opened.items():
        more = f" and {len(places) - 1:,} more" if len(places) > 1 else ""
        check.fault(f"open to {who}", f"{places[0]}{more}", f"chmod -R go= {folder}")
    check.found = "someone else has access" if check.faults else "only the owner has access"
    return check


def check_sha256(folder: Path, files: list[ShardFile]) -> Check:
    """Hash the shard files again."""
    check, wrong = Check("sha256"), 0
    for entry in files:
        try:
            differs = file_sha256(folder / entry.path) != entry.sha256
        except OSError as error:
            check.fault(f"cannot be read ({error.strerror})", entry.path, COPY)
            differs = True
        else:
            if differs:
                check.fault("other bytes than those whose sha256 is in the manifest", entry.path, COPY)
        wrong += differs
    check.found = f"{wrong:,} of {len(files):,} shard files differ" if wrong else f"{len(files):,} shard files"
    return check


def check_fingerprint(manifest: Manifest) -> Check:
    """Compute the fingerprint again from what the manifest says of the tokenizer and of each file."""
    files = [entry for split in manifest.splits.values() for entry in split.files]
    computed = fingerprint(manifest.tokenizer.sha256, manifest.sequence_length, files)
    check = Check("fingerprint", computed[:16])
    check.compare("fingerprint", MANIFEST_NAME, computed, manifest.fingerprint)
    for entry in manifest.appended:
        if entry.sequences:
            numbers = {name: entry.sequences.get(name, 0) for name in manifest.splits}
            first = [file for name, split in manifest.splits.items() for file in _first(split, numbers[name])]
            earlier = fingerprint(manifest.tokenizer.sha256, manifest.sequence_length, first)
            check.compare("fingerprint of the shards before an appending", MANIFEST_NAME, earlier, entry.fingerprint)
    return check


def _first(split: SplitInfo, sequences: int) -> list[ShardFile]:
    """The files of a split's first sequences."""
    starts = accumulate((entry.sequences for entry in split.files), initial=0)
    return [entry for entry, start in zip(split.files, starts, strict=False) if start < sequences]


def check_manifest(manifest: Manifest) -> Check:
    """Compare what the manifest says twice."""
    check, plan = Check("manifest", f"format {manifest.format_version}"), manifest.settings
    twice: dict[str, tuple[object, object]] = {
        "sequence_length": (manifest.sequence_length, plan.get("sequence_length")),
        "tokenizer": (manifest.tokenizer.identity(), plan.get("tokenizer")),
        "split_rule": (manifest.split_rule, {"hash": "sha256", **plan["split"]}),
        "cleaning_rules": (manifest.cleaning_rules, plan.get("cleaning")),
        "notes_per_part": (manifest.notes_per_part, plan.get("notes_per_part")),
        "copied": (manifest.copied is not None, plan.get("duplicates", {}).get("copied") == "drop"),
        "patient_key_id": (manifest.patient_key_id, plan.get("patient_key_id")),
    }
    for name, (value, planned) in twice.items():
        if value != planned:
            check.fault(f"{name} isn't that of the settings of the build", MANIFEST_NAME)
    counts = manifest.counts
    accounted = sum(count for name, count in counts.items() if name == "kept" or name.startswith("dropped_"))
    check.compare("notes kept and dropped, together", MANIFEST_NAME, accounted, counts.get("read"))
    withdrawn = sum(entry.notes for entry in manifest.withdrawn)
    check.compare("notes withdrawn, together", MANIFEST_NAME, withdrawn, counts.get("dropped_withdrawn", 0))
    return check


def check_tokenizer(folder: Path, manifest: Manifest) -> tuple[Check, Tokenizer | None]:
    """Compare the saved tokenizer with the manifest. Returns also the tokenizer, if it can be read."""
    info, file, config_file = manifest.tokenizer, folder / _TOKENIZER_FILES[0], folder / _TOKENIZER_FILES[1]
    check = Check("tokenizer", f"{info.name}, {info.vocab_size:,} entries")
    try:
        backend = Tokenizer.from_file(str(file))
    except Exception:  # tokenizers has no class of its own for errors
        check.fault("damaged, not a tokenizer", _TOKENIZER_FILES[0], COPY)
        return check, None
    vocabulary = backend.get_vocab()
    found = {
        "sha256": tokenizer_sha256(backend),
        "vocab_sha256": vocab_sha256(vocabulary),
        "vocab_size": max(vocabulary.values(), default=-1) + 1,
    }
    for name, value in found.items():
        check.compare(name, _TOKENIZER_FILES[0], value, getattr(info, name), COPY)
    check.compare("id of unknown_token", MANIFEST_NAME, vocabulary.get(info.unknown_token), info.unknown_id)
    placeholder = None if info.placeholder is None else vocabulary.get(info.placeholder)
    check.compare("id of placeholder", MANIFEST_NAME, placeholder, info.placeholder_id)
    for token, token_id in info.typed_placeholders.items():
        check.compare(f"id of {token}", MANIFEST_NAME, vocabulary.get(token), token_id)
    try:
        config: dict[str, Any] = json.loads(config_file.read_text(encoding="utf-8"))
        tokens = {name: next(config[role] for role in roles if role in config) for name, roles in _ROLES.items()}
    except (OSError, ValueError, TypeError, StopIteration):
        check.fault("damaged: not all special tokens are there", _TOKENIZER_FILES[1], COPY)
        return check, backend
    for name, token in tokens.items():
        check.compare(name, _TOKENIZER_FILES[1], vocabulary.get(str(token)), getattr(info, name), REBUILD)
    return check, backend
