"""Near-duplicates of the whole corpus.

Notes that share a band, directly or through others, form a component, and components are independent of each other. So
a job decides about some whole components; what it decides depends neither on the other jobs nor on their number.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from tokenizer_tools.corpus.near_duplicates import band_hashes, find_near_duplicates
from tokenizer_tools.progress import Progress
from tokenizer_tools.shards.shingles import Shingles, ShingleStore, save_array
from tokenizer_tools.shards.workers import Job, Workers, advance

NOTES_IN_MEMORY = 4_000_000
"""Notes whose bands are sorted at once, 50 bytes each."""
NOTES_PER_JOB = 20_000
"""Notes that a job compares, or more if a component is larger."""


def near_duplicates(
    store: ShingleStore,
    starts: Sequence[int],
    candidates: npt.NDArray[np.bool_],
    splits: npt.NDArray[np.uint8],
    workers: Workers,
    first_new: int = 0,
) -> npt.NDArray[np.int64]:
    """Find the notes to drop. Memory: 30 bytes per note.

    Args:
        store: their signatures and shingles, and the rules.
        starts: (parts + 1,), the number of each part's first note among all notes, and of all notes.
        candidates: (notes read,), which notes may be kept.
        splits: (notes read,), of each note.
        workers: run the comparisons.
        first_new: the notes before this one stay, whatever they are like.

    Returns:
        (notes to drop, 2): each one's number among all notes, and that of a near-duplicate that stays.
    """
    labels = _components(store, starts, candidates)
    if first_new:
        labels[~np.isin(labels, labels[first_new:])] = -1  # nothing is to be decided about components without new notes
    groups = _jobs_of(labels)

    def jobs() -> Iterator[Job]:
        for number, notes in enumerate(groups):
            if not store.verdict_file(number).exists():
                yield partial(_decide, number, notes, splits[notes], (store, starts), first_new)

    with Progress("comparing notes that may be near-duplicates", total=sum(map(len, groups))) as progress:
        workers.run(jobs(), progress)
    pairs = [np.zeros((0, 2), np.int64)]
    for number, notes in enumerate(groups):
        near_to = np.load(store.verdict_file(number))[0]
        pairs.append(np.stack([notes, near_to], axis=1)[near_to >= 0])
    return np.concatenate(pairs)


def count_crowded(store: ShingleStore) -> int:
    """How many kept notes weren't compared with all notes that share a band with them."""
    return sum(int(np.load(path)[1].sum()) for path in store.folder.glob("job-*.npy"))


def _decide(
    number: int,
    notes: npt.NDArray[np.int64],
    splits: npt.NDArray[np.uint8],
    stored: tuple[ShingleStore, Sequence[int]],
    first_new: int,
) -> None:
    """Write what becomes of some notes: (2, notes), as in `Verdict`, with note numbers among all notes."""
    store, starts = stored
    across = store.rules.near == "keep"
    order = np.lexsort((notes, splits, notes >= first_new)) if across else np.arange(len(notes))
    in_order, shingles = notes[order], Shingles(store, starts)
    numbers = in_order.tolist()
    verdict = find_near_duplicates(
        shingles.signatures(in_order),
        lambda place: shingles.of(numbers[place]),
        splits[order] if across else None,
        store.rules,
        int((notes < first_new).sum()),
    )
    decided = np.empty((2, len(notes)), np.int64)
    decided[0, order] = np.where(verdict.near_to >= 0, in_order[verdict.near_to], -1)
    decided[1, order] = verdict.crowded
    save_array(store.verdict_file(number), decided)
    advance(len(notes))


def _jobs_of(labels: npt.NDArray[np.int32]) -> list[npt.NDArray[np.int64]]:
    """Divide the notes of components of two and more into jobs: whole components, each in input order."""
    sizes = np.bincount(labels[labels >= 0], minlength=len(labels))
    notes = np.flatnonzero((labels >= 0) & (sizes[labels] > 1))
    notes = notes[np.argsort(labels[notes], kind="stable")]
    starts = np.flatnonzero(np.diff(labels[notes], prepend=-1))
    cuts, last = [], 0
    for start in starts.tolist():
        if start - last >= NOTES_PER_JOB:
            cuts.append(start)
            last = start
    return [np.sort(group) for group in np.split(notes, cuts) if len(group)]


def _components(store: ShingleStore, starts: Sequence[int], candidates: npt.NDArray[np.bool_]) -> npt.NDArray[np.int32]:
    """(notes read,): the lowest number of a note in the same component; -1 for what is no candidate."""
    labels = np.where(candidates, np.arange(len(candidates), dtype=np.int32), np.int32(-1))
    buckets = -(-len(labels) // NOTES_IN_MEMORY)
    for band in range(store.rules.bands):
        for bucket in range(buckets):
            hashes, notes = [], []
            for number, (start, stop) in enumerate(pairwise(starts)):
                values = store.signatures(number)[store.rules.band(band)]
                chosen = np.flatnonzero(candidates[start:stop] & (values[0] % buckets == bucket))
                hashes.append(band_hashes(values[:, chosen], band))
                notes.append(chosen + start)
            _unite(labels, np.concatenate(notes), np.concatenate(hashes))
    labels[candidates] = _roots(labels, np.flatnonzero(candidates))
    return labels


def _unite(labels: npt.NDArray[np.int32], notes: npt.NDArray[np.int64], hashes: npt.NDArray[np.uint64]) -> None:
    """Unite the components of notes with the same hash. Labels form trees, whose roots are their own labels."""
    if not len(notes):
        return
    order = np.argsort(hashes, kind="stable")
    is_first = np.append(True, hashes[order][1:] != hashes[order][:-1])
    is_alone = is_first & np.append(is_first[1:], True)
    members, starts = notes[order[~is_alone]], np.flatnonzero(is_first[~is_alone])
    sizes = np.diff(starts, append=len(members))
    while len(members):
        roots = labels[members] = _roots(labels, members)
        lowest = np.repeat(np.minimum.reduceat(roots, starts), sizes)
        if (roots == lowest).all():
            return
        np.minimum.at(labels, roots, lowest)


def _roots(labels: npt.NDArray[np.int32], notes: npt.NDArray[np.int64]) -> npt.NDArray[np.int32]:
    """(notes,): the root above each note."""
    roots = labels[notes]
    while ((above := labels[roots]) != roots).any():
        roots = above
    return roots
