"""Micro-batches: masked sequences side by side, padded to one length."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from clinical_pretrain.config.data import MaskingConfig, capacity
from clinical_pretrain.data.masking import Vocabulary, mask_sequence
from clinical_pretrain.data.shards import PackedSequence
from clinical_pretrain.models.mlm_head import IGNORED


@dataclass(frozen=True)
class MicroBatch:
    """What the model takes in one forward pass."""

    input_ids: torch.Tensor
    """(batch, length) int64, masked."""
    documents: torch.Tensor
    """(batch, length) int64: the document within its sequence that a token belongs to, from 1; 0 on padding."""
    positions: torch.Tensor
    """(predicted,) int64, into the flattened batch."""
    labels: torch.Tensor
    """(predicted,) int64, the true tokens; IGNORED at positions that pad the batch to its capacity, which come last."""
    position_ids: torch.Tensor | None
    """(batch, length) int64, from 0 in each document; None where a sequence is one document."""
    max_documents: int
    """Upper bound of the documents in any sequence; the same for all micro-batches, as it decides shapes."""

    def to(self, device: torch.device) -> dict[str, Any]:
        """As keyword arguments for the model, on its device."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {
            name: value.to(device, non_blocking=True) if isinstance(value, torch.Tensor) else value
            for name, value in values.items()
        }

    def pinned(self) -> MicroBatch:
        """A copy in page-locked memory, from which a GPU copies while the CPU continues."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        pinned: dict[str, Any] = {
            name: value.pin_memory() for name, value in values.items() if isinstance(value, torch.Tensor)
        }
        return replace(self, **pinned)


@dataclass(frozen=True)
class Collator:
    """Masks sequences and joins them to micro-batches."""

    length: int
    """Tokens that sequences are padded to."""
    config: MaskingConfig
    vocabulary: Vocabulary
    max_documents: int = 0
    """0: a sequence is one document; else each of its notes is one, and no sequence has more than this many."""
    pad_to_capacity: bool = False
    """Whether all micro-batches have the same number of positions to predict, for compiled code."""

    def __call__(self, sequences: list[PackedSequence], generators: list[np.random.Generator]) -> MicroBatch:
        """Mask each sequence by its own generator, and join them. If more positions are drawn than the micro-batch's
        capacity, some are chosen to be shown after all."""
        shape = (len(sequences), self.length)
        input_ids = np.full(shape, self.vocabulary.pad_id, np.int64)
        documents, position_ids = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
        true_ids = input_ids.copy()
        positions = []
        for number, (sequence, rng) in enumerate(zip(sequences, generators, strict=True)):
            shown, chosen = mask_sequence(sequence.input_ids, self.config, self.vocabulary, rng)
            tokens = len(shown)
            input_ids[number, :tokens], true_ids[number, :tokens] = shown, sequence.input_ids
            positions.append(chosen + number * self.length)
            starts = sequence.segment_starts if self.max_documents else sequence.segment_starts[:1]
            lengths = np.diff(starts, append=tokens)
            documents[number, :tokens] = np.repeat(np.arange(1, len(starts) + 1), lengths)
            position_ids[number, :tokens] = np.arange(tokens) - np.repeat(starts, lengths)
        predicted, labels = self._fit_to_capacity(np.concatenate(positions), input_ids, true_ids, generators[0])
        return MicroBatch(
            input_ids=torch.from_numpy(input_ids),
            documents=torch.from_numpy(documents),
            positions=torch.from_numpy(predicted),
            labels=torch.from_numpy(labels),
            position_ids=torch.from_numpy(position_ids) if self.max_documents else None,
            max_documents=self.max_documents or 1,
        )

    def _fit_to_capacity(
        self,
        predicted: npt.NDArray[np.int64],
        input_ids: npt.NDArray[np.int64],
        true_ids: npt.NDArray[np.int64],
        rng: np.random.Generator,
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """The positions to predict, into the flattened batch, and their labels, at most as many as the capacity. Writes
        the true ids of those left out back into `input_ids`, (batch, length)."""
        most = capacity(input_ids.size, self.config)
        if len(predicted) > most:
            kept = np.sort(rng.permutation(len(predicted))[:most])
            left_out = np.delete(predicted, kept)
            input_ids.ravel()[left_out] = true_ids.ravel()[left_out]
            predicted = predicted[kept]
        labels = true_ids.ravel()[predicted]
        if self.pad_to_capacity:
            padding = (0, most - len(predicted))
            predicted, labels = np.pad(predicted, padding), np.pad(labels, padding, constant_values=IGNORED)
        return predicted, labels
