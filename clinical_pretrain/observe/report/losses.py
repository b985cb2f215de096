"""The losses of held-out sequences that a validation has stored, and whether those of several runs compare."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from clinical_pretrain.observe.report.run import RecordedRun
from clinical_pretrain.run_folder.validation_losses import ValidationLosses, losses_file, read_validation_losses
from tokenizer_tools.errors import UserError

TOLERANCE = 1e-4
"""Largest relative difference between a file's loss and that of metrics.jsonl, which may be summed in another order."""


@dataclass(frozen=True)
class MeasuredLosses:
    """The losses of one validation, and how it measured."""

    step: int
    losses: ValidationLosses
    measured: dict[str, Any]
    """The validation set, as run.json has it."""


def read_losses(run: RecordedRun, step: int | None = None) -> MeasuredLosses:
    """The losses of the validation at a step, by default of the last validation.

    Raises:
        UserError: there is none, or its file is missing, damaged or of another validation.
    """
    lines = [line for line in run.validations if step in (None, line["step"])]
    if not lines:
        at = "" if step is None else f" at step {step:,}"
        there = ", ".join(f"{line['step']:,}" for line in run.validations)
        remedy = f"there are those at step {there}" if there else "train on shards with a validation split"
        raise UserError(f"{run.folder}: no validation{at}; {remedy}")
    line = lines[-1]
    path = losses_file(run.folder, line["step"])
    if not path.exists():
        raise UserError(
            f"{run.folder}: no losses by sequence for step {line['step']:,} ({path.parent.name}/{path.name}); the "
            "validation at the end of a run of this version writes them: train the run with it"
        )
    found = read_validation_losses(run.folder, line["step"])
    sequence, loss, predicted = found.sequence, found.loss, found.predicted
    is_whole = sequence.shape == loss.shape == predicted.shape and bool((np.diff(sequence) > 0).all())
    if (
        not is_whole
        or predicted.sum() != line["predicted"]
        or abs(loss.sum() / predicted.sum() / line["loss"] - 1) > TOLERANCE
    ):
        raise UserError(
            f"{path}: not of the validation that metrics.jsonl has at step {line['step']:,}; restore it from a backup"
        )
    return MeasuredLosses(line["step"], found, run.starts[line["start"]]["validation_set"])


def check_comparable(runs: Sequence[RecordedRun], losses: Sequence[MeasuredLosses]) -> None:
    """Check that all were measured on the same held-out sequences, in the same way. The seeds of masks may differ.

    Raises:
        UserError: they were not.
    """
    first = _measured(losses[0])
    for run, other in zip(runs[1:], losses[1:], strict=True):
        measured = _measured(other)
        if measured["held-out sequences"] != first["held-out sequences"]:
            one, two = (each["held-out sequences"][:12] for each in (first, measured))
            raise UserError(
                f"{runs[0].folder} and {run.folder}: validated on other held-out sequences (fingerprint {one} and "
                f"{two}), so their losses don't compare; train both on shards with the same validation split"
            )
        if unlike := [name for name in first if measured.get(name) != first[name]]:
            shown = "; ".join(f"{name} {first[name]} and {measured.get(name)}" for name in unlike)
            raise UserError(
                f"{runs[0].folder} and {run.folder}: validated in another way ({shown}), so their losses don't "
                "compare; compare the models on tasks: clinical-pretrain evaluate"
            )


def common_sequences(losses: Sequence[ValidationLosses]) -> list[ValidationLosses]:
    """The same losses, of the sequences that all have and in which each predicted something, in one order."""
    kept = losses[0].sequence
    for each in losses:
        kept = np.intersect1d(kept, each.sequence[each.predicted > 0])
    places = [np.searchsorted(each.sequence, kept) for each in losses]
    return [
        ValidationLosses(kept, each.loss[own], each.predicted[own]) for each, own in zip(losses, places, strict=True)
    ]


def _measured(losses: MeasuredLosses) -> dict[str, Any]:
    """How a validation measured: the held-out split, the masks' settings without their seed, BigBird's random blocks.
    The number of sequences may differ; how documents attend to each other is a setting of the model."""
    masks = {f"masking.{name}": value for name, value in losses.measured["masks"].items() if name != "seed"}
    return {
        "held-out sequences": losses.measured["held-out sequences"],
        **masks,
        "validation.random_blocks": losses.measured["random blocks"],
    }
