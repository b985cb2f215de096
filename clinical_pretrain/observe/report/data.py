"""What a run was trained on: counts alone, of its data.json and of the shards' manifest. No small counts of people."""

from __future__ import annotations

from dataclasses import asdict
from itertools import groupby
from pathlib import Path
from typing import Any

from clinical_pretrain.observe.report.run import RecordedRun
from tokenizer_tools.manifest import Manifest, held_out
from tokenizer_tools.pages.html import paragraph, table
from tokenizer_tools.pages.wording import percent, shown
from tokenizer_tools.small_counts import SMALLEST, show, show_parts

_OF_PEOPLE = ("patients", "admissions", "notes")


def data_section(run: RecordedRun) -> str:
    """Counts by split, of each data set where the run changed it, and what the manifest says of how it was made."""
    parts = []
    periods = groupby(run.periods(run.step), lambda period: period.start["data"]["fingerprint"])
    corpora = [list(same) for _, same in periods]
    for same in corpora:
        steps = f", steps {same[0].first_step:,} to {same[-1].last_step:,}" if len(corpora) > 1 else ""
        parts.append(_counts(same[-1].start["data"], steps))
    parts.append(paragraph(_split(run.data)))
    if manifest := run.manifest:
        parts.append(_manifest(manifest))
    else:
        parts.append(
            paragraph(
                "The shards no longer lie where the run read them, so this page doesn't say how they were made: "
                "report.html in their folder does."
            )
        )
    parts.append(
        paragraph(
            f"No text of a note and no identifier is on this page. Counts of patients, admissions and notes from 1 to "
            f"{SMALLEST - 1} are hidden, and others that would give them away."
        )
    )
    return "".join(parts)


def tokens_seen(run: RecordedRun) -> tuple[int, float]:
    """Tokens that the run has consumed, and how often it has seen the training split, up to its last line."""
    if not run.train:
        return 0, 0.0
    last = run.train[-1]
    return int(last.get("samples_consumed", 0)) * run.data["sequence_length"], float(last.get("epoch", 0.0))


def _counts(data: dict[str, Any], steps: str) -> str:
    splits = data["splits"]
    columns: dict[str, list[str]] = {}
    for name in (*_OF_PEOPLE, "tokens", "sequences"):
        counts = [split[name] for split in splits.values()]
        if any(counts):
            columns[name] = [shown(count) for count in (show_parts(counts) if name in _OF_PEOPLE else counts)]
    rows = [[split, *(cells[number] for cells in columns.values())] for number, split in enumerate(splits)]
    caption = f"Shards {data['fingerprint'][:12]}, sequences of {data['sequence_length']:,} tokens{steps}"
    return table(caption, ["split", *columns], rows)


def _split(data: dict[str, Any]) -> str:
    text = f"Split by {data['split_by']}: the validation loss is on {held_out(data['split_by'])}."
    several = data["patients_in_several_splits"]
    return f"{text} Patients in several splits: {shown(show(several))}." if several else text


def _manifest(manifest: Manifest) -> str:
    """How the shards were made."""
    tokenizer, rule = manifest.tokenizer, manifest.split_rule
    name = Path(tokenizer.name).name if Path(tokenizer.name).is_absolute() else tokenizer.name
    dropped = {
        key.removeprefix("dropped_"): n for key, n in manifest.counts.items() if key.startswith("dropped_") and n
    }
    rows = [
        ["Tokenizer", f"{name}, {tokenizer.vocab_size:,} entries, sha256 {tokenizer.sha256[:16]}"],
        ["Split", ", ".join(f"{key} {rule[key]}" for key in ("by", "validation", "test", "seed") if key in rule)],
        ["Cleaning rules", ", ".join(manifest.cleaning_rules) or "none"],
        [
            "Notes dropped",
            ", ".join(f"{key.replace('_', ' ')} {shown(show(n))}" for key, n in dropped.items()) or "none",
        ],
        ["A sequence holds", "notes of one patient, in time order" if manifest.pack == "timeline" else "any notes"],
        ["Padding", percent(manifest.padding_share)],
        ["Unknown tokens", percent(manifest.unknown.share)],
        ["Made with", ", ".join(f"{key} {version}" for key, version in sorted(manifest.versions.items()))],
    ]
    if manifest.copied:
        paragraphs, tokens = (asdict(manifest.copied)[key] for key in ("paragraphs", "tokens"))
        rows.insert(4, ["Copied paragraphs left out", f"{paragraphs:,} ({tokens:,} tokens)"])
    if manifest.appended or manifest.withdrawn:
        rows.append(["Changed since", f"{len(manifest.appended)} appendings, {len(manifest.withdrawn)} withdrawals"])
    return table("How the shards were made", ["", "value"], rows, "words")
