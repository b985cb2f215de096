"""A shard folder while it is being built: what lies where, who may write, and which earlier build may be resumed.

    manifest.json, notes.arrow, tokenizer/, SPLIT/part-N.arrow     the result
    work/plan.json             what the shards will depend on; its format version holds for all of work/
    work/inputs.json           after stage prepare: where each part begins in the inputs
    work/notes/                what is kept of the notes of each part, and done.json
    work/ids/                  the token ids of each part, until it is packed, or with pack timeline until all is
    work/near/                 for near-duplicates: signatures and shingles of each part, then what was decided
    work/paragraphs/           for copied paragraphs: hashes and token counts of all, then what was decided
    work/outcome.npy, work/time_order.npy     the keep list
    work/first_notes.npy       with pack timeline: whose notes are packed when
    work/packed/               one file per packed part, and with pack timeline one per shard file of patients

Every file is written under a temporary name and renamed, so a file that exists is complete.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from tokenizer_tools.corpus.clean_notes import clean, clean_in_paragraphs
from tokenizer_tools.corpus.placeholders import Replacement
from tokenizer_tools.errors import UserError
from tokenizer_tools.files import read_json, write_json
from tokenizer_tools.manifest import (
    APPEND_FOLDER,
    FORMAT_VERSION,
    MANIFEST_NAME,
    PLAN_NAME,
    TOKENIZER_FOLDER,
    Manifest,
    TokenizerInfo,
)
from tokenizer_tools.shards.append.settings import why_not_appendable
from tokenizer_tools.shards.settings import ShardSettings
from tokenizer_tools.shards.shingles import ShingleStore

_FULL_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@dataclass(frozen=True)
class Start:
    """Where the numbers of a build begin: after those of the shards that its notes are appended to."""

    part: int = 0
    note: int = 0
    input: int = 0


@dataclass(frozen=True)
class ShardBuild:
    """One build: its settings, and what was looked up for them. A copy goes to every worker process."""

    out: Path
    settings: ShardSettings
    tokenizer: TokenizerInfo
    unknown_whitespace: str
    """White space that the tokenizer doesn't know."""
    patient_key: bytes = field(repr=False)
    start: Start = Start()

    @property
    def work(self) -> Path:
        """The folder of everything unfinished, deleted in the end."""
        return self.out / "work"

    @property
    def tokenizer_folder(self) -> Path:
        """Where the shards keep their tokenizer."""
        return self.out / TOKENIZER_FOLDER

    @property
    def inputs_file(self) -> Path:
        """What stage prepare has learned of the inputs."""
        return self.work / "inputs.json"

    @property
    def scan_folder(self) -> Path:
        """What the scan keeps, but for token ids. Called otherwise than in versions that kept none."""
        return self.work / "notes"

    @property
    def ids_folder(self) -> Path:
        """Token ids of the parts that aren't packed yet."""
        return self.work / "ids"

    def scan_file(self, number: int) -> Path:
        """What the scan keeps of a part."""
        return self.scan_folder / f"part-{number:05d}.npz"

    @property
    def shingles(self) -> ShingleStore:
        """What near-duplicates are found by."""
        return ShingleStore(self.work / "near", self.settings.duplicates)

    def packed_file(self, number: int) -> Path:
        """Which shard files a part became; written after them."""
        return self.work / "packed" / f"part-{number:05d}.json"

    def timelines_file(self, number: int) -> Path:
        """Which shard files the notes of some patients became; written after them."""
        return self.work / "packed" / f"timelines-{number:05d}.json"

    def shard_path(self, split: str, number: int) -> str:
        """The path of a shard file within the folder."""
        return f"{split}/part-{self.start.part + number:05d}.arrow"

    @property
    def appends(self) -> bool:
        """Whether the notes are appended to finished shards."""
        return self.start != Start()

    @property
    def id_dtype(self) -> np.dtype[Any]:
        """16-bit token ids where the vocabulary fits."""
        return np.dtype(np.uint16 if self.tokenizer.vocab_size <= 1 << 16 else np.int32)

    @cached_property
    def _replacement(self) -> Replacement:
        """What replaces placeholders, the same in all notes."""
        settings = self.settings
        return Replacement.chosen(settings.placeholder, self.tokenizer.placeholder, settings.surrogate_seed)

    def clean(self, text: str, person: str, placeholders: Counter[str] | None = None) -> str:
        """A note's text as it is hashed and tokenised.

        Args:
            text: as it was read.
            person: from `Note.person`.
            placeholders: is raised by what stands in the text; see `replace_placeholders`.
        """
        rules = self.settings.cleaning
        return clean(text, rules, self._replacement, self.unknown_whitespace, person, placeholders)

    def clean_in_paragraphs(
        self, text: str, person: str, placeholders: Counter[str] | None = None
    ) -> tuple[str, list[int]]:
        """The same text, and where its paragraphs end: see `clean_notes.clean_in_paragraphs`."""
        rules = self.settings.cleaning
        return clean_in_paragraphs(text, rules, self._replacement, self.unknown_whitespace, person, placeholders)


def is_prepared(build: ShardBuild, plan: dict[str, Any]) -> bool:
    """Whether `prepare_folder` would change nothing, so that several machines may start at once."""
    if (build.out / MANIFEST_NAME).exists():
        return True
    return build.tokenizer_folder.exists() and (build.out / PLAN_NAME).exists() and _read_plan(build) == plan


def prepare_folder(build: ShardBuild, plan: dict[str, Any]) -> Manifest | None:
    """Create the folder, or resume an earlier build with the same plan.

    Returns:
        The manifest, if the same shards are already finished.

    Raises:
        UserError: the folder holds shards with other settings, or anything else.
    """
    out, work = build.out, build.work
    if out.exists() and not out.is_dir():
        raise UserError(f"{out}: a file; --out takes a folder")
    if (out / MANIFEST_NAME).exists():
        manifest = Manifest.load(out)
        _refuse_other_notes(out, manifest, plan)
        _refuse_other_settings(out, manifest.settings, plan, "finished shards")
        shutil.rmtree(work, ignore_errors=True)
        return manifest
    if (out / PLAN_NAME).exists():
        earlier = _read_plan(build)
        if (work / "packed").exists():
            _refuse_other_settings(out, earlier, plan, "an unfinished build")
            return None
        if earlier == plan:
            return None
        # Nothing is packed yet: the user may have just corrected a setting.
        shutil.rmtree(work)
        shutil.rmtree(build.tokenizer_folder, ignore_errors=True)
    _refuse_unknown_files(out, work)
    out.mkdir(parents=True, exist_ok=True, mode=0o700)
    work.mkdir(exist_ok=True, mode=0o700)
    write_json(out / PLAN_NAME, plan)
    return None


def _read_plan(build: ShardBuild) -> dict[str, Any]:
    return read_json(build.out / PLAN_NAME, FORMAT_VERSION, f"delete {build.out}, or choose another --out")


def finish_append(shards: Path) -> str | None:
    """How to end an unfinished appending; None if there is none. Once files are being moved, it can't be given up."""
    folder = shards / APPEND_FOLDER
    if not folder.exists():
        return None
    remedy = "run the same build-shards --append command again"
    return (
        remedy
        if any((each / "work" / MANIFEST_NAME).exists() for each in folder.iterdir())
        else f"{remedy}, or delete {folder} to give it up"
    )


def other_version(path: Path) -> UserError:
    """What to say of a file in a subfolder of `work` that another version has written."""
    return UserError(f"{path}: of another version; delete {path.parents[2]}, or choose another --out")


def _refuse_other_notes(out: Path, manifest: Manifest, plan: dict[str, Any]) -> None:
    """Refuse notes that could be appended, where nothing else differs."""
    built = manifest.settings
    before, now = ([entry["sha256"] for entry in inputs] for inputs in (built["inputs"], plan["inputs"]))
    if before != now and built | {"inputs": plan["inputs"]} == plan and not why_not_appendable(manifest):
        raise UserError(
            f"{out}: holds finished shards of other notes; --append adds these to them, another --out builds anew"
        )


def _refuse_other_settings(out: Path, earlier: dict[str, Any], plan: dict[str, Any], what: str) -> None:
    differing = sorted(key for key in earlier.keys() | plan.keys() if earlier.get(key) != plan.get(key))
    if differing:
        raise UserError(
            f"{out}: holds {what} with other settings ({', '.join(differing)}); choose another --out, or delete it"
        )


def _refuse_unknown_files(out: Path, work: Path) -> None:
    """Refuse a folder with files that no build made."""
    leftovers = {"lock", "plan.json.tmp"}  # of a build that was killed right after its start
    unknown = [path for path in work.iterdir() if path.name not in leftovers] if work.is_dir() else []
    if out.exists() and (unknown or any(path != work for path in out.iterdir())):
        raise UserError(f"{out}: not empty, and holds no shards; choose another --out")


@contextlib.contextmanager
def lock(work: Path, shared: bool) -> Iterator[None]:
    """Let one build write here, or several that scan their shares (`shared`).

    Raises:
        UserError: another build holds the lock.
    """
    with (work / "lock").open("w+") as stream:
        try:
            fcntl.flock(stream, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"{work.parent}: another build is writing here; wait for it, or choose another --out"
            ) from None
        except OSError:  # a network file system without locks
            pass
        yield


@contextlib.contextmanager
def disk_errors(out: Path, what_is_kept: str = ": finished parts are kept") -> Iterator[None]:
    """Turn a full disk, and a file that can't be written, into a UserError."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL_DISK:
            raise UserError(
                f"{out}: the disk is full ({os.strerror(error.errno)}); free some space and run the same command "
                f"again{what_is_kept}"
            ) from None
        if error.filename is None:
            raise
        raise UserError(f"{error.filename}: {error.strerror}; choose another --out, or correct this") from None
