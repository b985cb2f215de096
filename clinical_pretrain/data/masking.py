"""Dynamic masking for the masked-LM objective (Devlin et al. 2019, section 3.1), and micro-batches.

A row's masks are a function of (seed, epoch, row), so that a resumed run, or one on another number of GPUs, draws the
same; but for one micro-batch in 10^9, see capacity(). Held-out rows are masked by (seed, row) alone: every validation
asks the same questions.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from tokenizers import Tokenizer

from clinical_pretrain.config.data import MaskingConfig
from clinical_pretrain.data.shards import Row
from clinical_pretrain.models.mlm_head import IGNORED
from tokenizer_tools.manifest import TokenizerInfo

_LETTER, _DIGIT, _OTHER, _BREAK = range(4)
_BLANKS, _BREAKS = "Ġ▁ ", "Ċĉ\n\t"
"""As vocabularies write them: Ġ, Ċ and ĉ are byte-level BPE's blank, line break and tab; ▁ is SentencePiece's blank."""


@dataclass(frozen=True)
class Vocabulary:
    """What masking must know of the tokens."""

    maskable: npt.NDArray[np.bool_]
    """(vocabulary,): may be hidden and may stand in: neither special nor a placeholder."""
    begins_word: npt.NDArray[np.bool_]
    """(vocabulary,): written with a blank or line break before it, or in it."""
    kind: npt.NDArray[np.int8]
    """(vocabulary,): letters, digits, line breaks or other; a change of kind begins a word, as in both models'
    pre-tokenizers."""
    is_blank: npt.NDArray[np.bool_]
    """(vocabulary,): a blank alone. It begins the word that follows, unless that brings a blank of its own."""
    mask_id: int
    pad_id: int

    @cached_property
    def replacement_ids(self) -> npt.NDArray[np.int64]:
        """Ids of the maskable tokens."""
        return np.flatnonzero(self.maskable)

    @classmethod
    def load(cls, tokenizer_json: Path, info: TokenizerInfo) -> Vocabulary:
        """From the shard folder's tokenizer."""
        backend = Tokenizer.from_file(str(tokenizer_json))
        size = info.vocab_size
        maskable, begins, is_blank = np.ones(size, bool), np.zeros(size, bool), np.zeros(size, bool)
        kind = np.full(size, _OTHER, np.int8)
        for token, token_id in backend.get_vocab().items():
            begins[token_id] = token[0] in _BLANKS + _BREAKS
            text = token.lstrip(_BLANKS)
            is_blank[token_id] = not text
            kind[token_id] = _kind(text[0]) if text else _OTHER
        for token_id, added in backend.get_added_tokens_decoder().items():
            maskable[token_id] = not added.special
        for never in (info.begin_id, info.end_id, info.pad_id, info.mask_id, info.unknown_id, info.placeholder_id):
            if never is not None:
                maskable[never] = False
        return cls(maskable, begins, kind, is_blank, info.mask_id, info.pad_id)


def _kind(character: str) -> int:
    if character in _BREAKS:
        return _BREAK
    return _LETTER if character.isalpha() else _DIGIT if character.isdigit() else _OTHER


def mask_row(
    ids: npt.NDArray[np.integer], config: MaskingConfig, vocabulary: Vocabulary, rng: np.random.Generator
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Hide a share of a row's tokens.

    Args:
        ids: (tokens,).
        config: shares.
        vocabulary: of these ids.
        rng: the row's own generator.

    Returns:
        What the model sees, (tokens,), and the positions to predict, (predicted,), ascending.
    """
    shown = ids.astype(np.int64)
    maskable = vocabulary.maskable[ids]
    if config.whole_words:
        word = np.cumsum(word_starts(ids, vocabulary)) - 1
        chosen = (rng.random(int(word[-1]) + 1) < config.probability)[word] & maskable
    else:
        chosen = (rng.random(len(ids)) < config.probability) & maskable
    positions = np.flatnonzero(chosen)
    draw = rng.random(len(positions))
    random_ids = vocabulary.replacement_ids[rng.integers(len(vocabulary.replacement_ids), size=len(positions))]
    as_mask = draw < config.replace_with_mask
    as_random = ~as_mask & (draw < config.replace_with_mask + config.replace_with_random)
    shown[positions[as_mask]] = vocabulary.mask_id
    shown[positions[as_random]] = random_ids[as_random]
    return shown, positions


def word_starts(ids: npt.NDArray[np.integer], vocabulary: Vocabulary) -> npt.NDArray[np.bool_]:
    """(tokens,): True where a word begins; a special token is a word of its own."""
    maskable = vocabulary.maskable[ids]
    kind = vocabulary.kind[ids]
    starts = vocabulary.begins_word[ids] | ~maskable
    starts[0] = True
    changes = (kind[1:] != kind[:-1]) & ~vocabulary.is_blank[ids[:-1]]
    starts[1:] |= changes | ~maskable[:-1]
    return starts


def capacity(tokens: int, config: MaskingConfig) -> int:
    """Most positions to predict in a micro-batch of `tokens`: mean + 6 standard deviations of what is drawn, rounded
    up to a multiple of 64, so that batches can have one shape. About one batch in 10^9 draws more."""
    share = config.probability
    # Words fall together: four tokens at a time, at the most, in the mean over tokens.
    deviation = math.sqrt(tokens * share * (1 - share) * (4 if config.whole_words else 1))
    return min(tokens, -(-int(tokens * share + 6 * deviation + 1) // 64) * 64)


@dataclass(frozen=True)
class MicroBatch:
    """What one forward pass takes, padded to the full length."""

    input_ids: torch.Tensor
    """(batch, length) int64, masked."""
    documents: torch.Tensor
    """(batch, length) int64: the document within its row that a token belongs to, from 1; 0 on padding."""
    positions: torch.Tensor
    """(predicted,) int64, into the flattened batch."""
    labels: torch.Tensor
    """(predicted,) int64, the true tokens; -100 after the last, where it is filled up to its capacity."""
    position_ids: torch.Tensor | None
    """(batch, length) int64, from 0 in each document; None where a row is one document."""
    max_documents: int
    """At least the documents of any row; the same for all micro-batches, as shapes come of it."""

    def to(self, device: torch.device) -> dict[str, Any]:
        """As keyword arguments for the model, on its device."""
        values = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return {
            name: value.to(device, non_blocking=True) if isinstance(value, torch.Tensor) else value
            for name, value in values.items()
        }

    def pinned(self) -> MicroBatch:
        """In page-locked memory, from which a GPU copies while the CPU goes on."""
        tensors = {name: value for name in self.__dataclass_fields__ if (value := getattr(self, name)) is not None}
        tensors.pop("max_documents")
        return replace(self, **{name: tensor.pin_memory() for name, tensor in tensors.items()})


@dataclass(frozen=True)
class Collator:
    """Masks rows and puts them side by side."""

    length: int
    """Tokens of a row."""
    config: MaskingConfig
    vocabulary: Vocabulary
    max_documents: int = 0
    """0: a row is one document; else each of its notes is one, and no row has more than so many."""
    pad_to_capacity: bool = False
    """Whether all micro-batches have as many positions to predict, as compiled code wants it."""

    def __call__(self, rows: list[Row], generators: list[np.random.Generator]) -> MicroBatch:
        """A micro-batch of rows, each masked by its generator. If more positions are drawn than its capacity, some
        are shown again."""
        shape = (len(rows), self.length)
        input_ids = np.full(shape, self.vocabulary.pad_id, np.int64)
        documents, position_ids = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
        true_ids = input_ids.copy()
        positions = []
        for number, (row, rng) in enumerate(zip(rows, generators, strict=True)):
            shown, chosen = mask_row(row.input_ids, self.config, self.vocabulary, rng)
            input_ids[number, : len(shown)], true_ids[number, : len(shown)] = shown, row.input_ids
            positions.append(chosen + number * self.length)
            starts = row.segment_starts if self.max_documents else row.segment_starts[:1]
            lengths = np.diff(starts, append=len(shown))
            documents[number, : len(shown)] = np.repeat(np.arange(1, len(starts) + 1), lengths)
            position_ids[number, : len(shown)] = np.arange(len(shown)) - np.repeat(starts, lengths)
        predicted = np.concatenate(positions)
        most = capacity(input_ids.size, self.config)
        if len(predicted) > most:
            kept = np.sort(generators[0].permutation(len(predicted))[:most])
            shown_again = np.delete(predicted, kept)
            input_ids.ravel()[shown_again] = true_ids.ravel()[shown_again]
            predicted = predicted[kept]
        labels = true_ids.ravel()[predicted]
        if self.pad_to_capacity:
            missing = most - len(predicted)
            predicted, labels = np.pad(predicted, (0, missing)), np.pad(labels, (0, missing), constant_values=IGNORED)
        return MicroBatch(
            torch.from_numpy(input_ids),
            torch.from_numpy(documents),
            torch.from_numpy(predicted),
            torch.from_numpy(labels),
            torch.from_numpy(position_ids) if self.max_documents else None,
            self.max_documents or 1,
        )
