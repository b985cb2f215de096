"""What a build says of its shards when it ends: lines to print, and flat figures for --json."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from tokenizer_tools.corpus.placeholders import describe_placeholders
from tokenizer_tools.manifest import SPLITS, Manifest
from tokenizer_tools.tokenizer.unknown_characters import describe_unknown
from tokenizer_tools.wording import counted

_MUCH_PADDING = 0.1
"""Share of padding from which less is advised."""
_MUCH_UNREADABLE = 0.1
"""Share of the notes, skipped as not UTF-8, from which converting the files is advised."""
_BOUND = "at most ", " (counted before the withdrawal)"
"""What stands before and behind a count that a withdrawal can't take anything from."""


def summary_lines(manifest: Manifest, out: Path, already_built: bool) -> list[str]:
    """Lines to print after a build."""
    counts = manifest.counts
    built = "already built" if already_built else "built"
    first = f"{out}: {built}, {counts['kept']:,} of {counts['read']:,} notes kept{_in_parentheses(counts)}"
    return [first, *_figures(manifest)]


def appended_lines(manifest: Manifest, out: Path, notes: str, already_appended: bool) -> list[str]:
    """Lines to print after notes were appended.

    Args:
        manifest: of all notes.
        out: the shard folder.
        notes: the files that were appended, for a message.
        already_appended: whether an earlier call appended them.
    """
    last = manifest.appended[-1]
    appended = "already appended" if already_appended else "appended"
    lines = [
        f"{out}: {last.notes:,} of {last.read:,} new notes {appended}, {last.tokens:,} tokens"
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
    patients = counted(manifest.withdrawn[-1].patients, "patient")
    return [f"{out}: {manifest.counts['kept']:,} notes, without {patients} who withdrew", *_figures(manifest)]


def withdrawn_before(manifest: Manifest) -> str:
    """Say how many patients were withdrawn from shards."""
    count = sum(entry.patients for entry in manifest.withdrawn)
    return f"{counted(count, 'patient was', 'patients were')} withdrawn from these shards"


def _figures(manifest: Manifest) -> list[str]:
    """Lines on all notes of the shards."""
    counts, lines = manifest.counts, []
    patients = sum(split.patients for split in manifest.splits.values())
    admissions = sum(split.admissions for split in manifest.splits.values())
    for name, split in manifest.splits.items():
        people = f" · {counted(split.patients, 'patient'):>16}" if patients else ""
        people += f" · {counted(split.admissions, 'admission'):>18} without a patient" if admissions else ""
        lines.append(
            f"  {name:<10} {counted(split.sequences, 'sequence'):>19} of {manifest.sequence_length:,} · "
            f"{split.tokens:>13,} tokens · {counted(split.notes, 'note'):>15}{people}"
        )
    if manifest.split_by != "patient":
        known = f"{counted(manifest.patients_in_several_splits, 'patient is', 'patients are')} in several splits"
        lines.append(f"  split by {manifest.split_by}: {known if patients else 'no patient is known'}")
    elif patients == counts["kept"] > 1:
        lines.append(
            "  each note has its own patient: if that can't be right, name another column with --columns.patient"
        )
    if "lists" in manifest.split_rule:
        lines.append(f"  {_describe_lists(manifest)}")
    if (unreadable := counts.get("dropped_invalid_utf8", 0)) > _MUCH_UNREADABLE * counts["read"]:
        lines.append(
            f"  WARNING: {unreadable / counts['read']:.0%} of the notes aren't UTF-8, and were skipped; convert the "
            "files (iconv -f WINDOWS-1252 -t UTF-8), and build the shards again"
        )
    if not manifest.splits["validation"].sequences:
        lines.append("  no notes are held out for validation: a run on these shards will have no validation loss")
    if not manifest.splits["test"].sequences and manifest.split_rule.get("test"):
        lines.append("  no notes are in the test split: with few patients, raise --split.test")
    if manifest.pack == "timeline":
        lines.append(f"  {_describe_timelines(manifest)}")
    lines += _describe_sources(manifest)
    lines += _describe_filters(manifest)
    lines.append(f"  {_describe_near(manifest)}")
    lines += _describe_copied(manifest)
    lines += _describe_times(manifest)
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
    line = f"split by lists of {counted(counts['listed_ids'], lists['of'])} ({splits})"
    if without := counts["listed_ids_without_notes"]:
        line += f", of which {without:,} {'has' if without == 1 else 'have'} no note"
    if shared := counts["listed_elsewhere_by_admission"]:
        notes = counted(shared, "note has", "notes have")
        line += f"; {notes} an admission that a held-out patient of another list has, too"
    return f"{line}; notes of others are {'dropped' if 'train' in lists else 'divided by the shares'}"


def _describe_timelines(manifest: Manifest) -> str:
    """Say what one patient in each sequence costs."""
    order = "input" if _is_without_times(manifest.counts) else "time"
    line = f"one patient in each sequence, notes in {order} order: "
    line += f"padding is {manifest.padding_share:.1%} of all positions"
    if not _knows_people(manifest):
        return f"{line}; no note names a patient, so each stands alone"
    if manifest.padding_share > _MUCH_PADDING:
        line += "; a shorter --sequence-length, or --pack notes, has less"
    return line


def _knows_people(manifest: Manifest) -> bool:
    """Whether any note names a patient or an admission."""
    return any(split.patients or split.admissions for split in manifest.splits.values())


def _is_without_times(counts: dict[str, int]) -> bool:
    """Whether no kept note has a time that could be read."""
    return counts.get("kept_without_time") == counts["kept"]


def _describe_filters(manifest: Manifest) -> list[str]:
    """Warn of sources of which nothing is left: a value of a filter may be misspelt."""
    lines = []
    for source in manifest.sources:
        if source.counts["read"] == source.counts.get("dropped_filtered", 0) > 0:
            described = [manifest.settings["inputs"][number]["source"] for number in source.inputs]
            columns = dict.fromkeys(each["column"] for entry in described for each in entry["filters"])
            lines.append(
                f"  WARNING: no row of source {source.name} passes its filters ({', '.join(columns)}); check the "
                "values there"
            )
    return lines


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
    line += f", {manifest.counts.get('dropped_near_duplicate', 0):,} dropped"
    if crowded:
        line += f"; {counted(crowded, 'note is', 'notes are')} like too many others to be compared with all"
    return line


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


def _describe_times(manifest: Manifest) -> list[str]:
    """Say which notes have no place in time."""
    counts, has_people = manifest.counts, _knows_people(manifest)
    without, unreadable = counts.get("kept_without_time", 0), counts.get("kept_unreadable_time", 0)
    if _is_without_times(counts) and unreadable:
        return [
            f"  WARNING: none of the {counted(counts['kept'], 'note')} has a time that can be read"
            f"{', so notes stand in input order' if has_people else ''}; for dates such as 03/04/2101 say --date-order "
            "day_first or month_first"
        ]
    if _is_without_times(counts):
        order = ": each patient's notes stand in input order" if has_people else ""
        return [f"  no note has a time{order}"]
    lines = []
    if unreadable:
        lines.append(
            f"  {counted(unreadable, 'note has', 'notes have')} a time that can't be read; if day and month could be "
            "confused (03/04/2101), say --date-order"
        )
    if without:
        lines.append(
            f"  {counted(without, 'note has', 'notes have')} no time: after the patient's other notes, in input order"
        )
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
