"""Checks over all notes: the notes table, patients, duplicates and unknown tokens."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tokenizer_tools.corpus.placeholders import TYPED_TOKENS
from tokenizer_tools.errors import UserError
from tokenizer_tools.manifest import MANIFEST_NAME, NOTES_TABLE_NAME, SPLITS, Manifest
from tokenizer_tools.shard_reading import HASH_CHARACTERS, patient_hashes, record_batches
from tokenizer_tools.shards.verify.checks import COPY, REBUILD, Check
from tokenizer_tools.shards.verify.sequences import FoundNotes
from tokenizer_tools.wording import counted

_COLUMNS = {"patient": pa.string(), "category": pa.string(), "source": pa.int16(), "time_order": pa.int32()}


@dataclass(frozen=True)
class NotesTable:
    """The columns of `notes.arrow` that are checked, a row per note."""

    groups: npt.NDArray[np.uint64]
    """(notes, 2): the keyed hash of the patient, else of the admission, else of the text."""
    sources: npt.NDArray[np.int16]
    """(notes,): which input."""
    time_order: npt.NDArray[np.int32]
    """(notes,): place among the patient's notes."""


def read_notes_table(folder: Path, check: Check) -> NotesTable | None:
    """Read `notes.arrow`; None if that isn't possible, which is a fault of the check of formats."""
    groups, sources, time_order = [np.zeros((0, 2), np.uint64)], [np.zeros(0, np.int16)], [np.zeros(0, np.int32)]
    try:
        for batch in record_batches(folder / NOTES_TABLE_NAME):
            batch.validate(full=True)
            if dict(zip(batch.schema.names, batch.schema.types, strict=True)) != _COLUMNS:
                named = ", ".join(f"{name} {kind}" for name, kind in _COLUMNS.items())
                check.fault(f"other columns or types than {named}", NOTES_TABLE_NAME)
                return None
            if any(column.null_count for column in batch.columns):
                check.fault("missing values", NOTES_TABLE_NAME)
                return None
            if batch.num_rows:
                groups.append(_hashes(batch.column("patient")))
                sources.append(batch.column("source").to_numpy())
                time_order.append(batch.column("time_order").to_numpy())
    except (UserError, pa.ArrowInvalid):
        check.fault("damaged, not a whole Arrow file", NOTES_TABLE_NAME, COPY)
        return None
    except ValueError:
        check.fault(f"patients aren't hashes of {HASH_CHARACTERS} hexadecimal characters", NOTES_TABLE_NAME)
        return None
    return NotesTable(np.concatenate(groups), np.concatenate(sources), np.concatenate(time_order))


def load_notes_table(folder: Path) -> NotesTable:
    """Read `notes.arrow`.

    Raises:
        UserError: it is missing or damaged.
    """
    check = Check("notes table")
    table = read_notes_table(folder, check)
    if table is None:
        raise UserError(f"{folder}/{check.faults[0].line()}")
    return table


def _hashes(column: Any) -> npt.NDArray[np.uint64]:
    """(notes, 2): hexadecimal texts as 128 bits.

    Raises:
        ValueError: one has another length, or isn't hexadecimal.
    """
    text = patient_hashes(column).tobytes().decode("ascii")
    return np.frombuffer(bytes.fromhex(text), np.uint64).reshape(len(column), 2)


def check_notes_table(table: NotesTable, notes: FoundNotes, manifest: Manifest) -> tuple[Check, bool]:
    """Compare the notes table with the notes of the shard files.

    Returns:
        The check, and whether each row is one note of the shard files, so that rows can be counted by split.
    """
    rows, check = len(table.sources), Check("notes table")
    check.found = f"{rows:,} notes"
    known = (notes.numbers >= 0) & (notes.numbers < rows)
    if not known.all():
        beyond = notes.numbers[~known]
        check.fault(f"not a row of the table, which has {rows:,}", f"note {beyond[0]:,}", count=len(beyond))
    numbers, splits = notes.numbers[known], notes.splits[known]
    times = np.bincount(numbers, minlength=rows)
    if len(missing := np.flatnonzero(times == 0)):
        check.fault("in no shard file", f"note {missing[0]:,}", count=len(missing))
    first_split = np.full(rows, -1, np.int8)
    first_split[numbers[::-1]] = splits[::-1]
    in_another = first_split[numbers] != splits
    if in_another.any():
        note, split = numbers[in_another][0], splits[in_another][0]
        place = f"note {note:,}, in {SPLITS[first_split[note]]} and {SPLITS[split]}"
        check.fault("in two splits", place, count=int(in_another.sum()))
    back = np.flatnonzero((np.diff(splits) == 0) & (np.diff(numbers) <= 0))
    if manifest.pack == "timeline":
        if len(again := np.flatnonzero(times > 1)):
            check.fault("twice in the shard files", f"note {again[0]:,}", count=len(again))
    elif len(back):
        place = f"{SPLITS[splits[back[0]]]}, note {numbers[back[0] + 1]:,} after {numbers[back[0]]:,}"
        check.fault("out of order, or twice", place, count=len(back))
    inputs = len(manifest.settings["inputs"])
    foreign = np.flatnonzero((table.sources < 0) | (table.sources >= inputs))
    if len(foreign):
        check.fault(f"not from one of the {inputs:,} inputs", f"note {foreign[0]:,}", count=len(foreign))
    for source in manifest.sources:
        found = int(np.isin(table.sources, source.inputs).sum())
        check.compare(f"notes of the source {source.name}", NOTES_TABLE_NAME, found, source.notes)
    _check_time_order(check, table)
    return check, bool(known.all() and (times == 1).all())


def _check_time_order(check: Check, table: NotesTable) -> None:
    """The notes of each patient are numbered from 0 without gaps."""
    order = np.lexsort((table.time_order, table.groups[:, 1], table.groups[:, 0]))
    position = np.arange(len(order))
    start_of_group = np.maximum.accumulate(np.where(run_starts(table.groups[order]), position, 0))
    wrong = np.flatnonzero(table.time_order[order] != position - start_of_group)
    if len(wrong):
        place = f"note {order[wrong].min():,}"
        check.fault("a patient's notes aren't numbered 0, 1, 2 … in time_order", place, count=len(wrong))


def run_starts(*columns: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """(rows,): True where a row of sorted columns, (rows,) or (rows, n), differs from the row before."""
    starts = np.ones(len(columns[0]), dtype=bool)
    starts[1:] = False
    for column in columns:
        differs = column[1:] != column[:-1]
        starts[1:] |= differs if differs.ndim == 1 else differs.any(axis=1)
    return starts


@dataclass(frozen=True)
class _People:
    """Whose the notes are, by the hashes of the notes table: patients, admissions, and notes that name neither."""

    distinct: int
    by_split: npt.NDArray[np.int64]
    """(splits,): distinct hashes of each split."""
    with_notes: npt.NDArray[np.int64]
    """(splits,): those of them with several notes, in any split. A note that names nobody has a hash of its own."""
    in_several: npt.NDArray[np.int64]
    """Of each hash that is in several splits, its first note in order."""


def _people(table: NotesTable, notes: FoundNotes) -> _People:
    splits = np.empty(len(notes.numbers), np.int8)
    splits[notes.numbers] = notes.splits
    order = np.lexsort((splits, table.groups[:, 1], table.groups[:, 0]))
    groups, splits = table.groups[order], splits[order]
    is_group, is_pair = run_starts(groups), run_starts(groups, splits)
    group = np.cumsum(is_group) - 1
    has_company = np.bincount(group)[group[is_pair]] > 1
    split_of_pair = splits[is_pair]
    return _People(
        distinct=int(is_group.sum()),
        by_split=np.bincount(split_of_pair, minlength=len(SPLITS)),
        with_notes=np.bincount(split_of_pair[has_company], minlength=len(SPLITS)),
        in_several=order[is_group][np.bincount(group[is_pair]) > 1],
    )


def check_patients(table: NotesTable, notes: FoundNotes, manifest: Manifest) -> Check:
    """Count whose the notes of each split are, and who is in several splits."""
    people, check = _people(table, notes), Check("patients")
    several, said = len(people.in_several), manifest.patients_in_several_splits
    who = "patients" if manifest.names_each_person else "patients, or notes that name none"
    check.found = f"{people.distinct:,} {who}"
    check.found += f", {several:,} in several splits" if several else ", none in two splits"
    if manifest.split_by != "note" and several:
        place = f"the patient of note {people.in_several[0]:,}"
        check.fault(f"in several splits, though split by {manifest.split_by}", place, count=several)
    elif manifest.split_by != "note" or not any(split.admissions for split in manifest.splits.values()):
        check.compare("patients in several splits", NOTES_TABLE_NAME, several, said)
    elif said > several:  # the manifest counts patients, and here are admissions, too
        check.compare("patients and admissions in several splits", NOTES_TABLE_NAME, several, said)
    for split, name in enumerate(SPLITS):
        info, most = manifest.splits[name], int(people.by_split[split])
        least = most if manifest.names_each_person else people.with_notes[split]
        people_said = info.patients + info.admissions
        if not least <= people_said <= most:
            check.compare("patients and admissions of the split", name, most, people_said)
    return check


def check_duplicates(notes: FoundNotes, manifest: Manifest) -> Check:
    """Find notes with the same token ids."""
    order = np.lexsort((notes.splits, notes.hashes[:, 1], notes.hashes[:, 0]))
    splits, hashes = notes.splits[order], notes.hashes[order]
    same = ~run_starts(hashes) & run_starts(notes.numbers[order])  # a note twice is the notes table's matter
    # Other texts may have the same tokens if they differ in nothing but characters that the tokenizer doesn't know.
    unsure = notes.is_empty[order] | (notes.has_unknown[order] & (manifest.unknown.tokens > 0))
    check = Check("duplicates", "no two notes with the same tokens")
    if count := int((same & unsure).sum()):
        check.found = f"{count:,} notes with the tokens of another, which may differ in unknown characters"
    across = same & run_starts(splits)
    for what, which in (("in another split", across), ("in the same split", same & ~across)):
        found = np.flatnonzero(which & ~unsure)
        if len(found):
            pair = order[found[0] - 1 : found[0] + 1]
            place = " and ".join(f"{SPLITS[notes.splits[i]]} note {notes.numbers[i]:,}" for i in pair)
            check.fault(
                f"the same tokens as another note {what}",
                place,
                f"{REBUILD}; if it comes again, the texts differ only in what the tokenizer ignores: drop one of them",
                len(found),
            )
    if check.faults:
        check.found = f"{sum(fault.count for fault in check.faults):,} notes with the tokens of another"
    return check


def check_unknown(found: int, tokens: int, manifest: Manifest) -> Check:
    """Compare the unknown tokens with what the manifest says.

    Args:
        found: unknown tokens in the shard files; placeholders, and special tokens that a note spelt out, among them.
        tokens: all tokens in the shard files.
        manifest: of the shards.
    """
    check, said, info = Check("unknown tokens"), manifest.unknown, manifest.tokenizer
    check.found = f"{f'{said.tokens:,}' if said.tokens else 'none'} of {counted(tokens, 'token')}"
    if others := max(0, found - said.tokens):
        nouns = ["special token spelt out in notes", "special tokens spelt out in notes"]
        if info.unknown_id in info.placeholder_ids.values():
            nouns = ["placeholder"]
        check.found += f", besides {counted(others, *nouns)}"
    if said.tokens > found:
        check.compare("unknown tokens", MANIFEST_NAME, found, said.tokens)
    check.compare("share of unknown tokens", MANIFEST_NAME, round(said.tokens / max(tokens, 1), 6), said.share)
    return check


def compare_placeholders(check: Check, found: Counter[str], manifest: Manifest) -> None:
    """Compare the tokens that stand for placeholders with what the manifest says of them.

    Args:
        check: gets the faults.
        found: tokens in the shard files; there may be more, which notes spelt out.
        manifest: of the shards.
    """
    if manifest.withdrawn:  # the manifest's are those of before
        return
    said, typed = manifest.placeholders, manifest.tokenizer.typed_placeholders
    kinds = {name: count for name, count in said.items() if name in (*TYPED_TOKENS, "underscores")}
    if typed:
        expected = {token: kinds.get(kind, 0) for kind, token in TYPED_TOKENS.items()}
        expected[TYPED_TOKENS["other"]] += kinds.get("underscores", 0)
    else:
        is_text = manifest.settings.get("placeholder") == "surrogates"
        expected = dict.fromkeys(found, said.get("without_surrogate", 0) if is_text else sum(kinds.values()))
    left_out = manifest.copied.placeholder_tokens if manifest.copied else {}
    for token, all_of_them in expected.items():
        count = all_of_them - left_out.get(token, 0)
        check.compare(f"tokens {token}", MANIFEST_NAME, min(found[token], count), count)
