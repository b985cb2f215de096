"""What stage prepare learns of the inputs, so that machines that share the scan needn't read them whole.

It is their sha256, and where parts begin in them. A machine that scans a share believes it while names, sizes and times
of change stay the same. The machine that finishes the build computes each sha256 anew.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest

from tokenizer_tools.corpus.input_files import Input
from tokenizer_tools.corpus.note_files import FilePositions, find_positions
from tokenizer_tools.errors import UserError
from tokenizer_tools.files import file_sha256, write_atomically
from tokenizer_tools.shards.folder import ShardBuild
from tokenizer_tools.shards.settings import BuildOptions


@dataclass(frozen=True)
class PreparedInput:
    """One input, as it was when the build was prepared."""

    sha256: str
    state: str
    """From `state_of`."""
    files: list[FilePositions | None]


def state_of(entry: Input) -> str:
    """Hash of the names, sizes and times of change of an input's files."""
    lines = []
    for path in entry.files:
        stat = path.stat()
        lines.append(f"{path.relative_to(entry.path)} {stat.st_size} {stat.st_mtime_ns}")
    return hashlib.sha256(os.fsencode("\n".join(lines))).hexdigest()


def prepare_inputs(build: ShardBuild, inputs: Sequence[Input], hashes: Sequence[str], states: Sequence[str]) -> None:
    """Find where parts begin, unless an earlier call has, and keep it.

    Args:
        build: the build.
        inputs: its inputs.
        hashes: the sha256 of each.
        states: of each, from `state_of`, before its sha256 was computed.

    Raises:
        UserError: an input was changed meanwhile, or see `read_notes`.
    """
    if build.inputs_file.exists():
        return
    settings = build.settings
    positions = find_positions(inputs, settings.notes_per_part, settings.reading, settings.split)
    for entry, state in zip(inputs, states, strict=True):
        if state_of(entry) != state:
            raise UserError(f"{entry.path}: changed while it was read; run the same command again")
    records = [
        {"sha256": sha256, "state": state, "files": [file and file.to_json() for file in files]}
        for sha256, state, files in zip(hashes, states, positions, strict=True)
    ]
    write_atomically(build.inputs_file, json.dumps(records))


def prepared_inputs(build: ShardBuild) -> list[PreparedInput]:
    """What `prepare_inputs` has kept; empty if it never ran here."""
    if not build.inputs_file.exists():
        return []
    return [
        PreparedInput(one["sha256"], one["state"], [file and FilePositions.from_json(file) for file in one["files"]])
        for one in json.loads(build.inputs_file.read_text())
    ]


def hash_inputs(build: ShardBuild, inputs: Sequence[Input], options: BuildOptions) -> list[str]:
    """The sha256 of each input. A machine that scans a share reads only what has changed since it was prepared."""
    prepared = prepared_inputs(build) if options.stage == "scan" else []
    return [
        known.sha256 if known and known.state == state_of(entry) else _sha256(entry)
        for entry, known in zip_longest(inputs, prepared[: len(inputs)])
    ]


def _sha256(entry: Input) -> str:
    if not entry.is_folder:
        return file_sha256(entry.path)
    lines = [f"{file.relative_to(entry.path)} {file_sha256(file)}" for file in entry.files]
    return hashlib.sha256(os.fsencode("\n".join(lines))).hexdigest()  # names need not be UTF-8
