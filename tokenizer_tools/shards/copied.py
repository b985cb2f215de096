"""Leave copied-forward paragraphs out: decide over the whole corpus which ones go, and take their token ids away.

A copy is a paragraph that stands word for word in an earlier note of the same patient. Which notes stay is decided
before, by their whole texts. Then a note that has nothing left is dropped, and so is one whose rest is what another
note says.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import IntEnum
from functools import partial
from itertools import accumulate, pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from tokenizer_tools.corpus.copied_paragraphs import TOO_SHORT, find_copies
from tokenizer_tools.manifest import CopiedParagraphs
from tokenizer_tools.progress import Progress
from tokenizer_tools.shards.folder import ShardBuild
from tokenizer_tools.shards.paragraphs import ParagraphStore
from tokenizer_tools.shards.scan import Outcome, ScannedNotes
from tokenizer_tools.shards.token_ids import PartIds, load_ids, load_text_of
from tokenizer_tools.shards.workers import Job, Workers, advance
from tokenizer_tools.tokenizer.unknown_characters import UnknownCount

PARAGRAPHS_IN_MEMORY = 2_000_000
"""Paragraphs that are compared at once, 100 bytes each."""
NOTES_IN_MEMORY = 4_000_000
"""Notes whose rests are compared at once, 60 bytes each."""
_ROW = np.dtype([("patient", np.uint64), ("hash", np.uint64), ("rank", np.int32), ("paragraph", np.int64)])
"""A paragraph while it is compared: half of the patient's hash, its own, the note's place in time, and its number."""


class Fate(IntEnum):
    """What becomes of a paragraph."""

    STAYS = 0
    LEFT_OUT = 1
    CANNOT_BE_CUT = 2
    """A copy that stays, as the note's ids without it can't be told."""


def leave_out_copies(
    scanned: ScannedNotes,
    outcomes: npt.NDArray[np.uint8],
    time_order: npt.NDArray[np.int32],
    build: ShardBuild,
    workers: Workers,
) -> None:
    """Decide which paragraphs are left out, and drop the notes of which nothing new is left. Memory: 1 byte for each
    paragraph, and what `PARAGRAPHS_IN_MEMORY` or the notes of the patient with the most need.

    Args:
        scanned: all notes.
        outcomes: (notes read,): Outcome. Is changed.
        time_order: (notes read,): the note's place among its patient's kept notes.
        build: the build.
        workers: run the cutting.
    """
    copies, starts = _copies(scanned, outcomes, time_order, build)

    def jobs() -> Iterator[Job]:
        for number in range(scanned.parts):
            yield partial(cut_part, number, copies[starts[number] : starts[number + 1]], build)

    with Progress("leaving out copied paragraphs", total=scanned.starts[-1]) as progress:
        workers.run(jobs(), progress)
    _drop_without_rest(scanned, outcomes, build)
    _drop_repeated(scanned, outcomes, build)


def _copies(
    scanned: ScannedNotes, outcomes: npt.NDArray[np.uint8], time_order: npt.NDArray[np.int32], build: ShardBuild
) -> tuple[npt.NDArray[np.bool_], list[int]]:
    """(paragraphs,): which ones of all parts are copies; (parts + 1,): the number of each part's first, and of all."""
    store = ParagraphStore.of(build)
    starts = [0, *accumulate(len(store.load(number, "hashes")) for number in range(scanned.parts))]
    copies = np.zeros(starts[-1], dtype=bool)
    buckets = [store.folder / f"bucket-{number:05d}" for number in range(-(-starts[-1] // PARAGRAPHS_IN_MEMORY))]
    for path in buckets:
        path.unlink(missing_ok=True)  # of a build that was killed
    for number in range(scanned.parts):
        kept = np.flatnonzero(outcomes[scanned.notes_of(number)] == Outcome.KEPT)
        rows = _long_paragraphs(number, kept, time_order[scanned.notes_of(number)][kept], scanned, build)
        rows["paragraph"] += starts[number]
        bucket = rows["patient"] % max(1, len(buckets))
        rows = rows[np.argsort(bucket, kind="stable")]
        bounds = np.searchsorted(np.sort(bucket), np.arange(len(buckets) + 1))
        for path, (start, stop) in zip(buckets, pairwise(bounds), strict=True):
            with path.open("ab") as stream:
                stream.write(rows[start:stop].tobytes())
    for path in buckets:
        rows = np.fromfile(path, _ROW)
        copies[rows["paragraph"]] = find_copies(rows["patient"], rows["hash"], rows["rank"])
        path.unlink()
    return copies, starts


def _long_paragraphs(
    number: int,
    notes: npt.NDArray[np.int64],
    ranks: npt.NDArray[np.int32],
    scanned: ScannedNotes,
    build: ShardBuild,
) -> npt.NDArray[Any]:
    """(paragraphs,), as `_ROW`: those of some notes of a part that aren't too short. Notes and paragraphs have their
    numbers in the part."""
    store, texts = ParagraphStore.of(build), load_text_of(number, build)[notes]
    starts = store.load(number, "starts")
    counts = starts[texts + 1] - starts[texts]
    places = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    rows = np.empty(len(places), _ROW)
    rows["paragraph"] = np.repeat(starts[texts], counts) + places
    rows["hash"] = store.load(number, "hashes")[rows["paragraph"]]
    hexadecimal = scanned.column(number, "groups")[notes].tobytes().decode()
    rows["patient"] = np.repeat(np.frombuffer(bytes.fromhex(hexadecimal), np.uint64)[::2], counts)
    rows["rank"] = np.repeat(ranks, counts)
    return rows[rows["hash"] != TOO_SHORT]


def cut_part(number: int, copies: npt.NDArray[np.bool_], build: ShardBuild) -> None:
    """Write the fates of a part's paragraphs, and what is left of its texts.

    Args:
        number: of the part.
        copies: (paragraphs of the part,), which ones are to be left out.
        build: the build.
    """
    store = ParagraphStore.of(build)
    starts, lengths, leading = (store.load(number, what) for what in ("starts", "lengths", "leading"))
    fates = copies.astype(np.uint8) * np.uint8(Fate.LEFT_OUT)
    for text in np.flatnonzero(_count_by_text(copies, starts)).tolist():
        own = slice(starts[text], starts[text + 1])
        stays = np.flatnonzero(~copies[own])
        if not len(stays):
            continue  # the note is dropped
        if lengths[own][0] < 0:
            fates[own][copies[own]] = Fate.CANNOT_BE_CUT
        elif leading[own][stays[0]] < 0:
            fates[starts[text]] = Fate.CANNOT_BE_CUT  # so that this paragraph stands first
    store.save(number, fates=fates)
    identities = store.load(number, "identities")
    if texts := _cut_texts(fates, starts):
        rest, identities = without_copies(number, load_ids(number, build), build), np.array(identities)
        for text in texts:
            identities[text] = rest.identity(text)
    store.save(number, cut_identities=identities)
    advance(len(load_text_of(number, build)))


def without_copies(number: int, part_ids: PartIds, build: ShardBuild) -> PartIds:
    """A part's token ids without those of the paragraphs that are left out. Texts that have no other are as before."""
    store = ParagraphStore.of(build)
    starts, lengths, leading, fates = (store.load(number, what) for what in ("starts", "lengths", "leading", "fates"))
    unknown = store.load_unknown(number)
    rests: dict[int, tuple[npt.NDArray[Any], UnknownCount]] = {}
    for text in _cut_texts(fates, starts):
        own = slice(starts[text], starts[text + 1])
        gone = fates[own] == Fate.LEFT_OUT
        stays = np.repeat(~gone, lengths[own])
        first = int(np.argmin(gone))
        start = int(lengths[own][:first].sum())
        stays[start : start + leading[own][first]] = False
        left_out = (unknown.get(paragraph) for paragraph in (np.flatnonzero(gone) + own.start).tolist())
        whole = part_ids.unknown.get(text, UnknownCount())
        rests[text] = (
            part_ids.of_text(text)[np.concatenate([[True], stays, [True]])],
            whole - sum(filter(None, left_out), UnknownCount()),
        )
    return part_ids.with_texts(rests)


def _count_by_text(chosen: npt.NDArray[np.bool_], starts: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """(texts,): how many of each text's paragraphs are chosen, (paragraphs,)."""
    return np.diff(np.concatenate([[0], np.cumsum(chosen)])[starts])


def _cut_texts(fates: npt.NDArray[np.uint8], starts: npt.NDArray[np.int64]) -> list[int]:
    """The texts of which some paragraphs are left out, and others aren't."""
    gone = _count_by_text(fates == Fate.LEFT_OUT, starts)
    cut: list[int] = np.flatnonzero((gone > 0) & (gone < np.diff(starts))).tolist()
    return cut


def _drop_without_rest(scanned: ScannedNotes, outcomes: npt.NDArray[np.uint8], build: ShardBuild) -> None:
    """Drop the notes of which each paragraph is left out."""
    store = ParagraphStore.of(build)
    for number in range(scanned.parts):
        starts, fates = store.load(number, "starts"), store.load(number, "fates")
        is_gone = (_count_by_text(fates != Fate.LEFT_OUT, starts) == 0)[load_text_of(number, build)]
        of_part = outcomes[scanned.notes_of(number)]
        of_part[is_gone & (of_part == Outcome.KEPT)] = Outcome.DROPPED_COPIED


def _drop_repeated(scanned: ScannedNotes, outcomes: npt.NDArray[np.uint8], build: ShardBuild) -> None:
    """Drop the notes whose rest is a whole note, or the rest of an earlier one in input order."""
    store, buckets = ParagraphStore.of(build), -(-len(outcomes) // NOTES_IN_MEMORY)
    for bucket in range(buckets):
        found = []
        for number in range(scanned.parts):
            notes = np.flatnonzero(outcomes[scanned.notes_of(number)] == Outcome.KEPT)
            texts = load_text_of(number, build)[notes]
            identities = store.load(number, "cut_identities")[texts]
            is_cut = np.isin(texts, _cut_texts(store.load(number, "fates"), store.load(number, "starts")))
            chosen = identities[:, 0] % buckets == bucket
            found.append((notes[chosen] + scanned.starts[number], identities[chosen], is_cut[chosen]))
        notes, identities, is_cut = (np.concatenate(column) for column in zip(*found, strict=True))
        order = np.lexsort((notes, is_cut, identities[:, 1], identities[:, 0]))
        is_same = np.append(False, (identities[order][1:] == identities[order][:-1]).all(axis=1))
        outcomes[notes[order[is_same & is_cut[order]]]] = Outcome.DROPPED_COPIED


def count_copied(
    number: int, notes: npt.NDArray[np.int64], whole: PartIds, rest: PartIds, build: ShardBuild
) -> CopiedParagraphs:
    """Count what is left out of the kept notes of a part.

    Args:
        number: of the part.
        notes: (kept notes,), their numbers in the part.
        whole, rest: the token ids before and after.
        build: the build.
    """
    store, texts = ParagraphStore.of(build), whole.text_of[notes]
    starts, fates = store.load(number, "starts"), store.load(number, "fates")
    by_fate = {fate: _count_by_text(fates == fate, starts)[texts] for fate in Fate}
    cut = texts[by_fate[Fate.LEFT_OUT] > 0].tolist()

    def count(ids: PartIds, token_id: int) -> int:
        return sum(int(np.count_nonzero(ids.of_text(text) == token_id)) for text in cut)

    return CopiedParagraphs(
        paragraphs=int(by_fate[Fate.LEFT_OUT].sum()),
        tokens=int((whole.lengths - rest.lengths)[notes].sum()),
        notes=len(cut),
        cannot_be_cut=int(by_fate[Fate.CANNOT_BE_CUT].sum()),
        placeholder_tokens={
            token: count(whole, token_id) - count(rest, token_id)
            for token, token_id in build.tokenizer.placeholder_ids.items()
        },
    )
