"""A user's own split: files that list the patients, or the admissions, of train, validation and test."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

from tokenizer_tools.corpus.identifier_lists import read_identifiers
from tokenizer_tools.errors import UserError
from tokenizer_tools.manifest import SPLITS

Id = TypeVar("Id", bound=Hashable)


@dataclass(frozen=True)
class SplitLists:
    """Files with the user's own split, an identifier on each line."""

    train: str | None = None
    """Who is trained on. With it, notes of others are dropped and counted; without it, who is on no list is divided by
    the shares among the splits that have no list."""
    validation: str | None = None
    """Who is in the validation split; nobody else is."""
    test: str | None = None
    """Who is in the test split; nobody else is."""
    of: Literal["patient", "admission"] = "patient"
    """What the identifiers are. The patient of a listed admission is in its split with all notes, unless split by note:
    then each note is where its own admission is."""

    def files(self) -> dict[str, str]:
        """The file of each split that has one."""
        return {split: path for split in SPLITS if (path := getattr(self, split)) is not None}

    def read(self) -> dict[str, int]:
        """The split of each identifier, as an index into SPLITS. Spelt as `identifier_of` does.

        Raises:
            UserError: a file can't be read or is empty, a line is no identifier, or one is on two lists.
        """
        listed: dict[str, int] = {}
        places: dict[str, str] = {}
        repeated, first = 0, ""
        for split, path in self.files().items():
            number = SPLITS.index(split)
            for place, identifier in read_identifiers(Path(path), f"--split.lists.{split}"):
                if listed.setdefault(identifier, number) != number:
                    repeated, first = repeated + 1, first or f"{place} and {places[identifier]}"
                places.setdefault(identifier, place)
        if repeated:
            raise UserError(
                f"{first}: the same {self.of} on two lists ({repeated:,} such lines); keep it on one of them"
            )
        return listed


class ListedSplits(Generic[Id]):
    """The split of each note by the lists. All notes are shown to `see` before the first is asked for."""

    def __init__(self, lists: SplitLists, listed: dict[Id, int], by: str) -> None:
        """Args:
        lists: the user's files.
        listed: their identifiers, perhaps hashed, with the split of each.
        by: what the split keeps together.
        """
        self._lists, self._listed, self._by = lists, listed, by
        self._of_patient = listed if lists.of == "patient" else {}
        self._seen: set[Id] = set()
        self._divided: list[Any] = []
        self._held_out: dict[Id, int] = {}
        self.shared = 0
        """Notes so far of an admission that a patient on the list of another, held-out split has, too."""

    def see(self, patient: Id | None, admission: Id | None, place: Any) -> None:
        """Learn whose a note is.

        Args:
            patient: missing (falsy) if it isn't known.
            admission: likewise.
            place: where the note stands: what `check` makes a message of.
        """
        identifier = patient if self._lists.of == "patient" else admission
        if not identifier or identifier not in self._listed:
            return
        self._seen.add(identifier)
        split = self._listed[identifier]
        if self._lists.of == "patient":
            if admission and split != SPLITS.index("train"):
                self._held_out[admission] = split
        elif patient and self._by != "note" and self._of_patient.setdefault(patient, split) != split:
            self._divided.append(place)

    def check(self, describe: Callable[[Any], str] = str) -> dict[str, int]:
        """Compare the lists with the notes that were seen.

        Args:
            describe: what says in words where a note stands.

        Returns:
            Counts: identifiers on the lists, and those of them that no note has.

        Raises:
            UserError: a patient has admissions on two lists, or no note has an identifier of a list.
        """
        if self._divided:
            raise UserError(
                f"{describe(self._divided[0])}: this patient has admissions on two lists ({len(self._divided):,} such "
                "notes); keep all of a patient's admissions on one list, or split by --split.by note (the patient is "
                "then trained on and held out at once)"
            )
        for split, path in self._lists.files().items():
            if not any(self._listed[identifier] == SPLITS.index(split) for identifier in self._seen):
                raise UserError(
                    f"{path}: no note has one of these {self._lists.of}s (--split.lists.{split}); check the list, or "
                    "say with --split.lists.of whether it holds patients or admissions"
                )
        return {"listed_ids": len(self._listed), "listed_ids_without_notes": len(self._listed) - len(self._seen)}

    def split_of(self, patient: Id | None, admission: Id | None, drawn: int) -> int | None:
        """The split of a note as an index into SPLITS; None if it is dropped.

        Args:
            patient: missing (falsy) if it isn't known.
            admission: likewise.
            drawn: the split by the shares alone.
        """
        split = self._split_of(patient, admission, drawn)
        if split is not None and admission and self._held_out.get(admission, split) != split:
            self.shared += 1
        return split

    def _split_of(self, patient: Id | None, admission: Id | None, drawn: int) -> int | None:
        found: Any = self._of_patient.get(patient) if patient else None
        if self._lists.of == "admission" and admission and (not patient or self._by == "note"):
            found = self._listed.get(admission)
        if found is not None:
            return int(found)
        if self._lists.train is not None:
            return None
        return drawn if getattr(self._lists, SPLITS[drawn]) is None else SPLITS.index("train")
