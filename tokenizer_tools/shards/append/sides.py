"""Check that nobody stands in another split than before, when notes are appended to shards."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from tokenizer_tools.corpus.deduplicate import HASH_DTYPE
from tokenizer_tools.corpus.input_files import Input
from tokenizer_tools.corpus.split_lists import SplitLists
from tokenizer_tools.corpus.split_patients import SplitRule
from tokenizer_tools.errors import UserError
from tokenizer_tools.manifest import SPLITS, Manifest
from tokenizer_tools.shards.earlier_notes import EarlierNotes, GroupNotes
from tokenizer_tools.shards.keep_list import KeepList
from tokenizer_tools.shards.scan import Named, place_of


def check_lists(before: Manifest, lists: SplitLists, shards: Path) -> None:
    """Check that the user's own lists are of the kind that the shards were split by."""
    given, described = list(lists.files()), before.split_rule.get("lists", {})
    if given != (wanted := [split for split in SPLITS if split in described]):
        names = ", ".join(f"--split.lists.{split}" for split in wanted) or "no list"
        raise UserError(
            f"{shards}: split by your own lists ({names}), which shards don't hold; give these, with the new patients "
            "added, and no others"
        )
    if given and "admission" in (lists.of, described["of"]):
        raise UserError(
            f"{shards}: split by lists of admissions, which shards don't keep; build them again from all notes"
        )


def listed_before(earlier: EarlierNotes, listed: dict[bytes, int], shards: Path) -> list[bytes]:
    """The listed patients who have earlier notes.

    Raises:
        UserError: one stands in another split than its list says.
    """
    found = earlier.count_groups(np.array(sorted(listed), HASH_DTYPE))
    there, elsewhere = found.notes.any(axis=1), found.notes.copy()
    elsewhere[np.arange(len(elsewhere)), [listed[group] for group in found.groups.tolist()]] = 0
    if count := int(elsewhere.any(axis=1).sum()):
        raise UserError(
            f"{shards}: {count:,} patients of --split.lists have notes in another split; leave them on the list where "
            "they were, or build the shards again from all notes"
        )
    patients: list[bytes] = found.groups[there].tolist()
    return patients


def groups_of(keep: KeepList, with_admissions: bool) -> npt.NDArray[np.bytes_]:
    """The hashes of whom the kept notes are, perhaps also of their admissions: sorted, each once."""
    names, found = ["groups", *(["admissions"] if with_admissions else [])], np.zeros(0, HASH_DTYPE)
    for number in range(keep.scanned.parts):
        for column in keep.scanned.columns(number, *names):
            found = np.union1d(found, column[keep.kept(number)])
    return found[found != b""]


def check_sides(keep: KeepList, groups: GroupNotes, before: Manifest, inputs: list[Input], rule: SplitRule) -> None:
    """Check that no one stands in another split than before. With `split.by note` that holds for the splits with a list
    alone: who has notes there was on it.

    Raises:
        UserError: someone would, or it can't be known.
    """
    has_patients = any(split.patients for split in before.splits.values())
    by_admission, listed = rule.by == "admission", rule.lists.files()
    is_open = np.array([rule.by == "note" and split not in listed for split in SPLITS])
    elsewhere, unsure = _Places(inputs), _Places(inputs)
    for number in range(keep.scanned.parts):
        columns = keep.scanned.columns(number, "groups", "admissions", "named", "splits", "sources", "rows")
        people, admissions, named, splits, sources, rows = (column[keep.kept(number)] for column in columns)
        places = list(zip(sources.tolist(), rows.tolist(), strict=True))
        before_of = groups.of(people)
        if by_admission:
            # An earlier note of the admission, whose patient nobody knew; or, under its patient, perhaps one that
            # shards don't tell from the patient's others.
            before_of = before_of + groups.of(admissions)
            is_alone = (named == Named.ADMISSION) & (before_of.sum(axis=1) == 0) & has_patients
            unsure.add(places, is_alone)
        before_of[np.arange(len(splits)), splits] = 0
        before_of[:, is_open] = 0
        elsewhere.add(places, np.asarray(before_of.any(axis=1)))
    elsewhere.refuse(
        "of a patient whose earlier notes are in another split than this one would be; build the shards again from all "
        "notes"
    )
    unsure.refuse(
        "names an admission and no patient, and the shards may hold the patient's notes in another split; name the "
        "patient's column with --columns.patient, or build the shards again from all notes"
    )


class _Places:
    """Notes that can't be appended: the first of them, and their number."""

    def __init__(self, inputs: list[Input]) -> None:
        self._inputs, self._count, self._first = inputs, 0, ""

    def add(self, places: list[tuple[int, int]], wrong: npt.NDArray[np.bool_]) -> None:
        """Add those of some notes, given by input and row, where `wrong` is true."""
        if not self._count and wrong.any():
            source, row = places[int(np.argmax(wrong))]
            self._first = place_of(self._inputs[source], row)
        self._count += int(wrong.sum())

    def refuse(self, why: str) -> None:
        """Raise a UserError, if there is one."""
        if self._count:
            raise UserError(f"{self._first}: {why} ({self._count:,} such notes)")
