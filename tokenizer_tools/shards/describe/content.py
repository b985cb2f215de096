"""What the report says, as plain values: no text of a note, no identifier, no small count. The page, the picture and
`report.json` are made from this alone."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tokenizer_tools.manifest import SPLITS, Manifest
from tokenizer_tools.shards.describe.count import Group, Integers, ShardCounts, count_shards
from tokenizer_tools.small_counts import SMALLEST, Shown, show, show_parts, show_total

FORMAT_VERSION = 1
MAX_GROUPS = 30
"""Largest number of categories, and of sources, that are shown."""
_LONGEST_NAME = 60
_PERCENTILES = (5, 25, 50, 75, 95)
_SETTINGS = {
    "split": ("by", "validation", "test", "seed"),
    "duplicates": ("near", "threshold", "ngram", "permutations", "copied", "copied_words"),
}
"""Settings that are shown, of those with parts. Others could hold a user's own words."""


@dataclass(frozen=True)
class Row:
    """The notes of a split, a category or a source, or all."""

    name: str
    merged: int
    """Number of rare or small groups that this is made of, and that aren't named; 0 for a group of its own."""
    notes: Shown
    patients: Shown | None
    """None if no note names a patient."""
    tokens: int
    tokens_per_note: float | None
    """None if the number of notes is hidden."""
    tokens_per_word: float | None
    """None if it isn't computed, or if there are no words."""
    broken_share: float | None
    """Share of words in four or more pieces."""


@dataclass(frozen=True)
class Bin:
    """Notes with `first` to `last` tokens. No bin has a small count: such bins are joined with the next."""

    first: int
    last: int
    half_octaves: int
    """Number of half-octave bins that it is made of."""
    notes: Shown


@dataclass(frozen=True)
class Lengths:
    """Tokens per note, those that begin and end it included."""

    bins: list[Bin]
    percentiles: dict[str, int]
    """Only those with at least 10 notes on both sides."""
    at_least: dict[str, Shown]
    """Number of notes with at least 512 tokens, and as many as a sequence, by the bins: only where one begins there."""


@dataclass(frozen=True)
class Rows:
    """The sequences that notes are packed into."""

    length: int
    count: int
    begin_within_note: int
    """Rows that begin with the rest of a note of the row before."""
    padding_share: float
    """Share of positions that stay empty."""


@dataclass(frozen=True)
class Unknown:
    """What the tokenizer can't represent, by the manifest."""

    tokens: int
    share: float
    characters: dict[str, int]
    """Those that occur at least 10 times."""
    rare_characters: int
    """Number of the others, of those that the manifest names."""
    written_as_spaces: list[str]
    """Code points of white space that became spaces."""
    lost_word_starts: int | None
    """Words right after an unknown character. None if they weren't counted."""


@dataclass(frozen=True)
class Copied:
    """Copied paragraphs that were left out, by the manifest."""

    paragraphs: int
    tokens: int
    notes: Shown
    """That they were left out of."""
    cannot_be_cut: int


@dataclass(frozen=True)
class ShardReport:
    """All of it."""

    fingerprint: str
    tokenizer: dict[str, Any]
    settings: dict[str, Any]
    versions: dict[str, str]
    patients_are: str
    """What is counted as a patient, in words."""
    read: Shown
    removed: dict[str, Shown]
    """Notes dropped, by reason."""
    kept_although: dict[str, Shown]
    """Kept notes without a time, and the like."""
    total: Row
    splits: list[Row]
    categories: list[Row]
    sources: list[Row]
    lengths: Lengths
    rows: Rows
    unknown: Unknown
    copied: Copied | None
    """None if copied paragraphs stay."""
    word_kind: str | None
    """How words were told apart in token ids; None if they couldn't be."""
    smallest_count: int = SMALLEST
    format_version: int = FORMAT_VERSION

    def to_json(self) -> dict[str, Any]:
        """As `report.json` holds it."""
        return asdict(self)


def make_report(folder: Path, manifest: Manifest) -> ShardReport:
    """Count what shards hold, and hide what is small.

    Raises:
        UserError: a file is missing or damaged.
    """
    counts = count_shards(folder, manifest, SMALLEST, MAX_GROUPS)
    patients_are, has_patients = _patients(manifest)
    said = manifest.counts
    dropped = {name.removeprefix("dropped_"): count for name, count in said.items() if name.startswith("dropped_")}
    kept_although = {name: count for name, count in said.items() if name.startswith("kept_")}
    groups = (counts.splits, counts.categories, counts.sources)
    splits, categories, sources = (_rows(several, has_patients) for several in groups)
    info, positions = manifest.tokenizer, counts.sequences * manifest.sequence_length
    return ShardReport(
        fingerprint=manifest.fingerprint,
        tokenizer={name: getattr(info, name) for name in ("name", "sha256", "vocab_size", "placeholder")},
        settings=_settings(manifest),
        versions=dict(sorted(manifest.versions.items())),
        patients_are=patients_are,
        read=show_total([said["kept"], *dropped.values()]),
        removed={name: show(count) for name, count in dropped.items()},
        kept_although={name.removeprefix("kept_"): show(count) for name, count in kept_although.items()},
        total=_row(counts.total, show(counts.total.notes), show(counts.total.patients) if has_patients else None),
        splits=splits,
        categories=categories,
        sources=sources,
        lengths=_lengths(counts, manifest.sequence_length),
        rows=Rows(
            length=manifest.sequence_length,
            count=counts.sequences,
            begin_within_note=counts.segments - counts.total.notes,
            padding_share=_share(positions - counts.total.tokens, positions),
        ),
        unknown=_unknown(manifest),
        copied=_copied(manifest),
        word_kind=counts.kind,
    )


def _patients(manifest: Manifest) -> tuple[str, bool]:
    """What is counted as a patient, and whether any note names one."""
    if not any(split.patients or split.admissions for split in manifest.splits.values()):
        return "no note names a patient", False
    if manifest.names_each_patient:
        return "patients", True
    return "patients; of notes that name none, admissions; of notes that name neither, each note", True


def _settings(manifest: Manifest) -> dict[str, Any]:
    duplicates = {"near": "off", "copied": "keep"} | manifest.settings.get("duplicates", {})
    parts = {"split": manifest.split_rule, "duplicates": duplicates}
    return {
        "sequence_length": manifest.sequence_length,
        "pack": manifest.pack,
        "notes_per_part": manifest.notes_per_part,
        "cleaning_rules": list(manifest.cleaning_rules),
        "placeholders": manifest.settings.get("placeholder") or manifest.tokenizer.placeholder,
        "split_lists": [split for split in SPLITS if split in manifest.split_rule.get("lists", {})],
        **{name: {key: parts[name][key] for key in keys if key in parts[name]} for name, keys in _SETTINGS.items()},
    }


def _share(part: int, whole: int) -> float:
    return round(part / whole, 6) if whole else 0.0


def _rows(groups: list[Group], has_patients: bool) -> list[Row]:
    notes = show_parts([group.notes for group in groups])
    patients = show_parts([group.patients for group in groups]) if has_patients else [None] * len(groups)
    return [_row(*row) for row in zip(groups, notes, patients, strict=True)]


def _row(group: Group, notes: Shown, patients: Shown | None) -> Row:
    name = "".join(character if character.isprintable() else "\ufffd" for character in group.name)
    return Row(
        name=name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 1]}…",
        merged=group.merged,
        notes=notes,
        patients=patients,
        tokens=group.tokens,
        tokens_per_note=round(group.tokens / notes, 1) if isinstance(notes, int) and notes else None,
        tokens_per_word=round(group.word_tokens / group.words, 4) if group.words else None,
        broken_share=_share(group.broken_words, group.words) if group.words else None,
    )


def _lengths(counts: ShardCounts, row_length: int) -> Lengths:
    lengths, notes = counts.lengths, counts.total.notes
    at_most = np.cumsum(lengths)
    percentiles = {
        str(percent): int(np.searchsorted(at_most, percent / 100 * notes))
        for percent in _PERCENTILES
        if min(percent, 100 - percent) / 100 * notes >= SMALLEST
    }
    bins = _histogram(lengths)
    limits = sorted({512, row_length} & {each.first for each in bins})
    longest = {str(limit): int(lengths[limit:].sum()) for limit in limits}
    return Lengths(bins, percentiles, {limit: show(count) for limit, count in longest.items()})


def _histogram(lengths: Integers) -> list[Bin]:
    """Half-octave bins from the shortest note to the longest, joined until none has a small count.

    Args:
        lengths: (longest + 1,), number of notes of each length.
    """
    edges = sorted({edge for power in range(len(lengths).bit_length() + 1) for edge in (1 << power, 3 << power >> 1)})
    bounds = [edge for edge in edges if edge < len(lengths)]
    sums = [int(lengths[first:last].sum()) for first, last in zip(bounds, [*bounds[1:], None], strict=True)]
    bins: list[list[int]] = []  # first length, bins joined, notes
    for first, notes in zip(bounds, sums, strict=True):
        if bins and 0 < bins[-1][2] < SMALLEST:
            bins[-1] = [bins[-1][0], bins[-1][1] + 1, bins[-1][2] + notes]
        elif bins or notes:
            bins.append([first, 1, notes])
    while len(bins) > 1 and bins[-1][2] < SMALLEST:
        _, joined, notes = bins.pop()
        bins[-1] = [bins[-1][0], bins[-1][1] + joined, bins[-1][2] + notes]
    after = {edge: next(iter(edges[i + 1 :]), 2 * edge) for i, edge in enumerate(edges)}
    ends = [*(start for start, _, _ in bins[1:]), after[bounds[-1]]]
    return [Bin(start, end - 1, joined, show(n)) for (start, joined, n), end in zip(bins, ends, strict=True)]


def _copied(manifest: Manifest) -> Copied | None:
    if (copied := manifest.copied) is None:
        return None
    return Copied(copied.paragraphs, copied.tokens, show(copied.notes), copied.cannot_be_cut)


def _unknown(manifest: Manifest) -> Unknown:
    unknown = manifest.unknown
    frequent = {character: count for character, count in unknown.characters.items() if count >= SMALLEST}
    return Unknown(
        tokens=unknown.tokens,
        share=unknown.share,
        characters=frequent,
        rare_characters=len(unknown.characters) - len(frequent),
        written_as_spaces=[f"U+{ord(character):04X}" for character in unknown.written_as_spaces],
        lost_word_starts=unknown.lost_word_starts,
    )
