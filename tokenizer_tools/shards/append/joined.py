"""The manifest of shards that notes were appended to: earlier figures and new ones, added."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

from tokenizer_tools.corpus.placeholders import sorted_counts
from tokenizer_tools.manifest import Appending, Manifest, SourceInfo, SplitInfo, UnknownTokens, fingerprint
from tokenizer_tools.tokenizer.unknown_characters import UnknownCount, unknown_tokens

_OF_LISTS = {"listed_ids", "listed_ids_without_notes"}
"""Counts of the user's own split lists, over all notes."""


def join(before: Manifest, new: Manifest, reading: dict[str, Any]) -> Manifest:
    """Add the manifest of appended notes to that of the shards.

    Args:
        before: of the shards.
        new: of the new notes alone, but with the settings of all.
        reading: how they were read.
    """
    splits = {name: _join_splits(before.splits[name], new.splits[name]) for name in before.splits}
    files = [entry for split in splits.values() for entry in split.files]
    entry = Appending(
        inputs=len(new.settings["inputs"]) - len(before.settings["inputs"]),
        read=new.counts["read"],
        notes=new.counts["kept"],
        tokens=sum(split.tokens for split in new.splits.values()),
        reading=reading,
        versions=new.versions,
        fingerprint=before.fingerprint,
        sequences={name: split.sequences for name, split in before.splits.items()},
        dropped={name: count for name, count in new.counts.items() if name.startswith("dropped_") and count},
    )
    return replace(
        before,
        splits=splits,
        counts=_add(before.counts, new.counts) | {name: new.counts[name] for name in _OF_LISTS & new.counts.keys()},
        split_rule=new.split_rule,
        patients_in_several_splits=before.patients_in_several_splits + new.patients_in_several_splits,
        unknown=_join_unknown(before.unknown, new.unknown, sum(split.tokens for split in splits.values())),
        settings=new.settings,
        fingerprint=fingerprint(before.tokenizer.sha256, before.sequence_length, files),
        sources=_join_sources(before.sources, new.sources),
        placeholders=sorted_counts(Counter(before.placeholders) + Counter(new.placeholders)),
        appended=[*before.appended, entry],
    )


def _add(before: dict[str, int], new: dict[str, int]) -> dict[str, int]:
    return {name: before.get(name, 0) + new.get(name, 0) for name in {**before, **new}}


def _join_splits(before: SplitInfo, new: SplitInfo) -> SplitInfo:
    return SplitInfo(
        sequences=before.sequences + new.sequences,
        tokens=before.tokens + new.tokens,
        notes=before.notes + new.notes,
        patients=before.patients + new.patients,
        admissions=before.admissions + new.admissions,
        files=[*before.files, *new.files],
    )


def _join_unknown(before: UnknownTokens, new: UnknownTokens, tokens: int) -> UnknownTokens:
    earlier, later = (
        UnknownCount(each.tokens, each.lost_word_starts or 0, Counter(each.characters)) for each in (before, new)
    )
    joined = unknown_tokens(earlier + later, tokens, before.written_as_spaces)
    return joined if before.lost_word_starts is not None else replace(joined, lost_word_starts=None)


def _join_sources(before: list[SourceInfo], new: list[SourceInfo]) -> list[SourceInfo]:
    """The new ones name all sources, the earlier ones first, each with all its inputs."""
    nothing = SourceInfo("", [], 0, 0, {})
    earlier = [*before, *([nothing] * (len(new) - len(before)))]
    return [
        replace(
            entry,
            notes=old.notes + entry.notes,
            tokens=old.tokens + entry.tokens,
            counts=_add(old.counts, entry.counts),
        )
        for old, entry in zip(earlier, new, strict=True)
    ]
