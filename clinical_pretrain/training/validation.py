"""Masked-LM loss and accuracy on held-out notes, overall and by note category; early stopping; the best step."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
import torch

from clinical_pretrain.config.run_config import RunConfig
from clinical_pretrain.console import console
from clinical_pretrain.data.collator import Collator
from clinical_pretrain.data.sampler import VALIDATION_MASKS, generator, validation_sequences
from clinical_pretrain.data.shards import PackedSequence, Split, note_categories
from clinical_pretrain.distributed import Ranks
from clinical_pretrain.engine.schedule import stage_of
from clinical_pretrain.models.mlm_head import IGNORED
from clinical_pretrain.run_folder.history import best_validation, finite_validations, validations_without_progress
from clinical_pretrain.run_folder.paths import RunFolder
from clinical_pretrain.training.checkpointer import all_weights_are_finite, finish_save
from clinical_pretrain.training.ending import save_and_exit
from clinical_pretrain.training.loss_guard import BadStepsError
from clinical_pretrain.training.step_log import is_due
from tokenizer_tools.errors import UserError

if TYPE_CHECKING:
    from clinical_pretrain.training.run import Run


class Validation:
    """The held-out sequences, and how to measure a model on them."""

    def __init__(self, config: RunConfig, folder: Path, split: Split, collator: Collator, ranks: Ranks) -> None:
        self.config, self.split, self.collator, self.ranks = config, split, collator, ranks
        self.numbers = validation_sequences(len(self.split), config.validation.max_sequences)
        self.note_category, self.categories = note_categories(folder)
        self._encoder_inputs = {"training_blocks": True} if config.validation.random_blocks == "training" else {}

    def run(self, engine: Any, proceed: Callable[[int, int], bool] = lambda done, total: True) -> dict[str, Any] | None:
        """Measure, on all ranks together. `proceed` gets the number of micro-batches done, from 0, and their total,
        after each one; it returns whether to continue, the same on all ranks.

        Returns:
            loss (nats per masked token), accuracy, predicted (masked tokens), and by_category: the same for each
            category of notes. Empty where there are no held-out sequences, or nothing in them is masked; None where it
            was not to proceed.
        """
        if not len(self.numbers):
            return {}
        sums = torch.zeros(len(self.categories), 3, dtype=torch.float64)  # loss, correct, predicted
        engine.eval()
        try:
            with torch.no_grad():
                micro_batches = list(self._micro_batches())
                proceed(0, len(micro_batches))
                for done, numbers in enumerate(micro_batches, 1):
                    self._add(engine, numbers, sums)
                    if not proceed(done, len(micro_batches)) and done < len(micro_batches):
                        return None
        finally:
            engine.train()
        loss, correct, predicted = self.ranks.sum(sums).T
        if not predicted.any():
            return {}
        by_category = {
            name: {
                "loss": float(loss[i] / predicted[i]),
                "accuracy": float(correct[i] / predicted[i]),
                "predicted": int(predicted[i]),
            }
            for i, name in enumerate(self.categories)
            if predicted[i]
        }
        return {
            "loss": float(loss.sum() / predicted.sum()),
            "accuracy": float(correct.sum() / predicted.sum()),
            "predicted": int(predicted.sum()),
            "by_category": by_category,
        }

    def _micro_batches(self) -> Iterator[list[int]]:
        """This rank's micro-batches. Every rank takes as many, some of them empty: under ZeRO 3 they need each
        other's weights."""
        micro = self.config.batch.micro_batch_size_per_gpu
        for start in range(0, len(self.numbers), micro * self.ranks.world_size):
            first = start + micro * self.ranks.rank
            yield self.numbers[first : first + micro].tolist()

    def _add(self, engine: Any, numbers: list[int], sums: torch.Tensor) -> None:
        """Add a micro-batch's losses, correct predictions and number of predictions to the sums of their categories."""
        # Filled up with a sequence that isn't counted: all micro-batches have one shape.
        filled = numbers + [0] * (self.config.batch.micro_batch_size_per_gpu - len(numbers))
        sequences = [self.split[number] for number in filled]
        batch = self.collator(sequences, [generator(self.config.seed, VALIDATION_MASKS, number) for number in filled])
        losses, correct = engine(**batch.to(engine.device), outputs="correct", **self._encoder_inputs)
        counts = (batch.labels != IGNORED) & (batch.positions < len(numbers) * self.collator.length)
        losses, correct = losses.cpu().double(), correct.cpu().double()
        figures = torch.stack([losses, correct, torch.ones_like(correct)], 1)[counts]
        category = torch.from_numpy(self._categories_at(sequences, batch.positions[counts].numpy())).long()
        sums.index_add_(0, category, figures)

    def _categories_at(self, sequences: list[PackedSequence], positions: np.ndarray) -> np.ndarray:
        """The note category of each predicted position."""
        number, place = np.divmod(positions, self.collator.length)
        found = np.empty(len(positions), np.int64)
        for i, sequence in enumerate(sequences):
            own = number == i
            segment = np.searchsorted(sequence.segment_starts, place[own], side="right") - 1
            found[own] = self.note_category[sequence.segment_notes[segment]]
        return found


def is_missing(run: Run) -> bool:
    """Whether a validation is due at this step and has not been made: at the start, at a stage's end, or where the run
    was stopped before or amid a validation."""
    if run.step and not run.progress.is_at_stage_end and not is_due(run.step, run.config.validation.every_steps):
        return False

    return run.from_first(lambda: run.step not in [line["step"] for line in finite_validations(run.folder)])


def validate(run: Run) -> None:
    """Measure on held-out notes and write it down. A stop signal ends it, and the next start repeats it.

    Raises:
        BadStepsError: the loss is NaN or infinite.
        UserError: it is so before the first step.
    """

    def proceed(done: int, total: int) -> bool:
        run.watchdog.step_completed()
        if run.ranks.is_first:
            console.progress([f"step {run.step:,}", f"validation: {done:,}/{total:,} micro-batches"], log=None)
        return done == 0 or not run.ranks.any(run.watchdog.signal is not None)

    result = run.validation.run(run.engine, proceed)
    if result is None:
        save_and_exit(run)
    if run.metrics is not None and result:
        run.metrics.validation(run.step, result)
    if result and not math.isfinite(result["loss"]):
        _refuse(run, f"the validation loss is {result['loss']}")


def _refuse(run: Run, reason: str) -> NoReturn:
    """Neither train on nor save: the model can't compute the loss of held-out sequences."""
    if run.step == 0:
        precision = run.config.precision
        cause = f"the model overflows in {precision}" if all_weights_are_finite(run) else "not all weights are finite"
        remedy = "try precision fp32, or take" if precision != "fp32" else "take"
        raise UserError(f"{reason} before the first step: {cause}; {remedy} another model.name_or_path")
    if run.checkpointer.pending:
        finish_save(run)
    first = run.step - run.guard.consecutive_skips + 1
    if first > run.step:  # no update was skipped: any since the last checkpoint may be the cause
        steps = run.folder.saved_steps()
        first = run.ranks.broadcast(max((step for step in steps if step < run.step), default=0)) + 1
    raise BadStepsError(first, run.step, reason)


def best_step(run: Run) -> int | None:
    """The step with the lowest validation loss so far, on all ranks."""
    return run.from_first(lambda: best_validation(run.folder, run.folder.starts()).get("step"))


def stops_early(run: Run) -> bool:
    """Whether early stopping ends the run at this step, on all ranks."""
    return run.from_first(lambda: is_early_stop(run.step, run.folder, run.config, run.progress.stages))


def is_early_stop(step: int, folder: RunFolder, config: RunConfig, stages: list[int]) -> bool:
    """Whether early stopping ends the run at a step. It depends on the metrics up to that step alone, so a resumed run
    decides the same. It never prevents a stage that was asked for."""
    if step in stages[:-1]:
        return False
    patience, stage = config.validation.early_stopping_patience, stage_of(step, stages)
    first = stage.first_step if stage.number > 1 else 0
    return 0 < patience <= validations_without_progress(folder, folder.starts(), range(first, step + 1))
