"""After the scan: put each note into the split that the user's lists say. No identifier is kept, only keyed hashes."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from tokenizer_tools.corpus.input_files import Input
from tokenizer_tools.corpus.split_lists import ListedSplits
from tokenizer_tools.corpus.split_patients import patient_hash
from tokenizer_tools.files import write_json
from tokenizer_tools.manifest import SPLITS
from tokenizer_tools.shards.folder import ShardBuild
from tokenizer_tools.shards.scan import Named, Outcome, ScannedNotes, place_of


def hash_lists(build: ShardBuild, identifiers: dict[str, int]) -> dict[bytes, int]:
    """The split of each identifier, from `SplitLists.read`, by its keyed hash."""
    what = build.settings.split.lists.of
    return {patient_hash(build.patient_key, f"{what} {name}").encode(): split for name, split in identifiers.items()}


def apply_lists(
    scanned: ScannedNotes,
    inputs: list[Input],
    build: ShardBuild,
    hashed: dict[bytes, int],
    earlier_patients: Iterable[bytes] = (),
) -> None:
    """Change the splits of the scanned notes, and drop those on no list. A second call changes nothing more.

    Args:
        scanned: the notes.
        inputs: where they are from.
        build: the build.
        hashed: from `hash_lists`.
        earlier_patients: hashes of those who have notes in the shards that these notes are appended to.

    Raises:
        UserError: see `ListedSplits.check`.
    """
    rule = build.settings.split
    if not hashed or _done(build).exists():
        return
    listed = ListedSplits(rule.lists, hashed, rule.by)
    for patient in earlier_patients:
        listed.see(patient, b"", None)
    for number in range(scanned.parts):
        places = zip(*scanned.columns(number, "sources", "rows"), strict=True)
        for (patient, admission), place in zip(_people(scanned, number), places, strict=True):
            listed.see(patient, admission, place)
    counts = listed.check(lambda place: place_of(inputs[place[0]], int(place[1])))
    for number in range(scanned.parts):
        splits, outcomes = scanned.columns(number, "splits", "outcomes")
        for i, (patient, admission) in enumerate(_people(scanned, number)):
            split = listed.split_of(patient, admission, int(splits[i]))
            if split is not None:
                splits[i] = split
            elif outcomes[i] == Outcome.KEPT:
                outcomes[i] = Outcome.DROPPED_UNLISTED
        scanned.replace(number, splits=splits, outcomes=outcomes)
    write_json(_done(build), counts | {"listed_elsewhere_by_admission": listed.shared})


def listed_counts(build: ShardBuild) -> dict[str, int]:
    """Counts for the manifest, from `ListedSplits.check`; none without lists."""
    return json.loads(_done(build).read_text()) if _done(build).exists() else {}


def describe_lists(build: ShardBuild, listed: dict[str, int]) -> dict[str, Any]:
    """What the shards depend on: of each list its length, and a keyed hash that tells it from others.

    Args:
        build: the build.
        listed: from `SplitLists.read`.
    """
    described: dict[str, Any] = {"of": build.settings.split.lists.of}
    of_split: dict[int, list[str]] = {}
    for identifier, split in listed.items():
        of_split.setdefault(split, []).append(identifier)
    for split, identifiers in sorted(of_split.items()):
        name = patient_hash(build.patient_key, "\n".join(["list", *sorted(identifiers)]))
        described[SPLITS[split]] = {"ids": len(identifiers), "hash": name}
    return described


def _done(build: ShardBuild) -> Path:
    """Written when all splits are changed."""
    return build.scan_folder / "lists.json"


def _people(scanned: ScannedNotes, number: int) -> Iterator[tuple[bytes, bytes]]:
    """The hashes of the patient and of the admission of each note of a part, empty where they aren't known."""
    named, groups, admissions = scanned.columns(number, "named", "groups", "admissions")
    yield from zip(np.where(named == Named.PATIENT, groups, b""), admissions, strict=True)
