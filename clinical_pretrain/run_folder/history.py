"""What lies behind a checkpoint: the starts of its run, with their data and settings, and which validations compare.

`run.json` has an entry for each start. A start from step s supersedes what earlier ones did after s.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from typing import Any

from clinical_pretrain.config.run_config import RunConfig
from clinical_pretrain.run_folder.metrics import read_metrics
from clinical_pretrain.run_folder.paths import RunFolder
from tokenizer_tools.manifest import Manifest, SplitInfo


@dataclass(frozen=True)
class Period:
    """Steps that one start contributed to a checkpoint."""

    first_step: int
    """From 1."""
    last_step: int
    """Included."""
    start: dict[str, Any]
    """The start's entry in run.json."""


@dataclass(frozen=True)
class Validations:
    """A run's first and last validation up to a step: lines of metrics.jsonl, the last empty where there is but one."""

    before: dict[str, Any]
    after: dict[str, Any]
    differences: list[str]
    """Why the two can't be compared, such as `other masks`; empty where they can."""


def data_facts(manifest: Manifest) -> dict[str, Any]:
    """What a run folder says of its shards: identity, row length, and counts by split."""
    return {
        "fingerprint": manifest.fingerprint,
        "sequence_length": manifest.sequence_length,
        "split_by": manifest.split_by,
        "patients_in_several_splits": manifest.patients_in_several_splits,
        "splits": {
            name: {key: value for key, value in asdict(split).items() if key != "files"}
            for name, split in manifest.splits.items()
        },
    }


def validation_set(config: RunConfig, manifest: Manifest) -> dict[str, Any]:
    """All that decides a validation's figures, apart from the weights. Figures compare where these are equal."""
    split = manifest.splits["validation"]
    return {
        "held-out sequences": _sha256_of(split),
        "number of sequences": min(split.sequences, config.validation.max_sequences or split.sequences),
        "masks": {"seed": config.seed, **asdict(config.masking)},
        "random blocks": config.validation.random_blocks,
        "document attention": config.data.document_attention,
    }


def _sha256_of(split: SplitInfo) -> str:
    return hashlib.sha256("\n".join(entry.sha256 for entry in split.files).encode()).hexdigest()


def lineage(starts: Sequence[dict[str, Any]], step: int) -> list[Period]:
    """The starts that a checkpoint of this step comes from, in order, without those that made no step of it."""
    kept: list[dict[str, Any]] = []
    for start in starts:
        while kept and kept[-1]["from_step"] >= start["from_step"]:
            kept.pop()
        kept.append(start)
    ends = [start["from_step"] for start in kept[1:]] + [step]
    return [
        Period(start["from_step"] + 1, min(end, step), start)
        for start, end in zip(kept, ends, strict=True)
        if start["from_step"] < step
    ]


def validations(folder: RunFolder, starts: Sequence[dict[str, Any]], step: int) -> Validations:
    """The first and the last validation up to a step, and whether they measured the same."""
    lines = [line for line in finite_validations(folder) if line["step"] <= step]
    if len(lines) < 2:
        return Validations(lines[0] if lines else {}, {}, [])
    before, after = lines[0], lines[-1]
    first, last = (_set_of(line, starts) for line in (before, after))
    return Validations(before, after, [f"other {key}" for key in first if first[key] != last[key]])


def validations_by_set(folder: RunFolder, starts: Sequence[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """Lines of metrics.jsonl on validations, in order, cut where what they measured was changed."""
    return [list(same) for _, same in groupby(finite_validations(folder), lambda line: _set_of(line, starts))]


def comparable_validations(folder: RunFolder, starts: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Validation lines of metrics.jsonl whose figures compare with those of the last start, in order."""
    return comparable(finite_validations(folder), starts)


def comparable(lines: Sequence[dict[str, Any]], starts: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Those of these validation lines whose figures compare with those of the last start."""
    return [line for line in lines if _set_of(line, starts) == starts[-1]["validation_set"]]


def best_validation(folder: RunFolder, starts: Sequence[dict[str, Any]], among: Sequence[int] = ()) -> dict[str, Any]:
    """The line with the lowest loss, the earliest of equals; empty if there is none. Step 0 doesn't count.

    Args:
        folder: the run folder.
        starts: of run.json.
        among: consider these steps only; empty: all.
    """
    lines = [line for line in comparable_validations(folder, starts) if line["step"]]
    return min(
        (line for line in lines if not among or line["step"] in among), key=lambda line: line["loss"], default={}
    )


def validations_without_progress(folder: RunFolder, starts: Sequence[dict[str, Any]], steps: range) -> int:
    """How many of the validations at these steps come after the one with the lowest loss."""
    losses = [line["loss"] for line in comparable_validations(folder, starts) if line["step"] in steps]
    return len(losses) - 1 - losses.index(min(losses)) if losses else 0


def overfitting(folder: RunFolder, starts: Sequence[dict[str, Any]]) -> str | None:
    """Say so where held-out and training loss part: the held-out loss has risen twice in a row since it was lowest, and
    the training loss has fallen since then. None where they don't."""
    lines = [line for line in comparable_validations(folder, starts) if line["step"]]
    best = min(lines, key=lambda line: line["loss"], default={})
    if len(lines) < 3 or best in lines[-2:] or not lines[-1]["loss"] > lines[-2]["loss"]:
        return None
    last, interval = lines[-1], lines[-1]["step"] - lines[-2]["step"]
    train = [line for line in read_metrics(folder, "train") if line["loss"] is not None]

    def mean_before(step: int) -> float:
        losses = [line["loss"] for line in train if step - interval < line["step"] <= step]
        return sum(losses) / len(losses) if losses else math.nan

    then, now = mean_before(best["step"]), mean_before(last["step"])
    if not now < then:
        return None
    return (
        f"overfitting: since step {best['step']:,} the held-out loss rises ({best['loss']:.4f} to {last['loss']:.4f}) "
        f"while the training loss falls ({then:.4f} to {now:.4f})"
    )


def finite_validations(folder: RunFolder) -> list[dict[str, Any]]:
    """Lines of metrics.jsonl on validations whose loss is a number, in order."""
    return [line for line in read_metrics(folder, "validation") if line["loss"] is not None]


def _set_of(line: dict[str, Any], starts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What a validation measured: by the settings of the start that did it."""
    found: dict[str, Any] = starts[line["start"]]["validation_set"]
    return found
