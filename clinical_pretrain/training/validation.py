"""Masked-LM loss and accuracy on held-out notes, overall and by note category."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from clinical_pretrain.config.run_config import RunConfig
from clinical_pretrain.data.masking import Collator
from clinical_pretrain.data.sampler import VALIDATION_MASKS, generator
from clinical_pretrain.data.shards import Row, Split, note_categories
from clinical_pretrain.distributed import Ranks
from clinical_pretrain.models.mlm_head import IGNORED


class Validation:
    """The held-out rows, and how to measure a model on them."""

    def __init__(self, config: RunConfig, folder: Path, split: Split, collator: Collator, ranks: Ranks) -> None:
        self.config, self.split, self.collator, self.ranks = config, split, collator, ranks
        rows = min(len(self.split), config.validation.max_sequences or len(self.split))
        # Spread over the whole split: the first rows may all be of the first few patients.
        self.rows = np.arange(rows) * len(self.split) // max(1, rows)
        self.note_category, self.categories = note_categories(folder)
        self._encoder_inputs = {"training_blocks": True} if config.validation.random_blocks == "training" else {}

    def run(self, engine: Any, go_on: Callable[[int, int], bool] = lambda done, total: True) -> dict[str, Any] | None:
        """Measure, on all ranks together. `go_on` is told of each micro-batch that is done, beginning with none, and of
        their number, and must say the same on all ranks.

        Returns:
            loss (nats per masked token), accuracy, predicted (masked tokens), and by_category: the same for each
            category of notes. Empty where there are no held-out rows, or nothing in them is masked; None where it
            wasn't to go on.
        """
        if not len(self.rows):
            return {}
        sums = torch.zeros(len(self.categories), 3, dtype=torch.float64)  # loss, correct, predicted
        engine.eval()
        try:
            with torch.no_grad():
                micro_batches = list(self._micro_batches())
                go_on(0, len(micro_batches))
                for done, numbers in enumerate(micro_batches, 1):
                    self._add(engine, numbers, sums)
                    if not go_on(done, len(micro_batches)) and done < len(micro_batches):
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
        for start in range(0, len(self.rows), micro * self.ranks.world_size):
            first = start + micro * self.ranks.rank
            yield self.rows[first : first + micro].tolist()

    def _add(self, engine: Any, numbers: list[int], sums: torch.Tensor) -> None:
        # Filled up with a row that isn't counted: all micro-batches have one shape.
        filled = numbers + [0] * (self.config.batch.micro_batch_size_per_gpu - len(numbers))
        rows = [self.split[number] for number in filled]
        batch = self.collator(rows, [generator(self.config.seed, VALIDATION_MASKS, number) for number in filled])
        losses, correct = engine(**batch.to(engine.device), outputs="correct", **self._encoder_inputs)
        counts = (batch.labels != IGNORED) & (batch.positions < len(numbers) * self.collator.length)
        losses, correct = losses.cpu().double(), correct.cpu().double()
        figures = torch.stack([losses, correct, torch.ones_like(correct)], 1)[counts]
        category = torch.from_numpy(self._categories_at(rows, batch.positions[counts].numpy())).long()
        sums.index_add_(0, category, figures)

    def _categories_at(self, rows: list[Row], positions: np.ndarray) -> np.ndarray:
        """The note category of each predicted position."""
        number, place = np.divmod(positions, self.collator.length)
        found = np.empty(len(positions), np.int64)
        for i, row in enumerate(rows):
            mine = number == i
            segment = np.searchsorted(row.segment_starts, place[mine], side="right") - 1
            found[mine] = self.note_category[row.segment_notes[segment]]
        return found
