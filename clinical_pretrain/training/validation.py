"""Masked-LM loss and accuracy on held-out notes, overall and by note category; early stopping; the best step."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
import torch

from clinical_pretrain.config.run_config import RunConfig
from clinical_pretrain.console import console
from clinical_pretrain.data.collator import Collator, MicroBatch
from clinical_pretrain.data.context import CONTEXT_TOKENS, cut_context
from clinical_pretrain.data.general_text import general_sequences
from clinical_pretrain.data.sampler import (
    FILLING_MASKS,
    GENERAL_MASKS,
    VALIDATION_MASKS,
    generator,
    validation_sequences,
)
from clinical_pretrain.data.shards import PackedSequence, Split
from clinical_pretrain.data.validation_files import read_words
from clinical_pretrain.distributed import Ranks
from clinical_pretrain.engine.schedule import stage_of
from clinical_pretrain.models.mlm_head import IGNORED
from clinical_pretrain.run_folder.history import (
    best_validation,
    finite_validations,
    overfitting,
    validations_without_progress,
)
from clinical_pretrain.run_folder.paths import RunFolder
from clinical_pretrain.run_folder.validation_losses import ValidationLosses, write_validation_losses
from clinical_pretrain.training.checkpointer import all_weights_are_finite, finish_save
from clinical_pretrain.training.ending import save_and_exit
from clinical_pretrain.training.loss_guard import BadStepsError
from clinical_pretrain.training.step_log import is_due
from clinical_pretrain.training.validation_groups import Categories, Groups, Positions, Sections, Words
from clinical_pretrain.training.validation_sums import Sums, figures
from tokenizer_tools.errors import UserError
from tokenizer_tools.manifest import TOKENIZER_FOLDER

if TYPE_CHECKING:
    from clinical_pretrain.training.run import Run


class Validation:
    """The held-out sequences, and how to measure a model on them.

    Args:
        config: the run's settings.
        folder: of the shards.
        split: the held-out one.
        collator: masks sequences.
        ranks: all of them.

    Raises:
        UserError: the file of words or that of general text can't be used.
    """

    def __init__(self, config: RunConfig, folder: Path, split: Split, collator: Collator, ranks: Ranks) -> None:
        self.config, self.split, self.collator, self.ranks = config, split, collator, ranks
        self.numbers = validation_sequences(len(self.split), config.validation.max_sequences)
        tokenizer_json = folder / TOKENIZER_FOLDER / "tokenizer.json"
        self._kinds: dict[str, Groups] = {
            "by_category": Categories(folder),
            "by_position": Positions(collator.length),
            "by_section": Sections(tokenizer_json, collator.vocabulary),
        }
        if config.validation.words:
            lists = read_words(config.validation.words)
            self._kinds["by_words"] = Words(lists, tokenizer_json, collator.vocabulary)
        self._general = []
        if config.validation.general_text:
            self._general = general_sequences(config.validation.general_text, folder, collator.length)
        self._encoder_inputs = {"training_blocks": True} if config.validation.random_blocks == "training" else {}

    def run(self, engine: Any, proceed: Callable[[int, int], bool] = lambda done, total: True) -> dict[str, Any] | None:
        """Measure, on all ranks together. `proceed` gets the number of micro-batches done, from 0, and their total,
        after each one; it returns whether to continue, the same on all ranks.

        Returns:
            loss (nats per masked token), accuracy and predicted (masked tokens) of the held-out notes; the same by
            category of notes, position in the sequence, section and list of words (by_category, …), and of the
            general text (general); context: the same masked tokens with the whole context and with one cut to
            CONTEXT_TOKENS; by_sequence, (n, 3): sums of loss, correct and predicted of each held-out sequence. Empty
            where there are no held-out sequences, or nothing in them is masked; None where it was not to proceed.
        """
        if not len(self.numbers):
            return {}
        sums = Sums(
            {name: len(groups.names) for name, groups in self._kinds.items()}
            | {"by_sequence": len(self.numbers), "context": 2, "general": 1}
        )
        engine.eval()
        try:
            with torch.no_grad():
                micro_batches = self._micro_batches(len(self.numbers))
                general = self._micro_batches(len(self._general))
                every = self._cut_every(engine, len(micro_batches))
                total = len(micro_batches) + len(general)
                proceed(0, total)
                for done, places in enumerate([*micro_batches, *general], 1):
                    if done > len(micro_batches):
                        self._add_general(engine, places, sums)
                    else:
                        self._add(engine, places, sums, cut=every > 0 and done % every == 0)
                    if not proceed(done, total) and done < total:
                        return None
        finally:
            engine.train()
        self.ranks.sum(sums.values)
        return self._result(sums)

    def _result(self, sums: Sums) -> dict[str, Any]:
        result: dict[str, Any] = figures(sums["by_category"])
        if not result:
            return {}
        for kind, groups in self._kinds.items():
            by_name = {name: figures(of_group[None]) for name, of_group in zip(groups.names, sums[kind], strict=True)}
            result[kind] = {name: found for name, found in by_name.items() if found}
        whole, cut = (figures(of_one[None]) for of_one in sums["context"])
        if whole:
            result["context"] = {
                "tokens": CONTEXT_TOKENS,
                "predicted": whole["predicted"],
                "loss_whole": whole["loss"],
                "loss_cut": cut["loss"],
            }
        if general := figures(sums["general"]):
            result["general"] = general
        return {**result, "by_sequence": sums["by_sequence"].numpy()}

    def _micro_batches(self, count: int) -> list[range]:
        """This rank's micro-batches, as places in the list of sequences. Every rank takes as many, some of them empty:
        under ZeRO 3 they need each other's weights."""
        micro = self.config.batch.micro_batch_size_per_gpu
        return [
            range(min(start + micro * self.ranks.rank, count), min(start + micro * (self.ranks.rank + 1), count))
            for start in range(0, count, micro * self.ranks.world_size)
        ]

    def _cut_every(self, engine: Any, micro_batches: int) -> int:
        """Of how many micro-batches one is measured with a cut context, too; 0: none. Hugging Face's own BigBird never
        returns from short sequences: it then attends to everything."""
        sequences = self.config.validation.context_sequences
        backend = getattr(engine, "module", engine).encode.backend
        if not sequences or self.collator.length <= CONTEXT_TOKENS or backend == "hf":
            return 0
        measured = -(-sequences // (self.config.batch.micro_batch_size_per_gpu * self.ranks.world_size))
        return max(1, micro_batches // measured)

    def _add(self, engine: Any, places: range, sums: Sums, cut: bool) -> None:
        """Add the predictions of a micro-batch of held-out sequences."""
        numbers = self.numbers[places.start : places.stop].tolist()
        sequences, batch, counts = self._collate(self.split, numbers, VALIDATION_MASKS)
        predictions = self._predict(engine, batch)[counts]
        number, positions = np.divmod(batch.positions[counts].numpy(), self.collator.length)
        for kind, groups in self._kinds.items():
            of_sequences = [groups.of(sequence, positions[number == i]) for i, sequence in enumerate(sequences)]
            sums.add(kind, np.concatenate(of_sequences).astype(np.int64), predictions)
        sums.add("by_sequence", number + places.start, predictions)
        if cut:
            of_cut = self._predict(engine, cut_context(batch, self.collator.vocabulary.pad_id))[counts]
            sums["context"][0] += predictions.sum(0)
            sums["context"][1] += of_cut.sum(0)

    def _add_general(self, engine: Any, places: range, sums: Sums) -> None:
        """Add the predictions of a micro-batch of general text."""
        _, batch, counts = self._collate(self._general, list(places), GENERAL_MASKS)
        sums["general"][0] += self._predict(engine, batch)[counts].sum(0)

    def _collate(
        self, among: Sequence[PackedSequence] | Split, numbers: list[int], purpose: int
    ) -> tuple[list[PackedSequence], MicroBatch, torch.Tensor]:
        """Sequences, their micro-batch, and which of its positions count, (predicted,) bool. It is filled up with a
        sequence that doesn't count: all micro-batches have one shape."""
        missing = self.config.batch.micro_batch_size_per_gpu - len(numbers)
        sequences = [among[number] for number in numbers + [0] * missing]
        generators = [generator(self.config.seed, purpose, number) for number in numbers]
        # Each row of its own masks: the same ones in all could exceed the capacity, at the expense of what counts.
        generators += [generator(self.config.seed, FILLING_MASKS, number) for number in range(missing)]
        batch = self.collator(sequences, generators)
        counts = (batch.labels != IGNORED) & (batch.positions < len(numbers) * self.collator.length)
        return sequences, batch, counts

    def _predict(self, engine: Any, batch: MicroBatch) -> torch.Tensor:
        """(predicted, 3) float64: each prediction's loss, whether it is correct, and 1."""
        losses, correct = engine(**batch.to(engine.device), outputs="correct", **self._encoder_inputs)
        losses, correct = losses.cpu().double(), correct.cpu().double()
        return torch.stack([losses, correct, torch.ones_like(correct)], 1)


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

    with run.phases("validation"):
        result = run.validation.run(run.engine, proceed)
    if result is None:
        save_and_exit(run)
    if result:
        by_sequence = result.pop("by_sequence")
        if run.metrics is not None:
            loss, _, predicted = by_sequence.T
            losses = ValidationLosses(run.validation.numbers, loss, predicted.astype(np.int64))
            write_validation_losses(run.folder, run.step, losses)
            run.metrics.validation(run.step, result)
        if warning := run.from_first(lambda: overfitting(run.folder, run.folder.starts())):
            run.say(warning)
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
