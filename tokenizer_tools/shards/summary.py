"""What a build says of its shards when it ends: lines to print, and flat figures for --json."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from tokenizer_tools.corpus.placeholders import describe_placeholders
from tokenizer_tools.manifest import SPLITS, Manifest
from tokenizer_tools.tokenizer.unknown_characters import describe_unknown

_MUCH_PADDING = 0.1
"""Share of padding from which less is advised."""
_BOUND = "at most ", " (counted before the withdrawal)"
"""What stands before and behind a count that a withdrawal can't take anything from."""


def summary_lines(manifest: Manifest, out: Path, already_built: bool) -> list[str]:
    """Lines to print after a build."""
    counts = manifest.counts
    built = "already built" if already_built else "built"
    first = f"{out}: {built}, {counts['kept']:,} of {counts['read']:,} notes kept{_in_parentheses(counts)}"
    return [first, *_figures(manifest)]


def appended_lines(manifest: Manifest, out: Path, notes: str) -> list[str]:
    """Lines to print after notes were appended.

    Args:
        manifest: of all notes.
        out: the shard folder.
        notes: the files that were appended, for a message.
    """
    last = manifest.appended[-1]
    lines = [
        f"{out}: {last.notes:,} of {last.read:,} new notes appended, {last.tokens:,} tokens"
        f"{_in_parentheses(last.dropped)}; {manifest.counts['kept']:,} notes in all",
        *_figures(manifest),
    ]
    if manifest.withdrawn:
        lines.append(
            f"  {withdrawn_before(manifest)}: if {notes} has notes of theirs, they are in again: withdraw once more"
        )
    return lines


def withdrawn_lines(manifest: Manifest, out: Path) -> list[str]:
    """Lines to print after a withdrawal."""
    patients = _patients(manifest.withdrawn[-1].patients)
    return [f"{out}: {manifest.counts['kept']:,} notes, without {patients} who withdrew", *_figures(manifest)]


def withdrawn_before(manifest: Manifest) -> str:
    """Say how many patients were withdrawn from shards."""
    count = sum(entry.patients for entry in manifest.withdrawn)
    return f"{_patients(count)} {'was' if count == 1 else 'were'} withdrawn from these shards"


def _patients(count: int) -> str:
    return "1 patient" if count == 1 else f"{count:,} patients"


def _figures(manifest: Manifest) -> list[str]:
    """Lines on all notes of the shards."""
    counts, lines = manifest.counts, []
    patients = sum(split.patients for split in manifest.splits.values())
    admissions = sum(split.admissions for split in manifest.splits.values())
    for name, split in manifest.splits.items():
        people = f" · {split.patients:>7,} patients" if patients else ""
        people += f" · {split.admissions:>7,} admissions without a patient" if admissions else ""
        lines.append(
            f"  {name:<10} {split.sequences:>9,} sequences of {manifest.sequence_length:,} · "
            f"{split.tokens:>13,} tokens · {split.notes:>9,} notes{people}"
        )
    if manifest.split_by != "patient":
        known = f"{manifest.patients_in_several_splits:,} patients are in several splits"
        lines.append(f"  split by {manifest.split_by}: {known if patients else 'no patient is known'}")
    elif patients == counts["kept"] > 1:
        lines.append(
            "  each note has its own patient: if that can't be right, name another column with --columns.patient"
        )
    if "lists" in manifest.split_rule:
        lines.append(f"  {_describe_lists(manifest)}")
    if not manifest.splits["validation"].sequences:
        lines.append("  no notes are held out for validation: a run on these shards will have no validation loss")
    if manifest.pack == "timeline":
        lines.append(f"  {_describe_timelines(manifest)}")
    lines += _describe_sources(manifest)
    lines.append(f"  {_describe_near(manifest)}")
    lines += _describe_copied(manifest)
    lines += _describe_times(counts)
    most, before = _BOUND if manifest.withdrawn else ("", "")
    lines += [f"  {line}{before}" for line in describe_placeholders(manifest.placeholders, most)]
    lines.append(f"  {describe_unknown(manifest.unknown)}")
    return lines


def describe_dropped(counts: Mapping[str, int]) -> str:
    """List how many notes were dropped, by reason; empty if none was.

    Args:
        counts: as in a manifest.
    """
    return ", ".join(
        f"{count:,} {name.removeprefix('dropped_').replace('near_', 'near-').replace('_', ' ')}"
        for name, count in counts.items()
        if name.startswith("dropped_") and count
    )


def _in_parentheses(counts: Mapping[str, int]) -> str:
    dropped = describe_dropped(counts)
    return f" (dropped: {dropped})" if dropped else ""


def _describe_lists(manifest: Manifest) -> str:
    """Say who is on the user's own lists, and what became of the others."""
    lists, counts = manifest.split_rule["lists"], manifest.counts
    splits = ", ".join(split for split in SPLITS if split in lists)
    line = f"split by lists of {counts['listed_ids']:,} {lists['of']}s ({splits})"
    if without := counts["listed_ids_without_notes"]:
        line += f", of which {without:,} have no note"
    if shared := counts["listed_elsewhere_by_admission"]:
        line += f"; {shared:,} notes have an admission that a held-out patient of another list has, too"
    return f"{line}; notes of others are {'dropped' if 'train' in lists else 'divided by the shares'}"


def _describe_timelines(manifest: Manifest) -> str:
    """Say what one patient in each sequence costs."""
    line = (
        f"one patient in each sequence, notes in time order: padding is {manifest.padding_share:.1%} of all positions"
    )
    if not any(split.patients or split.admissions for split in manifest.splits.values()):
        return f"{line}; no note names a patient, so each stands alone"
    if manifest.padding_share > _MUCH_PADDING:
        line += "; a shorter --sequence-length, or --pack notes, has less"
    return line


def _describe_sources(manifest: Manifest) -> list[str]:
    """A line for each source, if there are several or the user has described them."""
    if len(manifest.sources) < 2 and not any("source" in entry for entry in manifest.settings["inputs"]):
        return []
    return [
        f"  source {source.name}: {source.notes:,} of {source.counts['read']:,} notes kept, {source.tokens:,} tokens"
        f"{_in_parentheses(source.counts)}"
        for source in manifest.sources
    ]


def _describe_near(manifest: Manifest) -> str:
    """Say what became of near-duplicates."""
    rules, crowded = manifest.settings.get("duplicates"), manifest.counts.get("kept_not_fully_compared", 0)
    if rules is None or "near" not in rules:
        return "near-duplicates weren't looked for; --duplicates.near drop does"
    line = f"near-duplicates, which share {rules['threshold']:.0%} of their runs of {rules['ngram']} words: "
    line += "the first stays" if rules["near"] == "drop" else "kept, but not across splits"
    return line + (f"; {crowded:,} notes are like too many others to be compared with all" if crowded else "")


def _describe_copied(manifest: Manifest) -> list[str]:
    """Say what was left out of notes, if that was asked."""
    copied = manifest.copied
    if copied is None:
        return []
    most, before = _BOUND if manifest.withdrawn else ("", "")
    line = f"  copied paragraphs, of {manifest.settings['duplicates']['copied_words']} words and more: "
    line += f"{most}{copied.paragraphs:,} ({most}{copied.tokens:,} tokens) left out of {most}{copied.notes:,} notes, "
    line += "as an earlier note of the patient has them"
    line += f"; {most}{copied.cannot_be_cut:,} can't be cut out and stay" if copied.cannot_be_cut else ""
    return [line + before]


def _describe_times(counts: dict[str, int]) -> list[str]:
    """Say which notes have no place in time."""
    without, unreadable = counts.get("kept_without_time", 0), counts.get("kept_unreadable_time", 0)
    lines = []
    if unreadable:
        lines.append(
            f"  {unreadable:,} notes have a time that can't be read; if day and month could be confused (03/04/2101), "
            "say --date-order"
        )
    if without == counts["kept"]:
        lines.append("  no note has a time: each patient's notes stand in input order")
    elif without:
        lines.append(f"  {without:,} notes have no time: they stand after the patient's other notes, in input order")
    return lines


def summarise(manifest: Manifest) -> dict[str, Any]:
    """A manifest's figures for --json: flat, and a record for each source."""
    flat: dict[str, Any] = {
        "fingerprint": manifest.fingerprint,
        "sequence_length": manifest.sequence_length,
        "split_by": manifest.split_by,
        "patients_in_several_splits": manifest.patients_in_several_splits,
        "pack": manifest.pack,
        "padding_share": manifest.padding_share,
        "unknown_tokens": manifest.unknown.tokens,
        "unknown_share": manifest.unknown.share,
        "lost_word_starts": manifest.unknown.lost_word_starts,
    }
    flat |= {f"notes_{name}": count for name, count in manifest.counts.items()}
    flat |= {f"placeholders_{name}": count for name, count in manifest.placeholders.items()}
    for name, split in manifest.splits.items():
        counts = asdict(replace(split, files=[]))
        flat |= {f"{name}_{key}": value for key, value in counts.items() if key != "files"}
    flat["appended"] = [asdict(entry) for entry in manifest.appended]
    if manifest.copied:
        flat |= {f"copied_{name}": count for name, count in asdict(manifest.copied).items()}
        flat["copied_placeholder_tokens"] = sum(manifest.copied.placeholder_tokens.values())
    flat["sources"] = [asdict(source) for source in manifest.sources]
    return flat
